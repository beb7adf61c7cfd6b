//! `boots`, `errors`.

use integration::cli::golden;

use super::{daemon, instance};

#[tokio::test]
async fn boots_are_bars() {
    let daemon = daemon().await;
    assert_eq!(daemon.cli(&["boots"]).await.err, "no starts\n");
    daemon.get("/invoke/f/pid").await.ok();
    let id = instance(&daemon, "f").await;
    let text = daemon.cli(&["boots", "f"]).await.ok();
    let lines = golden(&text);
    assert_eq!(lines[0], "f/ID process cold ready after N ms TIME", "{text}");
    let phases: Vec<_> = lines[1..].iter().map(|line| line.split(' ').next().unwrap()).collect();
    for phase in ["admitted", "resources", "created", "started", "ready"] {
        assert!(phases.contains(&phase), "no {phase} in {text}");
    }
    let is_bar = |c: char| ('▏'..='█').contains(&c) || ('█'..='▏').contains(&c);
    assert!(text.lines().skip(1).all(|line| line.contains(is_bar) && line.ends_with(" ms")), "{text}");
    assert_eq!(daemon.cli(&["boots", &id]).await.ok(), text);

    daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    let all = daemon.cli(&["boots"]).await.ok();
    assert!(golden(&all)[0].starts_with("broken/ID process cold boot_failed after N") && all.contains("\nf/"), "{all}");
    assert_eq!(golden(&all)[1], "exited with status 3");
    assert_eq!(daemon.cli(&["boots", "--limit", "1"]).await.ok().matches("process").count(), 1);
    let slowest = daemon.cli(&["boots", "--slowest", "--json"]).await.json();
    let times: Vec<_> = slowest.as_array().unwrap().iter().map(|boot| boot["took_us"].as_u64().unwrap()).collect();
    assert!(times.len() == 2 && times.is_sorted_by(|a, b| a >= b), "{slowest}");
    let on_terminal = daemon.cli_on_terminal(&["boots", "f"], &[]).await.ok();
    assert!(on_terminal.contains("\x1b[32mready\x1b[0m") && on_terminal.contains("\x1b[36m"), "{on_terminal}");
    daemon.cli(&["boots", "broke"]).await.failed(4);
}

#[tokio::test]
async fn errors_are_grouped() {
    let daemon = daemon().await;
    assert_eq!(daemon.cli(&["errors"]).await.err, "no errors\n");
    for _ in 0..2 {
        daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    }
    let text = golden(&daemon.cli(&["errors"]).await.ok());
    assert_eq!(text[0], "COUNT CODE FUNCTION FIRST LAST INSTANCE MESSAGE");
    let message = "the instance ended before it served a request: exited with status 3";
    assert_eq!(text[1..], [format!("2 boot_failed broken TIME TIME ID {message}")]);
    assert_eq!(daemon.cli(&["errors", "f"]).await.err, "no errors\n");
    assert_eq!(daemon.cli(&["errors", "broken", "--json"]).await.json()[0]["count"], 2);
    daemon.cli(&["errors", "broke"]).await.failed(4);
}
