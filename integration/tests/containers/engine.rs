//! An engine that is absent, hangs or restarts. Each test has a private engine.

use std::{fs, pin::pin, time::Duration};

use futures::future::{Either, join_all, select};
use integration::{
    AT_ONCE, Daemon, Engine, Function, Home, Reply, SOON, Setup, contained, eventually, ms, processes, vm,
};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::{TESTFN, container};

/// Starts a daemon with a container function and a process function.
async fn mixed(engine: &Engine, container: Function) -> Daemon {
    engine.setup().function(container).function(Function::new("process")).start().await
}

#[tokio::test]
async fn absent_engine_fails_only_container_functions() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    engine.kill(true);
    std::fs::remove_file(engine.socket()).unwrap();
    let daemon = mixed(&engine, contained("f", &[], "", "")).await;
    for _ in 0..3 {
        let reply = daemon.get("/invoke/f/").await;
        let problem = reply.problem(502, "start_failed").to_string();
        assert!(problem.contains("cannot be reached") && problem.contains("docker.sock"), "{problem}");
        assert!(reply.took < AT_ONCE, "{:?}", reply.took);
    }
    daemon.get("/invoke/process/pid").await.ok();
    engine.release();
    // After three failures there is a pause of at most a second, because the host is at fault.
    daemon.answers("/invoke/f/", 200).await;
}

#[tokio::test]
async fn hanging_engine_is_reported_and_leaves_nothing() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = mixed(&engine, contained("f", &[], "single-use = true", "")).await;
    container(&daemon, "f").await;
    engine.none_left("f").await;

    engine.signal(Signal::SIGSTOP);
    let hang = async {
        let reply = daemon.get("/invoke/f/").await;
        let problem = reply.problem(502, "start_failed").to_string();
        assert!(problem.contains("did not answer within"), "{problem}");
        assert!(reply.took < Duration::from_secs(20), "{:?}", reply.took);
        reply.took
    };
    let others = async {
        let mut longest = Duration::ZERO;
        for _ in 0..50 {
            longest = longest.max(daemon.get("/invoke/process/pid").await.ok().took);
            tokio::time::sleep(ms(100)).await;
        }
        longest
    };
    let (hung, longest) = futures::join!(hang, others);
    assert!(longest < hung / 2, "a process function took {longest:?}, the container function {hung:?}");
    engine.signal(Signal::SIGCONT);
    container(&daemon, "f").await;
    // The engine executes delayed commands when it continues; the daemon undoes them.
    tokio::time::sleep(Duration::from_secs(3)).await;
    engine.none_left("f").await;
}

#[tokio::test]
async fn containers_serve_while_engine_is_stopped() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = mixed(&engine, contained("f", &[], "", "")).await;
    let first = container(&daemon, "f").await;
    engine.kill(true);
    assert_eq!(container(&daemon, "f").await, first);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(container(&daemon, "f").await, first);
    // A starting engine ends the containers it finds, unless configured otherwise.
    engine.release();
    let reply = async || daemon.get("/invoke/f/env?name=HOSTNAME").await;
    let is_other = |reply: &Reply| reply.status == 200 && reply.text() != first;
    let second = eventually(SOON, "another container serves", reply, is_other).await.text();
    daemon.until("f", "idle", 1).await;
    assert_eq!(container(&daemon, "f").await, second);
    assert_eq!(engine.containers("unifaas-f-").await.len(), 1);
}

/// Stops the engine while its runtime starts a container, of which the engine has no record then.
async fn stop_during_start(engine: &Engine) {
    let starts = |tree: &Vec<String>| tree.iter().any(|line| line.contains("runc ") && line.contains(" start "));
    eventually(SOON, "the runtime starts a container", async || engine.tree(), starts).await;
    engine.signal(Signal::SIGSTOP);
}

fn described(engine: &Engine) -> Vec<String> {
    engine.inside().into_iter().map(processes::describe).collect()
}

/// The next engine removes a container without a record of its start, and does not know its processes.
#[tokio::test]
async fn container_of_killed_engine_ends_with_its_processes() {
    const ROUNDS: usize = 30;
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = mixed(&engine, contained("f", &[], "single-use = true", "")).await;
    for _ in 0..ROUNDS {
        container(&daemon, "f").await;
        engine.none_left("f").await;
        let request = pin!(daemon.get("/invoke/f/"));
        // The runtime may not be seen, and the engine may have just recorded the start.
        let Either::Right(((), request)) = select(request, pin!(stop_during_start(&engine))).await else { continue };
        let runs = |lines: &Vec<String>| lines.iter().any(|line| line.contains("/testfn"));
        eventually(SOON, "its program runs", async || described(&engine), runs).await;
        engine.kill(true);
        request.await;
        engine.release();
        let left = async || (described(&engine), engine.containers("unifaas-f-").await);
        let is_nothing = |(processes, containers): &(Vec<_>, Vec<_>)| processes.is_empty() && containers.is_empty();
        eventually(SOON, "nothing is left", left, is_nothing).await;
        if daemon.log().contains("left processes of a removed container, which were killed") {
            return;
        }
    }
    panic!("in {ROUNDS} rounds, the engine has lost no container:\n{}", daemon.log());
}

/// Disconnects every container from the engine's networks, without the engine.
fn unplug_all() {
    for link in vm::ip("-o link show type veth").lines() {
        let name = link.split([':', '@']).nth(1).expect("a number and a name").trim();
        vm::ip(&format!("link del {name}"));
    }
}

#[tokio::test]
async fn request_in_disconnected_container_fails_once_engine_returns() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = engine.daemon(contained("f", &[], "", "")).await;
    container(&daemon, "f").await;
    let disturb = async {
        daemon.until("f", "busy", 1).await;
        engine.kill(true);
        unplug_all();
        engine.release();
        Instant::now()
    };
    let request = async { (daemon.post("/invoke/f/sleep?ms=50000", "").await, Instant::now()) };
    let ((reply, answered), back) = futures::join!(request, disturb);
    reply.problem(502, "instance_failed");
    let after = answered.saturating_duration_since(back);
    assert!(after < Duration::from_secs(5), "{after:?} after the engine was back");
    container(&daemon, "f").await;
}

/// Returns whether a container is recorded.
fn is_recorded(home: &Home) -> bool {
    let files = fs::read_dir(home.path("state/resources")).unwrap();
    let mut texts = files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok());
    // The first line is the record, and empty after the release.
    texts.any(|text| text.lines().next().is_some_and(|record| record.contains("\"container\"")))
}

/// Ends a daemon while the engine is stopped, starts the next one, and restarts the engine.
async fn removes_what_was_left(end: impl AsyncFnOnce(Daemon)) {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    home.put(&contained("f", &[], "min-instances = 2", ""));
    let setup = || Setup::at(&home).variable("DOCKER_HOST", engine.host()).option("--drain-grace", "0.2");
    let daemon = setup().option("--callback-listen", "0.0.0.0:0").start().await;
    daemon.until("f", "idle", 2).await;
    let foreign = engine.foreign("unifaas-f-foreign").await;
    engine.kill(true);
    end(daemon).await;
    assert!(is_recorded(&home));

    home.remove("f");
    home.put(&Function::new("process"));
    let started = Instant::now();
    let daemon = setup().start().await;
    daemon.get("/invoke/process/pid").await.ok();
    assert!(started.elapsed() < AT_ONCE, "it waited for the engine: {:?}", started.elapsed());
    daemon.logged("cannot be removed yet").await;
    tokio::time::sleep(ms(500)).await;
    assert!(is_recorded(&home));

    engine.release();
    let left = async || {
        let containers = engine.containers("unifaas-f-").await.into_iter();
        (containers.filter_map(|container| container.id).collect::<Vec<_>>(), is_recorded(&home))
    };
    let what = "only the foreign one is left, and no record";
    eventually(SOON, what, left, |left| *left == (vec![foreign.clone()], false)).await;
    let is_count = |line: &str| line.contains("\"kind\":\"containers\"") && line.contains("\"count\":2");
    let is_logged = |log: &String| log.lines().any(is_count);
    eventually(SOON, "the removal is logged", async || daemon.log(), is_logged).await;
}

#[tokio::test]
async fn containers_of_killed_daemon_are_removed_when_engine_returns() {
    removes_what_was_left(async |daemon| daemon.killed().await).await;
}

#[tokio::test]
async fn next_daemon_removes_remaining_containers() {
    removes_what_was_left(async |mut daemon| ends_without_its_engine(&mut daemon).await).await;
}

/// Stops the daemon, which must not wait long for the missing engine.
async fn ends_without_its_engine(daemon: &mut Daemon) {
    let ending = daemon.end().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < Duration::from_secs(11), "{ending:?}");
    assert!(daemon.log().contains("left for the next daemon to remove"));
}

#[tokio::test]
async fn daemon_exits_with_hanging_engine() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    home.put(&contained("f", &[], "min-instances = 2", ""));
    let setup = || Setup::at(&home).variable("DOCKER_HOST", engine.host());
    let mut daemon = setup().option("--callback-listen", "0.0.0.0:0").start().await;
    daemon.until("f", "idle", 2).await;
    engine.signal(Signal::SIGSTOP);
    ends_without_its_engine(&mut daemon).await;
    assert!(is_recorded(&home));
    home.remove("f");
    let _next = setup().start().await;
    engine.signal(Signal::SIGCONT);
    engine.none_left("f").await;
    eventually(SOON, "they are not recorded", async || is_recorded(&home), |recorded| !recorded).await;
}

#[tokio::test]
async fn request_finishes_while_daemon_drains_without_engine() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    home.put(&contained("f", &[], "", ""));
    let mut daemon =
        Setup::at(&home).variable("DOCKER_HOST", engine.host()).option("--callback-listen", "0.0.0.0:0").start().await;
    container(&daemon, "f").await;
    let long = async { daemon.get("/invoke/f/sleep?ms=4000").await };
    let signalled = async {
        daemon.until("f", "busy", 1).await;
        engine.kill(true);
        daemon.signal(Signal::SIGTERM);
    };
    futures::join!(long, signalled).0.ok();
    assert!(daemon.ended().await.took < Duration::from_secs(11));
}

/// Sends requests until a time; returns the numbers of served and failed ones.
async fn client(daemon: &Daemon, path: &str, until: Instant) -> (u32, u32) {
    let (mut good, mut bad) = (0, 0);
    while Instant::now() < until {
        match daemon.get(path).await.status {
            200 => good += 1,
            502..=504 => {
                bad += 1;
                tokio::time::sleep(ms(50)).await;
            }
            other => panic!("{path}: {other}"),
        }
    }
    (good, bad)
}

async fn restarts_under_load(signal: Signal) {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = mixed(&engine, contained("f", &[], "concurrent-requests = 4\nmax-instances = 2", "")).await;
    container(&daemon, "f").await;
    let until = Instant::now() + Duration::from_secs(12);
    let load = join_all((0..4).map(|_| client(&daemon, "/invoke/f/sleep?ms=20", until)));
    let others = client(&daemon, "/invoke/process/sleep?ms=20", until);
    let restart = async {
        tokio::time::sleep(ms(1000)).await;
        engine.signal(signal);
    };
    let (load, others, ()) = futures::join!(load, others, restart);
    assert!(load.iter().all(|(good, _)| *good > 20), "{load:?}");
    assert_eq!(others.1, 0, "the process function was affected");
    daemon.answers("/invoke/f/pid", 200).await;
    drop(daemon);
    engine.none_left("f").await;
}

#[tokio::test]
async fn killed_engine_serves_again_under_load() {
    restarts_under_load(Signal::SIGKILL).await;
}

#[tokio::test]
async fn restarted_engine_serves_again_under_load() {
    restarts_under_load(Signal::SIGTERM).await;
}
