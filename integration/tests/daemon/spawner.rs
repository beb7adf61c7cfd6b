//! The kill of the spawner process, which has started all processes, while instances serve and while they start.

use std::{ops::RangeInclusive, time::Duration};

use integration::{
    Census, Daemon, Function, Load, Outcome, SOON, Setup, Workload, eventually, ms, number, processes, tally, within,
};
use nix::{sys::signal::Signal, unistd::geteuid};
use serde_json::{Value, json};

const KILLS: u64 = 20;

/// Kills the spawner process and waits for its death.
async fn kill_spawner(daemon: &Daemon) {
    let spawner = processes::spawner_of(daemon.pid);
    assert!(processes::signal(spawner, Signal::SIGKILL));
    processes::dead(spawner).await;
}

fn is_spawner(arguments: &[String]) -> bool {
    arguments.get(1).is_some_and(|argument| argument == "spawner")
}

/// Waits until the log says that one spawner process has ended, and with it so many processes.
async fn logged(daemon: &Daemon, processes: RangeInclusive<u64>) {
    let losses = async || {
        let log = daemon.log();
        let lines = log.lines().filter(|line| line.contains("the spawner process has ended, and with it"));
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect(line));
        lines.map(|line| number(&line, "processes")).collect::<Vec<_>>()
    };
    let is_expected = |losses: &Vec<u64>| losses.len() == 1 && processes.contains(&losses[0]);
    eventually(SOON, format!("the log says {processes:?}"), losses, is_expected).await;
}

/// Waits until the daemon has no more descriptors and children than before.
async fn as_before(daemon: &Daemon, before: Census) {
    let is_as_before = |now: &Census| now.descriptors <= before.descriptors && now.children <= before.children;
    eventually(SOON, format!("{before} as before"), async || Census::of(daemon.pid), is_as_before).await;
}

async fn serving_instance_ends_and_the_next_request_is_served(setup: Setup) {
    let function = Function::new("f").flag("--descendant").flag("own-session");
    let daemon = setup.function(function).start().await;
    let first = daemon.get("/invoke/f/pid").await.ok().pid();
    let before = Census::of(daemon.pid);
    let kill = async {
        daemon.settled("f", "a request", |function| function["instances"][0]["in_flight"] == 1).await;
        // A request that the function has not read yet would be repeated with another instance.
        tokio::time::sleep(ms(500)).await;
        kill_spawner(&daemon).await;
    };
    // A GET would be repeated with another instance.
    let served = within(SOON, "a response", daemon.post("/invoke/f/sleep?ms=60000", ""));
    let (reply, ()) = futures::join!(served, kill);
    let problem = reply.problem(502, "instance_failed").to_string();
    assert!(problem.contains("killed: the spawner process has ended"), "{problem}");
    daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
    assert_eq!(daemon.home.processes(), [0; 0], "its descendant, too");

    let second = within(SOON, "a response", daemon.get("/invoke/f/pid")).await.ok().pid();
    assert_ne!(second, first);
    logged(&daemon, 1..=1).await;
    assert!(processes::zombies_of(daemon.pid).is_empty());
    as_before(&daemon, before).await;
}

#[tokio::test]
async fn serving_instance_ends_with_its_spawner() {
    serving_instance_ends_and_the_next_request_is_served(Setup::default()).await;
}

#[tokio::test]
async fn serving_instance_ends_with_its_spawner_without_cgroups() {
    if geteuid().is_root() {
        serving_instance_ends_and_the_next_request_is_served(Setup::default().without_cgroups()).await;
    }
}

#[tokio::test]
async fn instances_that_are_kept_ready_are_replaced_without_a_request() {
    let daemon = Daemon::with(Function::new("f").set("min-instances", 3)).await;
    let pids = |function: &Value| -> Vec<u64> {
        function["instances"].as_array().unwrap().iter().map(|instance| number(instance, "pid")).collect()
    };
    let before = pids(&daemon.until("f", "idle", 3).await);
    kill_spawner(&daemon).await;
    let replaced = |function: &Value| {
        let idle = |instance: &Value| instance["state"] == "idle";
        let instances = function["instances"].as_array().unwrap();
        instances.len() == 3 && instances.iter().all(idle) && !pids(function).iter().any(|pid| before.contains(pid))
    };
    daemon.settled("f", "three others", replaced).await;
    logged(&daemon, 3..=3).await;
}

#[tokio::test]
async fn start_in_flight_is_repeated() {
    let daemon = Daemon::with(Function::new("f").set("single-use", true)).await;
    // It may have been forked and not be executed yet.
    let arguments = async || processes::children(daemon.pid).into_iter().map(processes::arguments).collect();
    eventually(SOON, "a spawner process", arguments, |all: &Vec<Vec<String>>| {
        all.iter().any(|arguments| is_spawner(arguments))
    })
    .await;
    // The start is requested, and is not carried out.
    let spawner = processes::spawner_of(daemon.pid);
    assert!(processes::signal(spawner, Signal::SIGSTOP));
    let kill = async {
        daemon.until("f", "launching", 3).await;
        kill_spawner(&daemon).await;
    };
    let served = || within(SOON, "a response", daemon.get("/invoke/f/pid"));
    let (first, second, third, ()) = futures::join!(served(), served(), served(), kill);
    for reply in [first, second, third] {
        reply.ok();
    }
    assert_ne!(processes::spawner_of(daemon.pid), spawner);
    // Those that had reached it; the others begin with the next one.
    logged(&daemon, 1..=3).await;
    assert_eq!(daemon.counter("f", "ok").await, 3);
}

#[tokio::test]
async fn repeated_kills_under_load_lose_no_response_and_leave_nothing() {
    let setup = Setup::default().function(Function::new("once").set("single-use", true));
    let daemon = setup.function(Function::new("kept").set("concurrent-requests", 2).ends_after(0.2)).start().await;
    for path in ["/invoke/once/pid", "/invoke/kept/pid"] {
        daemon.get(path).await.ok();
    }
    idle(&daemon).await;
    let before = Census::of(daemon.pid);
    let workload = |path| Workload { method: "POST", path, clients: 4, pause: ms(1) };
    let load = Load::on(daemon.listen, &[workload("/invoke/once/pid"), workload("/invoke/kept/sleep?ms=5")]);
    for round in 0..KILLS {
        // At different moments of starts.
        tokio::time::sleep(ms(40) + Duration::from_micros(round * 700)).await;
        kill_spawner(&daemon).await;
        let arguments = async || processes::children(daemon.pid).into_iter().map(processes::arguments).collect();
        eventually(SOON, "another one", arguments, |all: &Vec<Vec<String>>| {
            all.iter().any(|arguments| is_spawner(arguments))
        })
        .await;
    }
    let answers = within(SOON, "all responses", load.stop()).await;
    let expected = |outcome: &Outcome| match outcome {
        Outcome::Function { status } => *status == 200,
        Outcome::Platform { status: 502, code, .. } => {
            ["instance_failed", "boot_failed", "start_failed"].contains(&code.as_str())
        }
        _ => false,
    };
    let odd = answers.iter().find(|answer| !expected(&answer.outcome));
    assert!(odd.is_none(), "{odd:?} among {:?}", tally(&answers));
    assert!(answers.iter().any(|answer| answer.outcome == Outcome::Function { status: 200 }), "{:?}", tally(&answers));

    for path in ["/invoke/once/pid", "/invoke/kept/pid"] {
        daemon.answers(path, 200).await;
    }
    idle(&daemon).await;
    assert_eq!(daemon.home.processes(), [0; 0]);
    assert!(processes::zombies_of(daemon.pid).is_empty());
    as_before(&daemon, before).await;
}

/// Waits until the functions have no instance.
async fn idle(daemon: &Daemon) {
    for function in ["once", "kept"] {
        daemon.settled(function, "no instance", |function| function["instances"] == json!([])).await;
    }
}
