//! Counts of invocations in intervals: which functions are taken, and when within its interval each invocation arrives.

use std::collections::BTreeMap;

use clap::ValueEnum;
use rand::{Rng, RngExt as _, seq::SliceRandom as _};

use super::{Invocation, MAX_DURATION_MS, Trace};

/// How the invocations of an interval are spread over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// At random times, as those of a Poisson process are if their number is known.
    Poisson,
    /// At equal distances.
    Even,
    /// All at its begin.
    Start,
}

/// The invocations of a function in intervals of the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// By the begin of the interval in seconds, how many.
    pub by_begin: BTreeMap<u64, u64>,
    /// How long each works.
    pub duration_ms: Option<f64>,
    /// Memory of an instance.
    pub memory_mib: Option<f64>,
}

impl Counts {
    /// Returns the sum.
    pub fn sum(&self) -> u64 {
        self.by_begin.values().sum()
    }
}

/// Takes `count` functions so that each band of rates is represented: the functions are sorted by their rates, cut into as
/// many groups of equal size, and one is drawn of each. Those without any invocation do not count.
pub fn stratified<T>(
    mut functions: Vec<(String, T)>,
    rate: impl Fn(&T) -> u64,
    count: usize,
    random: &mut impl Rng,
) -> Vec<(String, T)> {
    functions.retain(|(_, function)| rate(function) > 0);
    if functions.len() <= count {
        return functions;
    }
    // Equal rates are in random order, else names would decide.
    functions.shuffle(random);
    functions.sort_by_key(|(_, function)| rate(function));
    let all = functions.len();
    let chosen: Vec<usize> = (0..count)
        .map(|group| {
            let (from, to) = (group * all / count, (group + 1) * all / count);
            random.random_range(from..to)
        })
        .collect();
    let mut place = 0;
    functions.retain(|_| {
        place += 1;
        chosen.contains(&(place - 1))
    });
    functions
}

/// Returns a trace of counts. Every invocation that is counted is in it.
pub fn spread(
    functions: Vec<(String, Counts)>,
    length: u64,
    how: Spread,
    default_ms: f64,
    random: &mut impl Rng,
) -> Trace {
    let mut invocations = Vec::new();
    for (name, counts) in functions {
        let name: std::sync::Arc<str> = name.into();
        let duration_ms = counts.duration_ms.unwrap_or(default_ms).clamp(0.0, MAX_DURATION_MS);
        for (begin, count) in counts.by_begin {
            for place in 0..count {
                let within = match how {
                    Spread::Poisson => random.random::<f64>(),
                    Spread::Even => (place as f64 + 0.5) / count as f64,
                    Spread::Start => 0.0,
                };
                invocations.push(Invocation {
                    time_s: begin as f64 + within * length as f64,
                    function: name.clone(),
                    duration_ms,
                    memory_mib: counts.memory_mib,
                });
            }
        }
    }
    Trace::of(invocations)
}
