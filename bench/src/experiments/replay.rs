//! `replay`: a trace of arrivals in real time, under keep-alive policies. Each function of the trace is a copy of the
//! measured function, and works for as long as the trace says.
//!
//! Every turn has a daemon of its own, as some policies are options of the daemon. `trace/simulate.rs` applies the same
//! policies in virtual time.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::{
    Contestant, Entrant, Lane, Prepared, Session, Turn, contestants::Enrolment, idle_instances::remove_all,
    turn::until_instances,
};
use crate::{
    client::{Arrival, Failures, Outcome, open},
    clock,
    daemon::{Daemon, invocation},
    error::BenchError,
    options::Experiment,
    registry::DerivedRegistry,
    sample::Sample,
    stats::{quantile, sorted},
    trace::{self, Model, Policy, Trace, simulate},
};

/// Time limit of a request, from its sending.
const LIMIT: Duration = Duration::from_secs(120);
/// Time limit of the instances that a policy has from the begin.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Time from the plan of a replay to its begin.
const LEAD: Duration = Duration::from_millis(50);
/// Connections that are open before the first request.
const READY: usize = 8;
/// Pause between the looks at the memory of all instances.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// What is behind the policies of figures that were not measured.
pub const SIMULATED: &str = ", simulated";
pub const SIMULATED_WHOLE: &str = ", simulated, whole trace";

/// The quantities: requests that were sent; those answered, and those of them that waited for a start; their share in
/// percent; memory of all instances and of those without a request, over time; response times relative to the work.
pub const SENT: &str = "sent";
pub const ANSWERED: &str = "answered";
pub const COLD: &str = "cold-requests";
pub const COLD_SHARE: &str = "cold-percent";
pub const COLD_BY_FUNCTION: [(&str, f64); 3] =
    [("cold-percent-q25", 0.25), ("cold-percent-q50", 0.5), ("cold-percent-q75", 0.75)];
pub const MEMORY: &str = "memory-mib-s";
pub const IDLE: &str = "idle-mib-s";
pub const SLOWDOWN: [(&str, f64); 2] = [("slowdown-p50", 0.5), ("slowdown-p99", 0.99)];
pub const LATENESS: &str = "lateness-p99-ms";
pub const START: &str = "start-ms";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let all = session.enrol(Experiment::Replay, registries, Enrolment::default(), |_| true)?;
    remove_all(registries, &all)?;
    let with = |contestant: &Contestant| {
        let under = |policy: &Policy| Contestant { variant: policy.name.clone(), ..contestant.clone() };
        session.plan.policies.iter().map(under).collect::<Vec<_>>()
    };
    Ok((all.iter().flat_map(with).collect(), &[]))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let Turn { session, contestant, .. } = turn;
    let policy = session.plan.policies.iter().find(|policy| policy.name == contestant.variant);
    let (Some(entrant), Some(policy)) = (session.entrant(contestant), policy) else {
        return Ok(vec![turn.failed("there is no such policy")]);
    };
    let part = session.trace.first(session.plan.replay);
    let names = part.functions();
    if names.is_empty() {
        return Ok(vec![turn.failed(format!("the first {} s of the trace have no invocation", session.plan.replay))]);
    }
    let registry = DerivedRegistry::create(&session.out.join("registry/replay").join(&policy.name))?;
    for place in 0..names.len() {
        registry.add(
            &copy(contestant, place),
            &entrant.source,
            &session.overrides(keys(policy), vec![("snapshot", None)]),
        )?;
    }
    let budget = policy.budget.map_or_else(|| "95%".to_owned(), |mib| mib.to_string());
    let settings = session.settings(contestant.lane, &registry, &[("--memory-budget", &budget)], "-replay");
    let own = Own { lane: turn.lane, daemon: Some(Daemon::spawn(&settings)?) };
    let mut samples = own.measure(turn, policy, &part, &names).await?;
    if session.plan.simulate {
        let simulated = simulated(turn, entrant, policy, &part, &samples);
        samples.extend(simulated);
    }
    Ok(samples)
}

/// The daemon of a turn. If the turn is cut off, it is left to the lane, which waits for its end.
struct Own<'t> {
    lane: &'t Lane,
    daemon: Option<Daemon>,
}

impl Own<'_> {
    /// Waits until the daemon serves, measures, and ends the daemon.
    async fn measure(
        mut self,
        turn: &Turn<'_>,
        policy: &Policy,
        part: &Trace,
        names: &[Arc<str>],
    ) -> Result<Vec<Sample>, BenchError> {
        let Some(daemon) = &mut self.daemon else { return Ok(Vec::new()) };
        daemon.until_serving().await?;
        let measured = measure(turn, daemon, policy, part, names).await;
        let alive = daemon.check();
        self.end().await?;
        alive.and(measured)
    }

    /// Ends the daemon.
    async fn end(&mut self) -> Result<(), BenchError> {
        if let Some(daemon) = &mut self.daemon {
            daemon.stop().await?;
        }
        self.daemon = None;
        Ok(())
    }
}

impl Drop for Own<'_> {
    fn drop(&mut self) {
        self.lane.left.lock().unwrap_or_else(PoisonError::into_inner).extend(self.daemon.take());
    }
}

/// Returns the name of the copy for a function of the trace.
fn copy(contestant: &Contestant, place: usize) -> String {
    format!("{}-{place}", contestant.registered)
}

/// Returns the keys of a policy.
fn keys(policy: &Policy) -> Vec<crate::registry::Key> {
    vec![
        ("single-use", None),
        ("concurrent-requests", Some(toml::Value::Integer(1))),
        ("max-instances", None),
        ("min-instances", Some(toml::Value::Integer(policy.min_instances.into()))),
        ("keepalive", Some(toml::Value::Float(policy.keepalive))),
        ("keep-paused", Some(toml::Value::Float(policy.keep_paused))),
        ("queue", Some(toml::Value::Integer(10_000))),
        ("queue-timeout", Some(toml::Value::Integer(LIMIT.as_secs() as i64))),
        ("timeout", Some(toml::Value::Integer(LIMIT.as_secs() as i64))),
    ]
}

async fn measure(
    turn: &Turn<'_>,
    daemon: &Daemon,
    policy: &Policy,
    part: &Trace,
    names: &[Arc<str>],
) -> Result<Vec<Sample>, BenchError> {
    for place in 0..names.len() {
        let name = copy(turn.contestant, place);
        daemon.until_known(&name, true, START_TIMEOUT).await?;
        let is_there = |instances: &[Value]| {
            let ready = instances.iter().filter(|instance| instance["state"] == "idle").count();
            ready >= policy.min_instances as usize
        };
        if policy.min_instances > 0 && !until_instances(daemon, &name, START_TIMEOUT, is_there).await? {
            return Ok(vec![turn.failed(format!("{name} has not {} instances", policy.min_instances))]);
        }
    }
    let begin = clock::now() + LEAD.as_nanos() as u64;
    let arrival = |invocation: &trace::Invocation| {
        let place = names.binary_search(&invocation.function).unwrap_or_default();
        let path = format!("/burn?us={:.0}", (invocation.duration_ms * 1000.0).max(1.0));
        let at = begin + (invocation.time_s * 1e9) as u64;
        Arrival { at, target: invocation_target(turn.contestant, place, &path) }
    };
    let arrivals: Vec<_> = part.0.iter().map(arrival).collect();
    let seconds = turn.session.plan.replay;
    let (outcomes, memory) =
        tokio::join!(open(daemon.front, &arrivals, READY, LIMIT), memory_over(daemon, turn, seconds));
    let outcomes = outcomes.map_err(|error| BenchError::System("a timer", error))?;
    Ok(reduced(turn, part, &arrivals, &outcomes, memory?))
}

fn invocation_target(contestant: &Contestant, place: usize, path: &str) -> Arc<str> {
    invocation(&copy(contestant, place), path).into()
}

/// Returns the memory of all instances and that of those without a request, summed up over the seconds of a replay.
async fn memory_over(daemon: &Daemon, turn: &Turn<'_>, seconds: f64) -> Result<(f64, f64), BenchError> {
    let size = turn.session.entrant(turn.contestant).map_or(0.0, |entrant| memory_of(turn.session, entrant));
    let (began, end) = (Instant::now(), Instant::now() + Duration::from_secs_f64(seconds));
    let (mut all, mut idle, mut last, mut now) = (0.0, 0.0, (0.0, 0.0), began);
    while now < end {
        let page = daemon.page("/debug/summary").await?;
        let looked = Instant::now().min(end);
        let passed = (looked - now).as_secs_f64();
        let taken = page["daemon"]["memory_taken"].as_f64().unwrap_or(0.0);
        let functions = page["functions"].as_object().into_iter().flatten();
        let count = |state: &Value| state["idle"].as_f64().unwrap_or(0.0) + state["paused"].as_f64().unwrap_or(0.0);
        let unused = (functions.map(|(_, state)| count(state)).sum::<f64>() * size).min(taken);
        // What was between two looks is taken as their mean.
        all += passed * (last.0 + taken) / 2.0;
        idle += passed * (last.1 + unused) / 2.0;
        (last, now) = ((taken, unused), looked);
        sleep_until((looked + LOOK_INTERVAL).min(end)).await;
    }
    Ok((all, idle))
}

/// Returns the memory of an instance, in MiB.
fn memory_of(session: &Session, entrant: &Entrant) -> f64 {
    session.plan.memory.map_or_else(|| entrant.source.memory() as f64, f64::from)
}

/// Reduces a replay to its quantities.
fn reduced(
    turn: &Turn<'_>,
    part: &Trace,
    arrivals: &[Arrival],
    outcomes: &[Outcome],
    memory: (f64, f64),
) -> Vec<Sample> {
    let (mut counts, mut slowdowns, mut lateness, mut boots) =
        (BTreeMap::<_, (u64, u64)>::new(), vec![], vec![], vec![]);
    let mut failures = Failures::default();
    for Outcome { index, response } in outcomes {
        let (at, invocation) = (arrivals[*index].at, &part.0[*index]);
        failures.note(response);
        let Some(response) = response.as_ref().ok().filter(|response| response.status == 200) else { continue };
        let ms = |to: u64| to.saturating_sub(at) as f64 / 1e6;
        lateness.push(ms(response.times.sent));
        if invocation.duration_ms > 0.0 {
            slowdowns.push(ms(response.times.last_byte) / invocation.duration_ms);
        }
        let started = response.timing.as_ref().filter(|timing| timing.boot > 0.0);
        // A paused instance was there: it is resumed, not started.
        let started = started.filter(|timing| timing.origin.as_deref() != Some("resumed"));
        boots.extend(started.map(|timing| timing.boot));
        let count = counts.entry(invocation.function.clone()).or_default();
        count.0 += u64::from(started.is_some());
        count.1 += 1;
    }
    let mut samples = turn.sample().of_loop(SENT, outcomes.len() as f64, outcomes.len() as u64, &failures);
    let found = trace::Outcome { by_function: counts, memory_mib_s: memory.0, idle_mib_s: memory.1, slowdowns };
    samples.extend(quantities(&turn.sample(), &found));
    let of = |metric: &str, values: Vec<f64>, q| Some(turn.sample().quantity(metric, quantile(&sorted(values), q)?));
    samples.extend(of(LATENESS, lateness, 0.99));
    samples.extend(of(START, boots, 0.5));
    samples
}

/// Returns the rows of what a policy has led to.
fn quantities(model: &Sample, found: &trace::Outcome) -> Vec<Sample> {
    let (cold, all) = found.cold();
    let percent = |(cold, all): (u64, u64)| 100.0 * cold as f64 / all.max(1) as f64;
    let by_function = sorted(found.by_function.values().copied().map(percent).collect());
    let slowdowns = sorted(found.slowdowns.clone());
    let mut values = vec![
        (ANSWERED, Some(all as f64)),
        (COLD, Some(cold as f64)),
        (COLD_SHARE, (all > 0).then(|| percent((cold, all)))),
        (MEMORY, Some(found.memory_mib_s)),
        (IDLE, Some(found.idle_mib_s)),
    ];
    values.extend(COLD_BY_FUNCTION.map(|(metric, q)| (metric, quantile(&by_function, q))));
    values.extend(SLOWDOWN.map(|(metric, q)| (metric, quantile(&slowdowns, q))));
    values.into_iter().filter_map(|(metric, value)| Some(model.quantity(metric, value?))).collect()
}

/// Returns the same policy in virtual time: on what was replayed, so that its error is known, and on the whole trace.
fn simulated(turn: &Turn<'_>, entrant: &Entrant, policy: &Policy, part: &Trace, measured: &[Sample]) -> Vec<Sample> {
    let start = measured.iter().find(|sample| sample.metric.as_deref() == Some(START)).and_then(|sample| sample.value);
    let model = |length_s| Model {
        start_s: start.unwrap_or(0.0) / 1000.0,
        memory_mib: memory_of(turn.session, entrant),
        length_s,
    };
    let whole = &turn.session.trace;
    let minutes = whole.0.last().map_or(0.0, |invocation| (invocation.time_s / 60.0).ceil().max(1.0));
    let cases = [(SIMULATED, part, turn.session.plan.replay), (SIMULATED_WHOLE, whole, minutes * 60.0)];
    let rows = cases.map(|(suffix, trace, length_s)| {
        let variant = format!("{}{suffix}", turn.contestant.variant);
        quantities(&Sample { variant, ..turn.sample() }, &simulate(trace, policy, model(length_s)))
    });
    rows.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use tokio::time::timeout;

    use super::{super::stop, *};
    use crate::daemon::{DaemonSettings, Place};

    /// Returns the settings of a program that says nothing, and takes a while to end.
    fn slow(home: &std::path::Path) -> DaemonSettings {
        let program = home.join("slow");
        let script = "#!/bin/sh\ntrap 'sleep 0.3; mv \"$0.begun\" \"$0.ended\"; exit' TERM\n>\"$0.begun\"\n\
            while :; do sleep 0.01; done\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        DaemonSettings {
            daemon: program.clone(),
            program,
            registry: home.to_owned(),
            state: home.to_owned(),
            log: home.join("log"),
            is_networked: false,
            index: 0,
            options: Vec::new(),
        }
    }

    #[tokio::test]
    async fn end_of_a_daemon_whose_start_or_end_was_cut_off_is_waited_for() {
        for is_cut_in_start in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let nowhere = "0.0.0.0:0".parse().unwrap();
            let lane = Lane::new(Daemon::running(Place { front: nowhere, admin: nowhere }), None);
            let mut own = Own { lane: &lane, daemon: Some(Daemon::spawn(&slow(home.path())).unwrap()) };
            let wait = Duration::from_millis(5);
            while !home.path().join("slow.begun").exists() {
                let serving = timeout(wait, own.daemon.as_mut().unwrap().until_serving()).await;
                assert!(serving.is_err(), "{serving:?}");
            }
            if !is_cut_in_start {
                assert!(timeout(wait, own.end()).await.is_err());
            }
            drop(own);
            stop(vec![lane]).await.unwrap();
            assert!(home.path().join("slow.ended").exists(), "cut off in its start: {is_cut_in_start}");
        }
    }
}
