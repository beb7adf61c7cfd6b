//! `ps`, `describe`, `version`.

use integration::{Daemon, cli::golden};

use super::{daemon, instance};

#[tokio::test]
async fn ps_lists_functions() {
    let daemon = daemon().await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    instance(&daemon, "f").await;
    let ps = daemon.cli(&["ps"]).await;
    assert_eq!(ps.err, "");
    let heading = "FUNCTION STATE KIND BUSY IDLE PAUSED BOOTING ENDING WAITING REQUESTS FAILED WHY";
    assert_eq!(
        golden(&ps.ok()),
        [heading, "broken serving process 0 0 0 0 0 0 1 1", "f serving process 0 1 0 0 0 0 1 0"]
    );
    let ps = daemon.cli(&["ps", "--json"]).await.json();
    assert_eq!((&ps["f"]["idle"], &ps["broken"]["failed"]), (&1.into(), &1.into()));

    let on_terminal = daemon.cli_on_terminal(&["ps"], &[]).await.ok();
    assert!(on_terminal.starts_with("\x1b[1mFUNCTION\x1b[0m"), "{on_terminal}");
    assert!(on_terminal.contains("\x1b[32mserving\x1b[0m"), "{on_terminal}");
    for (name, value) in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = daemon.cli_on_terminal(&["ps"], &[(name, value)]).await.ok();
        assert!(plain.starts_with(heading.split(' ').next().unwrap()) && !plain.contains('\x1b'), "{plain}");
    }
}

#[tokio::test]
async fn ps_lists_instances_also_ended_ones() {
    let daemon = daemon().await;
    assert_eq!(daemon.cli(&["ps", "-a"]).await.err, "no instances\n");
    daemon.get("/invoke/f/pid").await.ok();
    daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    let id = instance(&daemon, "f").await;
    let running = daemon.cli(&["ps", "f"]).await.ok();
    assert!(running.lines().nth(1).unwrap().starts_with(&id), "{running}");
    let pid = daemon.instances("f").await[0]["pid"].to_string();
    let line = golden(&running).remove(1).replace(&pid, "PID");
    assert_eq!(line, "ID f idle N ms cold 0 1 PID ADDRESS".replace("ms", line.split(' ').nth(4).unwrap()));
    daemon.settled("broken", "its instance is gone", |page| page["ended"][0]["state"] == "gone").await;
    let all = golden(&daemon.cli(&["ps", "-a"]).await.ok());
    assert_eq!(all[0], "INSTANCE FUNCTION STATE FOR ORIGIN IN FLIGHT SERVED PID ADDRESS");
    assert_eq!(all[3], "ENDED FUNCTION CAUSE LIVED SERVED AT EXIT");
    assert_eq!(all[4], "ID broken boot_failed N ms 0 TIME exited with status 3", "{all:?}");
    let json = daemon.cli(&["ps", "-a", "--json"]).await.json();
    let functions: Vec<_> =
        json.as_array().unwrap().iter().map(|instance| instance["function"].as_str().unwrap()).collect();
    assert_eq!(functions, ["f", "broken"]);
}

#[tokio::test]
async fn describe_begins_with_what_is_wrong() {
    let daemon = daemon().await;
    daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    let page = daemon.settled("broken", "its instance is gone", |page| page["ended"][0]["state"] == "gone").await;
    let text = golden(&daemon.cli(&["describe", "broken"]).await.ok());
    assert_eq!(text[0], "broken serving");
    let reason = "1 boot_failed, last TIME: the instance ended before it served a request: exited with status 3";
    assert_eq!(text[1], reason, "{text:?}");
    for line in
        ["kind process", "requests 1: 1 boot_failed", "instances 1 started, 0 evicted and 0 paused for other functions"]
    {
        assert!(text.iter().any(|shown| shown == line), "no {line} in {text:?}");
    }
    let id = page["ended"][0]["id"].as_str().unwrap();
    let text = golden(&daemon.cli(&["describe", id]).await.ok());
    assert_eq!(text[..2], ["broken/ID gone", "boot_failed: exited with status 3"]);
    assert!(text.contains(&"TIME err no database".to_owned()), "{text:?}");
    let json = daemon.cli(&["describe", id, "--json"]).await.json();
    assert_eq!((&json["cause"], &json["function"]), (&"boot_failed".into(), &"broken".into()));
    let json = daemon.cli(&["describe", "broken", "--json"]).await.json();
    assert_eq!((&json["errors"][0]["code"], &json["counters"]["requests"]), (&"boot_failed".into(), &1.into()));
}

#[tokio::test]
async fn describe_shows_the_problems_of_a_file() {
    let wrong = integration::Function::verbatim("wrong", "keepalive = -1\n[process]\ncommand = [\"sh\"]\n");
    let daemon = Daemon::with(wrong).await;
    let text = daemon.cli(&["describe", "wrong"]).await.ok();
    assert!(text.starts_with("wrong  misconfigured\n"), "{text}");
    assert!(text.lines().nth(1).unwrap().contains("function.toml:1: keepalive"), "{text}");
    let ps = daemon.cli(&["ps"]).await.ok();
    assert!(ps.contains("misconfigured") && ps.contains("keepalive"), "{ps}");
    // On a terminal without room for the reason beside the figures, it is below them.
    let ps = daemon.cli_on_terminal(&["ps"], &[("NO_COLOR", "1")]).await.ok();
    let below = ps.lines().last().unwrap();
    assert!(below.starts_with("  /") && below.ends_with("found the integer -1"), "{ps}");
}

#[tokio::test]
async fn version_is_that_of_program_and_daemon() {
    let daemon = daemon().await;
    let own = env!("CARGO_PKG_VERSION");
    let text = daemon.cli(&["version"]).await.ok();
    assert_eq!(text, format!("unifaas {own}\ndaemon  {own} at http://{}\n", daemon.listen));
    let json = daemon.cli(&["version", "--json"]).await.json();
    assert_eq!((&json["version"], &json["daemon"]["version"]), (&own.into(), &own.into()));
    let without = integration::cli::run(integration::cli::bare(&["version", "--url", "127.0.0.1:1"])).await;
    assert!(without.err.contains("no daemon answers"), "{without:?}");
    assert_eq!(without.ok(), format!("unifaas {own}\n"));
}
