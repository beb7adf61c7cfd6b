//! Published values of other machines, which stand in a column of their own and in no ratio.

use serde::Deserialize;

use crate::error::BenchError;

/// Of *Are Unikernels Ready for Serverless on the Edge?* (Moebius, Pfandzelter, Bermbach, 2024).
const MOEBIUS_2024: &str = include_str!("../reference/moebius2024.csv");

/// A published value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Value {
    metric: String,
    variant: String,
    sandbox: String,
    /// What ran in the sandbox.
    label: String,
    n: u32,
    value: f64,
    unit: String,
    statistic: String,
    samples: u32,
    source: String,
}

/// All published values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reference(Vec<Value>);

impl Reference {
    /// Returns those that ship with this program.
    ///
    /// # Errors
    /// When the file is damaged, which a test excludes.
    pub fn shipped() -> Result<Self, BenchError> {
        let rows: Result<_, csv::Error> = csv::Reader::from_reader(MOEBIUS_2024.as_bytes()).deserialize().collect();
        rows.map(Self).map_err(|error| BenchError::Format("reference/moebius2024.csv".into(), error.to_string()))
    }

    /// Returns the values of a cell, such as `360.2 (Go), 383.2 (Node)`.
    pub fn text(&self, metric: &str, sandbox: &str, variant: &str, n: u32) -> Option<String> {
        let fits = |value: &&Value| {
            value.metric == metric && value.sandbox == sandbox && value.variant == variant && value.n == n
        };
        let values: Vec<_> =
            self.0.iter().filter(fits).map(|value| format!("{} ({})", value.value, value.label)).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_value_has_unit_and_source() {
        let reference = Reference::shipped().unwrap();
        assert!(reference.0.len() > 20);
        for value in &reference.0 {
            assert!(
                value.value > 0.0 && ["ms", "MiB", "MiB/s"].contains(&value.unit.as_str()) && value.samples > 0,
                "{value:?}"
            );
            assert!(value.source.contains("arXiv") && !value.statistic.is_empty(), "{value:?}");
        }
        assert_eq!(reference.text("cold", "runc", "cold", 1).as_deref(), Some("360.2 (Go), 383.2 (Node)"));
        assert_eq!(reference.text("memory-available", "runc", "", 0).as_deref(), Some("3.9 (Go), 15.5 (Node)"));
        assert_eq!(reference.text("cpu-fib", "runsc", "fib, first", 1).as_deref(), Some("498.5 (Go)"));
        assert_eq!(reference.text("cold", "process", "cold", 1), None);
    }
}
