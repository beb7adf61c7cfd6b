//! `logs`.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use integration::{Daemon, Function, SOON, Setup, cli::golden, eventually};
use serde_json::Value;

use super::{daemon, instance};

async fn say(daemon: &Daemon, function: &str, line: &str) {
    daemon.get(&format!("/invoke/{function}/say?line={line}")).await.ok();
    let read = async || daemon.cli(&["logs", function]).await.ok();
    eventually(SOON, "the line is read", read, |text| text.contains(line)).await;
}

#[tokio::test]
async fn logs_are_those_of_a_function_of_an_instance_or_of_all() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("g")).start().await;
    say(&daemon, "f", "first").await;
    say(&daemon, "f", "second").await;
    say(&daemon, "g", "of-g").await;
    let id = instance(&daemon, "f").await;
    let lines = golden(&daemon.cli(&["logs", "f"]).await.ok());
    let count = lines.len();
    assert_eq!(lines[count - 2..], ["TIME f/ID err first", "TIME f/ID err second"], "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("TIME f/ID platform ready after N")), "{lines:?}");
    assert_eq!(golden(&daemon.cli(&["logs", &id]).await.ok()), lines);
    assert_eq!(golden(&daemon.cli(&["logs", "f", "--tail", "1"]).await.ok()), lines[count - 1..]);
    assert!(daemon.cli(&["logs"]).await.ok().ends_with("err of-g\n"));
    let json = daemon.cli(&["logs", "f", "--json", "--tail", "1"]).await.json();
    assert_eq!((&json["text"], &json["stream"], &json["instance"]), (&"second".into(), &"err".into(), &id.into()));
    assert_eq!(daemon.cli(&["logs", "f", "--since", "1h"]).await.ok().lines().count(), count);
    assert_eq!(daemon.cli(&["logs", "f", "--since", "0s"]).await.ok(), "");
}

#[tokio::test]
async fn logs_of_ended_instances_can_be_chosen() {
    let daemon = daemon().await;
    say(&daemon, "f", "of-the-first").await;
    let id = instance(&daemon, "f").await;
    assert_eq!(daemon.cli(&["logs", "f", "--ended"]).await.ok(), "");
    daemon.post("/invoke/f/exit", "").await.problem(502, "instance_failed");
    daemon.ended_instance(&id).await;
    say(&daemon, "f", "of-the-second").await;
    let ended = daemon.cli(&["logs", "f", "--ended"]).await.ok();
    assert!(ended.contains("of-the-first") && !ended.contains("of-the-second"), "{ended}");
    assert_eq!(daemon.cli(&["logs", &id, "--ended"]).await.ok(), ended);
    assert_eq!(daemon.cli(&["logs", "f", "--ended", "--tail", "1"]).await.ok().lines().count(), 1);
}

#[tokio::test]
async fn followed_logs_go_on_until_the_daemon_ends() {
    let mut daemon = Daemon::with(Function::new("f")).await;
    say(&daemon, "f", "before").await;
    let mut follower = daemon.command(&["logs", "-f", "f", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    while next()["text"] != "before" {}
    say(&daemon, "f", "after").await;
    assert_eq!(next()["text"], "after");
    daemon.end().await;
    // Lines about the end of the instance may follow.
    for line in lines.by_ref() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(line["stream"], "platform", "{line}");
    }
    assert_eq!(follower.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_reader_that_has_enough_ends_the_command_quietly() {
    let daemon = Daemon::with(Function::new("f")).await;
    say(&daemon, "f", "one").await;
    let mut follower = daemon.command(&["logs", "-f", "f"]);
    let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(follower.stdout.take().unwrap()).read_line(&mut first).unwrap();
    say(&daemon, "f", "two").await;
    let output = follower.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
