//! Daemons with other privileges than those of root on the host: they start processes as far as they may, and errors and
//! the log name what is missing.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt, chown},
    sync::Arc,
};

use integration::{Daemon, Function, Home, Setup, processes};
use nix::unistd::geteuid;

const ROOT: u32 = 0;
const NOBODY: u32 = 65_534;
/// A user without an account.
const OTHER: u32 = 4_711;

/// Returns the setup of a daemon that is root without some capabilities, as in a container.
fn without(capabilities: &str) -> Setup {
    let bound = format!("--bounding-set={capabilities}");
    Setup::default().run_by(["setpriv", &bound])
}

/// Returns the home of a daemon that runs as `user`.
fn home_of(user: u32) -> Arc<Home> {
    let home = Home::new();
    fs::create_dir_all(home.path("state")).unwrap();
    chown(home.path("state"), Some(user), Some(user)).unwrap();
    home
}

/// Returns the setup of a daemon that runs as `user`, as by `sudo -u`, with more arguments of setpriv.
fn by_user(home: &Arc<Home>, user: u32, more: &[&str]) -> Setup {
    let ids = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()];
    let words = ["setpriv".to_owned()].into_iter().chain(ids).chain(more.iter().map(|word| (*word).to_owned()));
    Setup::at(home).run_by(words)
}

/// Returns the setup of a daemon in a user namespace of its own, which first executes a command.
fn in_user_namespace(home: &Arc<Home>, first: &str) -> Setup {
    let script = format!("{first} && exec \"$0\" \"$@\"");
    Setup::at(home).run_by(["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", &script])
}

/// Checks that an instance of the function `f` runs as `user`, without capabilities, and ends with its daemon.
async fn runs_as(daemon: &Daemon, user: u32) {
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{set} of {status}");
    }
    assert_eq!(daemon.get("/invoke/f/uid").await.ok().text(), user.to_string());
    let instances = daemon.instances("f").await;
    assert_eq!(instances[0]["pid"], pid);
    assert!(processes::exists(pid));
}

/// Checks the one line that says that processes run as root, and why.
async fn says_why(daemon: &Daemon, why: &str) {
    let line = daemon.logged_line("processes run as root, without capabilities").await;
    assert_eq!((line["level"].as_str(), line["why"].as_str()), (Some("warning"), Some(why)));
}

#[tokio::test]
async fn only_user_of_a_namespace_starts_processes() {
    if !geteuid().is_root() {
        return;
    }
    for (first, why) in [
        ("true", "the daemon's user namespace has no user 65534"),
        // As in a rootless container, whose first file systems are its own.
        ("mount -t tmpfs none /var/lib", "the daemon's user namespace has no user 65534"),
    ] {
        let home = Home::new();
        home.put(&Function::new("f"));
        let daemon = in_user_namespace(&home, first).start().await;
        runs_as(&daemon, ROOT).await;
        says_why(&daemon, why).await;
    }
}

#[tokio::test]
async fn daemon_that_cannot_change_users_starts_processes_as_its_own() {
    if !geteuid().is_root() {
        return;
    }
    for name in ["chown", "setgid", "setuid", "kill"] {
        let as_nobody = Function::new("nobody").process("user", "\"nobody\"");
        let as_root = Function::new("root").process("user", "\"root\"");
        let setup = without(&format!("-{name}")).function(Function::new("f")).function(as_nobody).function(as_root);
        let daemon = setup.start().await;
        runs_as(&daemon, ROOT).await;
        let lacks = format!("the daemon lacks CAP_{}", name.to_uppercase());
        says_why(&daemon, &lacks).await;
        let problem = daemon.get("/invoke/nobody/pid").await.problem(502, "start_failed").to_string();
        let expected = format!("run as user \\\"nobody\\\", and this daemon runs as user 0: {lacks}");
        assert!(problem.contains(&expected), "{problem}");
        assert_eq!(daemon.get("/invoke/root/uid").await.ok().text(), "0");
    }
}

#[tokio::test]
async fn daemon_of_another_user_starts_processes_as_that_user() {
    if !geteuid().is_root() {
        return;
    }
    let home = home_of(NOBODY);
    home.put(&Function::new("f"));
    home.put(&Function::new("root").process("user", "\"root\""));
    let daemon = by_user(&home, NOBODY, &[]).start().await;
    runs_as(&daemon, NOBODY).await;
    let problem = daemon.get("/invoke/root/pid").await.problem(502, "start_failed").to_string();
    assert!(problem.contains("this daemon runs as user 65534: the daemon lacks CAP_SETUID"), "{problem}");
}

#[tokio::test]
async fn user_with_the_capabilities_starts_processes_as_nobody() {
    if !geteuid().is_root() {
        return;
    }
    let home = home_of(OTHER);
    home.put(&Function::new("f"));
    home.put(&Function::new("root").process("user", "\"root\""));
    let sets = ["--inh-caps", "--ambient-caps"].map(|set| format!("{set}=+chown,+setgid,+setuid,+kill"));
    let daemon = by_user(&home, OTHER, &[&sets[0], &sets[1]]).start().await;
    runs_as(&daemon, NOBODY).await;
    assert_eq!(daemon.get("/invoke/root/uid").await.ok().text(), "0");
}

#[tokio::test]
async fn state_is_kept_where_the_user_can_write() {
    if !geteuid().is_root() {
        return;
    }
    // As `sudo -u` leaves HOME; and root on a read-only file system.
    let read_only = "mount -o remount,bind,ro /var/lib 2>/dev/null || mount -t tmpfs -o ro none /var/lib";
    let home = home_of(NOBODY);
    let temporary = home.path("state");
    let of_user = by_user(&home, NOBODY, &[]).variable("HOME", "/root");
    let of_root = in_user_namespace(&home, read_only).variable("HOME", "/var/lib");
    for (setup, name) in [(of_user, "unifaas-65534"), (of_root, "unifaas-0")] {
        chown(&temporary, Some(if name.ends_with("-0") { ROOT } else { NOBODY }), None).unwrap();
        home.put(&Function::new("f"));
        let setup = setup.without("--state-dir").variable("XDG_STATE_HOME", "").variable("TMPDIR", &temporary);
        let daemon = setup.start().await;
        daemon.get("/invoke/f/pid").await.ok();
        let debug = daemon.debug().await;
        assert_eq!(debug["daemon"]["settings"]["state_dir"], temporary.join(name).to_str().unwrap());
    }
}

#[tokio::test]
async fn error_names_a_directory_that_cannot_be_entered() {
    if !geteuid().is_root() {
        return;
    }
    let home = home_of(NOBODY);
    home.put(&Function::new("f"));
    let directory = home.registry().join("f");
    let daemon = by_user(&home, NOBODY, &[]).start().await;
    fs::set_permissions(&directory, Permissions::from_mode(0o600)).unwrap();
    let problem = daemon.get("/invoke/f/pid").await.problem(502, "start_failed").to_string();
    assert!(problem.contains("cannot start a process: chdir: Permission denied"), "{problem}");
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn read_only_cgroups_are_a_warning() {
    if !geteuid().is_root() {
        return;
    }
    let remount = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/mounts | xargs -n 1 mount -o remount,bind,ro";
    let script = format!("{remount} && exec \"$0\" \"$@\"");
    let setup = Setup::default().run_by(["unshare", "--mount", "--propagation=private", "--", "sh", "-c", &script]);
    let daemon = setup.function(Function::new("f")).start().await;
    runs_as(&daemon, NOBODY).await;
    let line = daemon.logged_line("memory and processes of instances are not limited: no cgroup can be made").await;
    // The second one in a container with cgroups of version 2, where the attempt to enable the controller fails.
    let errors = ["Read-only file system", "no memory controller is available"];
    assert!(errors.iter().any(|error| line["error"].as_str().unwrap().contains(error)), "{line}");
    assert!(!daemon.instances("f").await[0]["resources"].to_string().contains("cgroup"));
}
