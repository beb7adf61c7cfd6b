//! Random schedules: functions share a small host; callers wait, give up and hold slots; launches and boots fail, hang and
//! panic; callbacks are lost, late, repeated and forged; snapshots are taken of templates, and instances are restored from
//! them, or not; instances are paused, also by other programs, hold less memory then, and need it back; pauses and resumptions fail, hang and take too long; exits are observed late or
//! never; files change and disappear; actors panic; everything is drained. In every schedule:
//!
//! - each caller gets one answer in time; no instance gets more requests than it takes, or is stopped or paused during one;
//! - the host's memory and starts and the maximum of each function are never exceeded;
//! - after the faults have ended, every function serves and has its minimum, and no slot, memory or caller is forgotten;
//! - after the drain nothing is left.
//!
//! `draw.rs` draws the schedules, `observer.rs` checks what must hold while they run. `UNIFAAS_SCHEDULES` sets the number of
//! schedules, `UNIFAAS_SEED` replays one.

mod draw;
mod observer;

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IteratorRandom};
use tokio::time::timeout;
use unifaas_actors::{HostLimits, Refusal, sandbox::SandboxExit};

use self::{draw::Plan, observer::Observer};
use crate::support::*;

const SCHEDULES: u64 = 300;
const FUNCTIONS: [&str; 3] = ["a", "b", "c"];
const CLIENTS: usize = 60;
const CHANGES: usize = 10;
/// All requests and changes arrive within this time, in milliseconds.
const SPAN: u64 = 15_000;
/// The longest queue-timeout of a spec, in seconds.
const MAX_QUEUE_TIMEOUT: u64 = 8;
/// After this time without faults, all pauses and timeouts are over.
const CALM: Duration = Duration::from_secs(200);
/// How often stuck instances exit.
const STUCK: Duration = Duration::from_secs(11);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

#[test]
fn every_caller_gets_one_answer_and_nothing_is_left_in_any_schedule() {
    let replayed = number("UNIFAAS_SEED");
    let seeds = match replayed {
        Some(seed) => seed..seed + 1,
        None => 0..number("UNIFAAS_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let schedules = seeds.clone().count();
    let mut tally = BTreeMap::<&str, usize>::new();
    for seed in seeds {
        let _printed_on_failure = PrintOnPanic(seed);
        for (what, count) in with_paused_clock(run(StdRng::seed_from_u64(seed))) {
            *tally.entry(what).or_default() += count;
        }
    }
    eprintln!("{schedules} schedules: {tally:?}");
    // The schedules must cover everything.
    for what in observer::EVENTS.iter().filter(|_| schedules >= 100) {
        assert!(tally.get(what).is_some_and(|count| *count > 0), "{what} did not happen");
    }
}

struct PrintOnPanic(u64);

impl Drop for PrintOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this was the schedule of UNIFAAS_SEED={}", self.0);
        }
    }
}

/// Runs one schedule. Returns how often each event happened.
async fn run(mut random: StdRng) -> BTreeMap<&'static str, usize> {
    let plan = Plan::draw(&mut random);
    let functions: Vec<_> = FUNCTIONS.iter().map(|name| (*name, plan.keys(&mut random, 0))).collect();
    let functions: Vec<_> = functions.iter().map(|(name, keys)| (*name, keys.as_str())).collect();
    let rig = Rc::new(Rig::with(plan.limits, &functions));
    for _ in 0..CLIENTS * 4 {
        draw::scripts(&mut random).into_iter().for_each(|script| rig.fake.next(script));
    }
    let observer = Rc::new(Observer::new(plan.buggy));
    let clients: Vec<_> =
        (0..CLIENTS).map(|_| actix::spawn(Client::draw(&mut random).run(rig.clone(), observer.clone()))).collect();
    let watch = actix::spawn(observer::check_limits(rig.clone(), plan.limits));
    let ends = actix::spawn(observer::end_stuck(rig.clone(), STUCK));
    let changes = actix::spawn(inject_faults(rig.clone(), observer.clone(), plan, random.random()));

    let drains = random.random_bool(0.2);
    if drains {
        sleep(ms(random.random_range(SPAN / 3..SPAN))).await;
        let grace = random.random_range(0..3);
        observer.grace_over.set(grace == 0);
        let drained = rig.drain(secs(grace));
        rig.settle().await;
        for handle in FUNCTIONS.iter().filter_map(|name| rig.handle_of(name)) {
            // None: the function has ended.
            let now = handle.inspect(100).await;
            assert!(now.is_none_or(|now| now.function.waiting == 0), "a caller waits for nothing");
        }
        sleep(secs(grace)).await;
        observer.grace_over.set(true);
        drained.await.expect("the registry answers");
    }
    for client in clients {
        client.await.expect("the client did not panic");
    }
    changes.await.expect("the injector did not panic");
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
    observer.note_log(&rig);
    Rc::into_inner(rig).expect("all clients have ended").finish().await;
    observer.tally.take()
}

/// Checks that every function serves which fits beside the minimums of the others.
async fn recover(rig: &Rig, limits: HostLimits) {
    let mut specs = Vec::new();
    for name in FUNCTIONS.iter().filter(|name| rig.handle_of(name).is_some()) {
        specs.extend(rig.snapshot_of(name).await.spec);
    }
    let kept: u64 = specs.iter().map(|spec| spec.memory() * spec.min_instances as u64).sum();
    for spec in &specs {
        // An instance that has just served may hold its memory for long: some exits are never observed.
        sleep(CALM).await;
        let answer = rig.request_of(&spec.name).await.await.expect("no panic");
        let scarce = kept + spec.memory() > limits.memory;
        let excused = scarce && matches!(answer, Err(Refusal::HostSaturated { .. }));
        // Live as far as is known: some exits are never observed.
        let served = answer.as_ref().is_ok_and(|lease| lease.endpoint().is_live());
        assert!(served || excused, "{} does not serve: {answer:?}", spec.name);
    }
}

/// Checks that functions that fit into memory together serve together.
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

    // A function that needs the memory of a minimum is not served.
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
            lease.expect("there is memory for two of each if the idle ones of others are evicted");
        }
    }
}

struct Client {
    function: &'static str,
    arrives_after: Duration,
    gives_up_after: Duration,
    holds_slot_for: Duration,
    fails_request: bool,
}

impl Client {
    fn draw(random: &mut StdRng) -> Self {
        let impatient = random.random_bool(0.2);
        Self {
            function: FUNCTIONS.into_iter().choose(random).expect("there are some"),
            arrives_after: ms(random.random_range(0..SPAN)),
            gives_up_after: if impatient { ms(random.random_range(0..1_000)) } else { secs(MAX_QUEUE_TIMEOUT + 1) },
            holds_slot_for: ms(if random.random() {
                random.random_range(0..2_000)
            } else {
                random.random_range(0..100)
            }),
            fails_request: random.random_bool(0.1),
        }
    }

    async fn run(self, rig: Rc<Rig>, observer: Rc<Observer>) {
        sleep(self.arrives_after).await;
        let Some(handle) = rig.handle_of(self.function) else { return observer.note("not found") };
        let arrived = Instant::now();
        let Ok(answer) = timeout(self.gives_up_after, handle.acquire()).await else {
            assert!(self.gives_up_after <= secs(MAX_QUEUE_TIMEOUT), "there was no answer in time");
            return observer.note("caller gave up");
        };
        match answer {
            Ok(mut lease) => {
                observer.request_started(&lease, arrived, &rig.fake);
                sleep(self.holds_slot_for).await;
                observer.check_live(&lease, &rig.fake);
                if self.fails_request {
                    lease.mark_failed();
                }
                observer.request_finished(&lease);
            }
            Err(refusal) => observer.refused(&refusal),
        }
    }
}

/// Changes files, crashes instances and makes actors panic.
async fn inject_faults(rig: Rc<Rig>, observer: Rc<Observer>, plan: Plan, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for version in 1..=CHANGES {
        sleep(ms(random.random_range(0..SPAN / CHANGES as u64))).await;
        let function = FUNCTIONS.into_iter().choose(&mut random).expect("there are some");
        match random.random_range(0..20) {
            0 => rig.write_of(function, "keepalive = \"long\""),
            1..=9 => rig.write_of(function, &plan.keys(&mut random, version)),
            10 => rig.erase_of(function),
            11..=12 => {
                let lines = ["state changed", "instance is being ended", "instance is ready", "function has changed"];
                let lines = if plan.buggy { &lines[..] } else { &lines[..2] };
                rig.log.panic_at(lines.iter().choose(&mut random).expect("there are some"));
            }
            13..=14 => {
                if let Some(instance) = rig.fake.running_instances().into_iter().choose(&mut random) {
                    observer.note("paused externally");
                    rig.fake.pause_externally(instance);
                }
            }
            _ => {
                if let Some(instance) = rig.fake.running_instances().into_iter().choose(&mut random) {
                    observer.note("crash");
                    rig.fake.crash(instance, SandboxExit::Signal(9));
                }
            }
        }
    }
}
