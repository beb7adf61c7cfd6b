//! Kept connections: closed by the instance, shared by workers, swept.

use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use super::*;

/// Sends so many pairs of requests, the second behind the first, to a server that closes each connection so long after its
/// first answer. Returns how many of the second were not served, though the server closed in time: past 40 ms its kernel
/// acknowledges what it has not read.
async fn race(method: Method, closes_after: Duration, with_reset: bool, pairs: usize) -> usize {
    let late = Arc::new(AtomicUsize::new(0));
    let counter = late.clone();
    let address = server(move |mut stream, _| {
        let late = counter.clone();
        async move {
            if read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                let began = Instant::now();
                spin(closes_after);
                if with_reset {
                    stream.set_zero_linger().unwrap();
                }
                drop(stream);
                late.fetch_add(usize::from(began.elapsed() > Duration::from_millis(35)), Relaxed);
            }
        }
    });
    let mut failed = 0;
    for pair in 0..pairs {
        // A new instance each time, so that nothing is known of it.
        let client = Client::of(address);
        assert_eq!(client.text(Method::GET).await.as_deref(), Ok("ok"));
        // From at once to after the close, with the event loop awake or asleep.
        let pause = closes_after * (pair % 16) as u32 / 12;
        if pair % 2 == 0 {
            sleep(pause).await;
        } else {
            spin(pause);
        }
        failed += usize::from(client.text(method.clone()).await.is_err());
    }
    let late = late.load(Relaxed);
    println!("{method}, closed after {closes_after:?}, reset {with_reset}: {failed} of {pairs} failed, {late} late");
    failed.saturating_sub(late)
}

/// Timers are too coarse for what is to be hit.
fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {}
}

#[actix_rt::test]
async fn request_behind_closed_connection_is_served() {
    for micros in [0, 50, 1000, 5000] {
        let closes_after = Duration::from_micros(micros);
        for (method, with_reset) in [(Method::POST, false), (Method::GET, false), (Method::GET, true)] {
            assert_eq!(race(method, closes_after, with_reset, 160).await, 0);
        }
    }
}

/// Returns a client of an instance that was found ready by a connection to `address`.
async fn client_of_reached(address: SocketAddr) -> Client {
    let stream = TcpStream::connect(address).await.unwrap().into_std().unwrap();
    Client::of(Reached { route: address.into(), connection: Some(stream.into()) })
}

#[actix_rt::test]
async fn first_request_uses_connection_on_which_instance_was_found_ready() {
    // A server that accepts one connection only.
    let address = server(|mut stream, number| async move {
        assert_eq!(number, 0);
        while read_request(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    let client = client_of_reached(address).await;
    for _ in 0..2 {
        assert_eq!(client.text(Method::POST).await.as_deref(), Ok("ok"));
    }
}

#[actix_rt::test]
async fn connection_that_was_closed_before_the_first_request_is_replaced() {
    for first in ["", "stray bytes"] {
        let address = server(move |mut stream, number| async move {
            if number == 0 {
                stream.write_all(first.as_bytes()).await.unwrap();
                return;
            }
            while read_request(&mut stream).await.is_some() {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        });
        let client = client_of_reached(address).await;
        sleep(Duration::from_millis(50)).await;
        assert_eq!(client.text(Method::POST).await.as_deref(), Ok("ok"));
    }
}

#[actix_rt::test]
async fn request_that_was_read_in_part_is_not_repeated() {
    let client = Client::of(server(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let _ = stream.read_exact(&mut [0; 100]).await;
    }));
    assert_eq!(client.text(Method::POST).await.unwrap(), "ok");
    let large = "x".repeat(4000);
    let error = client.send(Method::POST, Some(small_upload(large.leak())), "4000").await.unwrap_err();
    assert!(matches!(error, AttemptError::Broken { heard: false, reused: true, retryable: false, .. }), "{error:?}");
    // Nor does the next one meet an idle connection.
    assert_eq!(client.text(Method::POST).await.unwrap(), "ok");
    assert_eq!(client.text(Method::POST).await.unwrap(), "ok");
}

#[actix_rt::test]
async fn single_threaded_server_serves_two_workers() {
    let address = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (pools, endpoint) = (ConnectionPools::new(), endpoint(address, 1));
    let began = Instant::now();
    let turn = Arc::new(AtomicUsize::new(0));
    let workers = [0, 1].map(|worker| {
        let (client, turn) = (Client { pools: pools.clone(), endpoint: endpoint.clone() }, turn.clone());
        std::thread::spawn(move || {
            actix_rt::System::new().block_on(async {
                for request in (worker..200).step_by(2) {
                    while turn.load(Acquire) != request {
                        sleep(Duration::from_micros(100)).await;
                    }
                    let method = if request % 3 == 0 { Method::POST } else { Method::GET };
                    assert_eq!(client.text(method).await.as_deref(), Ok("ok"));
                    turn.store(request + 1, Release);
                }
                // The task of the shared connection runs here.
                while turn.load(Acquire) < 200 {
                    sleep(Duration::from_millis(1)).await;
                }
            });
        })
    });
    for worker in workers {
        worker.join().unwrap();
    }
    println!(
        "200 requests of alternating workers: {:?}, {:?}",
        began.elapsed(),
        pools.counts(Remote::from(&endpoint).id())
    );
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[actix_rt::test]
async fn sweep_closes_what_is_idle_or_ended() {
    let client = Client::of(answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"));
    client.text(Method::GET).await.unwrap();
    client.pools.sweep();
    assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (1, 1));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(4)).await;
    client.pools.sweep();
    assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 0));
    tokio::time::resume();
    client.text(Method::GET).await.unwrap();
    client.endpoint.set_ended(None);
    client.pools.sweep();
    assert_eq!(client.pools.counts(Remote::from(&client.endpoint).id()), (0, 0));
}
