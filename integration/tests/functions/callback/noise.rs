//! Random bytes at the callback listener: only the right token is accepted, and the daemon survives.

use std::{env, net::SocketAddr, time::Duration};

use futures::{StreamExt, future, stream};
use integration::{Daemon, End, Function, Head, Raw, empty, number, request};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{call_from, callback_path};

/// Number of connections.
const ROUNDS: usize = 1000;
/// Concurrent connections. The listener waits a second for some of them.
const CONCURRENCY: usize = 25;
/// Time limit of one connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns a callback whose token is nearly right.
fn nearly(token: &str, random: &mut StdRng) -> Vec<u8> {
    let mut wrong: Vec<u8> = token.as_bytes().to_vec();
    let at = random.random_range(0..wrong.len());
    wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
    match random.random_range(0..6) {
        0 => wrong.make_ascii_uppercase(),
        1 => wrong.truncate(at),
        2 => wrong.extend_from_slice(token.as_bytes()),
        3 => wrong.splice(at..at, *b"%2f").for_each(drop),
        4 => wrong.splice(0..0, *b"../ready/").for_each(drop),
        _ => {}
    }
    let method = ["GET", "POST", "HEAD", "PUT", "OPTIONS", "get"][random.random_range(0..6)];
    let lines = [
        "",
        "Content-Length: 2\r\n",
        "Content-Length: 99\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\nContent-Length: 2\r\n",
        "Connection: Upgrade\r\nUpgrade: websocket\r\n",
    ][random.random_range(0..7)];
    let version = ["1.1", "1.1", "1.0", "2.0"][random.random_range(0..4)];
    let mut wire = format!("{method} /ready/").into_bytes();
    wire.extend_from_slice(&wrong);
    wire.extend_from_slice(format!(" HTTP/{version}\r\nHost: h\r\n{lines}\r\nok").as_bytes());
    wire
}

/// Returns a damaged callback, several of them, or random bytes.
fn noise(token: &str, random: &mut StdRng) -> Vec<u8> {
    if random.random_range(0..8) == 0 {
        let length = random.random_range(0..3000);
        return (0..length).map(|_| random.random()).collect();
    }
    let mut wire: Vec<u8> = (0..random.random_range(1..4)).flat_map(|_| nearly(token, random)).collect();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..wire.len());
        let end = (at + random.random_range(0..20)).min(wire.len());
        match random.random_range(0..4) {
            0 => drop(wire.drain(at..end)),
            1 => wire.insert(at, random.random()),
            2 => wire[at] ^= 1 << random.random_range(0..8),
            _ => {
                let copy = wire[at..end].to_vec();
                wire.splice(at..at, copy);
            }
        }
        if wire.is_empty() {
            break;
        }
    }
    wire
}

/// Sends bytes in two parts and returns the response.
async fn exchange(to: SocketAddr, wire: &[u8], cut: usize) -> Vec<u8> {
    let mut raw = Raw::connect(to).await;
    let (first, second) = wire.split_at(cut);
    // The listener may have closed before the end.
    if raw.send(first).await.is_ok() && raw.send(second).await.is_ok() {
        raw.finish().await;
    }
    let (answers, end) = raw.rest(CONNECTION_TIMEOUT).await;
    assert_ne!(end, End::Open, "no reaction to b\"{}\"", wire.escape_ascii());
    answers
}

#[tokio::test]
async fn noise_is_rejected_and_right_token_accepted() {
    let replayed = env::var("UNIFAAS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = replayed.unwrap_or_else(rand::random);
    println!("UNIFAAS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let daemon = Daemon::with(Function::new("f").flag("--callbacks").flag("0").set("boot-timeout", 200)).await;
    let mut waiter = daemon.connect().await;
    let waits = tokio::spawn(async move { waiter.send(request("GET", "/invoke/f/pid", empty())).await });
    let path = callback_path(&daemon, "f").await;
    let token = path.strip_prefix("/ready/").expect("a token").to_owned();

    let behind_slash = format!("/{token}");
    // The damage may have restored the right token.
    let is_right = |wire: &[u8]| wire.windows(behind_slash.len()).any(|part| part == behind_slash.as_bytes());
    let mut sent = Vec::new();
    while sent.len() < ROUNDS {
        let wire = noise(&token, &mut random);
        if !is_right(&wire) {
            sent.push((random.random_range(0..=wire.len()), wire));
        }
    }
    let answered_noise = stream::iter(sent)
        .map(|(cut, wire)| async move { (exchange(daemon.callback, &wire, cut).await, wire) })
        .buffer_unordered(CONCURRENCY);
    let answered_noise: Vec<_> =
        answered_noise.filter(|(answers, _)| future::ready(!answers.is_empty())).collect().await;
    for (answers, wire) in &answered_noise {
        let status = Head::parse(answers).expect("whole answers").status;
        assert!(matches!(status, 100 | 400..=499 | 501 | 505), "{status} to b\"{}\"", wire.escape_ascii());
        let text = String::from_utf8_lossy(answers);
        assert!(!text.contains("HTTP/1.1 2"), "{text} to b\"{}\"", wire.escape_ascii());
    }
    let answered = answered_noise.len();
    assert!(answered > ROUNDS / 2, "{answered} of {ROUNDS} answered");

    let function = daemon.until("f", "booting", 1).await;
    assert_eq!(number(&function, "instances_started"), 1);
    assert!(number(&daemon.debug().await["daemon"], "callbacks_refused") > 0);
    assert_eq!(call_from("127.0.0.1", daemon.callback, "GET", &path).await, 200);
    waits.await.unwrap().unwrap().ok();
    println!("{ROUNDS} connections, {answered} answered");
}
