//! Callback tokens and values of `[env]` never appear in the log, at `/debug` or in platform errors.

use integration::{Daemon, Function, SOON, Setup, eventually, unifaas};

const SECRET: &str = "open-sesame-4711";

/// Returns everything that the daemon shows.
async fn shown(daemon: &Daemon) -> String {
    format!("{}{}", daemon.debug().await, daemon.log())
}

#[tokio::test]
async fn redacts_secrets_in_output() {
    let function = Function::new("f").env("PASSWORD", SECRET);
    let daemon = Setup::default().option("--log-level", "trace").function(function).start().await;
    let url = daemon.get("/invoke/f/callback").await.ok().text();
    let token = url.rsplit('/').next().unwrap();
    daemon.get(&format!("/invoke/f/say?line=url={url},password={SECRET},end")).await.ok();
    let lines = async || daemon.instances("f").await[0]["output"].to_string();
    let lines = eventually(SOON, "the line was read", lines, |lines| lines.contains(",end")).await;
    assert!(lines.contains("/ready/…,password=${PASSWORD},end"));
    let shown = shown(&daemon).await;
    assert!(!shown.contains(SECRET) && !shown.contains(token), "{shown}");
    assert_eq!(daemon.get("/invoke/f/env?name=PASSWORD").await.ok().text(), SECRET, "the function itself has it");
}

#[tokio::test]
async fn redacts_secrets_in_output_of_failed_boot() {
    let function = Function::new("f").env("PASSWORD", SECRET).flag("--exit-at-boot").flag("3");
    let daemon = Daemon::with(function.flag("--say-variable").flag("PASSWORD")).await;
    let problem = daemon.get("/invoke/f/pid").await.problem(502, "boot_failed").to_string();
    assert!(problem.contains("PASSWORD is ${PASSWORD}"), "{problem}");
    // The log is written by a thread of its own.
    daemon.logged("PASSWORD is").await;
    let shown = shown(&daemon).await;
    assert!(shown.contains("PASSWORD is ${PASSWORD}") && !shown.contains(SECRET), "{shown}");
}

#[tokio::test]
async fn redacts_secrets_in_errors() {
    let text = format!("[process]\ncommand = [\"./%callback-{SECRET}\"]\n[env]\nPASSWORD = \"{SECRET}\"");
    let daemon = Daemon::with(Function::verbatim("f", &text)).await;
    let detail = daemon.get("/invoke/f/").await.problem(502, "start_failed")["detail"].to_string();
    assert!(detail.contains("/ready/…-${PASSWORD}"), "{detail}");
    let hexadecimal = |word: &str| word.len() >= 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let log = daemon.logged("start_failed").await;
    assert!(!log.split(|c: char| !c.is_ascii_alphanumeric()).any(hexadecimal), "{log}");
}

#[tokio::test]
async fn redacts_secrets_in_spec_errors() {
    let wrong = [
        format!("[process]\ncommand = []\n[env]\nPASSWORD = \"{SECRET}\"\n"),
        format!("[env]\nPASSWORD = [\"{SECRET}\"]\n"),
        format!("[env]\nPASSWORD = \"{SECRET}\n"),
        format!("[enviroment]\nPASSWORD = \"{SECRET}\"\n"),
    ];
    let mut setup = Setup::default();
    for (n, text) in wrong.iter().enumerate() {
        setup = setup.function(Function::verbatim(&format!("f{n}"), text));
    }
    let daemon = setup.start().await;
    for n in 0..wrong.len() {
        let problem = daemon.get(&format!("/invoke/f{n}/")).await.problem(500, "function_misconfigured").to_string();
        assert!(!problem.contains(SECRET), "{problem}");
    }
    assert!(!shown(&daemon).await.contains(SECRET));
    let mut check = tokio::process::Command::new(unifaas());
    let output = check.args(["check", "-r"]).arg(daemon.home.registry()).output().await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("f0") && !said.contains(SECRET), "{said}");
}
