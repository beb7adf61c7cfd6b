//! Writes metrics: a descriptor, and a sample for each set of labels.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use unifaas_actors::HistogramTotals;

/// Name and value of each label.
pub type Labels<'l> = &'l [(&'static str, &'l str)];

/// A metric of which the descriptor has been written.
pub struct Samples<'e>(MetricEncoder<'e>);

/// Writes the descriptor of a metric. `name` lacks the unit, and `_total`.
pub fn describe<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &'static str,
    unit: Option<&'static Unit>,
    help: &str,
) -> Result<Samples<'e>, fmt::Error> {
    encoder.encode_descriptor(name, help, unit, kind).map(Samples)
}

impl Samples<'_> {
    pub fn counter(&mut self, labels: Labels<'_>, value: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub fn gauge(&mut self, labels: Labels<'_>, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_family(&labels)?.encode_gauge(&value)
    }

    pub fn histogram<const N: usize>(&mut self, labels: Labels<'_>, totals: &HistogramTotals<N>) -> fmt::Result {
        let buckets: Vec<_> = totals.buckets().collect();
        let mut metric = self.0.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(totals.sum(), totals.count(), &buckets, None)
    }
}
