//! A daemon that is killed at any moment leaves nothing that the next daemon on its state directory does not remove. The
//! moments: while it starts, boots or ends instances, takes snapshots and restores them, reads a changed registry, is
//! upgraded, or stops.
//!
//! `load.rs` keeps it busy with processes, containers and virtual machines. `resources.rs` lists its resources from outside, by `listing.rs`.
//! `upgrade.rs` kills the old daemon, the new one or both during an upgrade.
//! Everything runs in the network of a private container engine, beside another daemon that must not be affected.
//!
//! `integration/kills` repeats this a hundred times, half of them without cgroups, and prints each moment and the resources
//! in use. Without `UNIFAAS_KILLS` there are a few repetitions.

mod listing;
mod load;
mod resources;
mod upgrade;

use std::{env, process::Stdio, sync::Arc, time::Duration};

use integration::{
    Daemon, Engine, Home, Setup, UPGRADE_LIMIT, contained, eventually, ms, number as number_of, processes, vm,
};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use tokio::time::Instant;

use load::{CLONED, Load, functions};
use resources::{Host, Resources};

const TESTFN: &str = env!("CARGO_BIN_EXE_testfn");
/// Repetitions without `UNIFAAS_KILLS`.
const KILLS: u32 = 8;
/// Longest serving time before the kill, in milliseconds.
const MAX_SERVING_MS: u64 = 1500;
/// The state of the daemon when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It starts, perhaps while it removes leftovers.
    Starting,
    Serving,
    /// It drains after a signal.
    Ending,
    /// An upgrade is made.
    Upgrading,
}

struct Rig {
    engine: Engine,
    home: Arc<Home>,
    host: Host,
    cgroups: bool,
    random: StdRng,
}

impl Rig {
    fn setup(&self) -> Setup {
        let setup = vm::prepared(Setup::at(&self.home)).variable("DOCKER_HOST", self.engine.host());
        let setup = setup.option("--drain-grace", "5").option("--tap-pool", "2");
        if self.cgroups { setup } else { setup.without_cgroups() }
    }

    /// Kills the daemon at a random moment; returns its phase and the time in it.
    async fn kill(&mut self, daemon: Daemon, phase: Phase, others: &[u32]) -> (Phase, Duration) {
        self.begin_capture(&daemon).await;
        let load = Load::on(&daemon, &self.home, self.random.random());
        let moment = match phase {
            Phase::Serving => ms(self.random.random_range(0..MAX_SERVING_MS)),
            Phase::Starting => ms(self.random.random_range(0..250)),
            Phase::Ending => ms(self.random.random_range(0..400)),
            Phase::Upgrading => self.kill_during_upgrade(&daemon, &load, others).await,
        };
        match phase {
            Phase::Upgrading => {}
            Phase::Serving => tokio::time::sleep(moment).await,
            Phase::Starting => tokio::time::sleep(ms(400)).await,
            Phase::Ending => {
                tokio::time::sleep(ms(400)).await;
                daemon.signal(Signal::SIGTERM);
                tokio::time::sleep(moment).await;
            }
        }
        daemon.killed().await;
        load.stop();
        if phase == Phase::Starting {
            let mut next = self.setup().command();
            let mut next = next.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            tokio::time::sleep(moment).await;
            next.kill().await.unwrap();
        }
        (phase, moment)
    }

    /// Orders another snapshot of a function, and waits until its template is started.
    async fn begin_capture(&mut self, daemon: &Daemon) {
        let function = CLONED.choose(&mut self.random).unwrap();
        let since = Instant::now();
        let ordered = daemon.cli(&["snapshot", "make", function]).await;
        assert_eq!(ordered.status, Some(0), "{ordered:?}");
        // Unless the host is too busy for it, or it is over already.
        let is_begun = |function: &Value| match function["snapshot"]["state"].as_str() {
            Some("ready") => function["snapshot"]["age_seconds"].as_f64() < Some(since.elapsed().as_secs_f64()),
            state => state == Some("making") || state == Some("failing"),
        };
        daemon.settled(function, "its template is started", is_begun).await;
    }

    fn phase(&mut self) -> Phase {
        match self.random.random_range(0..12) {
            0..2 => Phase::Starting,
            2..4 => Phase::Ending,
            4..7 => Phase::Upgrading,
            _ => Phase::Serving,
        }
    }

    /// Kills one or both of the daemons of an upgrade. If a daemon goes on, it removes what the other one has left, serves,
    /// and is killed then. Returns the moment of the first kill.
    async fn kill_during_upgrade(&mut self, daemon: &Daemon, load: &Load, others: &[u32]) -> Duration {
        tokio::time::sleep(ms(400)).await;
        let Self { host, engine, home, random, .. } = self;
        host.identities(home);
        let (moment, outcome) = upgrade::kill(daemon, host, random).await;
        // Instances that end under load leave processes for moments.
        load.stop();
        print!("    {outcome}");
        if let Some(survivor) = &outcome.survivor {
            let took = Resources::removed_by(host, engine, home, others, survivor.pid, &survivor.other).await;
            load::serves(daemon.listen).await;
            print!(", nothing of the other one is left after {} ms", took.as_millis());
            host.identities(home);
            processes::signal(survivor.pid, Signal::SIGKILL);
            let is_dead = async || processes::is_dead(survivor.pid);
            eventually(UPGRADE_LIMIT, "the end of the other daemon", is_dead, |is_dead| *is_dead).await;
        }
        println!();
        moment
    }
}

/// Has each function that wants a snapshot get one.
async fn snapshots_are_taken(daemon: &Daemon) {
    for function in CLONED {
        daemon.get(&format!("/invoke/{function}/")).await.ok();
        let is_taken = |function: &Value| function["snapshot"]["state"] == "ready";
        daemon.settled(function, "its snapshot is taken", is_taken).await;
    }
}

/// Kills daemons on one state directory repeatedly.
async fn kill_and_look(kills: u32, seed: u64, cgroups: bool) {
    let Some(engine) = Engine::private(TESTFN) else { return };
    let (host, home, random) = (Host::prepare(), Home::new(), StdRng::seed_from_u64(seed));
    functions(&home).iter().for_each(|function| home.put(function));
    let mut rig = Rig { engine, home, host, cgroups, random };
    let bystander = Bystander::start(&rig.engine).await;
    let mut daemon = rig.setup().start().await;
    snapshots_are_taken(&daemon).await;
    let mut slowest = Duration::ZERO;
    for round in 0..kills {
        let phase = if round == 0 { Phase::Upgrading } else { rig.phase() };
        let (phase, moment) = rig.kill(daemon, phase, &bystander.processes).await;
        let left = Resources::of(&rig.host, &rig.engine, &rig.home, &bystander.processes).await;
        let restarted = Instant::now();
        daemon = rig.setup().start().await;
        let served = restarted.elapsed();
        let took = left.gone(&rig.host, &rig.engine, &daemon, &bystander.processes, restarted).await;
        let (at, phase, took_ms) = (moment.as_millis(), format!("{phase:?}"), took.as_millis());
        println!("{round:3} {phase:9} {at:4} ms: {left}; serves after {served:.0?}, nothing left after {took_ms} ms");
        slowest = slowest.max(took);
        load::serves(daemon.listen).await;
        bystander.is_unharmed().await;
    }
    println!(
        "{kills} kills, cgroups {cgroups}, seed {seed}: nothing left, at the latest after {} ms",
        slowest.as_millis()
    );
    snapshots_are_taken(&daemon).await;
    for function in CLONED {
        daemon.get(&format!("/invoke/{function}/")).await.ok();
        // On a busy host a restore may take too long, and becomes a cold start.
        let snapshot = &daemon.function(function).await["snapshot"];
        assert!(number_of(snapshot, "restores") + number_of(snapshot, "failures") > 0, "{function}: {snapshot}");
    }
    daemon.end().await;
    let left = Resources::of(&rig.host, &rig.engine, &rig.home, &bystander.processes).await;
    assert!(left.is_nothing(), "after an orderly end there is {left}");
    assert!(!daemon.log().contains("could not be removed"), "{}", daemon.log());
}

/// Another daemon on the same host, engine and network, with its own state directory.
struct Bystander {
    daemon: Daemon,
    processes: Vec<u32>,
    instances: Vec<String>,
}

impl Bystander {
    async fn start(engine: &Engine) -> Self {
        let setup = vm::prepared(Setup::default()).variable("DOCKER_HOST", engine.host());
        let setup = setup.option("--subnet", "10.101.0.0/16").option("--tap-pool", "1");
        let setup = setup
            .function(integration::Function::new("process").set("min-instances", 1))
            .function(contained("container", &[], "min-instances = 1", ""))
            .function(vm::Vm::new("vm", vm::Kind::Microvm).set("min-instances", 1).into());
        let daemon = setup.start().await;
        for function in ["process", "container", "vm"] {
            daemon.until(function, "idle", 1).await;
        }
        let mut bystander = Self { daemon, processes: Vec::new(), instances: Vec::new() };
        (bystander.processes, bystander.instances) = bystander.look().await;
        bystander
    }

    async fn look(&self) -> (Vec<u32>, Vec<String>) {
        let (mut pids, mut ids) = (vec![self.daemon.pid], Vec::new());
        for function in ["process", "container", "vm"] {
            for instance in self.daemon.instances(function).await {
                pids.push(u32::try_from(integration::number(&instance, "pid")).unwrap());
                ids.push(instance["id"].to_string());
            }
        }
        (pids, ids)
    }

    /// Checks that its instances are unchanged and answer.
    async fn is_unharmed(&self) {
        assert_eq!(self.look().await, (self.processes.clone(), self.instances.clone()));
        for path in ["/invoke/process/pid", "/invoke/container/pid", "/invoke/vm/"] {
            self.daemon.get(path).await.ok();
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

#[test]
fn next_daemon_removes_leftovers_of_killed_daemon() {
    if let Some(missing) = vm::obstacle() {
        return vm::skip(&missing);
    }
    let kills = number("UNIFAAS_KILLS").map_or(KILLS, |kills| u32::try_from(kills).unwrap());
    let seed = number("UNIFAAS_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    for cgroups in [true, false] {
        // On its own thread, because it enters another network.
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let kills = if cgroups { kills.div_ceil(2) } else { kills / 2 };
            runtime.block_on(kill_and_look(kills, seed.wrapping_add(u64::from(cgroups)), cgroups));
        };
        if let Err(panic) = std::thread::spawn(run).join() {
            std::panic::resume_unwind(panic);
        }
    }
}
