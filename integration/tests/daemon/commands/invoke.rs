//! `invoke`.

use std::fs;

use integration::{Daemon, Function, cli::golden, verbatim};

use super::{daemon, instance};

/// Returns the path of a response with this status, without the function.
fn answering(status: &str) -> String {
    let response = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nsorry");
    verbatim("f", &[&response], 0, "keep").strip_prefix("/invoke/f").unwrap().to_owned()
}

#[tokio::test]
async fn invoke_prints_the_body_and_nothing_else() {
    let daemon = Daemon::with(Function::new("f")).await;
    let ran = daemon.cli(&["invoke", "f", "received?a=b", "-d", "12345"]).await;
    assert_eq!((ran.err.as_str(), ran.out.as_str()), ("", "5"));
    assert_eq!(daemon.cli(&["invoke", "f", "echo", "-d", "text"]).await.ok(), "text");
    fs::write(daemon.home.path("registry/body"), [b'x'; 70_000]).unwrap();
    assert_eq!(daemon.cli(&["invoke", "f", "echo", "-d", "@body"]).await.ok().len(), 70_000);
    let request = daemon.cli(&["invoke", "f", "headers?q=1", "-X", "PUT", "-H", "X-Mine: a b"]).await.ok();
    assert!(request.starts_with("PUT /headers?q=1 HTTP/1.1\r\n") && request.contains("x-mine: a b\r\n"), "{request}");
    // A prompt begins on a line of its own.
    assert_eq!(daemon.cli_on_terminal(&["invoke", "f", "received"], &[]).await.ok(), "0\n");
}

#[tokio::test]
async fn invoke_is_fine_with_every_answer_of_a_function_unless_it_must_not_fail() {
    let daemon = Daemon::with(Function::new("f")).await;
    for status in ["404 Not Found", "500 Internal Server Error"] {
        assert_eq!(daemon.cli(&["invoke", "f", &answering(status)]).await.ok(), "sorry");
        let failed = daemon.cli(&["invoke", "f", "--fail", &answering(status)]).await;
        assert_eq!((failed.status, failed.out.as_str()), (Some(1), "sorry"));
        assert_eq!(failed.err, format!("unifaas: f answered {}\n", &status[..3]));
    }
    assert_eq!(daemon.cli(&["invoke", "f", "--fail", &answering("302 Found")]).await.ok(), "sorry");
}

#[tokio::test]
async fn an_error_of_the_platform_comes_with_the_output_of_the_instance() {
    let daemon = daemon().await;
    let text = golden(&daemon.cli(&["invoke", "broken"]).await.failed(1));
    let reason = "unifaas: 502 boot_failed: the instance ended before it served a request: exited with status 3";
    assert_eq!(text[..2], [reason, "| no database"], "{text:?}");
    // Of an instance that dies while it serves, the answer has no output.
    daemon.cli(&["invoke", "f", "say?line=last-words"]).await.ok();
    let id = instance(&daemon, "f").await;
    let text = daemon.cli(&["invoke", "f", "exit", "-X", "POST"]).await.failed(1);
    assert!(text.starts_with("unifaas: 502 instance_failed: "), "{text}");
    assert!(text.contains("\n  | last-words\n") && text.contains(&format!("unifaas logs {id}")), "{text}");
}

#[tokio::test]
async fn timing_and_json_say_where_the_time_went() {
    let daemon = Daemon::with(Function::new("f")).await;
    let ran = daemon.cli(&["invoke", "f", "received", "--timing"]).await;
    assert_eq!(ran.out, "0");
    let parts: Vec<_> = golden(&ran.err).iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(parts[..4], ["PART", "queue", "boot", "upstream"]);
    assert!(parts.contains(&"boot-ready".to_owned()) && parts.last().unwrap() == "total", "{parts:?}");
    let json = daemon.cli(&["invoke", "f", "received", "--json"]).await.json();
    assert_eq!((&json["status"], &json["body"], &json["bytes"]), (&200.into(), &"0".into(), &1.into()));
    assert!(json["timing"]["upstream"].is_number() && json["headers"]["x-request-id"][0].is_string(), "{json}");
}
