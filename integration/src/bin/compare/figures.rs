//! The target figures and their verdicts.

use serde::Serialize;

use crate::report::number;

/// A target figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Figure {
    RateAgainstNginx,
    RateAgainstHaproxy,
    AddedLatency,
    Answers,
    Posts,
    Http2,
    ColdProcess,
    ColdRunc,
    ColdRunsc,
    ColdMicrovm,
    ColdFirecracker,
    Burst,
    MemoryOf10,
    MemoryOf10000,
    StartUp,
    LatencyAmongMany,
    Instructions,
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub struct Reached {
    figure: Figure,
    #[serde(flatten)]
    goal: Goal,
    measured: Option<f64>,
    verdict: &'static str,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Goal {
    what: &'static str,
    unit: &'static str,
    better: Better,
    at_least: f64,
    dream: f64,
    #[serde(skip)]
    decimals: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Better {
    More,
    Less,
}
use Better::{Less, More};

#[rustfmt::skip]
const GOALS: [(Figure, Goal); 17] = [
    goal(Figure::RateAgainstNginx, "requests/s, 64 connections, against nginx", "", More, 0.88, 1.0, 2),
    goal(Figure::RateAgainstHaproxy, "requests/s, 64 connections, against HAProxy", "", More, 0.88, 1.0, 2),
    goal(Figure::AddedLatency, "added latency p50, 1 connection, against nginx's added", "", Less, 1.4, 1.0, 2),
    goal(Figure::Answers, "1 MiB answers, MB/s against nginx", "", More, 1.0, 1.2, 2),
    goal(Figure::Posts, "1 MiB POSTs, MB/s against nginx", "", More, 1.0, 1.2, 2),
    goal(Figure::Http2, "HTTP/2 in clear, 1 connection with 64 streams, requests/s against nginx", "", More, 0.8, 1.0, 2),
    goal(Figure::ColdProcess, "cold process, added over a bare fork + exec + callback", "ms", Less, 1.5, 0.7, 2),
    goal(Figure::ColdRunc, "cold container (runc), added over create + start + first request", "ms", Less, 15.0, 5.0, 1),
    goal(Figure::ColdRunsc, "cold container (runsc), added over create + start + first request", "ms", Less, 15.0, 5.0, 1),
    goal(Figure::ColdMicrovm, "cold microvm, added over bare spawn to callback + request", "ms", Less, 5.0, 2.0, 1),
    goal(Figure::ColdFirecracker, "cold Firecracker, added over bare spawn to callback + request", "ms", Less, 5.0, 2.0, 1),
    goal(Figure::Burst, "burst of 100 process starts, last answer against bare", "", Less, 1.4, 1.2, 2),
    goal(Figure::MemoryOf10, "resident memory, 10 functions, none running", "MiB", Less, 15.0, 8.0, 1),
    goal(Figure::MemoryOf10000, "resident memory, 10,000 functions registered", "MiB", Less, 60.0, 45.0, 1),
    goal(Figure::StartUp, "start-up to serving, 10,000 functions", "s", Less, 0.5, 0.3, 2),
    goal(Figure::LatencyAmongMany, "p99 of warm requests with 1,000 live instances against with 1", "", Less, 1.5, 1.1, 2),
    goal(Figure::Instructions, "user-mode instructions per warm request", "", Less, 38_000.0, 25_000.0, 0),
];

const fn goal(
    figure: Figure,
    what: &'static str,
    unit: &'static str,
    better: Better,
    at_least: f64,
    dream: f64,
    decimals: usize,
) -> (Figure, Goal) {
    (figure, Goal { what, unit, better, at_least, dream, decimals })
}

/// Returns every figure with its measurement.
pub fn reached(measured: &[(Figure, f64)]) -> Vec<Reached> {
    let of = |wanted: Figure| measured.iter().find(|(figure, _)| *figure == wanted).map(|(_, value)| *value);
    let line = |(figure, goal): (Figure, Goal)| {
        let measured = of(figure);
        Reached { figure, goal, measured, verdict: measured.map_or("not measured", |value| goal.verdict(value)) }
    };
    GOALS.into_iter().map(line).collect()
}

impl Goal {
    fn verdict(&self, measured: f64) -> &'static str {
        let as_good_as = |wanted: f64| if self.better == More { measured >= wanted } else { measured <= wanted };
        match (as_good_as(self.dream), as_good_as(self.at_least)) {
            (true, _) => "dream",
            (false, true) => "yes",
            (false, false) => "NO",
        }
    }

    fn with_unit(&self, value: f64, decimals: usize) -> String {
        format!("{} {}", number(Some(value), decimals), self.unit).trim_end().to_owned()
    }
}

impl Reached {
    /// Returns the cells of the row.
    pub fn cells(&self) -> Vec<String> {
        let Self { goal, measured, verdict, .. } = self;
        let wanted = |value: f64| {
            let written = value.to_string().split_once('.').map_or(0, |(_, fraction)| fraction.len());
            goal.with_unit(value, written.max(usize::from(goal.unit.is_empty() && value < 10.0)))
        };
        let measured = measured.map_or_else(String::new, |value| goal.with_unit(value, goal.decimals));
        vec![goal.what.to_owned(), wanted(goal.at_least), wanted(goal.dream), measured, (*verdict).to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(figure: Figure, value: f64) -> &'static str {
        reached(&[(figure, value)]).iter().find(|line| line.figure == figure).unwrap().verdict
    }

    #[test]
    fn verdict_depends_on_direction() {
        for (value, expected) in [(0.87, "NO"), (0.88, "yes"), (0.99, "yes"), (1.0, "dream")] {
            assert_eq!(verdict(Figure::RateAgainstNginx, value), expected, "{value}");
        }
        for (value, expected) in [(38_001.0, "NO"), (38_000.0, "yes"), (25_001.0, "yes"), (25_000.0, "dream")] {
            assert_eq!(verdict(Figure::Instructions, value), expected, "{value}");
        }
    }

    #[test]
    fn every_figure_has_one_row() {
        let lines = reached(&[(Figure::Burst, 1.1)]);
        assert_eq!(lines.len(), GOALS.len());
        assert_eq!(lines.iter().filter(|line| line.verdict == "not measured").count(), GOALS.len() - 1);
        for (figure, goal) in GOALS {
            assert_eq!(GOALS.iter().filter(|(other, _)| *other == figure).count(), 1);
            let dream_is_better =
                if goal.better == More { goal.dream > goal.at_least } else { goal.dream < goal.at_least };
            assert!(dream_is_better, "{}", goal.what);
        }
    }

    #[test]
    fn rows_have_units() {
        let lines = reached(&[(Figure::ColdProcess, 1.234), (Figure::Instructions, 35_678.0)]);
        let row = |figure| lines.iter().find(|line| line.figure == figure).unwrap().cells()[1..].join(" | ");
        assert_eq!(row(Figure::ColdProcess), "1.5 ms | 0.7 ms | 1.23 ms | yes");
        assert_eq!(row(Figure::Instructions), "38,000 | 25,000 | 35,678 | yes");
        assert_eq!(row(Figure::RateAgainstNginx), "0.88 | 1.0 |  | not measured");
    }
}
