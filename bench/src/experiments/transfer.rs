//! `transfer`: responses of 50 MiB, directly and through the daemon, over one connection and over four.

use std::{net::SocketAddr, time::Duration};

use futures::future::join_all;
use rand::seq::SliceRandom as _;

use super::{
    Prepared, Session, Turn,
    contestants::Enrolment,
    warm::{DAEMON, DIRECT},
};
use crate::{
    client::Connection, error::BenchError, options::Experiment, registry::DerivedRegistry, sample::Sample,
    stats::generator,
};

/// The request, and the length of the response in bytes.
pub const PATH: &str = "/static?mib=50";
const LENGTH: u64 = 50 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const CONNECTIONS: [u32; 2] = [1, 4];
/// The quantity.
pub const RATE: &str = "mib-per-s";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let enrolment = Enrolment::single_instance("");
    Ok((session.enrol(Experiment::Transfer, registries, enrolment, |_| true)?, &[]))
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
    let mut ways = vec![(DAEMON, Ok(turn.daemon().front), turn.target(PATH))];
    ways.extend(turn.direct().await.map(|address| (DIRECT, address, PATH.to_owned())));
    let mut cases: Vec<_> = ways.iter().flat_map(|way| CONNECTIONS.map(|connections| (way, connections))).collect();
    let purpose = format!("transfers of {} {}", turn.contestant.function, turn.round);
    cases.shuffle(&mut generator(turn.session.plan.seed, &purpose));
    // The first request makes the body.
    if let Err(error) = transfer(turn.daemon().front, &ways[0].2, 1).await {
        return vec![turn.failed(error)];
    }
    let mut samples = Vec::new();
    for ((way, address, target), connections) in cases {
        let moved = match address {
            Ok(address) => transfer(*address, target, connections).await,
            Err(error) => Err(error.clone()),
        };
        let model = Sample { variant: (*way).to_owned(), n: connections, ..turn.sample() };
        samples.push(match moved {
            Ok(rate) => Sample { requests: Some(connections.into()), ..model.quantity(RATE, rate) },
            Err(error) => Sample { error: Some(error), ..model },
        });
    }
    samples
}

/// Returns the MiB per second of simultaneous responses, from the first write to the last byte.
async fn transfer(server: SocketAddr, target: &str, connections: u32) -> Result<f64, String> {
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(server).await.map_err(|error| error.to_string())?);
    }
    let responses = join_all(open.iter_mut().map(|connection| connection.download(target, LIMIT))).await;
    let (mut begin, mut end, mut bytes) = (u64::MAX, 0, 0);
    for response in responses {
        let response = response.map_err(|error| error.to_string())?;
        if response.status != 200 || response.length != LENGTH {
            return Err(format!("{} bytes with status {}", response.length, response.status));
        }
        begin = begin.min(response.times.sent);
        end = end.max(response.times.last_byte);
        bytes += response.length;
    }
    Ok(bytes as f64 / f64::from(1 << 20) / (end.saturating_sub(begin).max(1) as f64 / 1e9))
}
