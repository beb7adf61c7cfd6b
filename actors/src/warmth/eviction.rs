//! Eviction by cost per byte ("greedy dual"): of all steps that release memory, the cheapest ones are taken.
//!
//! The cost of a step is the time that requests wait longer for it, per second: how often the instance is wanted, times how
//! much later it serves. Its score is the cost per MiB, plus a clock that is read when the instance was last used. The step with the
//! lowest score is taken and sets the clock. So what was not used for long is overtaken by what was used since, and what is
//! cheap to bring back, or holds much, goes before what is dear.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::id::InstanceId;

/// Times at which the clock has moved that are remembered.
const MAX_MOVES: usize = 1024;

/// What an instance is after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// It holds less memory, and is resumed by the next request.
    Paused,
    /// It is gone.
    Ended,
}

/// A step down that an idle instance can take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub instance: InstanceId,
    pub to: Rung,
    pub idle_since: Instant,
    /// Memory that it releases, in MiB. If the instance takes two steps, each releases a part.
    pub releases: u64,
    /// How often the instance is wanted, per second.
    pub rate: f64,
    /// How much later it serves then.
    pub delay: Duration,
}

/// The clock of the greedy dual.
#[derive(Debug, Default)]
pub(crate) struct GreedyDual {
    clock: f64,
    /// When the clock has moved, and what it showed before. Oldest first.
    moves: VecDeque<(Instant, f64)>,
}

impl GreedyDual {
    /// Selects the steps that release at least `missing` MiB: those with the lowest scores, and no more than necessary. The
    /// last step of each instance is enough to take those before it as well. Returns none if all of them would not suffice.
    pub fn select(&mut self, missing: u64, steps: Vec<Step>, now: Instant) -> Vec<(InstanceId, Rung)> {
        let mut scored = self.scored(steps);
        let mut sum = 0;
        let enough = scored.iter().position(|(_, step)| {
            sum += step.releases;
            sum >= missing
        });
        let Some(last) = enough else { return Vec::new() };
        scored.truncate(last + 1);
        // A step that releases much may make others before it unnecessary; the dearest ones are spared first.
        let mut further = HashSet::new();
        for index in (0..scored.len()).rev() {
            let step = scored[index].1;
            if sum - step.releases >= missing && !further.contains(&step.instance) {
                sum -= step.releases;
                scored.remove(index);
            } else {
                further.insert(step.instance);
            }
        }
        if let Some((score, _)) = scored.last() {
            self.set_clock(*score, now);
        }
        let mut selected: Vec<(InstanceId, Rung)> = Vec::new();
        for (_, step) in scored {
            match selected.iter_mut().find(|(instance, _)| *instance == step.instance) {
                Some((_, to)) => *to = step.to,
                None => selected.push((step.instance, step.to)),
            }
        }
        selected
    }

    /// Returns the steps in the order of their scores. A later step of an instance never precedes an earlier one.
    fn scored(&self, mut steps: Vec<Step>) -> Vec<(f64, Step)> {
        steps.sort_by_key(|step| step.to);
        let mut least = HashMap::new();
        let mut scored: Vec<_> = steps
            .into_iter()
            .map(|step| {
                let least = least.entry(step.instance).or_insert(f64::NEG_INFINITY);
                *least = self.score(&step).max(*least);
                (*least, step)
            })
            .collect();
        scored.sort_by(|(a, one), (b, other)| {
            let order = a.total_cmp(b).then(one.idle_since.cmp(&other.idle_since));
            order.then(one.to.cmp(&other.to)).then(one.instance.cmp(&other.instance))
        });
        scored
    }

    fn score(&self, step: &Step) -> f64 {
        let cost = step.rate * step.delay.as_secs_f64() * 1e3;
        self.clock_at(step.idle_since) + cost / step.releases.max(1) as f64
    }

    fn clock_at(&self, at: Instant) -> f64 {
        let next = self.moves.partition_point(|(moved, _)| *moved <= at);
        self.moves.get(next).map_or(self.clock, |(_, before)| *before)
    }

    fn set_clock(&mut self, score: f64, now: Instant) {
        if score <= self.clock {
            return;
        }
        match self.moves.back() {
            Some((last, _)) if *last == now => {}
            _ => self.moves.push_back((now, self.clock)),
        }
        self.clock = score;
        if self.moves.len() > MAX_MOVES {
            self.moves.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
