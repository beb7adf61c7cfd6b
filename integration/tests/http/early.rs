//! Responses that are sent before the request was read completely: they reach a client that is still sending.

use integration::{Daemon, End, Function, Head, Raw, Setup, ms, verbatim};
use serde_json::Value;
use tokio::time::Instant;

const PIECE: usize = 64 << 10;
/// 20 MiB.
const PIECES: usize = 320;

#[derive(Debug, Clone, Copy)]
enum Framing {
    Length,
    Chunks,
}

/// A response, and the end of its connection.
struct Answer {
    head: Head,
    body: String,
    end: End,
}

/// Sends 20 MiB in two seconds and reads the response afterwards. The daemon must accept every byte.
async fn upload(daemon: &Daemon, path: &str, framing: Framing) -> Answer {
    let field = match framing {
        Framing::Length => format!("Content-Length: {}", PIECE * PIECES),
        Framing::Chunks => "Transfer-Encoding: chunked".to_owned(),
    };
    let mut raw = Raw::request(daemon.listen, format!("POST {path} HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n")).await;
    let piece = match framing {
        Framing::Length => vec![b'x'; PIECE],
        Framing::Chunks => format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE)).into_bytes(),
    };
    let began = Instant::now();
    for n in 0..PIECES {
        if let Err(error) = raw.send(&piece).await {
            let (rest, end) = raw.rest(ms(1000)).await;
            panic!(
                "{framing:?}, {path:.60}: after {n} of {PIECES} pieces and {:?}: {error}; {end:?} with {} bytes to read",
                began.elapsed(),
                rest.len()
            );
        }
        tokio::time::sleep(ms(6)).await;
    }
    assert!(began.elapsed() > ms(1500), "an upload of {:?} proves nothing", began.elapsed());
    if matches!(framing, Framing::Chunks) {
        // The connection may have been closed by now.
        let _ = raw.send("0\r\n\r\n").await;
    }
    let (received, end) = raw.rest(ms(10_000)).await;
    let head = Head::parse(&received);
    let head = head.unwrap_or_else(|| panic!("{framing:?}, {path:.60}: no answer, {end:?}, {received:?}"));
    let body = String::from_utf8_lossy(&received[head.raw.len()..]).into_owned();
    Answer { head, body, end }
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16, code: &str, framing: Framing) {
    let found = (answer.head.status, answer.head.text("x-unifaas-error"));
    assert_eq!(found, (status, Some(code.to_owned())), "{framing:?}: {}", answer.body);
    let length = answer.head.text("content-length").and_then(|length| length.parse().ok());
    assert_eq!(length, Some(answer.body.len()), "{framing:?}: the document is whole and nothing is behind it");
    let problem: Value = serde_json::from_str(&answer.body).expect("a problem document");
    assert_eq!(problem["code"], code);
    assert_eq!(answer.end, End::Closed, "{framing:?}");
}

#[tokio::test]
async fn slow_upload_receives_413() {
    let daemon = Daemon::with(Function::new("f").set("max-body", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for framing in [Framing::Length, Framing::Chunks] {
        let answer = upload(&daemon, "/invoke/f/received", framing).await;
        is_problem(&answer, 413, "body_too_large", framing);
    }
    assert_eq!(daemon.counter("f", "body_too_large").await, 2);
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);
}

#[tokio::test]
async fn slow_upload_receives_404() {
    let daemon = Setup::default().start().await;
    for framing in [Framing::Length, Framing::Chunks] {
        let answer = upload(&daemon, "/invoke/nobody/", framing).await;
        is_problem(&answer, 404, "no_such_function", framing);
    }
}

#[tokio::test]
async fn slow_upload_receives_502() {
    let daemon = Daemon::with(Function::new("f").flag("--exit-at-boot").flag("3")).await;
    let answer = upload(&daemon, "/invoke/f/", Framing::Length).await;
    is_problem(&answer, 502, "boot_failed", Framing::Length);
}

/// Uploads to a function that responds 403 without reading the body, and closes its connection some milliseconds later.
async fn check_early_response(milliseconds: u64) {
    let words = "refused ".repeat(100);
    let answer = format!("HTTP/1.1 403 Forbidden\r\nX-Reason: quota\r\nContent-Length: {}\r\n\r\n{words}", words.len());
    let path = verbatim("f", &[&answer], milliseconds, "close").replace("/verbatim?", "/verbatim/unread?");
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    for framing in [Framing::Length, Framing::Chunks] {
        let answer = upload(&daemon, &path, framing).await;
        let found = (answer.head.status, answer.head.text("x-reason").unwrap_or_default());
        assert_eq!(found, (403, "quota".to_owned()), "{framing:?}: {}", answer.body);
        let end = answer.end;
        assert!(answer.body == words && end != End::Reset, "{framing:?}, {end:?}: {} bytes", answer.body.len());
        assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid, "it was no fault of the instance");
    }
}

#[tokio::test]
async fn slow_upload_receives_early_response_of_function_that_closes_at_once() {
    check_early_response(0).await;
}

#[tokio::test]
async fn slow_upload_receives_early_response_of_function_that_closes_after_200_ms() {
    check_early_response(200).await;
}

#[tokio::test]
async fn slow_upload_receives_early_response_of_function_that_lingers() {
    let daemon = Daemon::with(Function::new("f")).await;
    for framing in [Framing::Length, Framing::Chunks] {
        let answer = upload(&daemon, "/invoke/f/early", framing).await;
        assert_eq!((answer.head.status, answer.body.as_str()), (200, "without having read it"), "{framing:?}");
        assert_ne!(answer.end, End::Reset, "{framing:?}");
    }
}

#[tokio::test]
async fn lingering_close_is_bounded() {
    let daemon = Daemon::with(Function::new("f").set("max-body", 1)).await;
    let head = "POST /invoke/f/received HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut raw = Raw::request(daemon.listen, head).await;
    let chunk = format!("{PIECE:x}\r\n{}\r\n", "x".repeat(PIECE));
    let began = Instant::now();
    while raw.send(&chunk).await.is_ok() {
        assert!(began.elapsed() < ms(30_000), "the daemon still reads after {:?}", began.elapsed());
        tokio::time::sleep(ms(20)).await;
    }
}
