//! Slow and silent clients: how long they may occupy a slot or a connection, and how many may at the same time.

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt, StreamExt, future::join_all};
use integration::{
    AT_ONCE, Connection, Daemon, End, Function, Pieces, Raw, Reply, SOON, Setup, empty, eventually, ms, number,
    request,
    vm::{add_interface, isolated},
    within,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tokio_tungstenite::{client_async, tungstenite::Message};

const HEAD: &str = "GET /invoke/f/pid HTTP/1.1\r\nHost: h\r\n\r\n";

/// Starts a daemon with a client timeout of a second.
async fn with_short_client_timeout(function: Function) -> Daemon {
    Setup::default().option("--client-timeout", "1").function(function).start().await
}

async fn connections(daemon: &Daemon) -> Value {
    daemon.debug().await["daemon"]["connections"].clone()
}

/// Sends a byte every half second until the connection ends; returns the last response and how it ended.
async fn drip(mut raw: Raw) -> (String, End) {
    let started = Instant::now();
    let mut said = Vec::new();
    while started.elapsed() < SOON {
        let _ = raw.send("x").await;
        let (bytes, end) = raw.rest(ms(500)).await;
        said.extend(bytes);
        if end != End::Open {
            return (String::from_utf8_lossy(&said).into_owned(), end);
        }
    }
    panic!("still open after {:?}: {}", started.elapsed(), String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn later_heads_have_same_deadline() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let dripping = async {
        let mut raw = Raw::request(daemon.listen, HEAD).await;
        let length = raw.expect_head().await.text("content-length").unwrap().parse().unwrap();
        raw.bytes(length).await;
        raw.send("GET /invoke/f/pid HTTP/1.1\r\nX-Slow: ").await.unwrap();
        drip(raw).await
    };
    // The start of the second head arrives with the first request.
    let pipelined = async {
        drip(Raw::request(daemon.listen, format!("{HEAD}GET /invoke/f/pid HTTP/1.1\r\nX-Slow: ")).await).await
    };
    let both = within(SOON, "both are ended", futures::future::join(dripping, pipelined));
    for (said, _) in <[_; 2]>::from(both.await) {
        assert!(said.contains("408 Request Timeout"), "{said}");
    }
    assert_eq!(connections(&daemon).await["evicted"], 2);
}

#[tokio::test]
async fn head_after_idle_time_has_a_deadline_of_its_own() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let idle = async |pause: Duration| {
        let mut raw = Raw::request(daemon.listen, HEAD).await;
        let length = raw.expect_head().await.text("content-length").unwrap().parse().unwrap();
        raw.bytes(length).await;
        // Longer than a head may take.
        tokio::time::sleep(ms(6000)).await;
        raw.send("GET /invoke/f/pid HTTP/1.1\r\n").await.unwrap();
        tokio::time::sleep(pause).await;
        raw.send("Host: h\r\n\r\n").await.unwrap();
        raw.expect_head().await.status
    };
    let statuses = within(Duration::from_secs(30), "both", futures::future::join(idle(ms(0)), idle(ms(1000)))).await;
    assert_eq!(statuses, (200, 200));
}

#[tokio::test]
async fn does_not_wait_for_unread_body() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "POST /invoke/missing/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    assert_eq!(raw.expect_head().await.status, 404);
    within(SOON, "it is ended", drip(raw)).await;
}

#[tokio::test]
async fn stalled_body_is_408() {
    let daemon = with_short_client_timeout(Function::new("f").set("timeout", 0).set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let head = format!("POST /invoke/f/received HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n5\r\nhello\r\n");
        let since = Instant::now();
        let mut raw = Raw::request(daemon.listen, head).await;
        daemon.until("f", "busy", 1).await;
        let other = within(SOON, "the slot", daemon.get("/invoke/f/pid")).await.ok();
        assert!(since.elapsed() > ms(1000), "the slot was free after {:?}", since.elapsed());
        assert_eq!(other.pid(), pid, "the instance must survive");
        let head = within(AT_ONCE, "an answer", raw.expect_head()).await;
        assert_eq!((head.status, head.text("x-unifaas-error").as_deref()), (408, Some("request_timed_out")));
        assert_ne!(raw.rest(ms(3000)).await.1, End::Open);
    }
    assert_eq!(daemon.counter("f", "request_timed_out").await, 2);
}

#[tokio::test]
async fn slow_steady_body_is_served() {
    let daemon = with_short_client_timeout(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let head = "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nConnection: close\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    for _ in 0..6 {
        tokio::time::sleep(ms(400)).await;
        raw.send("x").await.unwrap();
    }
    assert_eq!(raw.expect_head().await.status, 200);
}

#[tokio::test]
async fn waiting_client_may_be_silent() {
    let daemon = with_short_client_timeout(Function::new("f").set("concurrent-requests", 8).set("timeout", 0)).await;
    daemon.get("/invoke/f/pid").await.ok();
    let slow_answer = async { daemon.get("/invoke/f/sleep?ms=3500").await.ok() };
    let events = async {
        let text = daemon.get("/invoke/f/sse?n=3&ms=1700").await.ok().text();
        assert_eq!(text, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    };
    let tunnel = async {
        let stream = TcpStream::connect(daemon.listen).await.unwrap();
        let (mut socket, _) = client_async(format!("ws://{}/invoke/f/ws", daemon.listen), stream).await.unwrap();
        tokio::time::sleep(ms(3500)).await;
        socket.send(Message::text("still here")).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
    };
    // The function has begun to answer and decides itself whether it waits for the rest.
    let answered_early = async {
        let head = "POST /invoke/f/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nConnection: close\r\n\r\nhello";
        let mut raw = Raw::request(daemon.listen, head).await;
        assert_eq!(raw.expect_head().await.status, 200);
        tokio::time::sleep(ms(3500)).await;
        raw.send("world").await.unwrap();
        assert_eq!(raw.rest(ms(2000)).await.0, b"helloworld");
    };
    futures::join!(slow_answer, events, tunnel, answered_early);
}

#[tokio::test]
async fn slow_steady_reader_gets_whole_response() {
    let daemon = with_short_client_timeout(Function::new("f")).await;
    let (_connection, response) = daemon.start(request("GET", "/invoke/f/bytes?mib=40", empty())).await;
    let mut pieces = Pieces::of(response);
    let (mut length, mut pauses) = (0, 0);
    while let Some(piece) = pieces.next().await {
        length += piece.expect("the whole answer").len();
        if length >> 23 > pauses {
            pauses += 1;
            tokio::time::sleep(ms(600)).await;
        }
    }
    assert_eq!((length, pauses), (40 << 20, 5));
}

#[tokio::test]
async fn stalled_reader_loses_slot() {
    let daemon = with_short_client_timeout(Function::new("f").set("timeout", 0).set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (_connection, _response) = daemon.start(request("GET", "/invoke/f/bytes?mib=200", empty())).await;
    daemon.until("f", "busy", 1).await;
    let other = within(SOON, "the slot", daemon.get("/invoke/f/pid")).await.ok();
    assert_eq!(other.pid(), pid, "the instance must survive");
    assert_eq!(daemon.counter("f", "client_gone").await, 1);
}

#[tokio::test]
async fn slow_reader_is_cut_off_at_timeout_and_instance_survives() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 3).set("concurrent-requests", 2)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (_connection, response) = daemon.start(request("GET", "/invoke/f/bytes?mib=200", empty())).await;
    let mut pieces = Pieces::of(response);
    let began = Instant::now();
    let end = loop {
        match pieces.next().await {
            Some(Ok(_)) => tokio::time::sleep(ms(50)).await,
            end => break end,
        }
    };
    assert!(matches!(end, Some(Err(_))) && began.elapsed() < SOON, "{end:?}");
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
    assert_eq!(daemon.counter("f", "client_gone").await, 1);
}

#[tokio::test]
async fn closed_tunnel_delivers_pending_bytes_to_slow_reader() {
    let daemon = Daemon::with(Function::new("f")).await;
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut socket, _) = client_async(format!("ws://{}/invoke/f/ws", daemon.listen), stream).await.unwrap();
    let message = Message::binary(vec![7_u8; 12 << 20]);
    within(SOON, "the message", socket.send(message)).await.unwrap();
    // The echo fills every buffer on its way.
    let stream = socket.get_mut();
    let mut first = vec![0; 128 << 10];
    let pending = async || stream.peek(&mut first).await.unwrap();
    eventually(SOON, "the echo is under way", pending, |pending| *pending > 64 << 10).await;
    tokio::time::sleep(ms(500)).await;
    stream.shutdown().await.unwrap();
    tokio::time::sleep(ms(200)).await;
    let mut echo = Vec::new();
    within(SOON, "the end", stream.read_to_end(&mut echo)).await.unwrap();
    assert!(echo.len() > 64 << 10, "{}", echo.len());
    daemon.get("/invoke/f/pid").await.ok();
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}

#[tokio::test]
async fn new_connection_replaces_idle_one() {
    let daemon = Setup::default().option("--max-connections", "6").function(Function::new("f")).start().await;
    let get = || request("GET", "/invoke/f/pid", empty());
    let mut others = Vec::new();
    for _ in 0..6 {
        let mut other = daemon.connect().await;
        other.send(get()).await.unwrap().ok();
        others.push(other);
    }
    let mut newcomer = daemon.connect().await;
    newcomer.send(get()).await.unwrap().ok();
    let debug = newcomer.send(request("GET", "/debug", empty())).await.unwrap().ok().json();
    assert_eq!(debug["daemon"]["connections"], json!({ "open": 6, "refused": 0, "evicted": 1 }));
    let mut ended = 0;
    for mut other in others {
        ended += usize::from(other.send(get()).await.is_err());
    }
    assert_eq!(ended, 1);
}

#[tokio::test]
async fn connection_limit_gives_503_then_closes() {
    let function = Function::new("f").set("concurrent-requests", 16);
    let daemon = Setup::default().option("--max-connections", "8").function(function).start().await;
    let stream = || request("GET", "/invoke/f/stream?n=100&ms=100", empty());
    let served = join_all((0..8).map(|_| daemon.start(stream()))).await;
    assert!(served.iter().all(|(_, response)| response.status() == 200));
    // No connection is idle. For every eight allowed connections, one more gets a 503.
    let both = async || {
        let mut refused_client = daemon.connect().await;
        let mut other = Raw::connect(daemon.listen).await;
        let _ = other.send(HEAD).await;
        // Each connection goes to a different worker, so the first to be accepted may have come second.
        let received = other.rest(ms(500)).await.0;
        (refused_client.send(request("GET", "/invoke/f/pid", empty())).await, received)
    };
    let is_refused = |(reply, received): &(hyper::Result<Reply>, Vec<u8>)| reply.is_ok() && received.is_empty();
    let (refused, _) = eventually(SOON, "one gets a 503, the other is closed", both, is_refused).await;
    let refused = refused.unwrap();
    refused.problem(503, "too_many_connections");
    assert_eq!((refused.retry_after(), refused.header("connection").as_deref()), (1, Some("close")));
    drop(served);
    is_admitted(daemon.listen).await;
    assert!(number(&connections(&daemon).await, "refused") >= 2);
}

/// Waits until a new connection is served.
async fn is_admitted(to: SocketAddr) {
    let reply = async || {
        let mut connection = Connection::open(to).await.map_err(|error| error.to_string())?;
        connection.send(request("GET", "/invoke/f/pid", empty())).await.map_err(|error| format!("{error:?}"))
    };
    let is_served = |reply: &Result<Reply, String>| reply.as_ref().is_ok_and(|reply| reply.status == 200);
    eventually(SOON, "a new connection is served", reply, is_served).await.unwrap();
}

#[test]
fn per_client_limit_bounds_other_hosts() {
    isolated(|| async {
        add_interface("one", "192.0.2.7/24");
        add_interface("two", "198.51.100.7/24");
        let function = Function::new("f").set("concurrent-requests", 8);
        let setup = Setup::default().option("--listen", "0.0.0.0:0").option("--max-connections-per-client", "3");
        let daemon = setup.function(function).start().await;
        let at = |address: &str| format!("{address}:{}", daemon.listen.port()).parse().unwrap();
        let mut hers = join_all((0..3).map(|_| Connection::open(at("192.0.2.7")))).await;
        let get = || request("GET", "/invoke/f/pid", empty());
        for connection in &mut hers {
            connection.as_mut().unwrap().send(get()).await.unwrap().ok();
        }
        let mut fourth = Connection::open(at("192.0.2.7")).await.unwrap();
        fourth.send(get()).await.unwrap().problem(503, "too_many_connections");
        Connection::open(at("198.51.100.7")).await.unwrap().send(get()).await.unwrap().ok();
        for _ in 0..5 {
            daemon.get("/invoke/f/pid").await.ok();
        }
        drop(hers);
        is_admitted(at("192.0.2.7")).await;
    });
}
