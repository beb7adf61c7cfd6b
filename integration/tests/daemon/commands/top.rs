//! `top`.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use integration::{
    cli::{Interactive, bare, run},
    processes,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::daemon;

#[tokio::test]
async fn top_follows_functions_and_obeys_keys() {
    let daemon = daemon().await;
    let mut top = Interactive::start(daemon.command(&["top"]));
    let frame =
        top.frame("both functions are listed", |frame| frame.contains("  f ") && frame.contains("broken ")).await;
    assert!(top.shown().starts_with("\x1b[?1049h"), "{:?}", top.shown());
    assert!(frame.contains("serving at http://") && frame.contains("by attention"), "{frame}");
    // At first, the first row is selected.
    assert!(frame.contains("> broken"), "{frame}");
    daemon.get("/invoke/f/say?line=hello-from-f").await.ok();
    top.frame("an instance is idle", |frame| {
        let line = frame.lines().find(|line| line.trim_start_matches(['>', ' ']).starts_with("f "));
        line.is_some_and(|line| line.split_whitespace().filter(|word| *word == "1").count() == 1)
    })
    .await;
    top.press("sssss");
    top.frame("rows are sorted by name", |frame| frame.contains("by name")).await;
    top.press("\x1b[B");
    top.frame("the next row is selected", |frame| frame.contains("> f ")).await;
    top.press("\r");
    top.frame("output is shown", |frame| frame.contains("hello-from-f") && frame.contains("q back")).await;
    top.press("q/brok\r");
    top.frame("rows are filtered", |frame| frame.contains("filter: brok") && !frame.contains(" f ")).await;
    top.press("q");
    assert_eq!(top.ended(), Some(0));
    top.restored().await;
}

#[tokio::test]
async fn top_restores_the_terminal_however_it_ends() {
    let mut daemon = daemon().await;
    let mut interrupted = Interactive::start(daemon.command(&["top"]));
    let mut left = Interactive::start(daemon.command(&["top"]));
    for top in [&interrupted, &left] {
        top.frame("functions are listed", |frame| frame.contains("broken ")).await;
    }
    interrupted.press("\x03");
    assert_eq!(interrupted.ended(), Some(0));
    daemon.end().await;
    assert_eq!(left.ended(), Some(3), "there is no daemon any more");
    for top in [&interrupted, &left] {
        top.restored().await;
    }
}

#[tokio::test]
async fn without_a_terminal_top_prints_one_list_or_json_lines() {
    let daemon = daemon().await;
    let text = daemon.cli(&["top"]).await.ok();
    assert!(text.contains("FUNCTION") && text.contains("broken") && !text.contains('\x1b'), "{text}");
    let mut top = daemon.command(&["top", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<_> = BufReader::new(top.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    for line in lines {
        let summary: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(summary["functions"]["f"]["state"], "serving");
    }
    processes::signal(top.id(), Signal::SIGTERM);
    top.wait().unwrap();
    run(bare(&["top", "--url", "127.0.0.1:1"])).await.failed(3);
}
