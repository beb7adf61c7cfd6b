//! Everything at once, at random: requests that come, wait, give up and serve, guests of every fate, changes of the
//! file, a drain. Whatever the schedule, each caller gets one answer in time, no instance gets more than it takes or is
//! ended under its requests, and nothing is left.
//!
//! `UNIFAAS_SCHEDULES` sets how many schedules are tried, `UNIFAAS_SEED` picks one to be replayed.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use rand::{
    RngExt, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use tokio::time::timeout;
use unifaas_actors::{
    InstanceId, Lease, Refusal,
    sandbox::{GuestExit, LaunchError},
};

use crate::support::*;

const SCHEDULES: u64 = 200;
const CLIENTS: usize = 60;
const CHANGES: usize = 6;
/// All requests and changes come within this time.
const SPAN: u64 = 15_000;
/// No spec has a longer queue-timeout.
const LONGEST_WAIT: u64 = 8;
const MOST_INSTANCES: usize = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn every_caller_gets_one_answer_and_nothing_is_left_whatever_happens() {
    let seeds = match number("UNIFAAS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("UNIFAAS_SCHEDULES").unwrap_or(SCHEDULES),
    };
    for seed in seeds {
        let _shown_on_failure = Shown(seed);
        in_still_time(run(StdRng::seed_from_u64(seed)));
    }
}

struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the schedule of UNIFAAS_SEED={}", self.0);
        }
    }
}

async fn run(mut random: StdRng) {
    let rig = Rc::new(Rig::new(&any_keys(&mut random)));
    for _ in 0..CLIENTS * 4 {
        rig.fake.next(any_script(&mut random));
    }
    let scene = Rc::new(Scene::default());
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| actix::spawn(Client::any(&mut random).visit(rig.clone(), scene.clone()))).collect();
    let world = actix::spawn(disturb(rig.clone(), random.random()));

    if random.random_bool(0.3) {
        sleep(ms(random.random_range(0..SPAN))).await;
        let grace = random.random_range(0..3);
        if grace == 0 {
            scene.hurried.set(true);
        }
        let drained = rig.drain(secs(grace));
        sleep(secs(grace)).await;
        scene.hurried.set(true);
        drained.await.expect("the registry answers");
    }
    for client in clients {
        client.await.expect("the client did not panic");
    }
    world.await.expect("the disturber did not panic");
    assert!(rig.fake.most_held() <= MOST_INSTANCES, "{} instances at once", rig.fake.most_held());
    Rc::into_inner(rig).expect("everybody has gone").finish().await;
}

/// What all clients together see.
#[derive(Default)]
struct Scene {
    /// Requests that each instance serves now, and has been given.
    instances: RefCell<HashMap<InstanceId, (usize, usize)>>,
    /// The grace of a drain is over: requests are cut short.
    hurried: Cell<bool>,
}

impl Scene {
    fn enter(&self, lease: &Lease) {
        let endpoint = lease.endpoint();
        let mut instances = self.instances.borrow_mut();
        let (serving, served) = instances.entry(endpoint.instance).or_default();
        assert_eq!(lease.is_fresh(), *served == 0);
        *serving += 1;
        *served += 1;
        assert!(*serving <= endpoint.spec.concurrent_requests.get(), "more requests at once than the instance takes");
        assert!(!endpoint.spec.single_use || *served == 1, "a single-use instance was used again");
    }

    fn leave(&self, lease: &Lease) {
        if let Some((serving, _)) = self.instances.borrow_mut().get_mut(&lease.endpoint().instance) {
            *serving -= 1;
        }
    }
}

struct Client {
    comes: Duration,
    patience: Duration,
    holds: Duration,
    condemns: bool,
}

impl Client {
    fn any(random: &mut StdRng) -> Self {
        let impatient = random.random_bool(0.2);
        Self {
            comes: ms(random.random_range(0..SPAN)),
            patience: if impatient { ms(random.random_range(0..1_000)) } else { secs(LONGEST_WAIT + 1) },
            holds: ms(random.random_range(0..1_500)),
            condemns: random.random_bool(0.1),
        }
    }

    async fn visit(self, rig: Rc<Rig>, scene: Rc<Scene>) {
        sleep(self.comes).await;
        if !rig.exists() {
            return;
        }
        let Ok(answer) = timeout(self.patience, rig.acquire()).await else {
            assert!(self.patience <= secs(LONGEST_WAIT), "there was no answer in time");
            return;
        };
        match answer {
            Ok(mut lease) => {
                scene.enter(&lease);
                sleep(self.holds).await;
                let endpoint = lease.endpoint();
                let excused = rig.fake.died(endpoint.instance) || scene.hurried.get();
                assert!(endpoint.is_live() || excused, "the instance was ended under its request");
                if self.condemns {
                    lease.condemn();
                }
                scene.leave(&lease);
            }
            Err(Refusal::Saturated { .. } | Refusal::QueueTimedOut { .. } | Refusal::Misconfigured { .. }) => {}
            Err(Refusal::HostSaturated { .. } | Refusal::StartFailed { .. } | Refusal::BootFailed { .. }) => {}
            Err(Refusal::BootTimedOut { .. } | Refusal::Draining | Refusal::Lost | Refusal::Failing { .. }) => {}
        }
    }
}

/// Changes the function's file, and ends guests.
async fn disturb(rig: Rc<Rig>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..CHANGES {
        sleep(ms(random.random_range(0..SPAN / CHANGES as u64))).await;
        match random.random_range(0..4) {
            0 => rig.write("keepalive = \"long\""),
            1 | 2 => rig.write(&any_keys(&mut random)),
            _ => {
                if let Some(guest) = rig.fake.guests().into_iter().choose(&mut random) {
                    rig.fake.crash(guest, GuestExit::Signal(9));
                }
            }
        }
    }
}

fn any_keys(random: &mut StdRng) -> String {
    let serving = match random.random_range(0..3) {
        0 => "single-use = true".to_owned(),
        _ => format!("concurrent-requests = {}", random.random_range(1..5)),
    };
    let most = random.random_range(1..=MOST_INSTANCES);
    let least = if random.random() { 0 } else { random.random_range(0..=most.min(2)) };
    let queue = random.random_range(1..40);
    let queue_timeout = random.random_range(1..=LONGEST_WAIT);
    let boot_timeout = random.random_range(1..4);
    let keepalive = random.random_range(0..3);
    let stop_grace = random.random_range(0..2);
    format!(
        "{serving}\nmin-instances = {least}\nmax-instances = {most}\nqueue = {queue}\nqueue-timeout = {queue_timeout}\n\
         boot-timeout = {boot_timeout}\nkeepalive = {keepalive}\nstop-grace = {stop_grace}"
    )
}

fn any_script(random: &mut StdRng) -> Script {
    let launch = match random.random_range(0..40) {
        0 => Launch::Fails(LaunchError::Exhausted("no port".into())),
        1 => Launch::Fails(LaunchError::Refused("no image".into())),
        2 => Launch::Panics,
        3 => Launch::PanicsAtOnce,
        _ => Launch::Works,
    };
    let exit_after = random.random_bool(0.1).then(|| (ms(random.random_range(0..3_000)), GuestExit::Code(1)));
    let on_stop = [OnStop::EndsAfter(ms(20)), OnStop::EndsAfter(ms(700)), OnStop::Ignores, OnStop::Panics];
    let reclaim = [Reclaim::After(ms(0)), Reclaim::After(ms(5)), Reclaim::After(secs(1)), Reclaim::Fails];
    Script {
        launch_after: ms(*[0, 10, 100, 2_500].choose(random).expect("there are some")),
        launch,
        ready_after: random.random_bool(0.95).then(|| ms(random.random_range(0..500))),
        prints: "",
        exit_after,
        calls: Vec::new(),
        end_seen_after: Some(ms(0)),
        on_stop: *on_stop.choose(random).expect("there are some"),
        undying: random.random_bool(0.02),
        reclaim: *reclaim.choose(random).expect("there are some"),
    }
}
