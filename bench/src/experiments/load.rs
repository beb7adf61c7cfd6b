//! `load`: requests at random times of a given rate. Sending never waits for answers, and latencies count from the times at
//! which requests should have been sent, so a daemon that stops is seen by all requests of that time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::RngExt as _;

use super::{Contestant, Lane, Prepared, Session, Turn, original, throughput::enrolment};
use crate::{
    client::{Arrival, Failures, Outcome, Window, closed, open},
    clock,
    error::BenchError,
    options::Experiment,
    plan::Load,
    registry::DerivedRegistry,
    sample::Sample,
    stats::{generator, quantile, sorted},
};

/// The variants: a share of what the function can answer, or a number of requests per second.
pub const SHARE: &str = "share";
pub const RATE: &str = "rate";
/// Time limit of a request, from its sending.
const LIMIT: Duration = Duration::from_secs(30);
/// Time from the plan of a loop to its first request.
const LEAD: Duration = Duration::from_millis(20);
/// Connections that are open before the first request.
const READY: usize = 16;
/// Requests that the instance may have at once. Further ones wait in the daemon, so that a backlog is latency: servers of few
/// connections, such as unikernels, refuse those that are too many.
const SLOTS: u32 = 32;
/// The loop that finds what a function can answer: connections, fewer if there are failures; and seconds before the window and
/// in it. A longer one follows if nothing has ended, as on a busy machine.
const CAPACITY_CONNECTIONS: [u32; 3] = [64, 8, 1];
const CAPACITY_WINDOWS: [(f64, f64); 3] = [(0.3, 1.0), (1.0, 3.0), (3.0, 9.0)];
/// What is measured of each request: its time from when it should have been sent, from when it was sent, and the difference.
pub const LATENCY: &str = "latency";
pub const SERVICE: &str = "service";
pub const LATENESS: &str = "lateness";
/// The quantiles that are recorded.
pub const QUANTILES: [(&str, f64); 9] = [
    ("p50", 0.5),
    ("p75", 0.75),
    ("p90", 0.9),
    ("p95", 0.95),
    ("p99", 0.99),
    ("p99.5", 0.995),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];
/// The rate at which requests were sent.
pub const SENT: &str = "sent-per-s";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let all = session.enrol(Experiment::Load, registries, enrolment(SLOTS), |_| true)?;
    let with = |load: &Load| {
        let (variant, n) = match load {
            Load::Share(percent) => (SHARE, *percent),
            Load::Rate(rate) => (RATE, *rate),
        };
        let one = |contestant: &Contestant| Contestant { variant: variant.to_owned(), n, ..contestant.clone() };
        all.iter().map(one).collect::<Vec<_>>()
    };
    Ok((session.plan.loads.iter().flat_map(with).collect(), &[]))
}

/// Finds what each function can answer per second, for loads that are shares of it.
pub async fn find_capacities(
    session: &mut Session,
    lanes: &[Lane],
    contestants: &[Contestant],
) -> Result<(), BenchError> {
    let (mut found, mut warnings) = (BTreeMap::new(), Vec::new());
    for contestant in contestants.iter().filter(|contestant| contestant.variant == SHARE) {
        let Some(lane) = lanes.get(contestant.lane) else { continue };
        let key = (contestant.lane, contestant.registered.clone());
        let is_planned = session.schedule.is_planned(Experiment::Load, original(&contestant.function));
        if !is_planned || found.contains_key(&key) {
            continue;
        }
        session.interrupt.check()?;
        let turn = Turn { session, lane, contestant, experiment: Experiment::Load, round: 0, position: 0 };
        // A function that does not start fails again in each round, where it is counted.
        if turn.start().await.is_ok() {
            let (rate, warning) = capacity(&turn).await;
            warnings.extend(warning);
            found.insert(key, rate);
        }
        turn.end().await?;
    }
    session.capacities = found;
    session.warnings.extend(warnings);
    Ok(())
}

/// Returns how many requests per second an instance answers without failures, with a warning if that takes fewer connections.
async fn capacity(turn: &Turn<'_>) -> (f64, Option<String>) {
    let (target, name) = (turn.target(&turn.contestant.path), &turn.contestant.function);
    let mut first: Option<Window> = None;
    for connections in CAPACITY_CONNECTIONS {
        let window = answers(turn, &target, connections).await;
        if window.failures.count() == 0 {
            let warning = |first: Window| {
                let failed = describe(&first);
                format!("load: what {name} can answer was found over {connections} connections, as {failed}.")
            };
            return (window.rate(), first.map(warning));
        }
        first.get_or_insert(window);
    }
    // They do not come from the number of connections: the loads have them as well.
    (first.map_or(0.0, |first| first.rate()), None)
}

/// Returns what is answered in a closed loop.
async fn answers(turn: &Turn<'_>, target: &str, connections: u32) -> Window {
    let mut window = Window::default();
    for (before, seconds) in CAPACITY_WINDOWS {
        let begin = clock::now() + (before * 1e9) as u64;
        let end = begin + (seconds * 1e9) as u64;
        window = closed(turn.daemon().front, target, connections, (begin, end)).await;
        if window.rate() > 0.0 || window.failures.count() > 0 {
            break;
        }
    }
    window
}

/// Returns the failures of a window in words, with the most frequent reason.
fn describe(window: &Window) -> String {
    let failed = window.failures.count();
    let all = window.latencies.len() as u64 + failed;
    let most = window.failures.iter().max_by_key(|(_, _, count)| *count);
    let (status, reason) = most.map_or((0, ""), |(status, reason, _)| (status, reason));
    let status = if status > 0 { status.to_string() } else { "no response".to_owned() };
    let connections = CAPACITY_CONNECTIONS[0];
    format!("{failed} of {all} requests have failed over {connections}, most with {status} ({reason})")
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let Contestant { variant, n, registered, lane, .. } = turn.contestant;
    let rate = if variant == SHARE {
        turn.session.capacities.get(&(*lane, registered.clone())).copied().unwrap_or(0.0) * f64::from(*n) / 100.0
    } else {
        f64::from(*n)
    };
    let samples = match turn.start().await {
        Ok(()) if rate > 0.0 => measure(turn, rate).await?,
        Ok(()) => vec![turn.failed("it is not known how many requests it can answer")],
        Err(failed) => vec![failed],
    };
    turn.end().await?;
    Ok(samples)
}

async fn measure(turn: &Turn<'_>, rate: f64) -> Result<Vec<Sample>, BenchError> {
    let Contestant { function, n, path, .. } = turn.contestant;
    let seconds = turn.session.plan.windows.1;
    let mut random = generator(turn.session.plan.seed, &format!("arrivals of {function} {n} {}", turn.round));
    let begin = clock::now() + LEAD.as_nanos() as u64;
    let target: Arc<str> = turn.target(path).into();
    let times = poisson(rate, seconds, &mut random);
    let arrivals: Vec<_> =
        times.iter().map(|at| Arrival { at: begin + (at * 1e9) as u64, target: target.clone() }).collect();
    if arrivals.is_empty() {
        return Ok(vec![turn.failed(format!("{rate} requests per second are none in {seconds} s"))]);
    }
    let outcomes = open(turn.daemon().front, &arrivals, READY, LIMIT).await;
    let outcomes = outcomes.map_err(|error| BenchError::System("a timer", error))?;
    Ok(samples(turn, seconds, &arrivals, &outcomes))
}

/// Returns the times of arrivals at a rate, in seconds from the begin: the gaps between them are exponential.
pub fn poisson(rate: f64, seconds: f64, random: &mut impl rand::Rng) -> Vec<f64> {
    let (mut times, mut at) = (Vec::new(), 0.0);
    loop {
        let uniform: f64 = random.random();
        at += -(1.0 - uniform).ln() / rate;
        if at >= seconds {
            return times;
        }
        times.push(at);
    }
}

/// Reduces a loop to quantiles: its requests would be millions of rows.
fn samples(turn: &Turn<'_>, seconds: f64, arrivals: &[Arrival], outcomes: &[Outcome]) -> Vec<Sample> {
    let (mut latency, mut service, mut lateness, mut failures) = (vec![], vec![], vec![], Failures::default());
    for Outcome { index, response } in outcomes {
        failures.note(response);
        let Some(times) = response.as_ref().ok().filter(|response| response.status == 200).map(|it| it.times) else {
            continue;
        };
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        let at = arrivals[*index].at;
        latency.push(ms(at, times.first_byte));
        service.push(ms(times.sent, times.first_byte));
        lateness.push(ms(at, times.sent));
    }
    let model = turn.sample();
    let mut samples = model.of_loop(SENT, outcomes.len() as f64 / seconds, outcomes.len() as u64, &failures);
    for (name, values) in [(LATENCY, latency), (SERVICE, service), (LATENESS, lateness)] {
        let values = sorted(values);
        let rows = QUANTILES
            .into_iter()
            .filter_map(|(q_name, q)| Some(model.quantity(&format!("{name}-{q_name}"), quantile(&values, q)?)));
        samples.extend(rows);
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_have_their_rate() {
        let times = poisson(1000.0, 20.0, &mut generator(1, "arrivals"));
        assert!((19_500..20_500).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted() && times.iter().all(|at| (0.0..20.0).contains(at)));
        let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let (mean, count) = (gaps.iter().sum::<f64>() / gaps.len() as f64, gaps.len() as f64);
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count).sqrt();
        assert!((deviation / mean - 1.0).abs() < 0.03, "gaps are exponential: {}", deviation / mean);
    }
}
