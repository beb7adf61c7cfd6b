//! Instances without requests: functions that are added to the registry in their turn, and removed at its end.

use std::time::Duration;

use super::{Contestant, Session, Turn, contestants::Enrolment, turn::until_instances};
use crate::{error::BenchError, options::Experiment, registry::DerivedRegistry};

/// Time limit of the starts of a step, and of the end of all instances.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the contestants. Their functions come into the registries in their turns.
pub fn enrol(
    session: &Session,
    experiment: Experiment,
    registries: &[DerivedRegistry],
) -> Result<Vec<Contestant>, BenchError> {
    let enrolment = Enrolment { has_control: true, ..Enrolment::default() };
    let contestants = session.enrol(experiment, registries, enrolment, |_| true)?;
    remove_all(registries, &contestants)?;
    Ok(contestants)
}

/// Takes contestants out of the registries again.
pub fn remove_all(registries: &[DerivedRegistry], contestants: &[Contestant]) -> Result<(), BenchError> {
    contestants.iter().try_for_each(|contestant| match registries.get(contestant.lane) {
        Some(registry) => registry.remove(&contestant.registered),
        None => Ok(()),
    })
}

/// Functions that were added for a turn.
pub struct IdleInstances<'t> {
    turn: &'t Turn<'t>,
    /// Names, and how many instances each has.
    functions: Vec<(String, u32)>,
}

impl<'t> IdleInstances<'t> {
    pub fn new(turn: &'t Turn<'t>) -> Self {
        Self { turn, functions: Vec::new() }
    }

    /// Returns the number of its instances.
    pub fn count(&self) -> u32 {
        self.functions.iter().map(|(_, count)| count).sum()
    }

    /// Adds a function with so many instances, and waits until they are idle. Returns what prevents it.
    pub async fn add(&mut self, count: u32) -> Result<Result<(), String>, BenchError> {
        let Turn { session, lane, contestant, .. } = self.turn;
        let (Some(entrant), Some(registry)) = (session.entrant(contestant), &lane.registry) else {
            return Ok(Err("its daemon is another's".to_owned()));
        };
        let name = format!("{}-{}-{}", contestant.registered, self.turn.round, self.functions.len());
        let keys = vec![
            ("single-use", None),
            ("min-instances", Some(toml::Value::Integer(count.into()))),
            ("max-instances", Some(toml::Value::Integer(count.into()))),
            ("keepalive", Some(toml::Value::Integer(86_400))),
            ("keep-paused", Some(toml::Value::Integer(0))),
        ];
        self.functions.push((name.clone(), count));
        registry.add(&name, &entrant.source, &session.overrides(keys, vec![("snapshot", None)]))?;
        lane.daemon.until_known(&name, true, START_TIMEOUT).await?;
        let is_there = move |instances: &[serde_json::Value]| {
            instances.iter().filter(|instance| instance["state"] == "idle").count() >= count as usize
        };
        let known = session.schedule.wait_limit(self.turn.experiment, &entrant.source.name);
        let limit = known.map_or(START_TIMEOUT, Duration::from_secs_f64).min(START_TIMEOUT);
        let is_there = until_instances(&lane.daemon, &name, limit, is_there).await?;
        let late = || format!("{count} instances are not idle after {:.0} s", limit.as_secs_f64());
        Ok(if is_there { Ok(()) } else { Err(late()) })
    }

    /// Returns the first process of each instance.
    pub async fn pids(&self) -> Result<Vec<u32>, BenchError> {
        let mut pids = Vec::new();
        for (name, _) in &self.functions {
            let instances = self.turn.daemon().instances(name).await?;
            pids.extend(instances.iter().filter_map(|instance| u32::try_from(instance["pid"].as_u64()?).ok()));
        }
        Ok(pids)
    }

    /// Removes the functions, and waits until their instances have ended.
    pub async fn end(self) -> Result<(), BenchError> {
        let Some(registry) = &self.turn.lane.registry else { return Ok(()) };
        for (name, _) in &self.functions {
            registry.remove(name)?;
        }
        for (name, _) in &self.functions {
            self.turn.daemon().until_known(name, false, END_TIMEOUT).await?;
        }
        Ok(())
    }
}
