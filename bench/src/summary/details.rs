//! Details beside the metrics: medians of several quantities in one row, such as the parts of a cold start.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Context, quantity::with, replay};
use crate::{
    experiments::{CONTROL, load, memory, original, throughput},
    options::Experiment,
    sample::Sample,
    stats::{median, theil_sen},
};

/// The parts of a cold start, in the order in which they happen.
pub const PART_NAMES: [&str; 5] = ["connect", "queue", "boot", "upstream", "rest"];
/// The name of the parts of cold starts.
pub const PARTS: &str = "cold-parts";
/// The name of the quantiles of an open loop.
const QUANTILES: &str = "load-quantiles";
/// The name of processors and latencies of a closed loop.
const LOOP: &str = "throughput-loop";
/// The name of the memory at each number of instances.
pub const STEPS: &str = "memory-steps";

/// A table of medians.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Details {
    /// Its name in files.
    pub id: String,
    /// What it shows.
    pub caption: String,
    /// What the numbers of its rows count. Empty: they have none.
    pub count: String,
    /// Whether it is drawn only, as its table would be long.
    pub is_drawn_only: bool,
    /// The quantities.
    pub columns: Vec<String>,
    /// The contestants.
    pub rows: Vec<DetailRow>,
}

/// The medians of a contestant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DetailRow {
    /// The function.
    pub function: String,
    /// What was done with it.
    pub variant: String,
    /// Connections, load, or instances.
    pub n: u32,
    /// One for each column.
    pub values: Vec<Option<f64>>,
}

impl DetailRow {
    /// Returns the value of a column.
    pub fn value(&self, details: &Details, column: &str) -> Option<f64> {
        let at = details.columns.iter().position(|name| name == column)?;
        self.values.get(at).copied().flatten()
    }
}

/// Reads a time of a sample in microseconds.
type ReadTime = fn(&Sample) -> Option<f64>;
/// Reads a quantity of a sample.
pub type Read<'r> = Box<dyn Fn(&Sample) -> Option<f64> + 'r>;

/// Returns the details of an experiment.
pub fn of(experiment: Experiment, samples: &[Sample], context: &Context<'_>) -> Vec<Details> {
    let samples: Vec<_> = samples.iter().filter(|sample| sample.is_counted()).collect();
    let mut details = match experiment {
        Experiment::Cold => vec![parts(&samples, context)],
        Experiment::Cpu | Experiment::Alloc | Experiment::Read | Experiment::Unzip => {
            vec![clocks(experiment, &samples, context)]
        }
        Experiment::Throughput => vec![closed_loop(&samples, context)],
        Experiment::Load => vec![open_loop(&samples, context)],
        Experiment::Memory => vec![steps(&samples, context), intercepts(&samples, context)],
        Experiment::Replay => replay::of(&samples, context),
        _ => Vec::new(),
    };
    details.retain(|details| !details.rows.is_empty());
    details
}

/// Returns a row of medians for each contestant but the A/A control.
pub fn medians(samples: &[&Sample], context: &Context<'_>, columns: &[(String, Read<'_>)]) -> Vec<DetailRow> {
    let mut groups: BTreeMap<(usize, &str, &str, u32), Vec<&Sample>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| !sample.function.ends_with(CONTROL)) {
        let place = context.functions.iter().position(|function| function.name == original(&sample.function));
        let key = (place.unwrap_or(usize::MAX), sample.function.as_str(), sample.variant.as_str(), sample.n);
        groups.entry(key).or_default().push(sample);
    }
    let row = |((_, function, variant, n), samples): ((usize, &str, &str, u32), Vec<&Sample>)| {
        let middle = |(_, read): &(String, Read<'_>)| {
            median(&samples.iter().filter_map(|sample| read(sample)).collect::<Vec<_>>())
        };
        let values = columns.iter().map(middle).collect();
        DetailRow { function: function.to_owned(), variant: variant.to_owned(), n, values }
    };
    groups.into_iter().map(row).collect()
}

pub fn details(
    id: &str,
    caption: &str,
    count: &str,
    samples: &[&Sample],
    context: &Context<'_>,
    columns: Vec<(String, Read<'_>)>,
) -> Details {
    let rows = medians(samples, context, &columns);
    let columns = columns.into_iter().map(|(name, _)| name).collect();
    let (id, caption, count) = (id.to_owned(), caption.to_owned(), count.to_owned());
    Details { id, caption, count, is_drawn_only: false, columns, rows }
}

fn parts(samples: &[&Sample], context: &Context<'_>) -> Details {
    let part = |place: usize| -> Read<'_> { Box::new(move |sample| Some(parts_of(sample)?[place])) };
    let mut columns: Vec<(String, Read<'_>)> =
        PART_NAMES.iter().enumerate().map(|(place, name)| ((*name).to_owned(), part(place))).collect();
    let phases: [(&str, ReadTime); 5] = [
        ("resources", |sample| sample.resources),
        ("created", |sample| sample.created),
        ("started", |sample| sample.started),
        ("first output", |sample| sample.first_output),
        ("ready", |sample| sample.ready),
    ];
    columns.extend(phases.into_iter().map(|(name, read)| -> (String, Read<'_>) {
        (format!("boot: {name}"), Box::new(move |sample| read(sample).map(|us| us / 1000.0)))
    }));
    let caption = "Parts of a cold start, medians in ms: connect(2); waiting without the boot; the boot by the daemon's \
                   clock, with its phases; from having an instance to the head of its response; the rest is neither the \
                   client's nor the daemon's. Medians of parts need not add up to the median of the whole.";
    details(PARTS, caption, "", samples, context, columns)
}

/// Returns the parts of a sample in milliseconds. The rest is what neither the client nor the daemon accounts for.
fn parts_of(sample: &Sample) -> Option<[f64; 5]> {
    let (connect, total) = (sample.c1? - sample.c0?, sample.t1? - sample.c0?);
    let (queue, boot, upstream) = (sample.queue?, sample.boot?, sample.upstream?);
    let rest = (total - connect - queue - boot - upstream).max(0.0);
    Some([connect, queue, boot, upstream, rest].map(|us| us / 1000.0))
}

fn clocks(experiment: Experiment, samples: &[&Sample], context: &Context<'_>) -> Details {
    let columns: Vec<(String, Read<'_>)> = vec![
        ("client".to_owned(), Box::new(|sample| Some((sample.t1? - sample.t0?) / 1000.0))),
        ("function".to_owned(), Box::new(|sample| sample.function_us.map(|us| us / 1000.0))),
    ];
    let caption = "The same work by the client's clock and by that of the instance, medians in ms. The difference is the way of \
                   the request, or a clock that is wrong.";
    details(&format!("{}-clocks", experiment.name()), caption, "", samples, context, columns)
}

/// Returns a column with a quantity.
pub fn quantity<'r>(name: &str, metric: String) -> (String, Read<'r>) {
    let read = move |sample: &Sample| sample.value.filter(|_| sample.metric.as_deref() == Some(metric.as_str()));
    (name.to_owned(), Box::new(read))
}

fn closed_loop(samples: &[&Sample], context: &Context<'_>) -> Details {
    let [client, daemon, instance] = throughput::PROCESSORS.map(str::to_owned);
    let [(p50, _), (p99, _)] = throughput::LATENCIES;
    let columns = vec![
        quantity("answers/s", throughput::RATE.to_owned()),
        quantity("median, ms", p50.to_owned()),
        quantity("p99, ms", p99.to_owned()),
        quantity("client, processors", client),
        quantity("daemon, processors", daemon),
        quantity("instance, processors", instance),
    ];
    let caption = "The loops of the throughput, medians: answers, their latencies, and how many processors client, daemon and \
                   instance used. Processes of container engines belong to none of them.";
    details(LOOP, caption, "connections", samples, context, columns)
}

fn open_loop(samples: &[&Sample], context: &Context<'_>) -> Details {
    let latency = |q: &str| quantity(q, format!("{}-{q}", load::LATENCY));
    let mut columns = vec![quantity("sent/s", load::SENT.to_owned())];
    columns.extend(load::QUANTILES.iter().map(|(q, _)| latency(q)));
    columns.push(quantity("p99 from sending", format!("{}-p99", load::SERVICE)));
    columns.push(quantity("lateness, p99", format!("{}-p99", load::LATENESS)));
    let caption = "Quantiles of the latency in ms, from when a request should have been sent; medians of the rounds. From \
                   sending: without the time that it waited in the client. Lateness: that time.";
    details(QUANTILES, caption, "load", samples, context, columns)
}

/// Returns the memory at each number of instances.
fn steps(samples: &[&Sample], context: &Context<'_>) -> Details {
    let metrics = [memory::AVAILABLE, memory::PROPORTIONAL, memory::CGROUP];
    let columns = metrics.map(|metric| quantity(metric, metric.to_owned())).into();
    Details { is_drawn_only: true, ..details(STEPS, "", "instances", samples, context, columns) }
}

/// Returns what there is without any instance, by the lines whose slopes are the metrics.
fn intercepts(samples: &[&Sample], context: &Context<'_>) -> Details {
    let metrics = [memory::AVAILABLE, memory::PROPORTIONAL, memory::CGROUP];
    let merged: Vec<Sample> = samples.iter().map(|sample| Sample { n: 0, ..(*sample).clone() }).collect();
    let mut rows = medians(&merged.iter().collect::<Vec<_>>(), context, &[]);
    for row in &mut rows {
        let of_row: Vec<_> = samples.iter().filter(|sample| sample.function == row.function).copied().collect();
        let intercept = |metric: &str| {
            let points: Vec<_> = with(&of_row, metric)
                .into_iter()
                .filter(|sample| sample.metric.is_some())
                .filter_map(|sample| Some((f64::from(sample.n), sample.value?)))
                .collect();
            theil_sen(&points).map(|(_, intercept)| intercept)
        };
        row.values = metrics.into_iter().map(intercept).collect();
    }
    let columns = ["available memory", "proportional set size", "cgroup"].map(str::to_owned).into();
    let caption =
        "Memory that does not grow with the number of instances, MiB: where the lines begin whose slopes are above.";
    let (id, caption) = ("memory-intercept".to_owned(), caption.to_owned());
    Details { id, caption, count: String::new(), is_drawn_only: false, columns, rows }
}
