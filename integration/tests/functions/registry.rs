//! The registry: its content is served without a restart, and an invalid file affects only its function.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures::future::join_all;
use integration::{Daemon, Function, Home, Setup, empty, eventually, ms, number, processes, request, unifaas};
use nix::sys::signal::Signal;
use tokio::{process::Command, sync::watch};

/// Limit of waits for the effect of a change. Only another directory in place of the registry is found by polling.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the function answers with a word.
async fn says(daemon: &Daemon, function: &str, word: &str) {
    let path = format!("/invoke/{function}/env?name=WORD");
    let text = async || daemon.get(&path).await.text();
    eventually(EFFECT_TIMEOUT, format!("{function} says {word}"), text, |text| text == word).await;
}

#[tokio::test]
async fn functions_are_added_changed_and_removed_without_restart() {
    let daemon = Setup::default().start().await;
    daemon.get("/invoke/late/pid").await.problem(404, "no_such_function");

    daemon.home.put(&Function::new("late").env("WORD", "one"));
    daemon.answers("/invoke/late/pid", 200).await;
    assert_eq!(daemon.get("/invoke/late/env?name=WORD").await.ok().text(), "one");
    let before = daemon.get("/invoke/late/pid").await.ok().pid();

    daemon.home.put(&Function::new("late").env("WORD", "two"));
    says(&daemon, "late", "two").await;
    assert_ne!(daemon.get("/invoke/late/pid").await.ok().pid(), before);

    daemon.home.remove("late");
    daemon.answers("/invoke/late/pid", 404).await;
    daemon.home.left(0).await;
    assert_eq!(daemon.get("/debug/functions/late").await.status, 404);

    daemon.home.put(&Function::new("late"));
    daemon.answers("/invoke/late/pid", 200).await;
}

#[tokio::test]
async fn notices_all_ways_of_saving() {
    let daemon = Daemon::with(Function::new("f").env("WORD", "zero")).await;
    let file = daemon.home.registry().join("f/function.toml");
    let text = |word: &str| fs::read_to_string(&file).unwrap().replace("zero", word);
    let zero = text("zero");

    let next = file.with_extension("toml.tmp");
    fs::write(&next, text("renamed")).unwrap();
    fs::rename(&next, &file).unwrap();
    says(&daemon, "f", "renamed").await;

    fs::remove_file(&file).unwrap();
    fs::write(&file, zero.replace("zero", "anew")).unwrap();
    says(&daemon, "f", "anew").await;

    fs::rename(daemon.home.registry().join("f"), daemon.home.path("aside")).unwrap();
    daemon.answers("/invoke/f/pid", 404).await;
    fs::write(daemon.home.path("aside/function.toml"), zero.replace("zero", "moved")).unwrap();
    fs::rename(daemon.home.path("aside"), daemon.home.registry().join("f")).unwrap();
    says(&daemon, "f", "moved").await;

    fs::create_dir(daemon.home.path("elsewhere")).unwrap();
    fs::write(daemon.home.path("elsewhere/function.toml"), zero.replace("zero", "linked")).unwrap();
    std::os::unix::fs::symlink(daemon.home.path("elsewhere"), daemon.home.registry().join("link")).unwrap();
    daemon.answers("/invoke/link/pid", 200).await;
    assert_eq!(daemon.get("/invoke/link/env?name=WORD").await.ok().text(), "linked");
}

#[tokio::test]
async fn changed_function_finishes_requests_on_old_instance() {
    let daemon = Daemon::with(Function::new("f").env("WORD", "old")).await;
    let old = daemon.get("/invoke/f/pid").await.ok().pid();
    let served = daemon.get("/invoke/f/sleep?ms=2000");
    let edit = async {
        daemon.until("f", "busy", 1).await;
        daemon.home.put(&Function::new("f").env("WORD", "new"));
        says(&daemon, "f", "new").await;
    };
    let (reply, ()) = futures::join!(served, edit);
    assert_eq!(reply.ok().pid(), old);
    processes::gone(old).await;
}

#[tokio::test]
async fn removed_function_finishes_requests() {
    let daemon = Daemon::with(Function::new("f")).await;
    let served = daemon.get("/invoke/f/sleep?ms=1500");
    let remove = async {
        daemon.until("f", "busy", 1).await;
        daemon.home.remove("f");
        daemon.answers("/invoke/f/pid", 404).await;
    };
    let (reply, ()) = futures::join!(served, remove);
    reply.ok();
    daemon.home.left(0).await;
}

#[tokio::test]
async fn invalid_file_leaves_last_valid_version_in_force() {
    let daemon = Daemon::with(Function::new("f").env("WORD", "one")).await;
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    daemon.home.put(&Function::verbatim("f", "concurrent-requests = \"many\"\n"));
    let function = daemon.settled("f", "the file is invalid", |f| f["state"] == "misconfigured").await;
    assert!(function["reason"].as_str().unwrap().contains("concurrent-requests"), "{function}");
    assert_eq!((number(&function, "revision"), number(&function, "serves_revision")), (2, 1));
    assert_eq!(function["spec"]["concurrent_requests"], 1, "the spec in force is shown");
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), pid);

    daemon.home.put(&Function::new("f").env("WORD", "two"));
    says(&daemon, "f", "two").await;
    let function = daemon.function("f").await;
    assert_eq!((&function["state"], &function["serves_revision"]), (&"serving".into(), &function["revision"]));
    assert!(function.get("reason").is_none(), "{function}");
}

#[tokio::test]
async fn function_that_never_was_valid_serves_when_repaired() {
    let daemon = Daemon::with(Function::verbatim("f", "concurrent-requests = \"many\"\n")).await;
    let problem = daemon.get("/invoke/f/pid").await.problem(500, "function_misconfigured");
    assert!(problem["detail"].as_str().unwrap().contains("concurrent-requests"), "{problem}");
    assert!(daemon.function("f").await.get("serves_revision").is_none());
    daemon.home.put(&Function::new("f"));
    daemon.answers("/invoke/f/pid", 200).await;
}

#[tokio::test]
async fn invalid_file_saved_under_load_costs_no_request() {
    let valid = Function::new("f").set("concurrent-requests", 4);
    let daemon = Arc::new(Daemon::with(valid.clone()).await);
    let pid = daemon.get("/invoke/f/pid").await.ok().pid();
    let (stop, stopped) = watch::channel(false);
    let clients = (0..8).map(|_| {
        let (daemon, stopped) = (Arc::clone(&daemon), stopped.clone());
        async move {
            while !*stopped.borrow() {
                daemon.get("/invoke/f/sleep?ms=10").await.ok();
            }
        }
    });
    let edits = async {
        let file = daemon.home.registry().join("f/function.toml");
        let whole = fs::read_to_string(&file).unwrap();
        for _ in 0..3 {
            // As a slow editor saves it.
            fs::write(&file, "[process\n").unwrap();
            daemon.settled("f", "the file is invalid", |f| f["state"] == "misconfigured").await;
            fs::write(&file, &whole[..whole.len() / 2]).unwrap();
            tokio::time::sleep(ms(700)).await;
            fs::write(&file, &whole).unwrap();
            daemon.settled("f", "the file is valid", |f| f["state"] == "serving").await;
        }
        stop.send(true).unwrap();
    };
    futures::join!(join_all(clients), edits);
    let function = daemon.function("f").await;
    assert_eq!(function["counters"]["requests"], function["counters"]["ok"], "{function}");
    assert_eq!(function["serves_revision"], 1, "the version in force never changed");
    let mut pids = daemon.instances("f").await.into_iter().map(|instance| number(&instance, "pid"));
    assert!(pids.any(|kept| kept == u64::from(pid)), "no instance was replaced");
}

#[tokio::test]
async fn rewriting_file_under_load_fails_no_request() {
    let function = |n: u64| Function::new("f").set("concurrent-requests", 4).set("keepalive", 30 + n);
    let daemon = Arc::new(Daemon::with(function(0)).await);
    daemon.get("/invoke/f/pid").await.ok();
    let (stop, stopped) = watch::channel(false);
    let clients = (0..16).map(|_| {
        let (daemon, stopped) = (Arc::clone(&daemon), stopped.clone());
        async move {
            let mut served = 0;
            while !*stopped.borrow() {
                daemon.get("/invoke/f/sleep?ms=10").await.ok();
                served += 1;
            }
            served
        }
    });
    let edits = async {
        for n in 1..=50 {
            daemon.home.put(&function(n));
            tokio::time::sleep(ms(60)).await;
        }
        daemon.settled("f", "the last edit took effect", |f| f["spec"]["keepalive"].as_f64() == Some(80.0)).await;
        stop.send(true).unwrap();
    };
    let (served, ()) = futures::join!(join_all(clients), edits);
    let served: u64 = served.iter().sum();
    let function = daemon.function("f").await;
    assert!(served > 500, "only {served} requests in all that time");
    assert_eq!(number(&function["counters"], "requests"), served + 1);
    assert_eq!(number(&function["counters"], "ok"), served + 1);
    assert!(number(&function, "revision") >= 2, "{}", function["revision"]);
}

#[tokio::test]
async fn new_function_gets_min_instances() {
    let daemon = Setup::default().start().await;
    daemon.home.put(&Function::new("f").set("min-instances", 1));
    daemon.home.left(1).await;
}

#[tokio::test]
async fn ignores_entries_that_are_no_functions() {
    let home = Home::new();
    home.put(&Function::new("f"));
    fs::write(home.registry().join("README.md"), "not a function").unwrap();
    fs::create_dir(home.registry().join("empty")).unwrap();
    fs::create_dir(home.registry().join(".git")).unwrap();
    let daemon = Setup::at(&home).start().await;
    let functions = daemon.debug().await["functions"].clone();
    assert_eq!(functions.as_object().unwrap().keys().collect::<Vec<_>>(), ["f"]);
}

const HYPERVISOR: &str = "hypervisor = { type = \"qemu\" }";

/// Returns broken files, each with a word that the reason must contain.
fn broken() -> Vec<(String, &'static str)> {
    let top = |line: &str| format!("{line}\n[process]\ncommand = [\"true\"]\n");
    let process = |lines: &str| format!("[process]\n{lines}\n");
    let container = |lines: &str| format!("[container]\n{lines}\n");
    let vm = |lines: &str| format!("[vm]\n{lines}\n");
    vec![
        (String::new(), "empty"),
        ("# nothing but a comment\n".to_owned(), "process"),
        ("this is not TOML".to_owned(), "function.toml:1"),
        ("[process\ncommand = 1".to_owned(), "function.toml:1"),
        ("keepalive = 1\nkeepalive = 2\n".to_owned(), "duplicate"),
        ("[process]\ncommand = [\"true\"]\n[container]\nimage = \"x\"\n".to_owned(), "container"),
        ("[process]\ncommand = [\"true\"]\n[vm]\nkernel = \"k\"\n".to_owned(), "vm"),
        ("keepalive = 3\n".to_owned(), "process"),
        (top("concurent-requests = 1"), "concurrent-requests"),
        (top("concurrent_requests = 1"), "concurrent-requests"),
        (top("keep-alive = 1"), "keepalive"),
        (top("color = \"blue\""), "color"),
        (top("memory = 128"), "memory"),
        (top("concurrent-requests = 0"), "concurrent-requests"),
        (top("concurrent-requests = -1"), "concurrent-requests"),
        (top("concurrent-requests = 1.5"), "concurrent-requests"),
        (top("concurrent-requests = \"1\""), "concurrent-requests"),
        (top("single-use = 1"), "single-use"),
        (top("single-use = \"yes\""), "single-use"),
        (top("keepalive = -1"), "keepalive"),
        (top("keepalive = nan"), "keepalive"),
        (top("keepalive = inf"), "keepalive"),
        (top("keepalive = \"1m\""), "keepalive"),
        (top("min-instances = -1"), "min-instances"),
        (top("min-instances = 3\nmax-instances = 2"), "min-instances"),
        (top("max-instances = 0"), "max-instances"),
        (top("timeout = true"), "timeout"),
        (top("boot-timeout = 0"), "boot-timeout"),
        (top("queue = 0"), "queue"),
        (top("port = 8080"), "port"),
        (top("readiness = \"maybe\""), "readiness"),
        (top("readiness = { http = \"no-slash\" }"), "readiness"),
        (top("readiness = { path = \"/\" }"), "path"),
        (top("env = \"A=1\""), "env"),
        (top("env = { A = 1 }"), "env.A"),
        (top("env = { \"A=B\" = \"1\" }"), "env"),
        (process(""), "command"),
        (process("command = []"), "command"),
        (process("command = \"true\""), "command"),
        (process("command = [1]"), "command"),
        (process("command = [\"\"]"), "command"),
        (process("command = [\"./is-not-there\"]"), "is-not-there"),
        (process("command = [\"./function.toml\"]"), "executable"),
        (process("command = [\"true\"]\nmemory = 0"), "memory"),
        (process("command = [\"true\"]\nmemory = 99999999999"), "memory"),
        (process("command = [\"true\"]\nuser = \"\""), "user"),
        (process("command = [\"true\"]\nimage = \"x\""), "image"),
        (container(""), "image"),
        (container("image = \"two words\""), "image"),
        (container("image = \"x\"\ncpus = 0"), "cpus"),
        (container("image = \"x\"\nkernel = \"k\""), "kernel"),
        (vm(HYPERVISOR), "kernel"),
        (vm("kernel = \"function.toml\""), "hypervisor"),
        (vm(&format!("kernel = \"no-kernel\"\n{HYPERVISOR}")), "no-kernel"),
        (vm("kernel = \"function.toml\"\nhypervisor = { type = \"xen\" }"), "xen"),
        (vm("kernel = \"function.toml\"\nhypervisor = \"qemu\""), "hypervisor"),
        (vm("kernel = \"function.toml\"\nhypervisor = { type = \"qemu\", disk-type = \"tape\" }"), "disk-type"),
        (vm("kernel = \"function.toml\"\nhypervisor = { type = \"firecracker\", pic = true }"), "pic"),
        (vm(&format!("kernel = \"function.toml\"\ncpus = 0\n{HYPERVISOR}")), "cpus"),
        (vm(&format!("kernel = \"function.toml\"\ncpu = 1\n{HYPERVISOR}")), "cpus"),
    ]
}

/// Returns a registry with all broken files, some special files, and two valid functions.
fn broken_registry() -> (Arc<Home>, Vec<(String, &'static str)>) {
    let home = Home::new();
    let mut reasons = Vec::new();
    for (n, (text, reason)) in broken().into_iter().enumerate() {
        let name = format!("broken-{n}");
        home.put(&Function::verbatim(&name, &text));
        reasons.push((name, reason));
    }
    let file = |name: &str| {
        fs::create_dir(home.registry().join(name)).unwrap();
        home.registry().join(name).join("function.toml")
    };
    fs::write(file("latin-1"), b"[process]\ncommand = [\"caf\xe9\"]\n").unwrap();
    fs::write(file("huge"), "#".repeat(1 << 20)).unwrap();
    fs::create_dir(file("directory")).unwrap();
    std::os::unix::fs::symlink("nowhere", file("dangling")).unwrap();
    nix::unistd::mkfifo(&file("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    home.put(&Function::new(&"n".repeat(64)));
    home.put(&Function::new("two words"));
    for (name, reason) in [
        ("latin-1", "UTF-8"),
        ("huge", "larger"),
        ("directory", "directory"),
        ("dangling", "not exist"),
        ("fifo", "regular"),
    ] {
        reasons.push((name.to_owned(), reason));
    }
    home.put(&Function::new("good-1"));
    home.put(&Function::new("good-2").set("concurrent-requests", 3));
    (home, reasons)
}

#[tokio::test]
async fn broken_files_are_reported_and_others_serve() {
    let (home, reasons) = broken_registry();
    assert!(reasons.len() >= 50);
    let daemon = Setup::at(&home).start().await;
    daemon.get("/invoke/good-1/pid").await.ok();
    daemon.get("/invoke/good-2/pid").await.ok();
    for (name, reason) in &reasons {
        let function = daemon.function(name).await;
        assert_eq!(function["state"], "misconfigured", "{name}: {function}");
        let said = function["reason"].as_str().unwrap_or_default();
        assert!(said.contains("function.toml") && said.contains(reason), "{name}: no {reason:?} in {said:?}");
        let problem = daemon.get(&format!("/invoke/{name}/")).await.problem(500, "function_misconfigured");
        assert!(problem["detail"].as_str().unwrap().contains(reason), "{name}: {problem}");
    }
    let listed = daemon.debug().await["functions"].as_object().unwrap().len();
    assert!(listed >= reasons.len() + 2);
    daemon.get("/invoke/good-1/pid").await.ok();
}

#[tokio::test]
async fn check_lists_every_problem_and_exits_1() {
    let (home, reasons) = broken_registry();
    let output = Command::new(unifaas()).arg("check").arg("-r").arg(home.registry()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    for (name, reason) in &reasons {
        let lines = text.lines().filter(|line| line.contains(&format!("/{name}/")));
        assert!(lines.into_iter().any(|line| line.contains(reason)), "{name}: no line with {reason:?} in\n{text}");
    }
    assert!(text.contains("two words") && text.contains(&"n".repeat(64)), "names that cannot be are problems, too");
}

#[tokio::test]
async fn check_accepts_valid_registry() {
    let home = Home::new();
    home.put(&Function::new("f"));
    let output = Command::new(unifaas()).arg("check").arg("--registry").arg(home.registry()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let missing = Command::new(unifaas()).args(["check", "-r"]).arg(home.path("missing")).output().await.unwrap();
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
}

#[tokio::test]
async fn saving_while_instance_dies_leaves_function_serving() {
    let daemon = Daemon::with(Function::new("f")).await;
    for n in 0..5 {
        let pid = daemon.get("/invoke/f/pid").await.ok().pid();
        daemon.home.put(&Function::new("f").set("keepalive", 40 + n));
        // It may have ended as outdated already.
        processes::signal(pid, Signal::SIGKILL);
        processes::dead(pid).await;
        daemon.send(request("GET", "/invoke/f/pid", empty())).await.unwrap().ok();
    }
}

/// Returns the number of directories and files that the daemon watches.
fn watched(daemon: &Daemon) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid)).unwrap().flatten();
    let infos = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    infos.map(|info| info.lines().filter(|line| line.starts_with("inotify wd:")).count()).sum()
}

#[tokio::test]
async fn does_not_watch_below_functions() {
    let home = Home::new();
    let tree = home.path("tree");
    for number in 0..200 {
        fs::create_dir_all(tree.join(format!("{number}/below"))).unwrap();
    }
    home.put(&Function::new("f"));
    std::os::unix::fs::symlink(&tree, home.registry().join("f/data")).unwrap();
    fs::create_dir_all(home.registry().join("f/of/its/own")).unwrap();
    let daemon = Setup::at(&home).start().await;
    home.put(&Function::new("late"));
    daemon.answers("/invoke/late/pid", 200).await;
    // The registry and two functions.
    assert_eq!(watched(&daemon), 3);
}

/// Replaces a path by a link, atomically.
fn link(target: &Path, place: &Path) {
    let beside = place.with_file_name(".beside");
    std::os::unix::fs::symlink(target, &beside).unwrap();
    fs::rename(beside, place).unwrap();
}

#[tokio::test]
async fn follows_replaced_registry() {
    let home = Home::new();
    let put = |place: &str, function: &str, word: &str| {
        Function::new(function).env("WORD", word).write(&home.path(place), &home);
    };
    for place in ["one", "two", "three"] {
        fs::create_dir(home.path(place)).unwrap();
    }
    put("one", "f", "one");
    put("two", "f", "two");
    put("three", "f", "three");
    let registry = home.path("by-link");
    link(&home.path("one"), &registry);
    let daemon = Setup::at(&home).option("--registry", &registry).start().await;
    says(&daemon, "f", "one").await;
    // The link changes to another target.
    link(&home.path("two"), &registry);
    says(&daemon, "f", "two").await;
    put("two", "late", "late");
    says(&daemon, "late", "late").await;
    // Another directory replaces it, and again.
    fs::remove_file(&registry).unwrap();
    fs::rename(home.path("three"), &registry).unwrap();
    says(&daemon, "f", "three").await;
    fs::rename(&registry, home.path("away")).unwrap();
    fs::rename(home.path("one"), &registry).unwrap();
    says(&daemon, "f", "one").await;
    put("by-link", "later", "later");
    says(&daemon, "later", "later").await;
    // It disappears for a while, and no function is removed.
    fs::remove_dir_all(&registry).unwrap();
    tokio::time::sleep(ms(500)).await;
    assert_eq!(daemon.get("/debug/functions/later").await.status, 200);
    fs::create_dir(&registry).unwrap();
    put("by-link", "f", "anew");
    says(&daemon, "f", "anew").await;
    put("by-link", "f", "newer");
    says(&daemon, "f", "newer").await;
    daemon.answers("/invoke/later/pid", 404).await;
}

#[tokio::test]
async fn notices_change_behind_link() {
    let home = Home::new();
    for version in ["v1", "v2", "v3"] {
        fs::create_dir(home.path(version)).unwrap();
        Function::new("f").env("WORD", version).write(&home.path(version), &home);
    }
    // Like a Kubernetes volume: all links lead through one link, which is replaced.
    link(&home.path("v1"), &home.registry().join("..data"));
    link(Path::new("..data/f"), &home.registry().join("f"));
    // A file elsewhere.
    fs::create_dir(home.registry().join("g")).unwrap();
    let file = home.path("v3/f/function.toml");
    link(&file, &home.registry().join("g/function.toml"));
    let daemon = Setup::at(&home).start().await;
    says(&daemon, "f", "v1").await;
    says(&daemon, "g", "v3").await;
    link(&home.path("v2"), &home.registry().join("..data"));
    says(&daemon, "f", "v2").await;
    for word in ["written", "again"] {
        fs::write(&file, fs::read_to_string(&file).unwrap().replace("v3", word).replace("written", word)).unwrap();
        says(&daemon, "g", word).await;
    }
}
