//! `/debug/logs`, `/debug/events` and `/debug/summary`: output and changes as they happen. `watched.rs` measures what
//! followers cost.

use std::time::Duration;

use futures::future::join_all;
use integration::{
    AT_ONCE, Daemon, EventSource, Function, Pieces, SOON, Setup, empty, eventually, ms, number, request, within,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

async fn say(daemon: &Daemon, function: &str, line: &str) {
    daemon.get(&format!("/invoke/{function}/say?line={line}")).await.ok();
}

async fn accepting(daemon: &Daemon, path: &str, kind: &str) -> String {
    let mut request = request("GET", path, empty());
    request.headers_mut().insert("accept", kind.parse().unwrap());
    daemon.send(request).await.unwrap().ok().text()
}

/// Waits until the daemon has read a line of the function's output.
async fn has_read(daemon: &Daemon, function: &str, line: &str) {
    let read = async || daemon.get(&format!("/debug/logs?function={function}")).await.ok().text();
    let has_line = |page: &String| page.lines().any(|shown| shown.ends_with(line));
    eventually(SOON, "the line is read", read, has_line).await;
}

#[tokio::test]
async fn logs_are_text_json_lines_or_events() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("g")).start().await;
    say(&daemon, "f", "of-f").await;
    say(&daemon, "g", "of-g").await;
    has_read(&daemon, "f", "of-f").await;
    has_read(&daemon, "g", "of-g").await;
    let id = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();

    let text = daemon.get("/debug/logs?function=f").await.ok().text();
    let last: Vec<_> = text.lines().last().unwrap().split(' ').collect();
    assert_eq!(last[1..], [&format!("f/{id}"), "err", "of-f"], "{text}");
    assert!(humantime::parse_rfc3339(last[0]).is_ok() && !text.contains("of-g"), "{text}");
    assert_eq!(daemon.get(&format!("/debug/logs?instance={id}")).await.ok().text(), text);
    assert_eq!(daemon.get("/debug/logs?function=f&tail=1").await.ok().text().lines().count(), 1);
    let all = daemon.get("/debug/logs").await.ok().text();
    assert!(all.find("of-f").unwrap() < all.find("of-g").unwrap(), "in the order of printing: {all}");

    let lines = accepting(&daemon, "/debug/logs?function=f&tail=2", "application/x-ndjson").await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["text"], &lines[1]["stream"]), (2, &"of-f".into(), &"err".into()));
    assert_eq!((&lines[1]["function"], &lines[1]["instance"]), (&"f".into(), &id.as_str().into()));
    assert_eq!(number(&lines[1], "number"), number(&lines[0], "number") + 1);

    let events = accepting(&daemon, "/debug/logs?function=f&tail=1", "text/event-stream").await;
    assert!(events.starts_with("id: ") && events.contains("\nevent: log\ndata: {") && events.ends_with("}\n\n"));
}

#[tokio::test]
async fn wrong_queries_are_refused() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/debug/logs?function=g").await.problem(404, "no_such_function");
    daemon.get("/debug/logs?instance=0000000000000000").await.problem(404, "no_such_page");
    for (path, hint) in [
        ("/debug/logs?tail=many", "digit"),
        ("/debug/logs?fellow=1", "fellow"),
        ("/debug/logs?follow=2", "0 or 1"),
        ("/debug/events?topics=weather", "topic"),
        ("/debug/summary?limit=-1", "digit"),
    ] {
        let problem = daemon.get(path).await.problem(400, "bad_request");
        assert!(problem["detail"].as_str().unwrap().contains(hint), "{path}: {problem}");
    }
}

#[tokio::test]
async fn followers_get_lines_of_instances_that_come_and_go() {
    let daemon = Daemon::with(Function::new("f")).await;
    say(&daemon, "f", "before").await;
    has_read(&daemon, "f", "before").await;
    let mut stream = EventSource::open(&daemon, "/debug/logs?function=f&follow=1&tail=1").await;
    assert_eq!(stream.next().await.unwrap().data["text"], "before");
    say(&daemon, "f", "live").await;
    let live = within(AT_ONCE, "the line comes at once", stream.next()).await.unwrap();
    assert_eq!(live.data["text"], "live");
    daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    let end = stream.until("log", |line| line["stream"] == "platform").await;
    assert_eq!(
        (&end.data["text"], &end.data["instance"]),
        (&"ended: exited with status 3".into(), &live.data["instance"])
    );
    say(&daemon, "f", "of-another").await;
    let other = stream.until("log", |line| line["text"] == "of-another").await;
    assert_ne!(other.data["instance"], live.data["instance"]);

    // An interrupted reader goes on where it was, also with lines of an instance that has ended.
    let mut resumed = EventSource::resume(&daemon, "/debug/logs?function=f&follow=1", live.id).await;
    assert_eq!(resumed.next().await, Some(end));
    assert_eq!(resumed.until("log", |line| line["text"] == "of-another").await, other);
    let mut current = EventSource::resume(&daemon, "/debug/logs?function=f&follow=1", other.id).await;
    say(&daemon, "f", "new").await;
    assert_eq!(current.next().await.unwrap().data["text"], "new");
}

#[tokio::test]
async fn events_have_a_snapshot_and_what_has_changed() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("g")).start().await;
    let mut stream = EventSource::open(&daemon, "/debug/events?topics=change").await;
    let snapshot = stream.next().await.unwrap();
    assert_eq!((snapshot.name.as_str(), &snapshot.data["functions"]["f"]["state"]), ("snapshot", &"serving".into()));
    assert_eq!(snapshot.data["daemon"]["draining"], false);
    assert_eq!(snapshot.data["functions"].as_object().unwrap().len(), 2);

    daemon.get("/invoke/f/pid").await.ok();
    let change = stream.until("change", |change| change["functions"]["f"]["requests"] == 1).await;
    assert_eq!(number(&change.data["functions"]["f"], "idle"), 1);
    assert!(change.data["functions"].get("g").is_none(), "only what has changed: {change:?}");
    daemon.home.put(&Function::verbatim("g", "nonsense = 1\n"));
    let change = stream.until("change", |change| change["functions"]["g"]["state"] == "misconfigured").await;
    assert!(change.data["functions"]["g"]["why"].as_str().unwrap().contains("nonsense"), "{change:?}");
    daemon.home.remove("g");
    stream.until("change", |change| change["functions"].get("g").is_some_and(Value::is_null)).await;

    // At most twice a second, however much happens.
    let since = Instant::now();
    let load = join_all((0..400).map(|n| {
        let daemon = &daemon;
        async move {
            tokio::time::sleep(ms(n * 5)).await;
            daemon.get("/invoke/f/pid").await.ok();
        }
    }));
    let watch = async {
        let mut changes = 0;
        while since.elapsed() < ms(2000) {
            changes += usize::from(tokio::time::timeout(ms(100), stream.next()).await.is_ok());
        }
        changes
    };
    let (_, changes) = futures::join!(load, watch);
    assert!((2..=5).contains(&changes), "{changes} changes in 2 s");
}

#[tokio::test]
async fn events_of_one_function_are_about_it_alone() {
    let daemon = Setup::default().function(Function::new("f")).function(Function::new("g")).start().await;
    let mut stream = EventSource::open(&daemon, "/debug/events?topics=change,log&function=f").await;
    let snapshot = stream.next().await.unwrap();
    assert_eq!(snapshot.data["functions"].as_object().unwrap().keys().collect::<Vec<_>>(), ["f"]);
    say(&daemon, "g", "of-g").await;
    say(&daemon, "f", "of-f").await;
    let mut seen = String::new();
    while !seen.contains("of-f") {
        seen += &stream.next().await.unwrap().data.to_string();
    }
    assert!(!seen.contains("of-g") && !seen.contains("\"g\""), "{seen}");
}

#[tokio::test]
async fn number_of_streams_is_bounded_and_readers_that_leave_make_room() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let path = "/debug/logs?function=f&follow=1";
    let streams = join_all((0..8).map(|_| EventSource::open(&daemon, path))).await;
    let refused = daemon.send(EventSource::request(path, None)).await.unwrap();
    refused.problem(503, "too_many_readers");
    assert!(refused.retry_after() >= 1);
    daemon.send(EventSource::request("/debug/events", None)).await.unwrap().problem(503, "too_many_readers");
    daemon.get("/debug/logs?function=f").await.ok();
    drop(streams);
    let status = async || {
        let mut connection = daemon.connect().await;
        connection.start(EventSource::request(path, None)).await.unwrap().status().as_u16()
    };
    eventually(SOON, "the readers that left are forgotten", status, |status| *status == 200).await;
}

#[tokio::test]
async fn streams_end_when_the_daemon_drains() {
    let mut daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let mut events = EventSource::open(&daemon, "/debug/events").await;
    let mut logs = EventSource::open(&daemon, "/debug/logs?function=f&follow=1").await;
    daemon.signal(Signal::SIGTERM);
    within(AT_ONCE, "the streams end", async {
        while events.next().await.is_some() {}
        while logs.next().await.is_some() {}
    })
    .await;
    let ending = daemon.ended().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < AT_ONCE, "{ending:?}");
}

#[tokio::test]
async fn idle_stream_gets_comments() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut stream = EventSource::open(&daemon, "/debug/events?topics=log").await;
    let waiting = tokio::time::timeout(Duration::from_secs(17), stream.next());
    assert!(waiting.await.is_err(), "there are no events");
    assert_eq!(stream.comments, 1);
}

#[tokio::test]
async fn reader_that_is_behind_gets_a_gap() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let (_connection, response) = daemon.start(EventSource::request("/debug/logs?function=f&follow=1", None)).await;
    daemon.get("/invoke/f/flood?ms=3000").await.ok();
    // It reads nothing meanwhile.
    tokio::time::sleep(ms(3500)).await;
    let (mut pieces, mut text) = (Pieces::of(response), String::new());
    while let Ok(piece) = tokio::time::timeout(ms(1500), pieces.next()).await {
        text += &String::from_utf8_lossy(&piece.unwrap().unwrap());
    }
    // It has read all that there was, so it misses nothing more.
    say(&daemon, "f", "after-the-flood").await;
    let last = within(SOON, "the line is sent", pieces.next()).await.unwrap().unwrap();
    text += &String::from_utf8_lossy(&last);

    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let data: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    assert_eq!(data.last().unwrap()["text"], "after-the-flood");
    let (mut next, mut gaps) = (number(&data[0], "number"), 0);
    for event in &data {
        match event["lines"].as_u64() {
            Some(lost) => (next, gaps) = (next + lost, gaps + 1),
            None => {
                assert_eq!(number(event, "number"), next, "gaps count all lines that are missing");
                next += 1;
            }
        }
    }
    assert!(gaps > 0, "{} lines without a gap", data.len());
}

#[tokio::test]
async fn summary_has_one_line_per_function() {
    let mut setup = Setup::default().function(Function::new("f")).function(Function::verbatim("bad", "nonsense = 1\n"));
    setup = setup.function(Function::new("failing").flag("--exit-at-boot").flag("3"));
    let daemon = setup.start().await;
    daemon.get("/invoke/f/pid").await.ok();
    for _ in 0..3 {
        daemon.get("/invoke/failing/").await;
    }
    let page = daemon.get("/debug/summary").await.ok();
    let summary = page.json();
    let f = &summary["functions"]["f"];
    assert_eq!((&f["state"], &f["kind"]), (&"serving".into(), &"process".into()));
    assert_eq!((number(f, "idle"), number(f, "requests"), number(f, "failed")), (1, 1, 0));
    let failing = &summary["functions"]["failing"];
    assert_eq!((&failing["state"], number(failing, "failed")), (&"failing".into(), 3));
    assert!(failing["why"].as_str().unwrap().contains("exited with status 3"), "{failing}");
    assert_eq!(summary["daemon"]["draining"], false);
    let text = page.text();
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with('"')).collect();
    assert_eq!(lines.len(), 3, "{text}");
    for line in lines {
        let _: Value = serde_json::from_str(&format!("{{{}}}", line.trim_end_matches(','))).unwrap();
    }

    let names = async |query: &str| -> Vec<String> {
        let page = daemon.get(&format!("/debug/summary?{query}")).await.ok().json();
        page["functions"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(names("state=misconfigured").await, ["bad"]);
    assert_eq!(names("limit=2").await, ["bad", "f"]);
    assert_eq!(names("state=failing&limit=1").await, ["failing"]);
    assert_eq!(names("limit=0").await, [""; 0]);
}
