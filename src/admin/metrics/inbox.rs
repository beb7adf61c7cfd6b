//! Metrics of asynchronous invocations.

use std::{collections::BTreeMap, fmt, sync::Arc};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::MetricType::{Counter, Gauge, Histogram},
    registry::Unit::{Bytes, Seconds},
};
use unifaas_actors::HistogramTotals;

use super::encode::describe;
use crate::{
    inbox::{FunctionOverview, InboxOverview},
    shared::Shared,
};

/// What `/metrics` shows of the inbox.
#[derive(Debug)]
pub struct InboxMetrics {
    overview: InboxOverview,
    functions: BTreeMap<Arc<str>, Present>,
    commits: HistogramTotals<14>,
}

/// The present figures of a series.
#[derive(Debug, Default)]
struct Present {
    queued: usize,
    running: usize,
    dead: usize,
    oldest_seconds: f64,
}

impl Present {
    fn add(&mut self, function: &FunctionOverview) {
        self.queued += function.queued;
        self.running += function.running;
        self.dead += function.dead;
        self.oldest_seconds = self.oldest_seconds.max(function.oldest_seconds);
    }
}

impl InboxMetrics {
    pub fn read(shared: &Shared, overview: InboxOverview) -> Self {
        let mut functions = BTreeMap::<_, Present>::new();
        for function in &overview.functions {
            let series = shared.history.usage.series_of(&function.function);
            functions.entry(series.into()).or_default().add(function);
        }
        Self { overview, functions, commits: shared.inbox.stats.commits() }
    }

    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_functions(encoder)?;
        let store = &self.overview.store;
        let help = "Asynchronous invocations that were accepted.";
        describe(encoder, Counter, "unifaas_async_accepted", None, help)?.counter(&[], store.accepted)?;
        let help = "Attempts of asynchronous invocations, by what followed from them.";
        let mut ended = describe(encoder, Counter, "unifaas_async_attempts", None, help)?;
        for (result, count) in [("done", store.done), ("retry", store.retried), ("dead", store.died)] {
            ended.counter(&[("result", result)], count)?;
        }
        let help = "Attempts to deliver results, by what followed from them.";
        let mut ended = describe(encoder, Counter, "unifaas_async_deliveries", None, help)?;
        let results = [("delivered", store.delivered), ("retry", store.redelivered), ("failed", store.delivery_failed)];
        for (result, count) in results {
            ended.counter(&[("result", result)], count)?;
        }
        let help = "Asynchronous invocations for the site, by where they were stored when the client was answered.";
        let mut stored = describe(encoder, Counter, "unifaas_async_stored", None, help)?;
        for (at, count) in [("node", store.stored_node), ("site", store.stored_site)] {
            stored.counter(&[("at", at)], count)?;
        }
        let help = "Asynchronous invocations that were handed over to the site.";
        describe(encoder, Counter, "unifaas_async_handed_over", None, help)?.counter(&[], store.handed_over)?;
        let help = "Results that are to be delivered.";
        describe(encoder, Gauge, "unifaas_async_undelivered", None, help)?.gauge(&[], store.undelivered)?;
        let help = "Results of the site that are to be delivered, by all nodes together.";
        let mut undelivered = describe(encoder, Gauge, "unifaas_async_site_undelivered", None, help)?;
        if let Some(count) = self.overview.site_undelivered {
            undelivered.gauge(&[], count)?;
        }
        let help = "Time of a commit of invocations, of up to 64 changes each.";
        describe(encoder, Histogram, "unifaas_inbox_commit", Some(&Seconds), help)?.histogram(&[], &self.commits)?;
        let help = "Whether the inbox takes no new invocations.";
        let has_problem = u64::from(store.problem.is_some());
        describe(encoder, Gauge, "unifaas_inbox_unavailable", None, help)?.gauge(&[], has_problem)?;
        let help = "Space that stored invocations and results take.";
        describe(encoder, Gauge, "unifaas_inbox_size", Some(&Bytes), help)?.gauge(&[], store.bytes)
    }

    fn encode_functions(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Value = fn(&Present) -> usize;
        let gauges: [(_, _, Value); 3] = [
            ("unifaas_async_queued", "Asynchronous invocations that wait for an attempt.", |it| it.queued),
            ("unifaas_async_running", "Attempts of asynchronous invocations under way.", |it| it.running),
            ("unifaas_async_dead_letters", "Dead letters.", |it| it.dead),
        ];
        for (name, help, value) in gauges {
            let mut gauge = describe(encoder, Gauge, name, None, help)?;
            for (function, present) in &self.functions {
                gauge.gauge(&[("function", function)], value(present))?;
            }
        }
        let help = "For how long the invocation has waited that has been due for longest.";
        let mut oldest = describe(encoder, Gauge, "unifaas_async_oldest", Some(&Seconds), help)?;
        for (function, present) in &self.functions {
            oldest.gauge(&[("function", function)], present.oldest_seconds)?;
        }
        Ok(())
    }
}
