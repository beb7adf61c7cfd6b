//! An HTTP/2 client: one connection with separate control of each stream.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use hyper::{HeaderMap, Request, Response};
use tokio::{net::TcpStream, task::JoinHandle, time::Instant};

use crate::{client::Reply, within};

/// Of every step of a request.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);

/// A cleartext connection with prior knowledge.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    authority: String,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// A stream whose request head has been sent.
pub struct Http2Stream {
    /// Sends the body, or resets the stream.
    pub body: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Http2 {
    /// Connects.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn connect(to: SocketAddr) -> Self {
        Self::connect_as(to, &to.to_string()).await
    }

    /// Connects, and sends `authority` as the `:authority` of each request.
    ///
    /// # Panics
    /// When that is refused.
    pub async fn connect_as(to: SocketAddr, authority: &str) -> Self {
        let stream = TcpStream::connect(to).await.expect("the daemon accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        let mut builder = Builder::new();
        // The settings of the server lower the limit.
        builder.initial_max_send_streams(4096).initial_window_size(1 << 20).initial_connection_window_size(1 << 22);
        let (sender, connection) = builder.handshake(stream).await.expect("the preface is sent");
        Self { sender, authority: authority.to_owned(), driver: tokio::spawn(connection) }
    }

    /// Returns the number of concurrent streams that the server allows, as far as its settings have arrived.
    pub fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a request head. `end` means that there is no body.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn start(
        &self,
        method: &str,
        path: &str,
        headers: &HeaderMap,
        end: bool,
    ) -> Result<Http2Stream, h2::Error> {
        let uri = format!("http://{}{path}", self.authority);
        let mut request = Request::builder().method(method).uri(uri).body(()).expect("a valid request");
        request.headers_mut().extend(headers.clone());
        let what = format!("room for a stream, {method} {path}");
        let mut sender = within(RESPONSE_TIMEOUT, what, self.sender.clone().ready()).await?;
        let (response, body) = sender.send_request(request, end)?;
        Ok(Http2Stream { body, response })
    }

    /// Sends a complete request and reads the complete response.
    ///
    /// # Errors
    /// When the stream or the connection ends before the answer does.
    pub async fn send(&self, method: &str, path: &str, body: Bytes) -> Result<Reply, h2::Error> {
        let started = Instant::now();
        let mut stream = self.start(method, path, &HeaderMap::new(), body.is_empty()).await?;
        let upload = async {
            if !body.is_empty() {
                // Fails if an early response resets the upload.
                let _ = send_all(&mut stream.body, body, true).await;
            }
        };
        let what = format!("the response head of {method} {path}");
        let answer = async { whole(within(RESPONSE_TIMEOUT, what, stream.response).await?).await };
        let (answer, ()) = futures::future::join(answer, upload).await;
        answer.map(|reply| Reply { took: started.elapsed(), ..reply })
    }

    /// GET.
    ///
    /// # Panics
    /// When there is no whole answer.
    pub async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, Bytes::new()).await.unwrap_or_else(|error| panic!("GET {path} by HTTP/2: {error}"))
    }
}

impl Http2Stream {
    /// Waits for the response head.
    ///
    /// # Errors
    /// When the stream or the connection ends without one.
    ///
    /// # Panics
    /// When there is none in time.
    pub async fn response(self) -> Result<(Response<RecvStream>, SendStream<Bytes>), h2::Error> {
        let response = within(RESPONSE_TIMEOUT, "a response head", self.response).await?;
        Ok((response, self.body))
    }
}

/// Sends bytes as the window of the stream permits.
///
/// # Errors
/// When the stream ends meanwhile.
///
/// # Panics
/// When the server takes nothing for too long.
pub async fn send_all(to: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let what = format!("the server takes one of {} bytes", bytes.len());
        let room = within(RESPONSE_TIMEOUT, what, std::future::poll_fn(|context| to.poll_capacity(context))).await;
        let Some(room) = room.transpose()? else { return Err(h2::Reason::CANCEL.into()) };
        let piece = bytes.split_to(room.min(bytes.len()));
        to.send_data(piece, end && bytes.is_empty())?;
    }
    Ok(())
}

/// Returns the next non-empty piece of a body, and `None` at its end.
///
/// # Errors
/// When the stream was reset or the connection ended first.
///
/// # Panics
/// When there is neither in time.
pub async fn next(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    loop {
        let piece = within(RESPONSE_TIMEOUT, "more of a body or its end", body.data()).await?;
        if let Ok(piece) = &piece {
            let _ = body.flow_control().release_capacity(piece.len());
            if piece.is_empty() {
                continue;
            }
        }
        return Some(piece);
    }
}

async fn whole(response: Response<RecvStream>) -> Result<Reply, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = next(&mut body).await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: bytes.into(), took: Duration::ZERO })
}
