//! HTTP/2 connections across upgrades: each stream is answered, or refused by a GOAWAY frame that leaves no doubt that it
//! was not begun, so that clients repeat it whatever its method is.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::Reason;
use hyper::HeaderMap;
use integration::{
    Daemon, Function, Http2,
    h2::{next, send_all},
    ms, within,
};

use crate::nothing_is_left;

/// The answers of one client.
#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    /// Streams that a GOAWAY has refused. Each was repeated on a new connection.
    repeated: usize,
}

/// Sends one request after the other, on one connection until that is refused.
async fn client(to: SocketAddr, over: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut connection = Http2::connect(to).await;
    while !over.load(Ordering::Relaxed) {
        match connection.send("POST", "/invoke/f/received", Bytes::from_static(b"body")).await {
            Ok(reply) => {
                assert_eq!(reply.ok().text(), "4");
                seen.answered += 1;
            }
            Err(error) => {
                let is_refusal = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
                assert!(is_refusal, "a stream was lost: {error:?}");
                seen.repeated += 1;
                connection = Http2::connect(to).await;
            }
        }
        tokio::time::sleep(ms(10)).await;
    }
    seen
}

#[tokio::test]
async fn streams_are_answered_or_refused_before_they_begin() {
    const UPGRADES: usize = 3;
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 64).set("min-instances", 1)).await;
    daemon.until("f", "idle", 1).await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(client(daemon.listen, over.clone()))).collect();
    let mut last = None;
    for _ in 0..UPGRADES {
        // Longer than the old daemon keeps idle connections.
        let long = Http2::connect(daemon.listen).await;
        let sleeping = long.start("GET", "/invoke/f/sleep?ms=2500", &HeaderMap::new(), true).await.unwrap();
        let mut upload = long.start("POST", "/invoke/f/echo", &HeaderMap::new(), false).await.unwrap();
        send_all(&mut upload.body, Bytes::from_static(b"before "), false).await.unwrap();
        let next_daemon = daemon.upgrade().await;
        tokio::time::sleep(ms(1500)).await;
        send_all(&mut upload.body, Bytes::from_static(b"after"), true).await.unwrap();
        let (response, _) = upload.response().await.expect("a stream that was begun is answered");
        let (mut body, mut text) = (response.into_body(), Vec::new());
        while let Some(piece) = next(&mut body).await {
            text.extend_from_slice(&piece.expect("the whole answer"));
        }
        assert_eq!(String::from_utf8_lossy(&text), "before after");
        let (response, _) = sleeping.response().await.expect("a stream that was begun is answered");
        assert_eq!(response.status(), 200);
        let refused = long.send("GET", "/invoke/f/pid", Bytes::new()).await.unwrap_err();
        assert!(refused.is_go_away() || refused.is_io(), "the connection is over: {refused:?}");
        last = Some(next_daemon);
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = within(Duration::from_secs(60), "a client", client).await.unwrap();
        println!("{seen:?}");
        assert!(seen.answered > 50 && (1..=UPGRADES).contains(&seen.repeated), "{seen:?}");
    }
    drop(last);
    nothing_is_left(&daemon.home).await;
}
