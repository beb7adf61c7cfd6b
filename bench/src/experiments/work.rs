//! `cpu`, `alloc`, `read`, `unzip`: work of the benchmark function, the first and the second time in a new instance.

use hyper::Method;

use super::{
    Contestant, Prepared, REQUEST_TIMEOUT, Session, Turn,
    cold::{uncache, with_page_cache},
    contestants::Enrolment,
};
use crate::{client::Connection, error::BenchError, options::Experiment, registry::DerivedRegistry, sample::Sample};

/// The work of each experiment: its name in variants, and its request.
const CPU: [(&str, &str); 3] = [("fib", "/fib?n=1000000000"), ("fft", "/fft?n=1048576"), ("matrix", "/matrix?n=1024")];
const ALLOC: [(&str, &str); 1] = [("alloc", "/alloc?mib=50")];
const READ: [(&str, &str); 1] = [("read", "/read")];
const UNZIP: [(&str, &str); 1] = [("unzip", "/unzip")];
/// What is behind the name of the work in variants.
pub const FIRST: &str = "first";
pub const SECOND: &str = "second";

/// Returns the work of an experiment.
pub const fn tasks(experiment: Experiment) -> &'static [(&'static str, &'static str)] {
    match experiment {
        Experiment::Cpu => &CPU,
        Experiment::Alloc => &ALLOC,
        Experiment::Read => &READ,
        Experiment::Unzip => &UNZIP,
        _ => &[],
    }
}

pub fn prepare(
    session: &Session,
    experiment: Experiment,
    registries: &[DerivedRegistry],
) -> Result<Prepared, BenchError> {
    let mut enrolment = Enrolment::single_instance("");
    // An emulated processor takes more than a minute for the matrices.
    let limit = REQUEST_TIMEOUT.as_secs() as i64;
    enrolment.keys.push(("timeout", Some(toml::Value::Integer(limit))));
    if experiment == Experiment::Read {
        // The file is read from the disk itself, not from a copy that was just written.
        enrolment.shares_disk = true;
    }
    let all = session.enrol(experiment, registries, enrolment, |_| true)?;
    let of_task = |(name, _): &(&str, _)| {
        let lacks = |contestant: &Contestant| session.entrant(contestant).is_some_and(|it| it.lacks.contains(name));
        all.iter()
            .filter(|contestant| !lacks(contestant))
            .map(|contestant| Contestant { variant: (*name).to_owned(), ..contestant.clone() })
            .collect::<Vec<_>>()
    };
    Ok((with_page_cache(session, tasks(experiment).iter().flat_map(of_task).collect()), &[]))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let samples = match turn.start().await {
        Ok(()) => measure(turn).await,
        Err(failed) => vec![failed],
    };
    turn.end().await?;
    Ok(samples)
}

async fn measure(turn: &Turn<'_>) -> Vec<Sample> {
    let variant = turn.contestant.variant.as_str();
    let is_of = |(name, _): &&(&str, &str)| variant.split(',').next() == Some(*name);
    let Some((name, path)) = tasks(turn.experiment).iter().find(is_of) else { return Vec::new() };
    let target = turn.target(path);
    let mut connection = match Connection::open(turn.daemon().front).await {
        Ok(connection) => connection,
        Err(error) => return vec![turn.failed(error)],
    };
    let mut samples = Vec::new();
    for time in [FIRST, SECOND] {
        let variant = variant.replacen(name, &format!("{name}, {time}"), 1);
        if let Some(failed) = uncache(turn) {
            samples.push(Sample { variant, ..failed });
            break;
        }
        match connection.send(Method::GET, &target, REQUEST_TIMEOUT).await {
            Ok(response) => samples.push(turn.warm(&variant, &response)),
            Err(error) => {
                samples.push(Sample { variant, ..turn.failed(error) });
                break;
            }
        }
    }
    samples
}
