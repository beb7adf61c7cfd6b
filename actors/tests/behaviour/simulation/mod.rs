//! Everything at once, at random: functions that share a small host, requests that come, wait, give up and serve, guests
//! of every intent, callbacks that are lost, late, doubled and forged, ends that are seen late or never, changes of the
//! files, removals, bugs, drains. Whatever the schedule:
//!
//! - each caller gets one answer in time, and no instance more requests than it takes, nor its end under a request;
//! - the host's memory, its starts and the maximum of each function are never exceeded;
//! - when calm returns, every function serves and has its minimum, and nobody waits or holds what nobody uses;
//! - when it has been drained, nothing is left.
//!
//! What a schedule is made of is drawn in `draw.rs`, what must hold while it runs is watched in `scene.rs`.
//! `UNIFAAS_SCHEDULES` sets how many schedules are tried, `UNIFAAS_SEED` picks one to be replayed.

mod draw;
mod scene;

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::time::timeout;
use unifaas_actors::{HostLimits, Refusal, sandbox::SandboxExit};

use self::{draw::Plan, scene::Scene};
use crate::support::*;

const SCHEDULES: u64 = 300;
const FUNCTIONS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 60;
const CHANGES: usize = 10;
/// All requests and changes come within this time.
const SPAN: u64 = 15_000;
/// No spec has a longer queue-timeout.
const LONGEST_WAIT: u64 = 8;
/// After so long a calm, pauses are over, whatever hung was given up, and whatever can end has.
const CALM: Duration = Duration::from_secs(200);
/// Whatever could not be ended ends after so long at the latest.
const STUCK: Duration = Duration::from_secs(11);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn every_caller_gets_one_answer_and_nothing_is_left_whatever_happens() {
    let replayed = number("UNIFAAS_SEED");
    let seeds = match replayed {
        Some(seed) => seed..seed + 1,
        None => 0..number("UNIFAAS_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let schedules = seeds.clone().count();
    let mut tally = BTreeMap::<&str, usize>::new();
    for seed in seeds {
        let _shown_on_failure = Shown(seed);
        for (what, count) in with_paused_clock(run(StdRng::seed_from_u64(seed))) {
            *tally.entry(what).or_default() += count;
        }
    }
    eprintln!("{schedules} schedules: {tally:?}");
    // So that it cannot come to test nothing.
    for what in scene::EVERYTHING.iter().filter(|_| schedules >= 100) {
        assert!(tally.get(what).is_some_and(|count| *count > 0), "{what} did not happen");
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

/// One schedule; how often what happened.
async fn run(mut random: StdRng) -> BTreeMap<&'static str, usize> {
    let plan = Plan::draw(&mut random);
    let functions: Vec<_> = FUNCTIONS.iter().map(|name| (*name, plan.keys(&mut random, 0))).collect();
    let functions: Vec<_> = functions.iter().map(|(name, keys)| (*name, keys.as_str())).collect();
    let rig = Rc::new(Rig::with(plan.limits, &functions));
    for _ in 0..CLIENTS * 4 {
        draw::scripts(&mut random).into_iter().for_each(|script| rig.fake.next(script));
    }
    let scene = Rc::new(Scene::new(plan.buggy));
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| actix::spawn(Client::draw(&mut random).visit(rig.clone(), scene.clone()))).collect();
    let watch = actix::spawn(scene::watch(rig.clone(), plan.limits));
    let ends = actix::spawn(scene::end_what_is_stuck(rig.clone(), STUCK));
    let changes = actix::spawn(disturb(rig.clone(), scene.clone(), plan, random.random()));

    let drains = random.random_bool(0.2);
    if drains {
        sleep(ms(random.random_range(SPAN / 3..SPAN))).await;
        let grace = random.random_range(0..3);
        scene.hurried.set(grace == 0);
        let drained = rig.drain(secs(grace));
        rig.settle().await;
        for handle in FUNCTIONS.iter().filter_map(|name| rig.handle_of(name)) {
            // No answer: nothing was left of it.
            let now = handle.inspect().await;
            assert!(now.is_none_or(|now| now.function.waiting == 0), "a caller waits for nothing");
        }
        sleep(secs(grace)).await;
        scene.hurried.set(true);
        drained.await.expect("the registry answers");
    }
    for client in clients {
        client.await.expect("the client did not panic");
    }
    changes.await.expect("the disturber did not panic");
    watch.abort();
    if let Some(panic) = watch.await.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
    if !drains {
        let call = Call { after: ms(50), by: Caller::Itself };
        rig.fake.always(Script { calls: vec![call], ..Script::default() });
        rig.log.stop_panicking();
        sleep(CALM).await;
        recover(&rig, plan.limits).await;
        serve_together(&rig, plan.limits).await;
    }
    ends.abort();
    let _ = ends.await;
    scene.note_log(&rig);
    Rc::into_inner(rig).expect("everybody has gone").finish().await;
    scene.tally.take()
}

/// When nothing fails any more, every function serves for which there is room besides the minimum of the others.
async fn recover(rig: &Rig, limits: HostLimits) {
    let mut specs = Vec::new();
    for name in FUNCTIONS.iter().filter(|name| rig.handle_of(name).is_some()) {
        specs.extend(rig.snapshot_of(name).await.spec);
    }
    let kept: u64 = specs.iter().map(|spec| spec.memory() * spec.min_instances as u64).sum();
    for spec in &specs {
        // An instance that has just served once may be long in ending, and holds its memory: some ends are never seen.
        sleep(CALM).await;
        let answer = rig.request_of(&spec.name).await.await.expect("no panic");
        let scarce = kept + spec.memory() > limits.memory;
        let excused = scarce && matches!(answer, Err(Refusal::HostSaturated { .. }));
        // Live as far as can be known: some ends are never seen.
        let served = answer.as_ref().is_ok_and(|lease| lease.endpoint().is_live());
        assert!(served || excused, "{} does not serve: {answer:?}", spec.name);
    }
}

/// Several functions that fit together do so.
async fn serve_together(rig: &Rig, limits: HostLimits) {
    for name in FUNCTIONS {
        rig.write_of(name, "memory = 64\nmin-instances = 1\nenv = { VERSION = \"calm\" }");
    }
    sleep(CALM).await;
    for name in FUNCTIONS {
        let snapshot = rig.snapshot_of(name).await;
        assert_eq!((snapshot.state, snapshot.waiting, snapshot.revision > 0), ("serving", 0, true), "{name}");
        let instances = rig.instances_of(name).await;
        assert_eq!(instances.iter().map(|i| (i.state, i.in_flight)).collect::<Vec<_>>(), [("idle", 0)], "{name}");
    }
    let report = rig.admission().await;
    assert_eq!((report.memory_taken, report.memory_free), (3 * 64, limits.memory - 3 * 64));
    assert_eq!((report.starting, report.functions_waiting, rig.fake.held()), (0, 0, 3));

    // One that could be served only if a minimum were given up waits in vain.
    let most = limits.memory - 2 * 64;
    rig.write_of("greedy", &format!("memory = {most}\nqueue-timeout = 2"));
    sleep(secs(1)).await;
    let launched = rig.fake.launched();
    let greedy = rig.request_of("greedy").await.await.expect("no panic");
    assert!(matches!(greedy, Err(Refusal::HostSaturated { .. })), "{greedy:?}");
    assert_eq!((rig.fake.launched(), rig.fake.running()), (launched, 3), "a minimum was not kept");

    for name in FUNCTIONS {
        let requests = rig.requests_of(name, 2).await;
        for request in requests {
            let lease = timeout(secs(1), request).await.expect("at once").expect("no panic");
            lease.expect("there is room for two of each, the idle ones of others aside");
        }
    }
}

struct Client {
    function: &'static str,
    comes: Duration,
    patience: Duration,
    holds: Duration,
    fails_request: bool,
}

impl Client {
    fn draw(random: &mut StdRng) -> Self {
        let impatient = random.random_bool(0.2);
        Self {
            function: FUNCTIONS.into_iter().choose(random).expect("there are some"),
            comes: ms(random.random_range(0..SPAN)),
            patience: if impatient { ms(random.random_range(0..1_000)) } else { secs(LONGEST_WAIT + 1) },
            holds: ms(if random.random() { random.random_range(0..2_000) } else { random.random_range(0..100) }),
            fails_request: random.random_bool(0.1),
        }
    }

    async fn visit(self, rig: Rc<Rig>, scene: Rc<Scene>) {
        sleep(self.comes).await;
        let Some(handle) = rig.handle_of(self.function) else { return scene.note("not there") };
        let Ok(answer) = timeout(self.patience, handle.acquire()).await else {
            assert!(self.patience <= secs(LONGEST_WAIT), "there was no answer in time");
            return scene.note("client left");
        };
        match answer {
            Ok(mut lease) => {
                scene.enter(&lease);
                sleep(self.holds).await;
                scene.check_alive(&lease, &rig.fake);
                if self.fails_request {
                    lease.mark_failed();
                }
                scene.leave(&lease);
            }
            Err(refusal) => scene.refused(&refusal),
        }
    }
}

/// Changes files, ends guests, and has actors run into bugs.
async fn disturb(rig: Rc<Rig>, scene: Rc<Scene>, plan: Plan, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for version in 1..=CHANGES {
        sleep(ms(random.random_range(0..SPAN / CHANGES as u64))).await;
        let function = FUNCTIONS.into_iter().choose(&mut random).expect("there are some");
        match random.random_range(0..20) {
            0 => rig.write_of(function, "keepalive = \"long\""),
            1..=9 => rig.write_of(function, &plan.keys(&mut random, version)),
            10 => rig.erase_of(function),
            11..=12 => {
                let bugs = ["state changed", "instance is being ended", "instance is ready", "function has changed"];
                let bugs = if plan.buggy { &bugs[..] } else { &bugs[..2] };
                rig.log.panic_at(bugs.iter().choose(&mut random).expect("there are some"));
            }
            _ => {
                if let Some(guest) = rig.fake.running_instances().into_iter().choose(&mut random) {
                    scene.note("crash");
                    rig.fake.crash(guest, SandboxExit::Signal(9));
                }
            }
        }
    }
}
