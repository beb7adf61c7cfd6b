//! Upgrades: the daemon leaves its listeners to a new one, and no request is lost. Whatever goes wrong, one of both serves
//! on, and nothing is left behind.
//!
//! `http2.rs` is about HTTP/2 connections, `grace.rs` about the end of the old daemon's time, `reload.rs` about SIGHUP.

mod grace;
mod http2;
mod reload;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::stream;
use integration::{
    AT_ONCE, Connection, Daemon, Function, Home, Load, Reply, Setup, Successor, UPGRADE_LIMIT, Workload, empty,
    eventually, ms, processes, refusal, request, streamed, tally, unifaas,
    vm::{self, Kind, Vm, isolated, traces},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Returns a daemon whose program can be replaced, and the path of the program.
fn replaceable(home: &Arc<Home>) -> (Setup, PathBuf) {
    let program = home.path("unifaas-daemon");
    fs::copy(unifaas(), &program).unwrap();
    (Setup::at(home).binary(&program), program)
}

/// Replaces a program as package managers do.
fn replace(program: &Path, script: &str) {
    let new = program.with_extension("new");
    fs::write(&new, script).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

/// Returns how many resources are recorded, by life of the daemon.
fn recorded(home: &Home) -> Value {
    let count = |life: PathBuf| fs::read_dir(life.join("resources")).map_or(0, Iterator::count);
    let state = home.path("state");
    let lives = fs::read_dir(state.join("lives")).into_iter().flatten().flatten();
    let lives: serde_json::Map<_, _> =
        lives.map(|life| (life.file_name().to_string_lossy().into_owned(), count(life.path()).into())).collect();
    json!({ "first": count(state), "lives": lives })
}

/// Waits until nothing is recorded and no further life has a directory.
async fn nothing_is_left(home: &Home) {
    let nothing = json!({ "first": 0, "lives": {} });
    eventually(UPGRADE_LIMIT, "nothing is left", async || recorded(home), |recorded| *recorded == nothing).await;
}

/// Requests over new connections until it is stopped, and returns the failures.
fn over_new_connections(daemon: &Daemon, path: &'static str) -> impl AsyncFnOnce() -> Vec<String> + use<> {
    let (over, failures) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<String>>>::default());
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (over, failures, to) = (over.clone(), failures.clone(), daemon.listen);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let answer = async {
                        let mut connection = Connection::open(to).await.map_err(|error| error.to_string())?;
                        connection.send(request("GET", path, empty())).await.map_err(|error| format!("{error:?}"))
                    };
                    match answer.await {
                        Ok(reply) if reply.status == 200 => {}
                        Ok(reply) => failures.lock().unwrap().push(format!("{} {}", reply.status, reply.text())),
                        Err(error) => failures.lock().unwrap().push(error),
                    }
                    tokio::time::sleep(ms(20)).await;
                }
            })
        })
        .collect();
    async move || {
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        std::mem::take(&mut *failures.lock().unwrap())
    }
}

#[tokio::test]
async fn ten_upgrades_under_load_lose_no_request() {
    let function = Function::new("f").set("concurrent-requests", 4).set("min-instances", 1);
    let daemon = Daemon::with(function).await;
    daemon.until("f", "idle", 1).await;
    let workload = |path, clients| Workload { method: "GET", path, clients, pause: ms(20) };
    let kept = Load::on(daemon.listen, &[workload("/invoke/f/pid", 2), workload("/invoke/f/sleep?ms=50", 2)]);
    let new = over_new_connections(&daemon, "/invoke/f/pid");
    let mut last = None;
    for _ in 0..10 {
        let next = daemon.upgrade().await;
        if let Some(before) = last.replace(next) {
            before.ended().await;
        }
    }
    let answers = kept.stop().await;
    let tally = tally(&answers);
    assert_eq!(
        tally.keys().map(|(_, label)| label.as_str()).collect::<Vec<_>>(),
        ["200 by the function"; 1],
        "{tally:?}"
    );
    assert!(answers.len() > 100, "{tally:?}");
    assert_eq!(new().await, [""; 0]);
    assert_eq!(daemon.debug().await["daemon"]["pid"], last.as_ref().unwrap().pid);
    drop(last);
    nothing_is_left(&daemon.home).await;
}

#[tokio::test]
async fn long_requests_end_in_the_old_daemon_whose_memory_counts() {
    let setup = Setup::default().option("--memory-budget", "300");
    let daemon = setup.function(Function::new("f").set("concurrent-requests", 1)).start().await;
    let mut client = daemon.connect().await;
    let in_flight =
        tokio::spawn(async move { client.send(request("GET", "/invoke/f/sleep?ms=4000", empty())).await.unwrap() });
    daemon.until("f", "busy", 1).await;
    let new = daemon.upgrade().await;
    // The instance of the old daemon takes 128 of 300 MiB.
    let free = async || daemon.debug().await["daemon"]["memory_free"].clone();
    eventually(AT_ONCE, "its memory counts", free, |free| *free == 172).await;
    daemon.request_upgrade().await.problem(409, "upgrade_under_way");
    daemon.get("/invoke/f/pid").await.ok();
    let reply = in_flight.await.unwrap().ok();
    assert!(reply.took >= ms(4000));
    eventually(
        UPGRADE_LIMIT,
        "its memory is free",
        async || daemon.debug().await["daemon"]["memory_free"].clone(),
        |free| *free == 172,
    )
    .await;
    drop(new);
    nothing_is_left(&daemon.home).await;
}

#[tokio::test]
async fn boots_under_way_call_back_to_the_old_daemon() {
    let daemon = Daemon::with(Function::new("f").flag("--boot-delay").flag("3000")).await;
    let mut client = daemon.connect().await;
    let in_flight = tokio::spawn(async move { client.send(request("GET", "/invoke/f/pid", empty())).await.unwrap() });
    daemon.until("f", "booting", 1).await;
    let new = daemon.upgrade().await;
    in_flight.await.unwrap().ok();
    drop(new);
    nothing_is_left(&daemon.home).await;
}

#[tokio::test]
async fn programs_that_fail_change_nothing() {
    let home = Home::new();
    let (setup, program) = replaceable(&home);
    let config = home.path("settings.toml");
    fs::write(&config, "").unwrap();
    let setup = setup.variable("UNIFAAS_CONFIG", &config).function(Function::new("f").set("min-instances", 1));
    let daemon = setup.start().await;
    let before = daemon.get("/invoke/f/pid").await.ok().pid();
    let check = async |what: &str, hint: &str| {
        let problem = daemon.request_upgrade().await.problem(500, "upgrade_failed");
        assert!(problem["detail"].as_str().unwrap().contains(hint), "{what}: {problem}");
        assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), before, "{what}");
        assert_eq!(recorded(&home)["lives"], json!({}), "{what}");
    };
    replace(&program, "#!/bin/sh\nexit 3\n");
    check("it exits", "exit status: 3").await;
    replace(&program, "not a program");
    check("it is no program", "cannot be started").await;
    fs::remove_file(&program).unwrap();
    check("it is missing", "cannot be started").await;
    fs::copy(unifaas(), &program).unwrap();
    fs::write(&config, "lisen = 1\n").unwrap();
    check("its configuration is wrong", "exit status: 2").await;
    assert!(daemon.logged("lisen").await.contains("listen"));
    fs::write(&config, "state-dir = \"/elsewhere\"\n").unwrap();
    // The command line, which comes first, has the option as well.
    let new = daemon.upgrade().await;
    assert_ne!(daemon.get("/invoke/f/pid").await.ok().pid(), before);
    drop(new);
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn program_that_hangs_is_ended_and_changes_nothing() {
    let home = Home::new();
    let (setup, program) = replaceable(&home);
    let daemon = setup.function(Function::new("f").set("min-instances", 1)).start().await;
    let before = daemon.get("/invoke/f/pid").await.ok().pid();
    replace(&program, "#!/bin/sh\nexec sleep 1000\n");
    let problem = daemon.request_upgrade().await.problem(500, "upgrade_failed");
    assert!(problem["detail"].as_str().unwrap().contains("not ready within"), "{problem}");
    assert_eq!(daemon.get("/invoke/f/pid").await.ok().pid(), before);
}

/// Returns a daemon during an upgrade: the new one waits for its `min-instances`. Also returns its process id.
async fn preparing() -> (Daemon, u32, tokio::task::JoinHandle<Option<Reply>>) {
    let function = Function::new("f").flag("--boot-delay").flag("5000").set("min-instances", 1);
    let daemon = Daemon::with(function).await;
    let (new, asked) = begin_upgrade(&daemon).await;
    (daemon, new, asked)
}

/// Asks for an upgrade of a daemon whose function `f` has an instance at all times and boots slowly. Returns the process id of
/// the new daemon once it has started its instance, and the answer to come.
async fn begin_upgrade(daemon: &Daemon) -> (u32, tokio::task::JoinHandle<Option<Reply>>) {
    daemon.until("f", "idle", 1).await;
    let listen = daemon.listen;
    let asked = tokio::spawn(async move {
        let mut request = request("POST", "/debug/upgrade", empty());
        request.headers_mut().insert("x-unifaas", "1".parse().unwrap());
        Connection::open(listen).await.unwrap().send(request).await.ok()
    });
    // The old daemon's function, and the new one's.
    let functions = async || daemon.home.processes().len();
    eventually(UPGRADE_LIMIT, "it starts its function", functions, |count| *count == 2).await;
    let is_daemon = |pid: &u32| processes::arguments(*pid).iter().any(|argument| argument == "--registry");
    let new = processes::children(daemon.pid).into_iter().find(is_daemon).expect("a new daemon");
    (new, asked)
}

#[tokio::test]
async fn a_new_daemon_that_is_killed_before_it_is_ready_changes_nothing() {
    let (daemon, new, asked) = preparing().await;
    processes::signal(new, Signal::SIGKILL);
    asked.await.unwrap().unwrap().problem(500, "upgrade_failed");
    daemon.get("/invoke/f/pid").await.ok();
    daemon.home.left(1).await;
    assert_eq!(recorded(&daemon.home)["lives"], json!({}));
}

#[tokio::test]
async fn an_old_daemon_that_is_killed_before_the_new_one_is_ready_ends_both() {
    let (daemon, new, asked) = preparing().await;
    let home = daemon.home.clone();
    daemon.killed().await;
    let _ = asked.await;
    Successor { pid: new }.ended().await;
    home.left(0).await;
    // The next start removes what the killed one has left.
    let next = Setup::at(&home).start().await;
    next.until("f", "idle", 1).await;
    drop(next);
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn an_old_daemon_that_ends_before_the_new_one_is_ready_ends_both() {
    let (mut daemon, new, asked) = preparing().await;
    daemon.end().await;
    let _ = asked.await;
    Successor { pid: new }.ended().await;
    nothing_is_left(&daemon.home).await;
}

/// Returns a daemon that has been replaced and finishes a request of one minute.
async fn replaced() -> (Daemon, Successor) {
    let daemon = Daemon::with(Function::new("f").set("concurrent-requests", 1)).await;
    let mut client = daemon.connect().await;
    tokio::spawn(async move { client.send(request("GET", "/invoke/f/sleep?ms=60000", empty())).await });
    daemon.until("f", "busy", 1).await;
    let new = daemon.upgrade().await;
    daemon.get("/invoke/f/pid").await.ok();
    daemon.home.left(2).await;
    (daemon, new)
}

#[tokio::test]
async fn what_a_killed_old_daemon_leaves_is_removed_by_the_new_one() {
    let (daemon, new) = replaced().await;
    let home = daemon.home.clone();
    processes::signal(daemon.pid, Signal::SIGKILL);
    home.left(1).await;
    eventually(UPGRADE_LIMIT, "its records are removed", async || recorded(&home)["first"].clone(), |left| *left == 0)
        .await;
    daemon.get("/invoke/f/pid").await.ok();
    let error = refusal(Setup::at(&home).command()).await;
    assert!(error.contains(&format!("in use by another daemon, process {}", new.pid)), "{error}");
    drop(new);
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn what_a_killed_new_daemon_leaves_is_removed_by_the_next_one() {
    let (mut daemon, new) = replaced().await;
    let home = daemon.home.clone();
    processes::signal(new.pid, Signal::SIGKILL);
    new.ended().await;
    daemon.end().await;
    home.left(0).await;
    let next = Setup::at(&home).start().await;
    next.get("/invoke/f/pid").await.ok();
    drop(next);
    nothing_is_left(&home).await;
}

#[tokio::test]
async fn both_end_with_the_new_one() {
    let (mut daemon, new) = replaced().await;
    processes::signal(new.pid, Signal::SIGTERM);
    daemon.ended_within(UPGRADE_LIMIT).await;
    new.ended().await;
    nothing_is_left(&daemon.home).await;
}

#[test]
fn virtual_machines_of_both_daemons_share_the_address_range() {
    isolated(|| async {
        let daemon = vm::daemon(Vm::new("f", Kind::any()).set("min-instances", 1)).await;
        let old = daemon.get("/invoke/f/hello").await.ok().text();
        // A request that the old daemon finishes, if it may.
        let mut client = daemon.connect().await;
        let endless = request("POST", "/invoke/f/echo", streamed(stream::pending()));
        let held = tokio::spawn(async move { client.send(endless).await.is_ok() });
        daemon.until("f", "busy", 1).await;
        let new = daemon.upgrade().await;
        let other = daemon.get("/invoke/f/hello").await.ok().text();
        assert!(other.starts_with("Hello from the unikernel at 10.100."), "{other}");
        assert_ne!(old, other, "each has an address of its own");

        processes::signal(daemon.pid, Signal::SIGKILL);
        assert!(!held.await.unwrap());
        eventually(
            UPGRADE_LIMIT,
            "its records are removed",
            async || recorded(&daemon.home)["first"].clone(),
            |left| *left == 0,
        )
        .await;
        assert_eq!(daemon.get("/invoke/f/hello").await.ok().text(), other);
        let tables = traces().iter().filter(|trace| trace.starts_with("table")).count();
        assert_eq!(tables, 1, "{:?}", traces());
        drop(new);
        assert_eq!(traces(), [""; 0]);
    });
}
