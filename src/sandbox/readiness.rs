//! Probes whether an instance accepts requests. Ready callbacks arrive over HTTP, in `src/http/`.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::{self, LocalBoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};
use unifaas_actors::spec::Readiness;

/// The pause between the first two attempts.
const MIN_INTERVAL: Duration = Duration::from_millis(2);
/// The longest pause between two attempts.
const MAX_INTERVAL: Duration = Duration::from_millis(50);
/// The longest time for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest status line that is read.
const MAX_STATUS_LINE: usize = 1024;

/// Resolves once the instance at `address` is ready. Never resolves for [`Readiness::Callback`].
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

/// Repeats `attempt` until it returns `Ok(true)`.
async fn repeat<F: Future<Output = io::Result<bool>>>(attempt: impl Fn() -> F) {
    let mut pause = MIN_INTERVAL;
    while !matches!(time::timeout(ATTEMPT_TIMEOUT, attempt()).await, Ok(Ok(true))) {
        time::sleep(pause).await;
        pause = (pause * 3 / 2).min(MAX_INTERVAL);
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A connection to a free local port can get that same port and connect to itself.
    if stream.local_addr()? == address {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

async fn answers(address: SocketAddr, request: &[u8]) -> io::Result<bool> {
    let mut stream = connect(address).await?;
    stream.write_all(request).await?;
    let mut head = [0; MAX_STATUS_LINE];
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

/// Returns the status code once its line is complete. Ignores everything after that line.
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

    /// Answers the n-th connection with `answers[n]`, later ones with the last. Counts connections.
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
    async fn ready_only_with_status_200_to_399() {
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
    async fn tcp_is_ready_once_port_is_open() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let ready = probe(address, &Readiness::Tcp);
        let listen = async {
            time::sleep(Duration::from_millis(30)).await;
            TcpListener::bind(address).await.unwrap()
        };
        let mut ready = std::pin::pin!(ready);
        let listener = tokio::select! {
            () = &mut ready => panic!("ready before the port was open"),
            listener = listen => listener,
        };
        time::timeout(Duration::from_secs(5), ready).await.expect("ready once the port is open");
        drop(listener);
    }

    #[tokio::test]
    async fn callback_readiness_is_not_probed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ready = probe(listener.local_addr().unwrap(), &Readiness::Callback);
        tokio::select! {
            () = ready => panic!("ready without a callback"),
            _ = listener.accept() => panic!("probed"),
            () = time::sleep(MAX_INTERVAL * 2) => {}
        }
    }

    #[test]
    fn status_is_read_once_its_line_is_complete() {
        assert_eq!(status(b"HTTP/1.1 20"), Ok(None));
        assert_eq!(status(b"HTTP/1.1 200 OK\r\nx"), Ok(Some(200)));
        assert!(status(b"SSH-2.0-OpenSSH\r\n").is_err());
    }
}
