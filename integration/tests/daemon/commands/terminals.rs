//! What commands print on a terminal, line by line: tables, colours, and lines that fit.
//!
//! `<good|…>` is a text in that colour. What differs between runs is replaced as in [`golden`].

use integration::{
    Daemon, Function, Setup,
    cli::{Ran, golden},
};

use super::instance;

const WIDTH: usize = 120;
const COLOURS: [(&str, &str); 6] =
    [("1", "heading"), ("2", "faint"), ("31", "bad"), ("32", "good"), ("33", "warning"), ("36", "note")];

/// Returns the lines of a command that has succeeded on a terminal.
#[track_caller]
fn shown(ran: Ran) -> Vec<String> {
    assert_eq!((ran.status, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    let mut text = ran.out;
    for (code, name) in COLOURS {
        text = text.replace(&format!("\x1b[{code}m"), &format!("\u{e000}{name}\u{e001} "));
    }
    let text = text.replace("\x1b[0m", " \u{e002}");
    assert!(!text.contains('\x1b'), "an unknown control sequence: {text:?}");
    // A bar is as long as a phase.
    let is_bar = |c: char| ('\u{2588}'..='\u{258f}').contains(&c);
    let marked = |line: String| {
        let words: Vec<_> = line.split(' ').map(|word| if word.starts_with(is_bar) { "BAR" } else { word }).collect();
        words.join(" ").replace('\u{e000}', "<").replace("\u{e001} ", "|").replace(" \u{e002}", ">")
    };
    golden(&text).into_iter().map(marked).collect()
}

async fn on_terminal(daemon: &Daemon, arguments: &[&str]) -> Vec<String> {
    shown(daemon.cli_on_terminal(arguments, &[]).await)
}

/// Does the same for a table, whose lines have to fit, except for the texts that continue a row.
async fn table_on_terminal(daemon: &Daemon, arguments: &[&str]) -> Vec<String> {
    let plain = daemon.cli_on_terminal(arguments, &[("NO_COLOR", "1")]).await.ok();
    for line in plain.lines().filter(|line| !line.starts_with("  ")) {
        assert!(line.chars().count() <= WIDTH, "it is wider than the terminal: {line}");
    }
    on_terminal(daemon, arguments).await
}

/// Starts a daemon with three functions: `f` has answered and printed a line, `broken` has failed, `wrong` is misconfigured.
async fn daemon() -> Daemon {
    let broken = Function::new("broken").flag("--say").flag("no database").flag("--exit-at-boot").flag("3");
    let wrong = Function::verbatim("wrong", "keepalive = -1\n[process]\ncommand = [\"sh\"]\n");
    let daemon = Setup::default().function(Function::new("f")).function(broken).function(wrong).start().await;
    daemon.get("/invoke/f/say?line=said").await.ok();
    daemon.get("/invoke/broken/").await.problem(502, "boot_failed");
    daemon.settled("broken", "its instance is gone", |page| page["ended"][0]["state"] == "gone").await;
    instance(&daemon, "f").await;
    daemon
}

/// Returns the headings of a table.
fn headings(names: &str) -> String {
    names.split(',').map(|name| format!("<heading|{name}>")).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn functions_and_instances_are_tables_of_the_width() {
    let daemon = daemon().await;
    let lines = table_on_terminal(&daemon, &["ps"]).await;
    let columns = "FUNCTION,STATE,KIND,BUSY,IDLE,PAUSED,BOOTING,ENDING,WAITING,REQUESTS,FAILED,WHY";
    assert_eq!(lines[0], headings(columns));
    assert_eq!(lines[1], "broken <good|serving> process 0 0 0 0 0 0 1 1");
    assert_eq!(lines[2], "f <good|serving> process 0 1 0 0 0 0 1 0");
    // There is no room for the reason beside the figures.
    assert_eq!(lines[3], "wrong <bad|misconfigured> - 0 0 0 0 0 0 0 0");
    assert!(
        lines[4].ends_with(
            "wrong/function.toml:1: keepalive: expected seconds, a number from 0 to 1000000000, found the integer -1"
        ),
        "{lines:?}"
    );
    assert_eq!(lines.len(), 5, "{lines:?}");

    let lines = table_on_terminal(&daemon, &["ps", "-a"]).await;
    assert_eq!(lines[0], headings("INSTANCE,FUNCTION,STATE,FOR,ORIGIN,IN FLIGHT,SERVED,PID,ADDRESS"));
    assert!(lines[1].starts_with("ID f <good|idle> N ") && lines[1].ends_with(" ADDRESS"), "{lines:?}");
    assert_eq!(lines[3], headings("ENDED,FUNCTION,CAUSE,LIVED,SERVED,AT,EXIT"));
    assert_eq!(lines[4], "ID broken <bad|boot_failed> N ms 0 TIME exited with status 3");
    assert_eq!(lines.len(), 5, "{lines:?}");
}

#[tokio::test]
async fn descriptions_begin_with_the_reason_in_its_colour() {
    let daemon = daemon().await;
    let lines = on_terminal(&daemon, &["describe", "broken"]).await;
    assert_eq!(lines[0], "<heading|broken> <good|serving>");
    let reason = "1 boot_failed, last TIME: the instance ended before it served a request: exited with status 3";
    assert_eq!(lines[1], format!("<warning|{reason}>"));
    assert!(lines.contains(&"<faint|kind>process".to_owned()), "{lines:?}");
    assert!(lines.contains(&headings("ENDED,CAUSE,LIVED,SERVED,AT,EXIT")), "{lines:?}");

    let page = daemon.cli(&["describe", "broken", "--json"]).await.json();
    let id = page["ended"][0]["id"].as_str().unwrap();
    let lines = on_terminal(&daemon, &["describe", id]).await;
    assert_eq!(lines[..2], ["<heading|broken/ID> gone", "<bad|boot_failed: exited with status 3>"]);
    assert!(lines.contains(&"<faint|TIME> err no database".to_owned()), "{lines:?}");
    let lines = on_terminal(&daemon, &["describe", "wrong"]).await;
    assert_eq!(lines[0], "<heading|wrong> <bad|misconfigured>");
}

#[tokio::test]
async fn starts_errors_and_output_have_colours_by_meaning() {
    let daemon = daemon().await;
    let lines = on_terminal(&daemon, &["boots", "f"]).await;
    assert_eq!(lines[0], "<heading|f/ID> process cold <good|ready> after N ms <faint|TIME>");
    assert_eq!(lines[1], "admitted <note|BAR> N ms");
    assert!(lines[2..].iter().all(|line| line.ends_with(" <note|BAR> N ms")), "{lines:?}");
    let lines = on_terminal(&daemon, &["boots", "broken"]).await;
    assert_eq!(
        lines[..2],
        ["<heading|broken/ID> process cold <bad|boot_failed> after N ms <faint|TIME>", "<bad|exited with status 3>"]
    );

    let lines = table_on_terminal(&daemon, &["errors"]).await;
    assert_eq!(lines[0], headings("COUNT,CODE,FUNCTION,FIRST,LAST,INSTANCE,MESSAGE"));
    assert_eq!(
        lines[1..3],
        [
            "1 <bad|boot_failed> broken TIME TIME ID",
            "the instance ended before it served a request: exited with status 3"
        ]
    );

    let lines = on_terminal(&daemon, &["logs", "f"]).await;
    assert!(lines.iter().any(|line| line.starts_with("<faint|TIME> f/ID platform <note|ready after N")), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "<faint|TIME> f/ID err <warning|said>");
}

#[tokio::test]
async fn the_list_of_top_has_a_row_for_each_function() {
    let daemon = daemon().await;
    let lines = on_terminal(&daemon, &["top"]).await;
    let at = lines.iter().position(|line| line.contains("FUNCTION")).unwrap();
    let columns = headings("FUNCTION,STATE,KIND,REQ/S,FAIL/S,BUSY,IDLE,PAUSED,BOOTING,WAITING,WHY");
    assert_eq!(lines[at], columns);
    assert!(lines[at + 1].contains("> wrong <bad|misconfigured> "), "what has a problem is first: {lines:?}");
    assert_eq!(lines[at + 3], "f <good|serving> process 0 0 0 1 0 0 0");
}

#[tokio::test]
async fn checks_are_lines_and_what_the_host_lacks_is_a_table() {
    let daemon = Daemon::with(Function::new("f").process("memory", 64)).await;
    assert_eq!(on_terminal(&daemon, &["check", "f"]).await, ["f: ok"]);
    let large = Function::new("large").process("memory", 4096);
    daemon.home.put(&large);
    let variables = [("UNIFAAS_MEMORY_BUDGET", "1024")];
    let ran = daemon.cli_on_terminal(&["check", ".", "--host"], &variables).await;
    assert!(ran.status == Some(1) && ran.err.contains("this host lacks 1 of what functions need"), "{ran:?}");
    let lines = shown(Ran { status: Some(0), err: String::new(), ..ran });
    assert_eq!(lines[..3], ["f: ok".to_owned(), "large: ok".to_owned(), headings("HOST,STATE,NEEDED BY,DETAIL")]);
    let missing = "memory 4096 MiB <bad|missing> large the budget is 1024 MiB (--memory-budget)";
    assert!(lines.iter().any(|line| line.starts_with(missing)), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("memory 64 MiB <good|ok> f ")), "{lines:?}");
}

#[tokio::test]
async fn dead_letters_are_a_table_and_their_requests_are_text() {
    let daemon = Daemon::with(Function::new("f").asynchronous("attempts", 1)).await;
    let id = daemon.accepted("/f/status/500?why", "the body", &[("x-own", "1")]).await;
    daemon.ended_invocation(&id).await;
    let lines: Vec<_> =
        table_on_terminal(&daemon, &["dead"]).await.iter().map(|line| line.replace(&id, "ID")).collect();
    let columns = headings("INVOCATION,FUNCTION,REASON,STATUS,ATTEMPTS,ENDED");
    assert_eq!(lines, [columns, "ID f <bad|attempts_exhausted> 500 1 TIME".to_owned()]);
    let lines = on_terminal(&daemon, &["dead", "show", &id]).await;
    assert_eq!(lines[0].replace(&id, "ID"), "<heading|ID f attempts_exhausted>");
    assert!(lines.contains(&"x-own: 1".to_owned()) && lines.contains(&"the body".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn lists_without_entries_say_so_on_standard_error() {
    let daemon = Daemon::with(Function::new("f")).await;
    let snapshots =
        "no snapshots: the first one of a function with `snapshot` in [vm] is taken after its first start\n";
    for (arguments, words) in [
        (&["snapshot", "ls"][..], snapshots),
        (&["dead"], "no dead letters\n"),
        (&["boots"], "no starts\n"),
        (&["errors"], "no errors\n"),
        (&["ps", "-a"], "no instances\n"),
    ] {
        let ran = daemon.cli_on_terminal(arguments, &[]).await;
        assert_eq!((ran.status, ran.out.as_str(), ran.err.as_str()), (Some(0), "", words), "{arguments:?}");
    }
    let refused = daemon.cli_on_terminal(&["inbox", "reset"], &[]).await.failed(1);
    assert!(refused.starts_with("unifaas: ") && refused.contains("damaged"), "{refused}");
}
