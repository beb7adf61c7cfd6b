//! Faults that are injected into the daemon and its resources. Each of them is undone.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::query_parameters::KillContainerOptionsBuilder;
use integration::{Engine, ms, processes};
use nix::sys::signal::Signal;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use serde_json::Value;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep},
};

use crate::{
    ledger::{Ledger, Trouble},
    rig::{CLONED, EDITED, FLEETING, Rig, edited, fleeting, remove_link},
    victims::{call_back, id_of, processes_of, tap_of, token_of},
};

/// How long a call of the engine may take.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a fault waits for a template, which starts as soon as nothing else does.
const TEMPLATE_TIMEOUT: Duration = Duration::from_secs(3);
/// Invalid contents of a `function.toml`.
const BROKEN: [&[u8]; 6] =
    [b"", b"[process", b"\0\xff\xfe\x01", b"[process]\ncommand = []\n", b"[process]\ncomand = [\"x\"]\n", b"7"];

pub struct Faults<'a> {
    pub rig: &'a Rig,
    pub ledger: &'a Mutex<Ledger>,
    pub until: Instant,
}

impl Faults<'_> {
    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Injects small faults one after the other: deaths, callbacks, taps.
    pub async fn small(&self, mut random: StdRng) {
        while !self.is_over() {
            sleep(ms(random.random_range(50..250))).await;
            match random.random_range(0..16) {
                10..12 => self.kill_paused(&mut random).await,
                12 => self.thaw(&mut random).await,
                13 => self.pause_by_engine(&mut random).await,
                14..16 => self.retake_snapshot(&mut random).await,
                0..3 => self.kill_process(&mut random).await,
                3..5 => self.kill_vmm(&mut random).await,
                5..7 => self.forge(&mut random).await,
                7 => self.kill_container(&mut random).await,
                8 => self.remove_tap(&mut random).await,
                _ => self.edit(&mut random).await,
            }
        }
    }

    /// Injects large faults one after the other: engine, disk, clock.
    pub async fn large(&self, mut random: StdRng) {
        // Each of them once at first, so that a short run has them all.
        for round in 0.. {
            sleep(ms(random.random_range(1000..3000))).await;
            if self.is_over() {
                return;
            }
            let kind = if round < 4 { round } else { random.random_range(0..4) };
            let pause = ms(random.random_range(500..2500));
            match kind {
                0 => self.fill_disk(pause).await,
                1 => self.hang_engine(pause).await,
                2 => self.shift_clock(&mut random).await,
                _ => self.stop_engine(pause).await,
            }
        }
    }

    /// Returns the first processes of processes and containers that are not paused from time to time, with their instances.
    fn victims(&self) -> Vec<(u32, String)> {
        let running = self.rig.home.processes().into_iter();
        let first = running.filter(|pid| !processes::arguments(*pid).iter().any(|word| word == "--linger"));
        let named = first.filter_map(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment).into_owned();
            let value = |name: &str| environment.split('\0').find_map(|entry| entry.strip_prefix(name));
            let instance = value("INSTANCE_ID=")?;
            let is_paused = value("FUNCTION_NAME=")?.contains("pausing");
            (!is_paused).then(|| (pid, instance.to_owned()))
        });
        named.collect()
    }

    async fn kill_process(&self, random: &mut StdRng) {
        let victims = self.victims();
        let Some((pid, instance)) = victims.choose(random) else { return };
        if processes::signal(*pid, Signal::SIGKILL) {
            processes::dead(*pid).await;
            let mut ledger = self.ledger();
            ledger.count("process or container's first process killed");
            ledger.killed(instance.clone());
        }
    }

    /// Returns the instances of all functions with the names of these, from `/debug`.
    async fn instances(&self) -> Vec<Value> {
        let debug = self.rig.daemon.debug().await;
        let functions = debug["functions"].as_object().into_iter().flatten();
        let named = |(name, function): (&String, &Value)| {
            let mut instances = function["instances"].as_array().cloned().unwrap_or_default();
            instances.iter_mut().for_each(|instance| instance["function"] = name.as_str().into());
            instances
        };
        functions.flat_map(named).collect()
    }

    /// Returns an instance that is paused, or was a moment ago.
    async fn paused(&self, random: &mut StdRng) -> Option<Value> {
        let mut instances = self.instances().await;
        instances.retain(|instance| instance["state"] == "paused");
        instances.choose(random).cloned()
    }

    /// Kills a paused instance. Under version 1 of cgroups, the signal waits until a request resumes the instance.
    async fn kill_paused(&self, random: &mut StdRng) {
        let Some(victim) = self.paused(random).await else { return };
        let mut ledger = self.ledger();
        for pid in processes_of(&victim) {
            processes::signal(pid, Signal::SIGKILL);
        }
        ledger.count("paused instance killed");
        ledger.killed(id_of(&victim));
    }

    /// Lets a paused instance run, without the daemon.
    async fn thaw(&self, random: &mut StdRng) {
        let Some(victim) = self.paused(random).await else { return };
        processes::thaw(&processes_of(&victim));
        self.ledger().count("paused instance thawed");
    }

    /// Pauses a container through the engine, and sometimes resumes it.
    async fn pause_by_engine(&self, random: &mut StdRng) {
        let instances = self.instances().await;
        let victims: Vec<_> = instances.iter().filter_map(|instance| instance["engine_id"].as_str()).collect();
        let Some(victim) = victims.choose(random) else { return };
        let docker = bollard::Docker::connect_with_host(&self.rig.engine.host()).unwrap();
        // It takes as long as the container is stopped or the engine hangs, and fails if the container is frozen.
        let paused = tokio::time::timeout(ENGINE_TIMEOUT, docker.pause_container(victim)).await;
        if random.random() {
            let _ = tokio::time::timeout(ENGINE_TIMEOUT, docker.unpause_container(victim)).await;
        }
        let is_paused = matches!(paused, Ok(Ok(())));
        self.ledger().count(if is_paused {
            "container paused through the engine"
        } else {
            "container could not be paused through the engine"
        });
    }

    async fn kill_vmm(&self, random: &mut StdRng) {
        let instances = self.instances().await;
        // A paused one may die late.
        let has_tap = |it: &&Value| tap_of(it).is_some() && it["pid"].is_u64() && it["function"] != "machine-pausing";
        let victims: Vec<_> = instances.iter().filter(has_tap).collect();
        if let Some(victim) = victims.choose(random) {
            self.kill_vmm_of(victim).await;
        }
    }

    async fn kill_vmm_of(&self, victim: &Value) {
        let pid = u32::try_from(victim["pid"].as_u64().unwrap()).unwrap();
        // It may have exited, and its pid may be in use again.
        let is_vmm = processes::arguments(pid)
            .first()
            .is_some_and(|program| program.contains("qemu-system") || program.contains("firecracker"));
        if is_vmm && processes::signal(pid, Signal::SIGKILL) {
            processes::dead(pid).await;
            let mut ledger = self.ledger();
            ledger.count(if victim["state"] == "capturing" { "VMM of a template killed" } else { "VMM killed" });
            ledger.killed(id_of(victim));
        }
    }

    /// Orders another snapshot of a function, or removes it. Then waits for a template, and sometimes kills that.
    async fn retake_snapshot(&self, random: &mut StdRng) {
        let verb = if random.random() { "make" } else { "rm" };
        self.rig.daemon.cli(&["snapshot", verb, CLONED]).await;
        self.ledger().count("snapshot ordered anew or removed");
        let until = Instant::now() + TEMPLATE_TIMEOUT;
        while Instant::now() < until {
            sleep(ms(50)).await;
            let instances = self.instances().await;
            let template = instances.iter().find(|it| it["state"] == "capturing" && it["pid"].is_u64());
            if let Some(template) = template {
                if random.random() {
                    self.kill_vmm_of(template).await;
                }
                return;
            }
        }
    }

    async fn kill_container(&self, random: &mut StdRng) {
        let instances = self.instances().await;
        let victims: Vec<_> = instances.iter().filter(|instance| instance["engine_id"].is_string()).collect();
        let Some(victim) = victims.choose(random) else { return };
        let docker = bollard::Docker::connect_with_host(&self.rig.engine.host()).unwrap();
        let options = KillContainerOptionsBuilder::new().signal("SIGKILL").build();
        let container = victim["engine_id"].as_str().unwrap();
        let kill = docker.kill_container(container, Some(options));
        // While the engine hangs, the outcome is unknown.
        match tokio::time::timeout(ENGINE_TIMEOUT, kill).await {
            Ok(Ok(())) => self.ledger().count("container killed through the engine"),
            Ok(Err(_)) | Err(_) => self.ledger().count("container could not be killed through the engine"),
        }
        self.ledger().killed(id_of(victim));
    }

    async fn remove_tap(&self, random: &mut StdRng) {
        let taps = integration::vm::taps();
        let Some(tap) = taps.choose(random) else { return };
        let since = Instant::now();
        let mut attached = self.instances().await;
        if !remove_link(tap) {
            return;
        }
        // An instance that acquired the tap meanwhile is listed by now.
        attached.extend(self.instances().await);
        let mut ledger = self.ledger();
        for instance in attached.iter().filter(|instance| tap_of(instance) == Some(tap)) {
            ledger.without_tap(id_of(instance));
        }
        ledger.count("tap removed");
        ledger.troubled(Trouble::Tap, since);
    }

    /// Makes a callback that must be rejected: for no instance, or from a foreign address.
    async fn forge(&self, random: &mut StdRng) {
        let victims = self.victims();
        let tokens: Vec<_> = victims.iter().filter_map(|(pid, _)| token_of(*pid)).collect();
        let (token, real) = match tokens.choose(random) {
            Some(token) if random.random() => (token.clone(), true),
            _ => (format!("{:032x}", random.random::<u128>()), false),
        };
        let port = self.rig.daemon.callback.port();
        let status = call_back(([127, 0, 0, 1], port).into(), &token).await.expect("the callback listener answers");
        // The token of an ended instance is unknown, too.
        let expected: &[u16] = if real { &[403, 404, 409] } else { &[404] };
        assert!(expected.contains(&status), "a forged callback (real token: {real}) was answered {status}");
        self.ledger().count(if real {
            "callback with a real token from elsewhere"
        } else {
            "callback with a forged token"
        });
    }

    async fn edit(&self, random: &mut StdRng) {
        let home = &self.rig.home;
        if random.random() {
            home.remove(FLEETING);
            sleep(ms(random.random_range(0..800))).await;
            home.put(&fleeting());
            return self.ledger().count("function removed and put back");
        }
        let file = home.registry().join(EDITED).join("function.toml");
        let broken = *BROKEN.choose(random).unwrap();
        let half = fs::read(&file).unwrap();
        let text = if random.random() { broken } else { &half[..random.random_range(0..half.len())] };
        fs::write(&file, text).unwrap();
        sleep(ms(random.random_range(0..800))).await;
        home.put(&edited(random.random()));
        self.ledger().count("function.toml broken and repaired");
    }

    async fn fill_disk(&self, pause: Duration) {
        let (filler, since) = (self.rig.state("filler"), Instant::now());
        let file = filler.clone();
        let written = spawn_blocking(move || fs::write(file, vec![0; 32 << 20])).await.unwrap();
        let full = written.expect_err("the disk is smaller");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
        sleep(pause).await;
        fs::remove_file(&filler).unwrap();
        let mut ledger = self.ledger();
        ledger.count("disk filled and emptied");
        ledger.troubled(Trouble::Disk, since);
    }

    async fn hang_engine(&self, pause: Duration) {
        let since = Instant::now();
        self.rig.engine.signal(Signal::SIGSTOP);
        sleep(pause).await;
        self.rig.engine.signal(Signal::SIGCONT);
        let mut ledger = self.ledger();
        ledger.count("container engine hung and went on");
        ledger.troubled(Trouble::Engine, since);
    }

    /// Kills the engine and holds it for a time.
    async fn stop_engine(&self, pause: Duration) {
        let since = Instant::now();
        self.on_engine(|engine| engine.kill(true)).await;
        sleep(pause).await;
        self.on_engine(Engine::release).await;
        let mut ledger = self.ledger();
        ledger.count("container engine killed and restarted");
        ledger.troubled(Trouble::Engine, since);
    }

    /// Runs blocking work outside the runtime of the clients.
    async fn on_engine(&self, work: impl FnOnce(&Engine) + Send + 'static) {
        let engine = Arc::clone(&self.rig.engine);
        spawn_blocking(move || work(&engine)).await.unwrap();
    }

    /// Shifts the daemon's clock by an hour or a year, for the rest of the test.
    async fn shift_clock(&self, random: &mut StdRng) {
        if !self.rig.clock {
            return;
        }
        let shift = ["-3600", "+3600", "-31536000", "+31536000", "+0"].choose(random).unwrap();
        // Atomically: the daemon reads the file with each request for the time.
        fs::write(self.rig.home.path("clock.new"), shift).unwrap();
        fs::rename(self.rig.home.path("clock.new"), self.rig.home.path("clock")).unwrap();
        self.ledger().count("clock jumped");
    }
}
