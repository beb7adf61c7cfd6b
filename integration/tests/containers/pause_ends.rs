//! How paused containers end: with their daemon, with a later one, by other programs, and with their engine.

use std::{sync::Arc, time::Duration};

use integration::{Daemon, Engine, Home, Setup, contained, eventually, ms, processes};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    TESTFN, container, docker,
    pause::{PAUSED_SOON, RUNTIMES, busy, paused},
    shared,
};

/// Time in which an engine has restarted and ended what it found.
const RESTART: Duration = Duration::from_secs(30);

fn setup(engine: &Engine, home: &Arc<Home>) -> Setup {
    Setup::at(home).variable("DOCKER_HOST", engine.host()).option("--callback-listen", "0.0.0.0:0")
}

/// Starts a daemon with a function, whose container is paused, by another program if `externally`.
async fn with_paused(engine: &Engine, name: &str, runtime: &str, externally: bool) -> (Daemon, String) {
    let home = Home::new();
    let idle = contained(name, &[], "stop-grace = 10", &format!("runtime = {runtime:?}\ninit = true"));
    home.put(&if externally { idle } else { busy(name, runtime) });
    let daemon = setup(engine, &home).start().await;
    let first = container(&daemon, name).await;
    if externally {
        docker(engine, &["pause"], &first).await;
    }
    let id = paused(&daemon, name).await;
    (daemon, id)
}

/// Calls `end` with the daemon, the name of a function and the id of its paused container: for each runtime, and whether
/// the daemon or another program has paused it.
async fn each(engine: &Engine, name: &str, end: impl AsyncFn(Daemon, &str, &str)) {
    for runtime in RUNTIMES {
        for externally in [false, true] {
            let name = format!("{name}-{runtime}-{externally}");
            let (daemon, id) = with_paused(engine, &name, runtime, externally).await;
            let since = Instant::now();
            end(daemon, &name, &id).await;
            engine.none_left(&name).await;
            eprintln!("{name}: gone after {:?}", since.elapsed());
            assert!(since.elapsed() < Duration::from_secs(30), "{name}: {:?}", since.elapsed());
        }
    }
}

#[tokio::test]
async fn paused_containers_end_with_their_daemon() {
    let Some(engine) = shared() else { return };
    each(engine, "paused-term", async |mut daemon, name, _| {
        let ending = daemon.end().await;
        assert_eq!(ending.status.code(), Some(0), "{name}: {}", daemon.log());
        assert!(ending.took < ms(30_000), "{name}: {ending:?}");
    })
    .await;
}

#[tokio::test]
async fn next_daemon_removes_paused_containers_of_a_killed_one() {
    let Some(engine) = shared() else { return };
    each(engine, "paused-kill", async |daemon, name, _| {
        let home = daemon.home.clone();
        daemon.killed().await;
        let next = setup(engine, &home).start().await;
        let only_new = async || {
            let known = next.debug().await.to_string();
            let all = engine.containers(&format!("unifaas-{name}-")).await.into_iter();
            all.filter_map(|it| it.id).filter(|id| !known.contains(id)).collect::<Vec<_>>()
        };
        eventually(ms(30_000), "the container of the killed daemon is gone", only_new, Vec::is_empty).await;
        container(&next, name).await;
    })
    .await;
}

#[tokio::test]
async fn paused_containers_end_with_their_function() {
    let Some(engine) = shared() else { return };
    each(engine, "paused-removed", async |daemon, name, _| {
        daemon.home.remove(name);
        engine.none_left(name).await;
    })
    .await;
}

#[tokio::test]
async fn paused_container_that_is_ended_from_outside_is_replaced() {
    let Some(engine) = shared() else { return };
    for arguments in [&["kill"][..], &["stop", "--time", "20"], &["rm", "--force"]] {
        let name = format!("outside-{}", arguments[0]);
        // With an init as process 1, so that SIGTERM ends it.
        let daemon = engine.daemon(contained(&name, &["--spin"], PAUSED_SOON, "init = true")).await;
        container(&daemon, &name).await;
        let id = paused(&daemon, &name).await;
        let since = Instant::now();
        docker(engine, arguments, &id).await;
        daemon.settled(&name, "no instance", |function| function["instances"] == json!([])).await;
        assert!(since.elapsed() < ms(30_000), "{arguments:?}: {:?}", since.elapsed());
        let second = container(&daemon, &name).await;
        assert!(!id.starts_with(&second), "{second}");
    }
}

#[tokio::test]
async fn paused_container_whose_processes_are_killed_is_replaced() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("killed-{runtime}");
        let (daemon, id) = with_paused(engine, &name, runtime, false).await;
        for pid in processes::of_container(&id) {
            processes::signal(pid, Signal::SIGKILL);
        }
        // Under version 1 of cgroups, the signal waits until the next request resumes the processes.
        assert!(!id.starts_with(&container(&daemon, &name).await));
    }
}

#[tokio::test]
async fn engine_that_restarts_ends_paused_containers() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    RUNTIMES.iter().for_each(|runtime| home.put(&busy(runtime, runtime)));
    let mut daemon = setup(&engine, &home).start().await;
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        for runtime in RUNTIMES {
            container(&daemon, runtime).await;
            paused(&daemon, runtime).await;
        }
        let since = Instant::now();
        engine.signal(signal);
        // No request resumes them.
        for runtime in RUNTIMES {
            let instances = async || daemon.instances(runtime).await;
            eventually(RESTART, format!("the container of {runtime} ends"), instances, Vec::is_empty).await;
            println!("{signal}: the container of {runtime} has ended after {:?}", since.elapsed());
        }
    }
    daemon.end().await;
    for runtime in RUNTIMES {
        engine.none_left(runtime).await;
    }
}
