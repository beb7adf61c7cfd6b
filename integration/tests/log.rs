//! The log when its reader has stopped.

use std::{path::PathBuf, time::Duration};

use futures::future::join_all;
use integration::{Daemon, Function, Home, Setup, empty, ms, number, request, within};
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
    let setup = Setup::at(&home).option("--log-level", "debug").variable("PIPE", &pipe);
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
    assert!(ending.took < ms(3000), "{ending:?}");
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
    let missed = within(Duration::from_secs(20), "all lines", missed).await;
    assert!(read + missed >= REQUESTS as u64, "{read} lines and a loss of {missed}");
}
