//! `warm`: requests to an instance that is ready, directly and through the daemon, alternating in random order. The difference
//! is what the daemon adds.

use std::time::Duration;

use hyper::Method;
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Prepared, REQUEST_TIMEOUT, Session, Turn, contestants::Enrolment};
use crate::{
    client::{ClientError, Connection},
    error::BenchError,
    options::Experiment,
    registry::DerivedRegistry,
    sample::Sample,
    stats::generator,
};

/// Pause between requests in the variants with pauses: processors enter idle states meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// Pairs that are not measured, on the connections of a round.
const WARMUP_PAIRS: u32 = 20;
/// Time limit of a request to an instance. A server of a single connection at a time does not answer.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The variants, without and with pauses.
pub const DIRECT: &str = "direct";
pub const DAEMON: &str = "daemon";
pub const DIRECT_PAUSES: &str = "direct, 10 ms pauses";
pub const DAEMON_PAUSES: &str = "daemon, 10 ms pauses";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let enrolment = Enrolment::single_instance("");
    Ok((session.enrol(Experiment::Warm, registries, enrolment, |_| true)?, &[]))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let mut samples = Vec::new();
    match turn.start().await {
        Ok(()) => {
            if let Err(error) = measure(turn, &mut samples).await {
                samples.push(Sample { variant: DAEMON.to_owned(), ..turn.failed(error) });
            }
        }
        Err(failed) => samples.push(Sample { variant: DAEMON.to_owned(), ..failed }),
    }
    // The next round has a new instance.
    turn.end().await?;
    Ok(samples)
}

async fn measure(turn: &Turn<'_>, samples: &mut Vec<Sample>) -> Result<(), ClientError> {
    let (path, through) = (&turn.contestant.path, turn.target(&turn.contestant.path));
    let mut daemon = Connection::open(turn.daemon().front).await?;
    let mut direct = match connect(turn).await {
        Some(Err(error)) => {
            let error = format!("the instance is not reached directly: {error}");
            samples.push(Sample { variant: DIRECT.to_owned(), ..turn.failed(error) });
            None
        }
        Some(Ok(connection)) => Some(connection),
        None => None,
    };
    for _ in 0..WARMUP_PAIRS {
        daemon.send(Method::GET, &through, REQUEST_TIMEOUT).await?;
        if let Some(direct) = &mut direct {
            direct.send(Method::GET, path, DIRECT_TIMEOUT).await?;
        }
    }
    let plan = &turn.session.plan;
    let request_s = turn.session.entrant(turn.contestant).map_or(0.0, |entrant| entrant.speed.request_s);
    let (busy, paused) = plan.pairs_with(request_s);
    let purpose = format!("pairs of {} {}", turn.contestant.function, turn.round);
    let mut random = generator(plan.seed, &purpose);
    for (pairs, pause, variants) in
        [(busy, Duration::ZERO, (DIRECT, DAEMON)), (paused, PAUSE, (DIRECT_PAUSES, DAEMON_PAUSES))]
    {
        for _ in 0..pairs {
            let is_direct_first: bool = random.random();
            for is_direct in [is_direct_first, !is_direct_first] {
                if !pause.is_zero() {
                    sleep(pause).await;
                }
                if !is_direct {
                    let response = daemon.send(Method::GET, &through, REQUEST_TIMEOUT).await?;
                    samples.push(turn.warm(variants.1, &response));
                } else if let Some(direct) = &mut direct {
                    let response = direct.send(Method::GET, path, DIRECT_TIMEOUT).await?;
                    samples.push(turn.warm(variants.0, &response));
                }
            }
        }
    }
    Ok(())
}

/// Connects to the instance, and tries whether it answers there.
async fn connect(turn: &Turn<'_>) -> Option<Result<Connection, String>> {
    let address = turn.direct().await?;
    let connected = async {
        let mut connection = Connection::open(address?).await.map_err(|error| error.to_string())?;
        let answered = connection.send(Method::GET, &turn.contestant.path, DIRECT_TIMEOUT).await;
        let answered = answered.map_err(|error| error.to_string())?;
        if answered.status == 200 { Ok(connection) } else { Err(format!("it answers with {}", answered.status)) }
    };
    Some(connected.await)
}
