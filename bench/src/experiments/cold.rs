//! `cold`: a request that finds no instance, over a new connection. Functions also take part with a paused instance, and with
//! a snapshot, where they can have them.

use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

use super::{
    Contestant, Prepared, REQUEST_TIMEOUT, Session, Turn,
    contestants::{Enrolment, single_use},
};
use crate::{
    error::BenchError,
    host,
    options::{Experiment, PageCache},
    registry::DerivedRegistry,
    sample::Sample,
};

/// Pause before each request, so that nothing of the sample before is still going on.
const REST: Duration = Duration::from_millis(300);
/// Time limit of the end of an instance, and of a pause.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit of a snapshot: a start, and the saving of its memory.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// The variants.
pub const COLD: &str = "cold";
pub const PAUSE: &str = "pause";
pub const RESTORE: &str = "restore";
/// What is behind the variant of samples that were taken with a cold page cache.
pub const UNCACHED: &str = ", page cache cold";

pub fn prepare(session: &Session, registries: &[DerivedRegistry]) -> Result<Prepared, BenchError> {
    let enrolment = Enrolment::single_use(COLD);
    let mut contestants = with_page_cache(session, session.enrol(Experiment::Cold, registries, enrolment, |_| true)?);
    // The functions of a daemon that is another's are as they are.
    if session.place.is_none() {
        let paused = Enrolment {
            variant: PAUSE,
            suffix: ".pause",
            keys: vec![
                ("single-use", None),
                ("min-instances", None),
                ("max-instances", Some(toml::Value::Integer(1))),
                ("keepalive", Some(toml::Value::Float(0.1))),
                ("keep-paused", Some(toml::Value::Integer(86_400))),
            ],
            vm: vec![("snapshot", None)],
            ..Enrolment::default()
        };
        contestants.extend(session.enrol(Experiment::Cold, registries, paused, |_| true)?);
        let restored = Enrolment {
            variant: RESTORE,
            suffix: ".restore",
            keys: single_use(),
            vm: vec![("snapshot", Some(toml::Value::Boolean(true)))],
            ..Enrolment::default()
        };
        let can_restore = |entrant: &super::Entrant| entrant.source.can_restore();
        contestants.extend(session.enrol(Experiment::Cold, registries, restored, can_restore)?);
    }
    Ok((contestants, &[]))
}

/// Returns contestants for each wanted state of the page cache.
pub fn with_page_cache(session: &Session, contestants: Vec<Contestant>) -> Vec<Contestant> {
    let uncached = contestants
        .iter()
        .map(|contestant| Contestant { variant: format!("{}{UNCACHED}", contestant.variant), ..contestant.clone() });
    match session.plan.page_cache {
        PageCache::Warm => contestants,
        PageCache::Cold => uncached.collect(),
        PageCache::Both => contestants.iter().cloned().chain(uncached.collect::<Vec<_>>()).collect(),
    }
}

/// Drops the page cache if the contestant's variant says so. Returns the sample of a failure.
pub fn uncache(turn: &Turn<'_>) -> Option<Sample> {
    let wants = turn.contestant.variant.ends_with(UNCACHED);
    let dropped = if wants { host::drop_page_cache() } else { Ok(()) };
    dropped.err().map(|error| turn.failed(format!("the page cache cannot be dropped: {error}")))
}

pub async fn take(turn: &Turn<'_>) -> Result<Vec<Sample>, BenchError> {
    let Contestant { registered, path, variant, .. } = turn.contestant;
    if let Err(obstacle) = reach(turn).await? {
        return Ok(vec![turn.failed(obstacle)]);
    }
    sleep(REST).await;
    if let Some(failed) = uncache(turn) {
        return Ok(vec![failed]);
    }
    let sample = match turn.daemon().invoke(registered, path, REQUEST_TIMEOUT).await {
        Ok(response) => {
            let mut sample = turn.sample();
            sample.fill(&response, turn.session.begin);
            sample.valid = is_valid(variant, sample.cold, sample.origin.as_deref());
            sample
        }
        Err(error) => turn.failed(error),
    };
    if variant != PAUSE {
        // Its end is no part of the next sample.
        turn.is_gone(SETTLE_TIMEOUT).await?;
    }
    Ok(vec![sample])
}

/// Returns whether a request waited for what its variant is about. Daemons before origins were reported said `cold` for
/// starts only.
fn is_valid(variant: &str, is_cold: bool, origin: Option<&str>) -> bool {
    match variant {
        PAUSE => origin == Some("resumed") || origin.is_none() && !is_cold,
        RESTORE => origin == Some("restored"),
        _ => is_cold && origin.is_none_or(|origin| origin == "cold"),
    }
}

/// Brings the function into the state that its variant is about. Returns what prevents it.
async fn reach(turn: &Turn<'_>) -> Result<Result<(), String>, BenchError> {
    let late = |what: &str, limit: Duration| Err(format!("the function {what} after {} s", limit.as_secs()));
    match turn.contestant.variant.as_str() {
        PAUSE => {
            if turn.daemon().instances(&turn.contestant.registered).await?.is_empty()
                && let Err(failed) = turn.start().await
            {
                return Ok(Err(failed.error.unwrap_or_default()));
            }
            let is_paused = |instances: &[Value]| instances.iter().any(|instance| instance["state"] == "paused");
            let reached = turn.until(SETTLE_TIMEOUT, is_paused).await?;
            Ok(if reached { Ok(()) } else { late("has no paused instance", SETTLE_TIMEOUT) })
        }
        RESTORE => {
            if snapshot(turn).await? != "ready" {
                // The template boots after a cold start.
                if let Err(failed) = turn.start().await {
                    return Ok(Err(failed.error.unwrap_or_default()));
                }
                let until = crate::clock::now() + SNAPSHOT_TIMEOUT.as_nanos() as u64;
                while snapshot(turn).await? != "ready" {
                    if crate::clock::now() > until {
                        return Ok(late("has no snapshot", SNAPSHOT_TIMEOUT));
                    }
                    sleep(REST).await;
                }
            }
            gone(turn).await
        }
        _ => gone(turn).await,
    }
}

async fn gone(turn: &Turn<'_>) -> Result<Result<(), String>, BenchError> {
    let is_gone = turn.is_gone(SETTLE_TIMEOUT).await?;
    let left = || format!("the function still has an instance after {} s", SETTLE_TIMEOUT.as_secs());
    Ok(if is_gone { Ok(()) } else { Err(left()) })
}

/// Returns the state of the function's snapshot.
async fn snapshot(turn: &Turn<'_>) -> Result<String, BenchError> {
    let page = turn.daemon().function(&turn.contestant.registered).await?;
    Ok(page["snapshot"]["state"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_variant_wants_its_origin() {
        for (variant, origin) in [(COLD, "cold"), (PAUSE, "resumed"), (RESTORE, "restored")] {
            for other in ["cold", "resumed", "restored"] {
                assert_eq!(is_valid(variant, true, Some(other)), origin == other, "{variant} {other}");
            }
        }
        assert!(is_valid(COLD, true, None) && !is_valid(COLD, false, None));
        assert!(is_valid(PAUSE, false, None) && !is_valid(PAUSE, true, None));
    }
}
