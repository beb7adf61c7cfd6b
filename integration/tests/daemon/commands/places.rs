//! Which daemon a command speaks to, and the exit status when it gets no answer.

use std::{fs, process::Command};

use integration::{
    Daemon, Function, Home, Setup,
    cli::{bare, run},
};
use nix::unistd::geteuid;

use super::daemon;

/// Commands that speak to a daemon, with arguments.
const COMMANDS: [&[&str]; 9] = [
    &["restart", "f"],
    &["stop", "f"],
    &["rescan"],
    &["ps"],
    &["boots", "f"],
    &["errors"],
    &["describe", "f"],
    &["logs", "f"],
    &["invoke", "f"],
];

#[tokio::test]
async fn without_a_daemon_the_status_is_3_and_the_text_says_where_it_looked() {
    for command in COMMANDS {
        let arguments = [command, &["--url", "http://127.0.0.1:1"]].concat();
        let text = run(bare(&arguments)).await.failed(3);
        assert!(text.contains("no daemon answers at http://127.0.0.1:1 (--url or UNIFAAS_URL)"), "{text}");
        assert!(text.contains("unifaas --registry DIR"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_no_daemon_has_status_3() {
    let f = Function::new("f");
    let daemon = Daemon::with(f).await;
    // The callback listener knows none of these paths.
    for command in COMMANDS {
        let text = daemon.cli(&[command, &["--url", &daemon.callback.to_string()][..]].concat()).await.failed(3);
        assert!(text.contains("is no UniFaaS daemon"), "{text}");
    }
}

#[tokio::test]
async fn names_that_are_unknown_have_status_4() {
    let daemon = daemon().await;
    for command in ["describe", "logs", "invoke", "ps", "restart", "stop"] {
        let text = daemon.cli(&[command, "broke"]).await.failed(4);
        assert!(text.contains("there is no function broke; did you mean broken?"), "{command}: {text}");
        let text = daemon.cli(&[command, "a b/c"]).await.failed(4);
        assert!(text.contains("there is no function \"a b/c\""), "{command}: {text}");
    }
    for command in ["describe", "logs", "stop"] {
        let text = daemon.cli(&[command, "0123456789abcdef"]).await.failed(4);
        assert!(text.contains("there is no instance 0123456789abcdef"), "{command}: {text}");
    }
}

#[tokio::test]
async fn wrong_arguments_have_status_2() {
    let daemon = daemon().await;
    for arguments in [
        &["ps", "--url", "https://x"][..],
        &["ps", "--url", "ftp://x"],
        &["ps", "--no-such-option"],
        &["describe"],
        &["logs", "f", "--since", "soon"],
        &["logs", "f", "--ended", "-f"],
        &["invoke", "f", "-H", "nonsense"],
        &["invoke", "f", "-H", "a b: c"],
        &["invoke", "f", "-X", "A B"],
        &["invoke", "f", "a b"],
        &["invoke", "f", "/ä"],
        &["boots", "--limit", "0"],
        &["invoke", "f", "-d", "@/no/such/file"],
    ] {
        let ran = daemon.cli(arguments).await;
        assert_eq!(ran.status, Some(2), "{arguments:?}: {ran:?}");
        assert!(!ran.err.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_user_who_may_not_see_the_pages_has_status_5() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root may run a command as another user");
        return;
    }
    let daemon = daemon().await;
    // Functions run as that user, and its processes see no pages.
    daemon.get("/invoke/f/pid").await.ok();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--clear-groups"]).arg(daemon.home.path("unifaas")).arg("ps");
    fs::copy(integration::unifaas(), daemon.home.path("unifaas")).unwrap();
    command.env("UNIFAAS_URL", format!("http://{}", daemon.listen)).env("UNIFAAS_CONFIG", "/dev/null");
    let text = run(command).await.failed(5);
    assert!(text.contains("does not show its pages to this user"), "{text}");
}

#[tokio::test]
async fn the_daemon_is_where_the_settings_say() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let daemon = Setup::at(&home).option("--admin-listen", "127.0.0.1:0").start().await;
    let admin = daemon.admin.unwrap();
    let file = home.path("unifaas.toml");
    fs::write(&file, format!("listen = \"{}\"\nadmin-listen = \"{admin}\"\n", daemon.listen)).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = bare(arguments);
        command.env("UNIFAAS_CONFIG", &file);
        command
    };
    // Functions are at one address, pages at the other.
    run(command(&["invoke", "f", "/pid"])).await.ok();
    assert!(run(command(&["ps"])).await.ok().contains("serving"));
    drop(daemon);
    let text = run(command(&["ps"])).await.failed(3);
    assert!(text.contains(&format!("http://{admin} (`admin-listen`, {}:2)", file.display())), "{text}");
    let text = run(command(&["invoke", "f"])).await.failed(3);
    assert!(text.contains(&format!("(`listen`, {}:1)", file.display())), "{text}");
}
