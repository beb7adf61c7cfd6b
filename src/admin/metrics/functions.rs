//! Metrics by function. Functions beyond the first ones share the series `*`, in which their figures are added up.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::UNIX_EPOCH,
};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge, Histogram},
    registry::Unit::{Bytes, Seconds},
};
use unifaas_actors::{Exemplar, FunctionGauges, FunctionTotals, HistogramTotals, Origin, Outcome, Phase, PhaseTimes};

use super::encode::describe;
use crate::shared::Shared;

/// The states of a function.
const STATES: [&str; 4] = ["serving", "failing", "misconfigured", "draining"];

/// What `/metrics` shows of functions.
#[derive(Debug)]
pub struct FunctionMetrics {
    totals: Vec<(Arc<str>, FunctionTotals)>,
    present: BTreeMap<Arc<str>, Present>,
    phases: Vec<(&'static str, Phase, PhaseTimes)>,
    starts: Vec<(Origin, HistogramTotals<14>)>,
}

/// The present figures of a series.
#[derive(Debug, Default)]
struct Present {
    /// Functions in each of the [`STATES`].
    states: [usize; STATES.len()],
    instances: BTreeMap<&'static str, usize>,
    in_flight: usize,
    waiting: usize,
    /// Bytes.
    declared: u64,
    /// Bytes.
    charged: u64,
    /// Bytes. `None`: there are no cgroups.
    used: Option<u64>,
}

impl FunctionMetrics {
    /// Reads the figures of all functions that were used. Reads files of cgroups, which may block.
    pub fn read(shared: &Shared) -> Self {
        let directory = shared.directory.all();
        let gauges: Vec<_> = directory.values().filter_map(|handle| Some((handle, handle.gauges()?))).collect();
        let instances = shared.history.instances.all_live();
        // After the functions, so that each of them is there.
        let totals = shared.history.usage.totals();
        let named: BTreeMap<&str, &Arc<str>> = totals.iter().map(|(name, _)| (&**name, name)).collect();
        let series_of = |function: &str| named.get(function).or_else(|| named.get("*")).map(|name| Arc::clone(name));
        let mut present = BTreeMap::<_, Present>::new();
        for (handle, gauges) in gauges {
            if let Some(series) = series_of(handle.name()) {
                present.entry(series).or_default().add(&gauges);
            }
        }
        for record in instances {
            if let Some(series) = series_of(&record.function) {
                let present = present.entry(series).or_default();
                present.declared += record.memory << 20;
                present.charged += record.charged() << 20;
                present.used = match (present.used, record.memory_used()) {
                    (Some(sum), used) => Some(sum + used.unwrap_or_default()),
                    (None, used) => used,
                };
            }
        }
        let (phases, starts) = (shared.history.boots.phases(), shared.history.starts.totals());
        Self { totals, present, phases, starts }
    }

    /// Returns the examples of buckets: the sample of each bucket, and what follows its value.
    pub fn exemplars(&self) -> HashMap<String, String> {
        let mut found = HashMap::new();
        for (function, totals) in &self.totals {
            for (name, histogram) in [("request", &totals.durations), ("boot", &totals.boots)] {
                for (bound, exemplar) in histogram.exemplars() {
                    let bound = if bound.is_finite() { format!("{bound:?}") } else { "+Inf".to_owned() };
                    let bucket =
                        format!("unifaas_{name}_duration_seconds_bucket{{le=\"{bound}\",function=\"{function}\"}}");
                    found.insert(bucket, written(exemplar));
                }
            }
        }
        found
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_requests(encoder)?;
        self.encode_waits_and_bodies(encoder)?;
        self.encode_instances(encoder)?;
        self.encode_starts(encoder)?;
        self.encode_present(encoder)
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that have ended, by how the platform ended them.";
        let mut requests = describe(encoder, Counter, "unifaas_requests", None, help)?;
        for (function, totals) in &self.totals {
            for (outcome, count) in totals.outcomes().filter(|(outcome, count)| *count > 0 || *outcome == Outcome::Ok) {
                requests.counter(&[("function", function), ("outcome", outcome.code())], count)?;
            }
        }
        let help = "Responses of functions, by the class of their own status.";
        let mut responses = describe(encoder, Counter, "unifaas_responses", None, help)?;
        for (function, totals) in &self.totals {
            for (class, count) in totals.classes().filter(|(_, count)| *count > 0) {
                responses.counter(&[("function", function), ("class", class)], count)?;
            }
        }
        let help = "Time from the head of a request to the last byte of its response.";
        let mut durations = describe(encoder, Histogram, "unifaas_request_duration", Some(&Seconds), help)?;
        for (function, totals) in &self.totals {
            durations.histogram(&[("function", function)], &totals.durations)?;
        }
        Ok(())
    }

    fn encode_waits_and_bodies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time that requests waited before their dispatch: for a slot, for the start of an instance, or for the host.";
        let mut waits = describe(encoder, Histogram, "unifaas_request_wait", Some(&Seconds), help)?;
        for (function, totals) in &self.totals {
            for (cause, waited) in totals.waits().filter(|(_, waited)| waited.count() > 0) {
                waits.histogram(&[("function", function), ("for", cause.as_str())], waited)?;
            }
        }
        let help = "Bytes of request bodies.";
        let mut bytes = describe(encoder, Counter, "unifaas_request", Some(&Bytes), help)?;
        for (function, totals) in &self.totals {
            bytes.counter(&[("function", function)], totals.request_bytes)?;
        }
        let help = "Bytes of response bodies.";
        let mut bytes = describe(encoder, Counter, "unifaas_response", Some(&Bytes), help)?;
        for (function, totals) in &self.totals {
            bytes.counter(&[("function", function)], totals.response_bytes)?;
        }
        let help = "Requests that waited for a boot or a restore.";
        let mut cold = describe(encoder, Counter, "unifaas_cold_requests", None, help)?;
        for (function, totals) in &self.totals {
            cold.counter(&[("function", function)], totals.cold)?;
        }
        Ok(())
    }

    fn encode_instances(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Time from the launch order to readiness, of successful boots.";
        let mut boots = describe(encoder, Histogram, "unifaas_boot_duration", Some(&Seconds), help)?;
        for (function, totals) in &self.totals {
            boots.histogram(&[("function", function)], &totals.boots)?;
        }
        let help = "Time that each phase of a successful boot took.";
        let mut phases = describe(encoder, Histogram, "unifaas_boot_phase", Some(&Seconds), help)?;
        for (kind, phase, times) in self.phases.iter().filter(|(.., times)| times.count() > 0) {
            phases.histogram(&[("kind", kind), ("phase", phase.as_str())], times)?;
        }
        let help = "Instances that were started, successfully or not.";
        let mut started = describe(encoder, Counter, "unifaas_instances_started", None, help)?;
        for (function, totals) in &self.totals {
            started.counter(&[("function", function)], totals.started)?;
        }
        let help = "Instances that were to be restored from a snapshot, by result.";
        let mut restores = describe(encoder, Counter, "unifaas_restores", None, help)?;
        for (function, totals) in &self.totals {
            let restored =
                totals.starts().filter(|(origin, _)| *origin == Origin::Restored).map(|(_, count)| count).sum();
            for (result, count) in [("ok", restored), ("failed", totals.restores_failed)] {
                if count > 0 {
                    restores.counter(&[("function", function), ("result", result)], count)?;
                }
            }
        }
        let help = "Instances that were started ahead of requests, by result.";
        let mut prewarms = describe(encoder, Counter, "unifaas_prewarms", None, help)?;
        for (function, totals) in &self.totals {
            for (result, count) in totals.prewarms().filter(|(_, count)| *count > 0) {
                prewarms.counter(&[("function", function), ("result", result.as_str())], count)?;
            }
        }
        let help = "Idle instances that were paused before their time, to make room for other functions.";
        let mut paused = describe(encoder, Counter, "unifaas_early_pauses", None, help)?;
        for (function, totals) in self.totals.iter().filter(|(_, totals)| totals.early_pauses > 0) {
            paused.counter(&[("function", function)], totals.early_pauses)?;
        }
        let help = "Instances that have ended, by cause.";
        let mut ended = describe(encoder, Counter, "unifaas_instances_ended", None, help)?;
        for (function, totals) in &self.totals {
            for (cause, count) in totals.ended().filter(|(_, count)| *count > 0) {
                ended.counter(&[("function", function), ("cause", cause)], count)?;
            }
        }
        Ok(())
    }

    fn encode_starts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Instances that have come to serve: booted, resumed from a pause, or restored from a snapshot.";
        let mut counts = describe(encoder, Counter, "unifaas_starts", None, help)?;
        for (function, totals) in &self.totals {
            for (origin, count) in totals.starts().filter(|(_, count)| *count > 0) {
                counts.counter(&[("function", function), ("from", origin.as_str())], count)?;
            }
        }
        let help = "Time from the order to start or resume an instance until it served, of all functions.";
        let mut times = describe(encoder, Histogram, "unifaas_start", Some(&Seconds), help)?;
        for (origin, took) in self.starts.iter().filter(|(_, took)| took.count() > 0) {
            times.histogram(&[("from", origin.as_str())], took)?;
        }
        Ok(())
    }

    fn encode_present(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests that instances are serving.";
        let mut in_flight = describe(encoder, Gauge, "unifaas_requests_in_flight", None, help)?;
        for (function, present) in &self.present {
            in_flight.gauge(&[("function", function)], present.in_flight)?;
        }
        let mut waiting = describe(encoder, Gauge, "unifaas_queue_length", None, "Requests that wait for a slot.")?;
        for (function, present) in &self.present {
            waiting.gauge(&[("function", function)], present.waiting)?;
        }
        let mut instances = describe(encoder, Gauge, "unifaas_instances", None, "Instances by state.")?;
        for (function, present) in &self.present {
            for (state, count) in &present.instances {
                instances.gauge(&[("function", function), ("state", state)], *count)?;
            }
        }
        let help = "Whether the function is in the state; for functions that share a series, how many are.";
        let mut states = describe(encoder, Gauge, "unifaas_function_state", None, help)?;
        for (function, present) in &self.present {
            for (state, count) in STATES.iter().zip(present.states) {
                states.gauge(&[("function", function), ("state", state)], count)?;
            }
        }
        let help = "Memory of the function's instances: what they declare, and what their cgroups use.";
        let mut memory = describe(encoder, Gauge, "unifaas_function_memory", Some(&Bytes), help)?;
        for (function, present) in &self.present {
            memory.gauge(&[("function", function), ("what", "declared")], present.declared)?;
            memory.gauge(&[("function", function), ("what", "charged")], present.charged)?;
            if let Some(used) = present.used {
                memory.gauge(&[("function", function), ("what", "used")], used)?;
            }
        }
        Ok(())
    }
}

/// Returns an exemplar in the OpenMetrics format.
fn written(Exemplar { trace_id, seconds, at }: &Exemplar) -> String {
    let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!(" # {{trace_id=\"{trace_id:032x}\"}} {seconds} {}.{:03}", at.as_secs(), at.subsec_millis())
}

impl Present {
    fn add(&mut self, gauges: &FunctionGauges) {
        for (state, functions) in STATES.iter().zip(&mut self.states) {
            *functions += usize::from(*state == gauges.state);
        }
        for (state, count) in gauges.instances {
            *self.instances.entry(state).or_default() += count;
        }
        self.in_flight += gauges.in_flight;
        self.waiting += gauges.waiting;
    }
}
