//! An engine that is absent, hangs or restarts. Each test has one of its own to maltreat.

use std::{fs, time::Duration};

use futures::future::join_all;
use integration::{Daemon, Engine, Function, Home, Setup, contained, eventually, ms, vm};
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::{TESTFN, container};

/// A daemon with a function in a container, and one that needs no engine.
async fn mixed(engine: &Engine, container: Function) -> Daemon {
    engine.setup().function(container).function(Function::new("process")).start().await
}

#[tokio::test]
async fn an_absent_engine_fails_its_functions_only_and_is_used_as_soon_as_it_is_there() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    engine.kill(true);
    std::fs::remove_file(engine.socket()).unwrap();
    let daemon = mixed(&engine, contained("f", &[], "", "")).await;
    for _ in 0..3 {
        let reply = daemon.get("/invoke/f/").await;
        let problem = reply.problem(502, "start_failed").to_string();
        assert!(problem.contains("cannot be reached") && problem.contains("docker.sock"), "{problem}");
        assert!(reply.took < ms(500), "{:?}", reply.took);
    }
    daemon.get("/invoke/process/pid").await.ok();
    engine.release();
    // After three failures in a row there is a pause between attempts, of a second at most: it is no fault of the function.
    eventually(ms(2000), "an answer", async || (daemon.get("/invoke/f/").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn an_engine_that_hangs_is_a_clear_error_and_leaves_nothing_behind_once_it_goes_on() {
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
    };
    let others = async {
        for _ in 0..50 {
            let reply = daemon.get("/invoke/process/pid").await.ok();
            assert!(reply.took < ms(1000), "{:?}", reply.took);
            tokio::time::sleep(ms(100)).await;
        }
    };
    futures::join!(hang, others);
    engine.signal(Signal::SIGCONT);
    container(&daemon, "f").await;
    // What was asked of it while it hung, it does now; and that is undone.
    tokio::time::sleep(Duration::from_secs(3)).await;
    engine.none_left("f").await;
}

#[tokio::test]
async fn containers_serve_on_while_the_engine_is_away_and_are_replaced_when_its_return_ends_them() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let daemon = mixed(&engine, contained("f", &[], "", "")).await;
    let first = container(&daemon, "f").await;
    engine.kill(true);
    assert_eq!(container(&daemon, "f").await, first);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(container(&daemon, "f").await, first);
    // An engine that starts ends the containers that it finds, unless it was told to keep them.
    engine.release();
    let second = eventually(Duration::from_secs(20), "another container serves", async || {
        let reply = daemon.get("/invoke/f/env?name=HOSTNAME").await;
        (reply.status == 200 && reply.text() != first).then(|| reply.text())
    });
    let second = second.await;
    daemon.until("f", "idle", 1).await;
    assert_eq!(container(&daemon, "f").await, second);
    assert_eq!(engine.containers("unifaas-f-").await.len(), 1);
}

/// Takes every container off the networks of the engine, without asking it.
fn unplug_all() {
    for link in vm::ip("-o link show type veth").lines() {
        let name = link.split([':', '@']).nth(1).expect("a number and a name").trim();
        vm::ip(&format!("link del {name}"));
    }
}

#[tokio::test]
async fn a_request_in_a_container_without_a_network_is_answered_as_soon_as_the_engine_can_tell() {
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
    files.filter_map(|file| fs::read_to_string(file.unwrap().path()).ok()).any(|text| text.contains("\"container\""))
}

/// Ends a daemon while the engine is away, starts the next one, and lets the engine come back.
async fn removes_what_was_left(end: impl AsyncFnOnce(Daemon)) {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    home.put(&contained("f", &[], "min-instances = 2", ""));
    let setup = || Setup::at(&home).variable("DOCKER_HOST", engine.host()).option("--drain-grace", "0.2");
    let daemon = setup().option("--callback-listen", "0.0.0.0:0").start().await;
    daemon.until("f", "idle", 2).await;
    let foreign = engine.foreign("unifaas-f-of-somebody-else").await;
    engine.kill(true);
    end(daemon).await;
    assert!(is_recorded(&home));

    home.remove("f");
    home.put(&Function::new("process"));
    let started = Instant::now();
    let daemon = setup().start().await;
    daemon.get("/invoke/process/pid").await.ok();
    assert!(started.elapsed() < ms(2000), "it waited for the engine: {:?}", started.elapsed());
    eventually(ms(3000), "it is told", async || daemon.log().contains("cannot be removed yet").then_some(())).await;
    tokio::time::sleep(ms(500)).await;
    assert!(is_recorded(&home));

    engine.release();
    eventually(Duration::from_secs(20), "they and their records are removed", async || {
        let left = engine.containers("unifaas-f-").await;
        let only_foreign = left.len() == 1 && left[0].id.as_deref() == Some(foreign.as_str());
        (only_foreign && !is_recorded(&home)).then_some(())
    })
    .await;
    eventually(ms(3000), "that is told", async || {
        let told = |line: &str| line.contains("\"kind\":\"containers\"") && line.contains("\"count\":2");
        daemon.log().lines().any(told).then_some(())
    })
    .await;
}

#[tokio::test]
async fn containers_of_a_killed_daemon_are_removed_when_the_engine_is_back() {
    removes_what_was_left(async |daemon| daemon.killed().await).await;
}

#[tokio::test]
async fn containers_that_could_not_be_removed_at_the_end_are_removed_by_the_next_daemon() {
    removes_what_was_left(async |mut daemon| ends_without_its_engine(&mut daemon).await).await;
}

/// Asks the daemon to end, which takes no longer than to be sure that nothing can be done.
async fn ends_without_its_engine(daemon: &mut Daemon) {
    let ending = daemon.end().await;
    assert_eq!(ending.status.code(), Some(0));
    assert!(ending.took < Duration::from_secs(11), "{ending:?}");
    assert!(daemon.log().contains("left for the next daemon to remove"));
}

#[tokio::test]
async fn a_daemon_whose_engine_hangs_ends_all_the_same_and_the_next_one_removes_what_is_left() {
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
    eventually(ms(5000), "they are struck out", async || (!is_recorded(&home)).then_some(())).await;
}

#[tokio::test]
async fn a_request_in_a_container_may_finish_while_the_daemon_ends_without_its_engine() {
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

/// Asks until told to stop; how many answers were good, and how many were not.
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
    assert_eq!(others.1, 0, "a function without an engine was harmed");
    eventually(Duration::from_secs(20), "it serves again", async || {
        (daemon.get("/invoke/f/pid").await.status == 200).then_some(())
    })
    .await;
    drop(daemon);
    engine.none_left("f").await;
}

#[tokio::test]
async fn an_engine_that_is_killed_and_restarted_under_load_serves_again() {
    restarts_under_load(Signal::SIGKILL).await;
}

#[tokio::test]
async fn an_engine_that_is_restarted_in_order_under_load_serves_again() {
    restarts_under_load(Signal::SIGTERM).await;
}
