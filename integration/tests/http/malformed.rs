//! Malformed responses of functions: each is a 502 for its request, and the instance stays.

use integration::{Daemon, Function, SOON, eventually, ms, number, verbatim};

/// Returns malformed responses with their descriptions.
fn malformed() -> Vec<(&'static str, String)> {
    let ok = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let many: String = (0..130).map(|n| format!("X-{n}: {n}\r\n")).collect();
    vec![
        ("a length and chunks", ok("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("chunks and a length", ok("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "5\r\nhello\r\n0\r\n\r\n")),
        ("two lengths", ok("Content-Length: 3\r\nContent-Length: 5\r\n", "hello")),
        ("two lengths in one field", ok("Content-Length: 3, 5\r\n", "hello")),
        ("a length that is no number", ok("Content-Length: five\r\n", "hello")),
        ("a negative length", ok("Content-Length: -5\r\n", "hello")),
        ("a space before a colon", ok("Content-Length : 5\r\n", "hello")),
        ("130 headers", ok(&format!("{many}Content-Length: 2\r\n"), "ok")),
        ("a header without a colon", ok("Content-Length 5\r\n", "hello")),
        ("a NUL in a header", ok("X: a\0b\r\nContent-Length: 2\r\n", "ok")),
        ("a garbage status line", "HTP/1.1 two hundred\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("no HTTP at all", "\u{1}\u{2} this is not HTTP\r\n\r\n".to_owned()),
    ]
}

#[tokio::test]
async fn malformed_response_is_502_and_instance_stays() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let mut wrong = Vec::new();
    for (what, answer) in malformed() {
        for then in ["keep", "close"] {
            let path = verbatim("f", &[&answer], 0, then);
            for (method, reply) in [("GET", daemon.get(&path).await), ("POST", daemon.post(&path, "body").await)] {
                if (reply.status, reply.header("x-unifaas-error").as_deref()) == (502, Some("instance_failed")) {
                    reply.problem(502, "instance_failed");
                } else {
                    wrong.push(format!("{method}, {what}, {then}: {} {}", reply.status, reply.text()));
                }
                let next = daemon.get("/invoke/f/pid").await.ok().pid();
                if next != pid {
                    wrong.push(format!("{method}, {what}, {then}: the instance was replaced"));
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(number(&daemon.function("f").await, "instances_started"), 1);
}

#[tokio::test]
async fn malformed_responses_do_not_disturb_concurrent_requests() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1).set("concurrent-requests", 8)).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (_, answer) = malformed().swap_remove(0);
    let path = verbatim("f", &[&answer], 0, "keep");
    for round in 0..5 {
        let good = daemon.get("/invoke/f/sleep?ms=200");
        let bad = async {
            for _ in 0..2 {
                daemon.get(&path).await.problem(502, "instance_failed");
            }
        };
        let (good, ()) = futures::join!(good, bad);
        assert_eq!(good.ok().pid(), pid, "round {round}");
    }
}

#[tokio::test]
async fn instance_with_only_malformed_responses_is_ended() {
    let daemon = Daemon::with(Function::new("f").set("max-instances", 1)).await;
    let (_, answer) = malformed().swap_remove(2);
    let path = verbatim("f", &[&answer], 0, "keep");
    // No request of this instance gets a valid response.
    let mut asked = 0;
    let started = async || {
        asked += 1;
        assert!(asked <= 300, "{asked} malformed answers, and no instance was ended");
        let reply = daemon.get(&path).await;
        assert_eq!(reply.status / 100, 5, "{} {}", reply.status, reply.text());
        number(&daemon.function("f").await, "instances_started")
    };
    eventually(SOON, "a second instance was started", started, |started| *started > 1).await;
    assert!(asked >= 1);
    tokio::time::sleep(ms(50)).await;
}
