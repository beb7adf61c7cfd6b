//! Asks an instance from outside whether it can take requests. Ready callbacks arrive elsewhere, over HTTP.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::{self, LocalBoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use unifaas_actors::spec::Readiness;

/// Between the first two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
/// Between later attempts, at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(1);
/// No status line is longer.
const HEAD_BYTES: usize = 1024;

/// Resolves once the instance at `address` is ready; never, for [`Readiness::Callback`].
pub fn probe(address: SocketAddr, readiness: &Readiness) -> LocalBoxFuture<'static, ()> {
    match readiness {
        Readiness::Callback => Box::pin(future::pending()),
        Readiness::Tcp => Box::pin(repeat(move || async move { connect(address).await.map(|_| true) })),
        Readiness::Http(path) => {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: unifaas\r\nAccept: */*\r\nConnection: close\r\n\r\n"
            );
            Box::pin(async move { repeat(|| answers(address, request.as_bytes())).await })
        }
    }
}

/// Tries until an attempt says yes.
async fn repeat<F: Future<Output = io::Result<bool>>>(attempt: impl Fn() -> F) {
    let mut pause = FIRST_PAUSE;
    while !matches!(time::timeout(ATTEMPT, attempt()).await, Ok(Ok(true))) {
        time::sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A connection to a free local port can be given that same port and then reaches itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

async fn answers(address: SocketAddr, request: &[u8]) -> io::Result<bool> {
    let mut stream = connect(address).await?;
    stream.write_all(request).await?;
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    loop {
        match stream.read(&mut head[filled..]).await? {
            0 => return Ok(false),
            count => filled += count,
        }
        match status(&head[..filled]) {
            Ok(Some(code)) => return Ok((200..400).contains(&code)),
            Ok(None) => {}
            Err(_) => return Ok(false),
        }
    }
}

/// The status code, as soon as its line is there. What follows that line does not matter.
fn status(head: &[u8]) -> Result<Option<u16>, httparse::Error> {
    let Some(end) = head.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let mut response = httparse::Response::new(&mut []);
    response.parse(&head[..=end])?;
    Ok(response.code)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use tokio::{net::TcpListener, task::LocalSet};

    use super::*;

    /// Answers the n-th connection with the n-th of these, and then always with the last; counts connections.
    async fn server(answers: &'static [&'static str]) -> (SocketAddr, Rc<Cell<usize>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Rc::new(Cell::new(0));
        let counter = count.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answers[counter.get().min(answers.len() - 1)];
                counter.set(counter.get() + 1);
                let mut request = [0; 1024];
                let got = stream.read(&mut request).await.unwrap();
                if got > 0 {
                    assert!(request.starts_with(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:"));
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        (address, count)
    }

    #[tokio::test]
    async fn a_status_below_400_is_ready_and_nothing_else_is() {
        LocalSet::new()
            .run_until(async {
                let (address, count) = server(&[
                    "",
                    "not http at all\r\n\r\n",
                    "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                    "HTTP/1.1 404 Not Found\r\n\r\n",
                    "HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n",
                ])
                .await;
                probe(address, &Readiness::Http("/healthz".into())).await;
                assert_eq!(count.get(), 5);
            })
            .await;
    }

    #[tokio::test]
    async fn a_port_is_ready_when_it_is_listened_on() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let ready = probe(address, &Readiness::Tcp);
        let listen = async {
            time::sleep(Duration::from_millis(30)).await;
            TcpListener::bind(address).await.unwrap()
        };
        let mut ready = std::pin::pin!(ready);
        let listener = tokio::select! {
            () = &mut ready => panic!("ready before anybody listened"),
            listener = listen => listener,
        };
        time::timeout(Duration::from_secs(5), ready).await.expect("ready once somebody listens");
        drop(listener);
    }

    #[tokio::test]
    async fn a_callback_is_never_probed_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ready = probe(listener.local_addr().unwrap(), &Readiness::Callback);
        tokio::select! {
            () = ready => panic!("ready without a callback"),
            _ = listener.accept() => panic!("probed"),
            () = time::sleep(LONGEST_PAUSE * 2) => {}
        }
    }

    #[test]
    fn a_status_line_is_read_as_soon_as_it_is_whole() {
        assert_eq!(status(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nx"), Ok(Some(200)));
        assert!(status(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
