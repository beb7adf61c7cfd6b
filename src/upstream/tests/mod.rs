//! The client against servers that follow a script, each on a thread of its own.

mod kept;
mod responses;
mod uploads;

use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use http::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use unifaas_actors::{BootClock, InstanceId, sandbox::Reached, spec::FunctionSpec};

use super::*;

/// Serves each connection with `script`, one after the other, which gets it and its number.
fn server<F: Future<Output = ()>>(script: impl Fn(TcpStream, usize) -> F + Send + 'static) -> SocketAddr {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            for number in 0.. {
                script(listener.accept().await.unwrap().0, number).await;
            }
        });
    });
    receiver.recv().unwrap()
}

/// Reads a request with its body of known length. `None`: the connection has ended.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text
                .split("content-length: ")
                .nth(1)
                .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
            if request.len() >= head + 4 + length {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut request).await.ok()? == 0 {
            return None;
        }
    }
}

fn endpoint(reached: impl Into<Reached>, slots: usize) -> Arc<Endpoint> {
    let text = format!("concurrent-requests = {slots}\n[process]\ncommand = [\"x\"]\n");
    let spec = FunctionSpec::parse("f", Path::new("/f"), &text).unwrap();
    let clock = BootClock::new(Instant::now());
    Arc::new(Endpoint::new(InstanceId::random(), reached.into(), Arc::new(spec), 0, clock))
}

struct Client {
    pools: Arc<ConnectionPools>,
    endpoint: Arc<Endpoint>,
}

impl Client {
    fn of(reached: impl Into<Reached>) -> Self {
        Self { pools: ConnectionPools::new(), endpoint: endpoint(reached, 1) }
    }

    async fn send(&self, method: Method, body: Option<Upload>, length: &str) -> Result<Answer, AttemptError> {
        self.send_with(method, body, length, |_| {}).await
    }

    async fn send_with(
        &self,
        method: Method,
        body: Option<Upload>,
        length: &str,
        change: impl Fn(&mut Outgoing<'_>),
    ) -> Result<Answer, AttemptError> {
        let request = |body| {
            let framing = if length.is_empty() { ("transfer-encoding", "chunked") } else { ("content-length", length) };
            let head = Request::builder().method(method.clone()).uri("/").header("host", "h");
            head.header(framing.0, framing.1).body(body).unwrap()
        };
        let mut outgoing = Outgoing {
            method: method.clone(),
            request: &request,
            since: Instant::now(),
            body: body.as_ref(),
            wants_continue: false,
            is_continue_timed: true,
            wants_upgrade: false,
            interim: None,
        };
        change(&mut outgoing);
        timeout(Duration::from_secs(3), send(&self.pools, &Remote::from(&self.endpoint), &outgoing))
            .await
            .expect("an outcome in time")
    }

    async fn text(&self, method: Method) -> Result<String, String> {
        let upload = (method == Method::POST).then(|| small_upload("x"));
        let length = if upload.is_some() { "1" } else { "0" };
        let mut answer = self.send(method, upload, length).await.map_err(|error| error.to_string())?;
        text(&mut answer.body).await
    }

    fn idle(&self) -> usize {
        self.pools.counts(Remote::from(&self.endpoint).id()).0
    }
}

fn small_upload(text: &'static str) -> Upload {
    let (mut sender, upload) = upload();
    assert!(futures::FutureExt::now_or_never(sender.send(text.into())).unwrap().is_ok());
    sender.finish();
    upload
}

async fn next(body: &mut AnswerBody) -> Option<Result<Bytes, BodyError>> {
    poll_fn(|cx| body.poll_next(cx)).await
}

async fn text(body: &mut AnswerBody) -> Result<String, String> {
    let mut text = Vec::new();
    while let Some(chunk) = next(body).await {
        text.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
    }
    Ok(String::from_utf8(text).unwrap())
}

/// Answers each request on each connection with `response`, and then reads on.
fn answering(response: &'static str) -> SocketAddr {
    server(move |mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
}
