//! `/ui/`: the pages as plain HTML, and their streams. `browser.rs` looks at them in a browser, `watched.rs` measures what
//! open pages cost.

use std::time::Duration;

use integration::{Daemon, EventSource, Function, Home, SOON, Setup, empty, eventually, request, within};
use tokio::time::Instant;

const FUNCTIONS: usize = 10_000;

/// Returns the HTML of a page.
async fn page(daemon: &Daemon, path: &str) -> String {
    daemon.get(path).await.ok().text()
}

#[tokio::test]
async fn pages_show_the_present_state_without_scripts() {
    let home = Home::new();
    let (program, print) = (home.testfn(), "echo '<img src=x onerror=alert(1)>'; exec \"$0\" \"$@\"");
    let words = ["/bin/sh", "-c", print, program.to_str().unwrap(), "%callback", "--token", home.token()];
    let daemon = Setup::at(&home)
        .function(Function::verbatim("f", &format!("max-instances = 3\nprocess.command = {words:?}\n")))
        .function(Function::verbatim("broken", "nonsense = 1\n"))
        .start()
        .await;
    daemon.get("/invoke/f/pid").await.ok();
    let id = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();
    let shown = async || page(&daemon, &format!("/ui/instances/{id}")).await;
    let text = "&lt;img src=x onerror=alert(1)&gt;";
    let instance = eventually(SOON, "the line is shown", shown, |page| page.contains(text)).await;
    assert!(!instance.contains("<img"), "output stays text: {instance}");
    assert!(instance.contains(">idle</span>") && instance.contains(&format!("/ui/boots/{id}")), "{instance}");

    let overview = page(&daemon, "/ui/").await;
    assert!(overview.contains("/ui/functions/f") && overview.contains("nonsense: unknown key"), "{overview}");
    let function = page(&daemon, "/ui/functions/f").await;
    for part in [&id[..8], "1 idle", "of at most 3", "max-instances", text] {
        let function = function.replace("<b>", "").replace("</b>", "");
        assert!(function.contains(part), "{part}: {function}");
    }
    assert!(page(&daemon, "/ui/functions/broken").await.contains("nonsense: unknown key"));
    let boot = page(&daemon, &format!("/ui/boots/{id}")).await;
    for phase in ["admitted", "started", "ready", "first byte", "Median of"] {
        assert!(boot.contains(phase), "{phase}: {boot}");
    }
    assert!(page(&daemon, "/ui/boots").await.contains(&id));
    assert!(page(&daemon, "/ui/boots?function=f").await.contains(&id));
    assert!(page(&daemon, "/ui/memory").await.contains("/ui/functions/f"));

    daemon.post("/invoke/f/exit?code=3", "").await.problem(502, "instance_failed");
    let errors = page(&daemon, "/ui/errors").await;
    assert!(errors.contains("instance_failed") && errors.contains(&id[..8]), "{errors}");
    let gone = async || page(&daemon, &format!("/ui/instances/{id}")).await;
    let gone = eventually(SOON, "it is gone", gone, |page| page.contains(">gone</span>")).await;
    assert!(gone.contains("exited with status 3") && gone.contains(text), "its words are kept: {gone}");
}

#[tokio::test]
async fn pages_are_those_of_this_host_and_run_only_their_own_scripts() {
    let daemon = Daemon::with(Function::new("f")).await;
    let root = daemon.get("/").await;
    assert_eq!((root.status, root.header("location").as_deref()), (303, Some("/ui/")));
    let page = daemon.get("/ui/").await.ok();
    let policy = page.header("content-security-policy").unwrap();
    for part in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let html = page.text();
    assert!(!html.contains("<style") && !html.contains(" style=") && !html.contains("javascript:"), "{html}");
    assert_eq!(html.matches("<script").count(), 1, "{html}");
    for path in ["/ui/style.css", "/ui/ui.js", "/ui/icon.svg"] {
        assert!(html.contains(&format!("\"{path}\"")), "{path}");
        assert!(daemon.get(path).await.ok().body.len() > 100);
    }
    for path in ["/", "/ui/", "/ui/style.css", "/ui/events?page=/ui/"] {
        let mut proxied = request("GET", path, empty());
        proxied.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
        daemon.send(proxied).await.unwrap().problem(404, "no_such_page");
        let mut foreign = request("GET", path, empty());
        foreign.headers_mut().insert("host", "evil.example".parse().unwrap());
        daemon.send(foreign).await.unwrap().problem(404, "no_such_page");
    }
    for path in ["/ui/nonsense", "/ui/functions/a/b", "/ui/events?page=/ui/nonsense"] {
        daemon.get(path).await.problem(404, "no_such_page");
    }
    for path in ["/ui/?sort=age", "/ui/memory?x=1", "/ui/events?page=/ui/%3Fsort=age", "/ui/events"] {
        daemon.get(path).await.problem(400, "bad_request");
    }
    for path in ["/ui/functions/g", "/ui/instances/00000000000000ab", "/ui/boots/00000000000000ab"] {
        let missing = daemon.get(path).await;
        assert_eq!(missing.status, 404, "{path}");
        assert!(missing.text().contains("<h1>"), "a page for people: {path}");
    }
}

#[tokio::test]
async fn streams_have_the_sections_that_change_and_the_lines_of_an_instance() {
    let daemon = Daemon::with(Function::new("f")).await;
    let mut overview = EventSource::open(&daemon, "/ui/events?page=/ui/").await;
    let first = overview.until("section", |section| section["id"] == "functions").await;
    assert!(first.data["html"].as_str().unwrap().starts_with("<section id=\"functions\""), "{first:?}");
    daemon.get("/invoke/f/say?line=before").await.ok();
    let began = Instant::now();
    daemon.home.put(&Function::verbatim("broken", "nonsense = 1\n"));
    let shows = |section: &serde_json::Value| {
        section["id"] == "attention" && section["html"].as_str().unwrap().contains("nonsense: unknown key")
    };
    within(SOON, "the change is shown", overview.until("section", shows)).await;
    println!("shown after {:?}", began.elapsed());

    let id = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();
    let shown = async || page(&daemon, &format!("/ui/instances/{id}")).await;
    let html = eventually(SOON, "the line is shown", shown, |page| page.contains("before")).await;
    let last = html.split("data-last=\"").nth(1).unwrap().split('"').next().unwrap();
    let path = format!("/ui/events?page=/ui/instances/{id}&last={last}");
    let mut stream = EventSource::open(&daemon, &path).await;
    daemon.get("/invoke/f/say?line=after").await.ok();
    let line = stream.until("log", |_| true).await;
    assert_eq!(line.data["text"], "after", "the lines of the page are not repeated");
    let mut function = EventSource::open(&daemon, "/ui/events?page=/ui/functions/f").await;
    function.until("section", |section| section["id"] == "instances").await;
    daemon.home.remove("f");
    within(SOON, "the removal is shown", function.until("missing", |_| true)).await;
}

#[tokio::test]
async fn ten_thousand_functions_are_shown_within_a_second() {
    let home = Home::new();
    for number in 0..FUNCTIONS {
        home.put(&Function::new(&format!("f{number}")));
    }
    home.put(&Function::verbatim("broken", "nonsense = 1\n"));
    let daemon = Setup::at(&home).start().await;
    let mut took = Vec::new();
    for _ in 0..3 {
        let overview = daemon.get("/ui/").await.ok();
        assert!(overview.text().contains("1–50 of 10,001") && overview.text().contains("nonsense: unknown key"));
        took.push(overview.took);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    println!("{took:?}");
    assert!(took.iter().min() < Some(&Duration::from_secs(1)), "{took:?}");
    let found = page(&daemon, "/ui/?find=f999&sort=name&page=0").await;
    assert!(found.contains("1–11 of 11") && found.contains("/ui/functions/f9990"), "{found}");
    assert!(page(&daemon, "/ui/?page=200").await.contains("10,001–10,001 of 10,001"));
    assert!(page(&daemon, "/ui/?state=misconfigured").await.contains("1–1 of 1"));
}
