//! Actions of operators: restarts, stops and reading the registry; and who may read and act.

use std::process::Stdio;

use integration::{
    AT_ONCE, Connection, Daemon, Function, Home, Load, Reply, Setup, Workload, empty, eventually, ms, refusal, request,
    tally,
};
use nix::unistd::geteuid;
use serde_json::json;
use tokio::process::Command;

/// Sends a POST with the header of actions, and with others.
async fn act(daemon: &Daemon, path: &str, fields: &[(&'static str, &str)]) -> Reply {
    let mut request = request("POST", path, empty());
    for (name, value) in [&[("x-unifaas", "1")], fields].concat() {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    Connection::open(daemon.admin.unwrap_or(daemon.listen)).await.unwrap().send(request).await.unwrap()
}

#[tokio::test]
async fn restarts_under_load_lose_no_request() {
    let function = Function::new("f").set("concurrent-requests", 4).set("max-instances", 4);
    let daemon = Daemon::with(function).await;
    let before = daemon.get("/invoke/f/pid").await.ok().pid();
    let workload = |path, clients| Workload { method: "GET", path, clients, pause: ms(2) };
    let load = Load::on(daemon.listen, &[workload("/invoke/f/pid", 2), workload("/invoke/f/sleep?ms=30", 4)]);
    for _ in 0..5 {
        let restarted = act(&daemon, "/debug/functions/f/restart", &[]).await.ok().json();
        assert_eq!(restarted["restarted"], true);
        let replaced = restarted["replacing"].as_u64().unwrap();
        assert!((1..=4).contains(&replaced), "{restarted}");
        daemon.logged("function was restarted").await;
        tokio::time::sleep(ms(200)).await;
    }
    let answers = load.stop().await;
    let tally = tally(&answers);
    assert_eq!(tally.keys().map(|(_, label)| label.as_str()).collect::<Vec<_>>(), ["200 by the function"], "{tally:?}");
    assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), before);
    daemon.logged_line("restart was requested").await;
}

#[tokio::test]
async fn stopped_instances_fail_their_requests_with_a_reason_and_others_start() {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 2)).await;
    let before = daemon.get("/invoke/f/pid").await.ok().pid();
    for path in ["/debug/functions/f/stop", "/debug/instances/ID/stop"] {
        let mut waiting = daemon.connect().await;
        let in_flight =
            tokio::spawn(
                async move { waiting.send(request("GET", "/invoke/f/sleep?ms=60000", empty())).await.unwrap() },
            );
        let in_function = async || daemon.get("/invoke/f/in-flight-max").await.ok().text();
        eventually(AT_ONCE, "the function has the request", in_function, |count| count == "2").await;
        // A request that has just begun is offered to another instance.
        tokio::time::sleep(ms(100)).await;
        let id = daemon.instances("f").await[0]["id"].as_str().unwrap().to_owned();
        assert_eq!(act(&daemon, &path.replace("ID", &id), &[]).await.ok().json(), json!({ "stopped": 1 }));
        let problem = in_flight.await.unwrap().problem(502, "instance_failed");
        assert!(problem["detail"].as_str().unwrap().contains("stopped by an operator"), "{problem}");
        assert_eq!(daemon.ended_instance(&id).await["cause"], "stopped");
        act(&daemon, &format!("/debug/instances/{id}/stop"), &[]).await.problem(404, "no_such_instance");
        assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), before, "the next request starts another");
    }
}

#[tokio::test]
async fn rescan_answers_when_the_registry_was_read() {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.home.put(&Function::new("g"));
    daemon.home.put(&Function::verbatim("broken", "keepalive = \"long\"\n"));
    let found = act(&daemon, "/debug/rescan", &[]).await.ok().json();
    assert_eq!(found["functions"], 3);
    let invalid = found["invalid"].as_array().unwrap();
    assert!(invalid.len() == 1 && invalid[0].as_str().unwrap().starts_with("broken: "), "{found}");
    daemon.get("/invoke/g/pid").await.ok();
    daemon.home.remove("g");
    assert_eq!(act(&daemon, "/debug/rescan", &[]).await.ok().json()["functions"], 2);
    daemon.get("/invoke/g/pid").await.problem(404, "no_such_function");
}

#[tokio::test]
async fn actions_are_posts_of_existing_things() {
    let daemon = Daemon::with(Function::new("f")).await;
    for path in ["/debug/functions/f/restart", "/debug/functions/f/stop", "/debug/instances/0/stop", "/debug/rescan"] {
        for method in ["GET", "PUT", "DELETE"] {
            let reply = daemon.send(request(method, path, empty())).await.unwrap();
            reply.problem(405, "method_not_allowed");
            assert_eq!(reply.header("allow").as_deref(), Some("POST"));
        }
    }
    act(&daemon, "/debug/functions/nope/restart", &[]).await.problem(404, "no_such_function");
    act(&daemon, "/debug/functions/nope/stop", &[]).await.problem(404, "no_such_function");
    for id in ["0", "nonsense", "0123456789abcdef"] {
        act(&daemon, &format!("/debug/instances/{id}/stop"), &[]).await.problem(404, "no_such_instance");
    }
    assert_eq!(act(&daemon, "/debug/functions/f/stop", &[]).await.ok().json(), json!({ "stopped": 0 }));
}

#[tokio::test]
async fn pages_of_other_sites_cannot_act() {
    let daemon = Daemon::with(Function::new("f")).await;
    let path = "/debug/functions/f/stop";
    for (name, value) in [("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site"), ("sec-fetch-site", "none")]
    {
        act(&daemon, path, &[(name, value)]).await.problem(403, "forbidden");
    }
    act(&daemon, path, &[("x-unifaas", "0")]).await.problem(403, "forbidden");
    daemon.post(path, "").await.problem(403, "forbidden");
    for fields in [("host", "evil.example"), ("x-forwarded-for", "127.0.0.1"), ("via", "1.1 proxy")] {
        act(&daemon, path, &[fields]).await.problem(404, "no_such_page");
    }
    act(&daemon, path, &[("sec-fetch-site", "same-origin")]).await.ok();
}

#[tokio::test]
async fn public_admin_listener_lets_only_users_of_this_host_act() {
    let public = Setup::default().option("--admin-listen", "0.0.0.0:0").function(Function::new("f"));
    let daemon = public.start().await;
    act(&daemon, "/debug/functions/f/stop", &[]).await.ok();
    for fields in [("host", "box.lan"), ("x-forwarded-for", "127.0.0.1")] {
        assert_eq!(act(&daemon, "/debug/functions/f/stop", &[fields]).await.status, 403);
    }
}

#[tokio::test]
async fn unknown_admin_group_is_an_error() {
    let home = Home::new();
    let setup = Setup::at(&home).option("--admin-group", "no-such-group");
    let error = refusal(setup.command()).await;
    assert!(error.contains("`no-such-group`") && error.contains("--admin-group"), "{error}");
}

/// What a user of this host does.
const READ: [&str; 1] = ["/debug"];
const LOG: [&str; 1] = ["/debug/logs?function=f"];
const METRICS: [&str; 1] = ["/metrics"];
const ACT: [&str; 5] = ["-X", "POST", "-H", "X-UniFaaS: 1", "/debug/functions/f/stop"];

/// Returns the status that `curl` gets as a user.
async fn status_for(user: &str, daemon: &Daemon, words: &[&str], fields: &[&str]) -> String {
    let (path, options) = words.split_last().unwrap();
    let mut curl = Command::new("setpriv");
    curl.args(["--reuid", user, "--regid", user, "--init-groups"]);
    curl.args(["curl", "--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    for field in fields {
        curl.args(["-H", field]);
    }
    let url = format!("http://{}{path}", daemon.admin.unwrap_or(daemon.listen));
    let output = curl.args(options).arg(url).stdin(Stdio::null()).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn who_may_read_and_act() {
    if !geteuid().is_root() {
        return;
    }
    // `daemon` is a member of the group of that name, `bin` is not. Functions run as `nobody`.
    for (read, member, other) in
        [("anyone", ["200"; 4], ["200", "200", "200", "403"]), ("group", ["200"; 4], ["403"; 4])]
    {
        let setup = Setup::default().option("--admin-group", "daemon").option("--admin-read", read);
        let daemon = setup.function(Function::new("f")).start().await;
        daemon.get("/invoke/f/pid").await.ok();
        for (user, expected) in [("root", member), ("daemon", member), ("bin", other), ("65534", ["404"; 4])] {
            for (words, expected) in [&READ[..], &LOG, &METRICS, &ACT].into_iter().zip(expected) {
                assert_eq!(status_for(user, &daemon, words, &[]).await, expected, "{read}: {user} {words:?}");
                for field in ["X-Forwarded-For: 127.0.0.1", "Host: evil.example"] {
                    let status = status_for(user, &daemon, words, &[field]).await;
                    assert_eq!(status, "404", "{read}: {user} {words:?} {field}");
                }
            }
            let status = status_for(user, &daemon, &ACT, &["Sec-Fetch-Site: cross-site"]).await;
            assert_eq!(status, if expected[0] == "404" { "404" } else { "403" }, "{read}: {user} from another site");
        }
        assert_eq!(status_for("bin", &daemon, &["/healthz"], &[]).await, "200", "the health page is public");
        let reply = daemon.get("/invoke/f/pid").await.ok();
        assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    }
}
