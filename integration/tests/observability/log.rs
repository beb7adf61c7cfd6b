//! The log when its reader has stopped, and as the journal takes it.

use std::{fs::File, os::unix::fs::MetadataExt, path::PathBuf, time::Duration};

use futures::future::join_all;
use integration::{AT_ONCE, Daemon, Function, Home, SOON, Setup, empty, number, request, within};
use nix::{sys::stat::Mode, unistd::mkfifo};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::unix::pipe,
};

/// More lines than the pipe and the queue hold.
const REQUESTS: usize = 8_000;

/// Starts a daemon that logs each request into a pipe without a reader.
async fn with_stuck_reader() -> (Daemon, PathBuf) {
    let home = Home::new();
    home.put(&Function::new("f").set("concurrent-requests", 8).set("max-instances", 1));
    let pipe = home.path("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    // Opened in both directions, because a pipe without any reader would be an error.
    let into_pipe = "exec \"$0\" \"$@\" 2<>\"$PIPE\"";
    let setup = Setup::at(&home).option("--access-log", "all").variable("PIPE", &pipe);
    (setup.run_by(["sh", "-c", into_pipe]).start().await, pipe)
}

async fn ask(daemon: &Daemon) {
    let clients = (0..8).map(async |_| {
        let mut connection = daemon.connect().await;
        for _ in 0..REQUESTS / 8 {
            connection.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
        }
    });
    within(Duration::from_secs(60), "all are answered", join_all(clients)).await;
    assert_eq!(daemon.counter("f", "ok").await, REQUESTS as u64);
}

#[tokio::test]
async fn stuck_log_reader_does_not_block_daemon() {
    let (mut daemon, _pipe) = with_stuck_reader().await;
    ask(&daemon).await;
    let ending = daemon.end().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < AT_ONCE, "{ending:?}");
}

#[tokio::test]
async fn lost_lines_are_counted_in_log() {
    let (daemon, pipe) = with_stuck_reader().await;
    ask(&daemon).await;
    let mut lines = BufReader::new(pipe::OpenOptions::new().open_receiver(pipe).unwrap()).lines();
    let mut read = 0;
    let missed = async {
        loop {
            let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
            match line["msg"].as_str().unwrap() {
                "request ended" => read += 1,
                words if words.contains("dropped messages") => break number(&line, "count"),
                // Other lines of the daemon.
                _ => {}
            }
            if read % 500 == 1 {
                daemon.get("/invoke/f/pid").await.ok();
            }
        }
    };
    let missed = within(SOON, "all lines", missed).await;
    assert!(read + missed >= REQUESTS as u64, "{read} lines and a loss of {missed}");
}

#[tokio::test]
async fn journal_gets_priorities_without_being_asked() {
    let home = Home::new();
    let log = File::create(home.path("log")).unwrap().metadata().unwrap();
    let stream = format!("{}:{}", log.dev(), log.ino());
    let setup = Setup::at(&home).without("--log-format").variable("JOURNAL_STREAM", stream);
    let mut daemon = setup.function(Function::verbatim("wrong", "nonsense = 1\n")).start().await;
    assert_eq!(daemon.end().await.status.code(), Some(0));
    let text = daemon.log();
    let has = |start: &str| text.lines().any(|line| line.starts_with(start));
    assert!(
        has("<6>serving listen=127.0.0.1:") && has("<4>function is misconfigured function=wrong reason=\""),
        "{text}"
    );
    let is_marked = |line: &str| {
        line.as_bytes().first_chunk().is_some_and(|[a, b, c]| (*a, *c) == (b'<', b'>') && b"3467".contains(b))
    };
    assert!(text.lines().all(is_marked), "{text}");
}
