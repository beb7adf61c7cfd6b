//! The output of instances: its streams, times and numbers, and what ended instances leave.

use integration::{Daemon, Function, Reply, Setup, cgroups_are_usable, number};
use serde_json::Value;

/// Returns the page of the instance that an error names, once it is gone.
async fn ended(daemon: &Daemon, failed: &Value) -> Value {
    daemon.ended_instance(failed["instance"].as_str().expect("the error names its instance")).await
}

fn texts(instance: &Value) -> Vec<&str> {
    instance["output"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect()
}

async fn say(daemon: &Daemon, line: &str) -> Reply {
    daemon.get(&format!("/invoke/f/say?line={line}")).await.ok()
}

#[tokio::test]
async fn output_of_crashed_process_is_found_by_id() {
    let daemon = Daemon::with(Function::new("f").env("PASSWORD", "open-sesame-4711")).await;
    for n in 0..8 {
        say(&daemon, &format!("line-{n}")).await;
    }
    say(&daemon, "password=open-sesame-4711").await;
    let failed = daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    assert!(failed.get("output").is_none(), "clients get output of failed boots only: {failed}");
    let page = ended(&daemon, &failed).await;
    assert_eq!((&page["function"], &page["cause"]), (&"f".into(), &"exited".into()));
    assert_eq!((&page["exit"], number(&page, "served")), (&"exited with status 3".into(), 10));
    assert!(page["lifetime_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 60.0), "{page}");
    let texts = texts(&page);
    assert!(texts.contains(&"line-0") && texts.contains(&"password=${PASSWORD}"), "{texts:?}");
    assert_eq!(texts.last(), Some(&"ended: exited with status 3"));

    let line = daemon.logged_line("instance ended by itself").await;
    let output = line["output"].as_str().unwrap();
    assert_eq!(output, "line-4 | line-5 | line-6 | line-7 | password=${PASSWORD}");
    let function = daemon.function("f").await;
    assert_eq!((&function["ended"][0]["id"], &function["ended"][0]["cause"]), (&page["id"], &"exited".into()));
}

#[tokio::test]
async fn every_line_has_time_number_and_stream() {
    let daemon =
        Daemon::with(Function::new("f").flag("--say-out").flag("on-stdout").flag("--say").flag("on-stderr")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let instance = &daemon.instances("f").await[0];
    let lines = instance["output"].as_array().unwrap();
    let of =
        |text: &str| lines.iter().find(|line| line["text"] == text).unwrap_or_else(|| panic!("{text}: {instance}"));
    assert_eq!((&of("on-stdout")["stream"], &of("on-stderr")["stream"]), (&"out".into(), &"err".into()));
    let ready = lines.iter().find(|line| line["stream"] == "platform").expect("a line of the platform");
    let words: Vec<_> = ready["text"].as_str().unwrap().split(' ').collect();
    assert!(matches!(words[..], ["ready", "after", took, "ms"] if took.parse::<f64>().is_ok()), "{ready}");
    for (position, line) in lines.iter().enumerate() {
        assert_eq!(number(line, "number"), position as u64 + 1, "{instance}");
        assert!(humantime::parse_rfc3339(line["time"].as_str().unwrap()).is_ok(), "{line}");
    }
}

#[tokio::test]
async fn function_page_shows_every_kept_line() {
    let daemon = Daemon::with(Function::new("f")).await;
    for n in 0..150 {
        say(&daemon, &format!("line-{n}")).await;
    }
    let is_whole = |function: &Value| texts(&function["instances"][0]).contains(&"line-149");
    let instance = daemon.settled("f", "all was read", is_whole).await["instances"][0].take();
    assert_eq!(texts(&instance).len(), 100);
    let id = instance["id"].as_str().unwrap();
    assert_eq!(daemon.get(&format!("/debug/instances/{id}")).await.ok().json()["output"], instance["output"]);
    assert_eq!(texts(&daemon.debug().await["functions"]["f"]["instances"][0]).len(), 20);
}

#[tokio::test]
async fn timed_out_function_is_logged_with_its_last_lines() {
    let daemon = Daemon::with(Function::new("f").set("timeout", 0.5)).await;
    say(&daemon, "about-to-hang").await;
    let failed = daemon.get("/invoke/f/sleep?ms=5000").await.problem(504, "function_timed_out");
    let line = daemon.logged_line("request failed").await;
    assert!(line["output"].as_str().is_some_and(|output| output.contains("about-to-hang")), "{line}");
    let page = ended(&daemon, &failed).await;
    assert_eq!(page["cause"], "request_failed");
    assert!(texts(&page).contains(&"about-to-hang") && texts(&page).contains(&"stopping: request_failed"), "{page}");
}

#[tokio::test]
async fn failed_boot_leaves_its_output() {
    let daemon =
        Daemon::with(Function::new("f").flag("--say").flag("no-config").flag("--exit-at-boot").flag("3")).await;
    let failed = daemon.get("/invoke/f/").await.problem(502, "boot_failed");
    assert_eq!(failed["output"][0], "no-config", "{failed}");
    let page = ended(&daemon, &failed).await;
    assert_eq!((&page["cause"], number(&page, "served")), (&"boot_failed".into(), 0));
    assert!(texts(&page).contains(&"no-config"), "{page}");
}

#[tokio::test]
async fn brief_answers_have_neither_reason_nor_output() {
    let function = Function::new("f").flag("--say").flag("no-config").flag("--exit-at-boot").flag("3");
    let missing = Function::verbatim("missing", "[process]\ncommand = [\"no-such-program\"]\n");
    let daemon = Setup::default().function(function).function(missing).option("--error-detail", "brief").start().await;
    let failed = daemon.get("/invoke/f/").await.problem(502, "boot_failed");
    assert!(failed.get("output").is_none() && !failed.to_string().contains("status 3"), "{failed}");
    let page = ended(&daemon, &failed).await;
    assert_eq!(page["exit"], "exited with status 3");
    let failed = daemon.get("/invoke/missing/").await.problem(502, "start_failed").to_string();
    assert!(!failed.contains("no-such-program"), "{failed}");
}

#[tokio::test]
async fn memory_limit_is_the_last_line_of_its_victim() {
    if !cgroups_are_usable().await {
        return;
    }
    let daemon = Daemon::with(Function::new("f").process("memory", 48)).await;
    let failed = daemon.get("/invoke/f/allocate?mib=400").await.problem(502, "instance_failed");
    let page = ended(&daemon, &failed).await;
    assert_eq!(texts(&page).last(), Some(&"ended: out of memory (limit 48 MiB)"));
}
