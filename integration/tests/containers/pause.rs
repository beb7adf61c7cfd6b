//! Idle containers that are paused, under runc and gVisor: by each way that the daemon has, and by other programs.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use integration::{
    AT_ONCE, Daemon, Engine, Function, Home, MAX_RESUMPTION, Setup, answer_times, contained, is_charged_less, ms,
    number, pause_under_load, processes,
};
use nix::unistd::{Uid, chown};
use tokio::time::{Instant, sleep};

use crate::{TESTFN, container, docker, shared};

pub const RUNTIMES: [&str; 2] = ["runc", "runsc"];
/// How long a container is observed that must use no processor.
const OBSERVED: Duration = ms(300);
pub const PAUSED_SOON: &str = "keepalive = 0.2\nkeep-paused = 600";
const NOBODY: u32 = 65_534;

/// Returns a function that uses a processor all the time unless it is paused, which it soon is.
pub fn busy(name: &str, runtime: &str) -> Function {
    contained(name, &["--spin"], PAUSED_SOON, &format!("runtime = {runtime:?}"))
}

/// Returns the id of the only container of a function, once it is paused.
pub async fn paused(daemon: &Daemon, name: &str) -> String {
    let page = daemon.until(name, "paused", 1).await;
    page["instances"][0]["engine_id"].as_str().unwrap().to_owned()
}

/// Checks that a container stands still. gVisor's sandbox uses some processor time if `by_engine`.
async fn stands_still(id: &str, by_engine: bool) {
    let all = processes::of_container(id);
    assert!(!all.is_empty(), "the container has no processes");
    let before = processes::cpu_time(&all);
    sleep(OBSERVED).await;
    let used = processes::cpu_time(&all) - before;
    let described = all.into_iter().map(processes::describe).collect::<Vec<_>>();
    assert!(used <= if by_engine { OBSERVED / 20 } else { Duration::ZERO }, "{used:?}: {described:?}");
}

/// Returns whether the engine says that a container is paused.
async fn is_paused_by_engine(engine: &Engine, id: &str) -> bool {
    let found = engine.docker().await.inspect_container(id, None).await.unwrap();
    found.state.unwrap().paused.unwrap()
}

/// Checks that a container is paused, by the engine or not, and resumed by requests.
async fn pauses(engine: &Engine, daemon: &Daemon, name: &str, by_engine: bool) {
    let first = container(daemon, name).await;
    for _ in 0..3 {
        let id = paused(daemon, name).await;
        assert!(id.starts_with(&first), "{id}");
        stands_still(&id, by_engine).await;
        assert_eq!(is_paused_by_engine(engine, &id).await, by_engine);
        assert_eq!(container(daemon, name).await, first);
    }
    paused(daemon, name).await;
    if !by_engine {
        is_charged_less(daemon, name).await;
    }
    let page = daemon.function(name).await;
    assert_eq!((number(&page, "instances_started"), number(&page["instances"][0], "served")), (1, 4));
}

#[tokio::test]
async fn busy_container_uses_no_processor_while_it_is_paused() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("pauses-{runtime}");
        let daemon = engine.daemon(busy(&name, runtime)).await;
        pauses(engine, &daemon, &name, false).await;
        drop(daemon);
        assert!(engine.containers(&format!("unifaas-{name}-")).await.is_empty());
    }
}

#[tokio::test]
async fn container_is_stopped_by_signals_where_its_cgroup_is_not_seen() {
    let Some(engine) = shared() else { return };
    let daemon = engine.setup().without_cgroups().function(busy("stopped", "runc")).start().await;
    pauses(engine, &daemon, "stopped", false).await;
    let id = paused(&daemon, "stopped").await;
    let all: Vec<_> = processes::of_container(&id).into_iter().map(processes::describe).collect();
    assert!(all.iter().all(|process| process.contains(" T ")), "{all:?}");
}

#[tokio::test]
async fn engine_pauses_for_a_daemon_without_privileges() {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let home = Home::new();
    fs::create_dir_all(home.path("state")).unwrap();
    chown(&home.path("state"), Some(Uid::from_raw(NOBODY)), None).unwrap();
    // As for a user who is in the group of the engine.
    fs::set_permissions(engine.socket().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(engine.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let ids = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    let setup = Setup::at(&home).option("--callback-listen", "0.0.0.0:0").variable("DOCKER_HOST", engine.host());
    let setup = setup.run_by(["setpriv".to_owned()].into_iter().chain(ids));
    // runc cannot always freeze a busy process.
    let function = |runtime: &str| contained(runtime, &[], PAUSED_SOON, &format!("runtime = {runtime:?}"));
    let daemon = RUNTIMES.into_iter().fold(setup, |setup, runtime| setup.function(function(runtime))).start().await;
    for runtime in RUNTIMES {
        pauses(&engine, &daemon, runtime, true).await;
    }
    drop(daemon);
    assert!(engine.containers("unifaas-").await.is_empty());
}

#[tokio::test]
async fn container_that_another_program_has_paused_is_resumed_by_the_next_request() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("external-{runtime}");
        let daemon = engine.daemon(contained(&name, &[], "", &format!("runtime = {runtime:?}"))).await;
        let first = container(&daemon, &name).await;
        for _ in 0..2 {
            docker(engine, &["pause"], &first).await;
            let id = paused(&daemon, &name).await;
            assert!(is_paused_by_engine(engine, &id).await);
            assert_eq!(container(&daemon, &name).await, first);
            assert!(!is_paused_by_engine(engine, &id).await);
        }
        daemon.logged("another program has paused an instance").await;
        // And if another program resumes it as well.
        docker(engine, &["pause"], &first).await;
        paused(&daemon, &name).await;
        docker(engine, &["unpause"], &first).await;
        assert_eq!(container(&daemon, &name).await, first);
        daemon.until(&name, "idle", 1).await;
    }
}

#[tokio::test]
async fn container_that_another_program_pauses_during_a_request_is_resumed_at_once() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("paused-busy-{runtime}");
        let daemon = engine.daemon(contained(&name, &[], "", &format!("runtime = {runtime:?}"))).await;
        let victim = container(&daemon, &name).await;
        let slow = async { (daemon.get(&format!("/invoke/{name}/sleep?ms=500")).await, Instant::now()) };
        let disturbed = async {
            daemon.until(&name, "busy", 1).await;
            docker(engine, &["pause"], &victim).await;
            Instant::now()
        };
        let ((reply, answered), paused) = futures::join!(slow, disturbed);
        reply.ok();
        assert!(answered < paused + AT_ONCE, "{:?}", answered - paused);
        assert_eq!(container(&daemon, &name).await, victim);
    }
}

#[tokio::test]
async fn answer_of_a_paused_container_is_about_as_fast_as_a_warm_one() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("fast-{runtime}");
        let top = "keepalive = 0.05\nkeep-paused = 600";
        let daemon = engine.daemon(contained(&name, &[], top, &format!("runtime = {runtime:?}"))).await;
        let (resumed, warm) = answer_times(&daemon, &name, "/env?name=HOSTNAME").await;
        assert!(resumed < warm + MAX_RESUMPTION);
    }
}

#[tokio::test]
async fn pauses_of_containers_under_load_fail_no_request() {
    let Some(engine) = shared() else { return };
    for runtime in RUNTIMES {
        let name = format!("loaded-{runtime}");
        let top = "keepalive = 0.001\nkeep-paused = 600\nmax-instances = 3";
        let daemon = engine.daemon(contained(&name, &[], top, &format!("runtime = {runtime:?}"))).await;
        pause_under_load(&daemon, &name, ["/pid"; 2]).await;
    }
}
