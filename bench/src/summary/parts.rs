//! Where the time of a cold start goes: medians of its parts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Context;
use crate::{experiments::CONTROL, sample::Sample, stats::median};

/// The parts, in the order in which they happen.
pub const PART_NAMES: [&str; 5] = ["connect", "queue", "boot", "upstream", "rest"];

/// The median parts of the cold starts of a function, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// The function.
    pub function: String,
    /// What was done with it.
    pub variant: String,
    /// One for each of [`PART_NAMES`].
    pub medians: [f64; 5],
    /// The phases of the boot, where the daemon reports them.
    pub phases: BTreeMap<String, f64>,
}

/// Reads a time of a sample in microseconds.
type ReadTime = fn(&Sample) -> Option<f64>;

/// Returns the parts of every function and variant.
pub fn of(samples: &[Sample], context: &Context<'_>) -> Vec<Parts> {
    let mut groups: BTreeMap<(usize, &str, &str), Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.is_counted() && !sample.function.ends_with(CONTROL)) {
        let place = context.functions.iter().position(|function| function.name == sample.function);
        groups.entry((place.unwrap_or(usize::MAX), &sample.function, &sample.variant)).or_default().push(sample);
    }
    let parts = groups.into_iter().filter_map(|((_, function, variant), samples)| {
        let rows: Vec<[f64; 5]> = samples.iter().filter_map(|sample| parts_of(sample)).collect();
        let middle = |part: usize| median(&rows.iter().map(|row| row[part]).collect::<Vec<_>>());
        let medians = [middle(0)?, middle(1)?, middle(2)?, middle(3)?, middle(4)?];
        let phases: [(&str, ReadTime); 5] = [
            ("resources", |sample| sample.resources),
            ("created", |sample| sample.created),
            ("started", |sample| sample.started),
            ("first output", |sample| sample.first_output),
            ("ready", |sample| sample.ready),
        ];
        let phases = phases.into_iter().filter_map(|(name, read)| {
            let values: Vec<_> = samples.iter().filter_map(|sample| read(sample)).map(|us| us / 1000.0).collect();
            Some((name.to_owned(), median(&values)?))
        });
        let (function, variant) = (function.to_owned(), variant.to_owned());
        Some(Parts { function, variant, medians, phases: phases.collect() })
    });
    parts.collect()
}

/// Returns the parts of a sample in milliseconds. The rest is what neither the client nor the daemon accounts for.
fn parts_of(sample: &Sample) -> Option<[f64; 5]> {
    let (connect, total) = (sample.c1? - sample.c0?, sample.t1? - sample.c0?);
    let (queue, boot, upstream) = (sample.queue?, sample.boot?, sample.upstream?);
    let rest = (total - connect - queue - boot - upstream).max(0.0);
    Some([connect, queue, boot, upstream, rest].map(|us| us / 1000.0))
}
