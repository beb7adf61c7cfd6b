//! `warm`: requests to an instance that is ready, directly and through the daemon, alternating in random order. The difference
//! is what the daemon adds.

use std::time::Duration;

use hyper::Method;
use rand::RngExt as _;
use tokio::time::sleep;

use super::{Contestant, Measurement, REQUEST_TIMEOUT, Session, until_instances};
use crate::{
    client::{ClientError, Connection, Response},
    daemon::{Daemon, invocation},
    error::BenchError,
    options::Experiment,
    sample::Sample,
    stats::generator,
};

const SELF: Experiment = Experiment::Warm;
/// Pause between requests in the variants with pauses: processors enter idle states meanwhile.
const PAUSE: Duration = Duration::from_millis(10);
/// Pairs that are not measured, on the connections of a round.
const WARMUP_PAIRS: u32 = 20;
/// Time limit of a request to an instance. A server of a single connection at a time does not answer.
const DIRECT_TIMEOUT: Duration = Duration::from_secs(5);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// The variants, without and with pauses.
pub const DIRECT: &str = "direct";
pub const DAEMON: &str = "daemon";
pub const DIRECT_PAUSES: &str = "direct, 10 ms pauses";
pub const DAEMON_PAUSES: &str = "daemon, 10 ms pauses";

pub async fn run(session: &mut Session) -> Result<(), BenchError> {
    let registry = session.registry(SELF)?;
    let keys = [
        ("single-use", None),
        ("min-instances", None),
        ("max-instances", Some(toml::Value::Integer(1))),
        ("keepalive", Some(toml::Value::Integer(86_400))),
        ("keep-paused", Some(toml::Value::Integer(0))),
    ];
    let contestants = session.register(&registry, "", &keys)?;
    let mut daemon = session.daemon(registry.path(), &[]).await?;
    let result = rounds(session, &mut daemon, &contestants).await;
    let ended = daemon.stop().await;
    result.and(ended.map(drop))
}

async fn rounds(session: &mut Session, daemon: &mut Daemon, contestants: &[Contestant]) -> Result<(), BenchError> {
    let (rounds, seconds) = (session.plan.rounds_of(SELF), session.seconds_of_round(SELF));
    let mut measurement = Measurement::new(session, SELF)?;
    for round in 0..=rounds {
        measurement.session.progress.round(SELF.name(), round, rounds, seconds);
        let order = measurement.session.plan.order(SELF, round, contestants.len());
        for (position, contestant) in order.into_iter().filter_map(|index| contestants.get(index)).enumerate() {
            measurement.session.interrupt.check()?;
            if measurement.is_dropped(&contestant.registered) {
                continue;
            }
            measurement.session.progress.sample(SELF.name(), round, rounds, &contestant.function);
            let turn = Turn { daemon, contestant, round, position: position as u32, session: measurement.session };
            let mut samples = turn.take().await?;
            measurement.note(SELF, contestant, &samples);
            measurement.write(&mut samples)?;
            daemon.check()?;
        }
        measurement.writer.flush()?;
    }
    Ok(())
}

/// A contestant's part of a round.
struct Turn<'a> {
    daemon: &'a Daemon,
    contestant: &'a Contestant,
    round: u32,
    position: u32,
    session: &'a Session,
}

impl Turn<'_> {
    async fn take(&self) -> Result<Vec<Sample>, BenchError> {
        let mut samples = Vec::new();
        if let Err(error) = self.measure(&mut samples).await {
            let mut sample = self.sample(DAEMON);
            sample.error = Some(error.to_string());
            samples.push(sample);
        }
        // The next round has a new instance.
        let name = &self.contestant.registered;
        self.daemon.stop_instances(name).await?;
        until_instances(self.daemon, name, END_TIMEOUT, <[_]>::is_empty).await?;
        Ok(samples)
    }

    async fn measure(&self, samples: &mut Vec<Sample>) -> Result<(), ClientError> {
        let (name, path) = (&self.contestant.registered, &self.contestant.path);
        let through = invocation(name, path);
        let mut daemon = Connection::open(self.daemon.front).await?;
        let first = daemon.send(Method::GET, &through, REQUEST_TIMEOUT).await?;
        if first.status != 200 {
            let mut sample = self.sample(DAEMON);
            sample.fill(&first, self.session.begin);
            samples.push(sample);
            return Ok(());
        }
        let mut direct = match self.direct(path).await {
            Ok(connection) => Some(connection),
            Err(error) => {
                let mut sample = self.sample(DIRECT);
                sample.error = Some(format!("the instance is not reached directly: {error}"));
                samples.push(sample);
                None
            }
        };
        for _ in 0..WARMUP_PAIRS {
            daemon.send(Method::GET, &through, REQUEST_TIMEOUT).await?;
            if let Some(direct) = &mut direct {
                direct.send(Method::GET, path, DIRECT_TIMEOUT).await?;
            }
        }
        let (busy, paused) = self.session.plan.pairs;
        let purpose = format!("pairs of {name} {}", self.round);
        let mut random = generator(self.session.plan.seed, &purpose);
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
                        samples.push(self.of(variants.1, &response));
                    } else if let Some(direct) = &mut direct {
                        let response = direct.send(Method::GET, path, DIRECT_TIMEOUT).await?;
                        samples.push(self.of(variants.0, &response));
                    }
                }
            }
        }
        Ok(())
    }

    /// Connects to the instance, and tries whether it answers there.
    async fn direct(&self, path: &str) -> Result<Connection, String> {
        let instances = self.daemon.instances(&self.contestant.registered).await.map_err(|error| error.to_string())?;
        let address = instances.first().and_then(|instance| instance["address"].as_str()?.parse().ok());
        let address = address.ok_or("its address is not known")?;
        let mut connection = Connection::open(address).await.map_err(|error| error.to_string())?;
        let answered = connection.send(Method::GET, path, DIRECT_TIMEOUT).await.map_err(|error| error.to_string())?;
        if answered.status == 200 { Ok(connection) } else { Err(format!("it answers with {}", answered.status)) }
    }

    fn sample(&self, variant: &str) -> Sample {
        Sample {
            experiment: SELF.name().to_owned(),
            function: self.contestant.function.clone(),
            variant: variant.to_owned(),
            n: 1,
            round: self.round,
            position: self.position,
            warmup: self.round == 0,
            ..Sample::default()
        }
    }

    fn of(&self, variant: &str, response: &Response) -> Sample {
        let mut sample = self.sample(variant);
        sample.fill(response, self.session.begin);
        // All on one connection: its times are those of the round, not of the request.
        (sample.c0, sample.c1) = (None, None);
        sample.valid = !sample.cold;
        sample
    }
}
