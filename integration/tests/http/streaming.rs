//! Streaming bodies: bounded memory, immediate delivery, tunnels.

use bytes::Bytes;
use futures::{SinkExt, StreamExt, stream};
use integration::{AT_ONCE, Daemon, Function, Pieces, Raw, empty, ms, number, processes, request, streamed, within};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{client_async, tungstenite::Message};

#[tokio::test]
async fn echoes_gibibyte_with_bounded_memory() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 1 << 14;
    let blocks: Vec<_> = (0..=u8::MAX).map(|n| Bytes::from(vec![n; PIECE])).collect();
    let daemon = Daemon::with(Function::new("f").set("timeout", 0)).await;
    let sent = blocks.clone();
    let body = streamed(stream::iter((0..PIECES).map(move |n| sent[n % 256].clone())));
    let (_connection, response) = daemon.start(request("POST", "/invoke/f/echo", body)).await;
    assert_eq!(response.status(), 200);
    let mut pieces = Pieces::of(response);
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        let mut piece = piece.expect("the whole of it");
        while !piece.is_empty() {
            let (block, offset) = (&blocks[received / PIECE % 256], received % PIECE);
            let part = piece.split_to(piece.len().min(PIECE - offset));
            assert!(part == block[offset..offset + part.len()], "something else at byte {received}");
            received += part.len();
        }
    }
    assert_eq!(received, PIECE * PIECES);
    let peak = processes::peak_memory_kib(daemon.pid);
    assert!(peak < 50 << 10, "the daemon once had {peak} KiB");
}

#[tokio::test]
async fn slow_reader_does_not_fill_memory() {
    let daemon = Daemon::with(Function::new("f")).await;
    let before = processes::peak_memory_kib(daemon.pid);
    let (connection, response) = daemon.start(request("GET", "/invoke/f/bytes?mib=200", empty())).await;
    let mut pieces = Pieces::of(response);
    pieces.next().await.expect("a piece").expect("a good one");
    tokio::time::sleep(ms(1000)).await;
    let peak = processes::peak_memory_kib(daemon.pid);
    assert!(peak < before + (16 << 10), "{before} KiB before, {peak} KiB after");
    drop((pieces, connection));
    daemon.until("f", "idle", 1).await;
}

#[tokio::test]
async fn response_longer_than_keepalive_is_complete() {
    let daemon = Daemon::with(Function::new("f").ends_after(1)).await;
    let since = Instant::now();
    let (_connection, response) = daemon.start(request("GET", "/invoke/f/stream?n=26&ms=200", empty())).await;
    let pid = u32::try_from(number(&daemon.instances("f").await[0], "pid")).unwrap();
    let mut pieces = Pieces::of(response);
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("the whole stream"));
    }
    let expected: String = (0..26).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&text), expected);
    let rest = processes::gone(pid).await;
    // The client may see the last byte late.
    assert!(since.elapsed() > ms(25 * 200 + 1000), "it was gone {rest:?} after the last byte");
}

#[tokio::test]
async fn server_sent_events_arrive_immediately() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let (_connection, response) = daemon.start(request("GET", "/invoke/f/sse?n=5&ms=300", empty())).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut pieces = Pieces::of(response);
    let mut first = None;
    for n in 0..5 {
        let piece = pieces.next().await.expect("an event").expect("a good one");
        assert_eq!(piece, format!("data: {n}\n\n"));
        first.get_or_insert_with(Instant::now);
    }
    let time = first.unwrap().elapsed();
    assert!(time > ms(600), "all events of 1.2 s arrived within {time:?}");
    assert!(pieces.next().await.is_none());
}

#[tokio::test]
async fn request_and_response_stream_concurrently() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "POST /invoke/f/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    for n in 0..10 {
        let word = format!("w{n:02}\n");
        raw.send(&word).await.unwrap();
        if n == 0 {
            // The response begins while most of the request is not sent yet.
            assert_eq!(raw.expect_head().await.status, 200);
        }
        assert_eq!(within(AT_ONCE, "the echo", raw.bytes(4)).await, word.as_bytes());
    }
}

#[tokio::test]
async fn early_response_reaches_client() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "POST /invoke/f/early HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nthe first of it";
    let mut raw = Raw::request(daemon.listen, head).await;
    let head = within(AT_ONCE, "the answer", raw.expect_head()).await;
    assert_eq!(head.status, 200);
    assert_eq!(raw.bytes(22).await, b"without having read it");
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn function_decides_on_100_continue() {
    let daemon = Daemon::with(Function::new("f")).await;
    let ask = |path: &str| {
        format!("POST /invoke/f/{path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut raw = Raw::request(daemon.listen, ask("expect")).await;
    assert_eq!(raw.expect_head().await.status, 413, "the function refuses, and no body is asked for");

    let mut raw = Raw::request(daemon.listen, ask("echo")).await;
    assert_eq!(raw.expect_head().await.status, 100);
    raw.send("hello").await.unwrap();
    assert_eq!(raw.expect_head().await.status, 200);
    assert_eq!(raw.bytes(5).await, b"hello");
}

#[tokio::test]
async fn refused_request_never_sends_body() {
    let function = Function::new("f").flag("--exit-at-boot").flag("1");
    let daemon = Daemon::with(function).await;
    for (name, status) in [("f", 502), ("missing", 404)] {
        let head =
            format!("POST /invoke/{name}/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        let mut raw = Raw::request(daemon.listen, head).await;
        assert_eq!(raw.expect_head().await.status, status);
    }
}

#[tokio::test]
async fn websocket_occupies_one_slot() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1).ends_after(0.3)).await;
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let url = format!("ws://{}/invoke/f/ws", daemon.listen);
    let (mut socket, response) = client_async(url, stream).await.expect("an upgrade");
    assert_eq!(response.status(), 101);
    for n in 0..50 {
        let message = Message::text(format!("message {n} {}", "x".repeat(n * 500)));
        socket.send(message.clone()).await.unwrap();
        assert_eq!(within(AT_ONCE, "the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    let binary = Message::binary(vec![0_u8, 255, 13, 10]);
    socket.send(binary.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), binary);

    // Silent for longer than the keepalive: the tunnel lives and occupies its slot.
    tokio::time::sleep(ms(600)).await;
    let function = daemon.function("f").await;
    assert_eq!(
        (number(&function["instances"][0], "in_flight"), &function["instances"][0]["state"]),
        (1, &"busy".into())
    );
    socket.send(Message::text("still there?")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still there?"));

    socket.close(None).await.unwrap();
    daemon
        .settled("f", "the slot is free", |function| {
            function["instances"].as_array().is_none_or(|all| all.iter().all(|instance| instance["in_flight"] == 0))
        })
        .await;
    daemon.get("/invoke/f/pid").await.ok();
}

#[tokio::test]
async fn tunnel_ends_with_either_side() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let url = format!("ws://{}/invoke/f/ws", daemon.listen);
    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (socket, _) = client_async(&url, stream).await.expect("an upgrade");
    drop(socket);
    let reply = daemon.get("/invoke/f/pid").await.ok();
    assert!(reply.took < AT_ONCE, "the slot of a client that left came back after {:?}", reply.took);

    let stream = TcpStream::connect(daemon.listen).await.unwrap();
    let (mut socket, _) = client_async(&url, stream).await.expect("an upgrade");
    processes::signal(reply.pid(), nix::sys::signal::Signal::SIGKILL);
    let end = within(AT_ONCE, "the end of the tunnel", socket.next()).await;
    assert!(!matches!(end, Some(Ok(Message::Text(_) | Message::Binary(_)))), "{end:?}");
}

#[tokio::test]
async fn slow_reader_gets_last_response_of_ended_instance() {
    const WHOLE: usize = 16 << 20;
    let daemon = Daemon::with(Function::new("f")).await;
    let mut raw = Raw::request(daemon.listen, "GET /invoke/f/last-bytes?mib=16 HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(raw.expect_head().await.status, 200);
    let mut length = 0;
    while !daemon.log().contains("instance ended by itself") {
        length += raw.bytes(64 << 10).await.len();
        // The log is written a moment later.
        tokio::time::sleep(ms(20)).await;
    }
    assert!(length < WHOLE, "it ended when all had been read");
    // Longer than any wait after the end of an instance.
    tokio::time::sleep(ms(1000)).await;
    length += raw.bytes((WHOLE - length) / 2).await.len();
    tokio::time::sleep(ms(1000)).await;
    length += raw.bytes(WHOLE - length).await.len();
    assert_eq!(length, WHOLE);
    daemon.settled("f", "it is counted as answered", |function| number(&function["counters"], "ok") == 1).await;
}

#[tokio::test]
async fn declined_upgrade_is_ordinary_response() {
    let daemon = Daemon::with(Function::new("f")).await;
    let head = "GET /invoke/f/pid HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    assert_eq!(raw.expect_head().await.status, 200);
    daemon.get("/invoke/f/pid").await.ok();
}
