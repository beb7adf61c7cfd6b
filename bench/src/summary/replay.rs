//! What keep-alive policies have led to, measured and in virtual time.

use super::{
    Context,
    details::{Details, details, medians, quantity},
};
use crate::{
    experiments::replay::{
        ANSWERED, COLD, COLD_BY_FUNCTION, COLD_SHARE, IDLE, LATENESS, MEMORY, SIMULATED, SIMULATED_WHOLE, SLOWDOWN,
        START,
    },
    sample::Sample,
    stats::wilson,
};

/// The name of the table of each policy.
pub const POLICIES: &str = "replay-policies";
/// The name of the comparison of measured figures with those in virtual time.
const SIMULATION: &str = "replay-simulation";
/// The columns that the plot needs.
pub const SHARE: &str = "cold, %";
pub const MEMORY_TIME: &str = "memory, MiB·s";

/// Returns the tables of policies.
pub fn of(samples: &[&Sample], context: &Context<'_>) -> Vec<Details> {
    vec![policies(samples, context), simulation(samples, context)]
}

fn policies(samples: &[&Sample], context: &Context<'_>) -> Details {
    let [(q25, _), (q50, _), (q75, _)] = COLD_BY_FUNCTION;
    let [(slow50, _), (slow99, _)] = SLOWDOWN;
    let columns = [
        ("answered", ANSWERED),
        (SHARE, COLD_SHARE),
        ("at least, %", ""),
        ("at most, %", ""),
        ("of functions: q25, %", q25),
        ("median, %", q50),
        ("q75, %", q75),
        (MEMORY_TIME, MEMORY),
        ("without a request, MiB·s", IDLE),
        ("slowdown", slow50),
        ("slowdown, p99", slow99),
        ("start, ms", START),
        ("lateness, p99", LATENESS),
    ];
    let columns = columns.map(|(name, metric)| quantity(name, metric.to_owned())).into();
    let caption = "Requests that waited for the start of an instance, with Wilson's interval of their share over all rounds, and \
                   the share by function of the trace; the memory of all instances over time, as --memory-budget counts it, and \
                   that of instances without a request; the time to the last byte relative to the work. Medians of the rounds. \
                   Simulated: by the policy alone, in virtual time, with the start time and memory that were measured, but \
                   without any limit of processors.";
    let mut found = details(POLICIES, caption, "", samples, context, columns);
    for row in &mut found.rows {
        let sum = |metric: &str| -> f64 {
            let is_it = |sample: &&&Sample| {
                sample.function == row.function
                    && sample.variant == row.variant
                    && sample.metric.as_deref() == Some(metric)
            };
            samples.iter().filter(is_it).filter_map(|sample| sample.value).sum()
        };
        let interval = wilson(sum(COLD) as usize, sum(ANSWERED) as usize);
        row.values[2] = interval.map(|(low, _)| 100.0 * low);
        row.values[3] = interval.map(|(_, high)| 100.0 * high);
    }
    found
}

/// Returns how far virtual time is from what was measured, on the same invocations.
fn simulation(samples: &[&Sample], context: &Context<'_>) -> Details {
    let of = |name: &str, metric: &str| vec![quantity(name, metric.to_owned())];
    let mut found = Vec::new();
    for (name, metric) in [(SHARE, COLD_SHARE), (MEMORY_TIME, MEMORY)] {
        found.push(medians(samples, context, &of(name, metric)));
    }
    let value = |rows: &[super::DetailRow], function: &str, variant: &str| {
        let row = rows.iter().find(|row| row.function == function && row.variant == variant)?;
        row.values.first().copied().flatten()
    };
    let measured = found[0].iter().filter(|row| !row.variant.contains(SIMULATED));
    let row = |row: &super::DetailRow| {
        let simulated = format!("{}{SIMULATED}", row.variant);
        let cold = row.values[0].zip(value(&found[0], &row.function, &simulated))?;
        let memory = value(&found[1], &row.function, &row.variant).zip(value(&found[1], &row.function, &simulated))?;
        let error = 100.0 * (memory.1 / memory.0 - 1.0);
        let values = [cold.0, cold.1, cold.1 - cold.0, memory.0, memory.1, error].map(Some).into();
        Some(super::DetailRow { values, ..row.clone() })
    };
    let rows = measured.filter_map(row).collect();
    let columns =
        ["measured, cold %", "simulated, cold %", "error, points", "measured, MiB·s", "simulated, MiB·s", "error, %"];
    let caption = "The error of virtual time on the invocations that were also replayed. It applies to the rows of the whole trace \
                   as well.";
    Details {
        id: SIMULATION.to_owned(),
        caption: caption.to_owned(),
        count: String::new(),
        is_drawn_only: false,
        columns: columns.map(str::to_owned).into(),
        rows,
    }
}

/// Returns whether a variant is in virtual time on another part of the trace than what was measured.
pub fn is_of_whole_trace(variant: &str) -> bool {
    variant.ends_with(SIMULATED_WHOLE)
}
