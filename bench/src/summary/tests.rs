//! From made-up samples to figures.

use super::*;

fn context<'a>(functions: &'a [FunctionInfo], reference: &'a Reference) -> Context<'a> {
    Context { seed: 1, processors: 2, functions, reference }
}

fn functions(names: &[(&str, &str)]) -> Vec<FunctionInfo> {
    let info = |(name, sandbox): &(&str, &str)| FunctionInfo {
        name: (*name).to_owned(),
        sandbox: Sandbox { name: (*sandbox).to_owned(), emulated: false },
        memory: 128,
        cpus: None,
        path: "/hello".to_owned(),
    };
    names.iter().map(info).collect()
}

/// Returns a cold start that took so many milliseconds.
pub fn cold(function: &str, round: u32, ms: f64) -> Sample {
    Sample {
        experiment: "cold".to_owned(),
        function: function.to_owned(),
        variant: "cold".to_owned(),
        n: 1,
        round,
        warmup: round == 0,
        cold: true,
        valid: true,
        status: Some(200),
        c0: Some(100.0),
        c1: Some(200.0),
        t0: Some(210.0),
        t1: Some(100.0 + ms * 1000.0),
        t2: Some(101.0 + ms * 1000.0),
        queue: Some(0.0),
        boot: Some(ms * 600.0),
        upstream: Some(ms * 300.0),
        steal_ms: Some(0.0),
        foreign_ms: Some(0.0),
        window_ms: Some(400.0),
        ..Sample::default()
    }
}

/// Returns a small change that differs by round.
fn jitter(round: u32, factor: u32) -> f64 {
    1.0 + f64::from(round * factor % 11) / 1000.0
}

fn three_functions() -> Vec<Sample> {
    let rounds = 0..=30;
    rounds
        .flat_map(|round| {
            [
                cold("a", round, 10.0 * jitter(round, 7)),
                cold("a.control", round, 10.0 * jitter(round, 3)),
                cold("b", round, 25.0 * jitter(round, 5)),
                cold("c", round, 10.01 * jitter(round, 9)),
            ]
        })
        .collect()
}

fn evaluated(samples: &[Sample], names: &[(&str, &str)]) -> Evaluation {
    let reference = Reference::shipped().unwrap();
    evaluate(Experiment::Cold, samples, &context(&functions(names), &reference)).unwrap()
}

#[test]
fn cold_starts_are_compared_with_the_first_function() {
    let found = evaluated(&three_functions(), &[("a", "runc"), ("b", "process"), ("c", "process")]);
    let metric = &found.summary.metrics[0];
    let names: Vec<_> = metric.rows.iter().map(|row| row.function.as_str()).collect();
    assert_eq!(names, ["a", "a.control", "b", "c"]);
    let row = |place: usize| &metric.rows[place];
    assert_eq!((row(0).rounds, row(0).comparison), (30, None));
    assert!((row(0).location.unwrap().median - 10.05).abs() < 0.03, "{:?}", row(0).location);
    assert_eq!(row(0).paper.as_deref(), Some("360.2 (Go), 383.2 (Node)"));
    assert!(row(1).is_control && row(1).comparison.is_none());
    assert_eq!(row(2).comparison.unwrap().finding, crate::stats::Finding::Slower);
    assert!((row(2).comparison.unwrap().ratio - 2.5).abs() < 0.02);
    assert_eq!(row(3).comparison.unwrap().finding, crate::stats::Finding::Equal);
    assert!(metric.is_reliable && metric.resolution("cold", 1).unwrap() < 0.01, "{:?}", metric.controls);
    assert_eq!(found.summary.warnings, Vec::<String>::new());
}

#[test]
fn a_control_that_differs_makes_the_run_unreliable() {
    let mut samples = three_functions();
    for sample in samples.iter_mut().filter(|sample| sample.function == "a.control") {
        sample.t1 = sample.t1.map(|t1| t1 * 1.2);
    }
    let found = evaluated(&samples, &[("a", "process"), ("b", "process"), ("c", "process")]);
    let metric = &found.summary.metrics[0];
    assert!(!metric.is_reliable && metric.resolution("cold", 1).unwrap() > 0.15);
    assert_eq!(metric.rows[3].comparison.unwrap().finding, crate::stats::Finding::NotResolved);
    assert!(
        found.summary.warnings.iter().any(|warning| warning.contains("unreliable")),
        "{:?}",
        found.summary.warnings
    );
}

#[test]
fn a_function_that_is_warm_by_mistake_gives_no_figures() {
    let mut samples = three_functions();
    for sample in samples.iter_mut().filter(|sample| sample.function == "b") {
        (sample.cold, sample.valid, sample.boot) = (false, false, Some(0.0));
    }
    let found = evaluated(&samples, &[("a", "process"), ("b", "process"), ("c", "process")]);
    let row = &found.summary.metrics[0].rows[2];
    assert_eq!((row.rounds, row.location, row.excluded, row.failures.count()), (0, None, 30, 0));
    assert!(
        found.summary.warnings.iter().any(|warning| warning.starts_with("cold: b: 30 of 30 requests are left out"))
    );
}

#[test]
fn failures_are_counted_with_their_status() {
    let mut samples = three_functions();
    for sample in samples.iter_mut().filter(|sample| sample.function == "b" && sample.round % 10 == 5) {
        (sample.status, sample.error) = (Some(500), Some("no".to_owned()));
    }
    let found = evaluated(&samples, &[("a", "process"), ("b", "process"), ("c", "process")]);
    let row = &found.summary.metrics[0].rows[2];
    assert_eq!((row.failures.attempts, row.failures.by_status[&500], row.rounds), (30, 3, 27));
    let (low, high) = row.failures.interval.unwrap();
    assert!(low < 0.1 && high > 0.1);
    let warnings = &found.summary.warnings;
    assert!(warnings.contains(&"cold: b: 3 of 30 requests have failed: 3 × 500 (no).".to_owned()), "{warnings:?}");
}

#[test]
fn failures_of_loops_have_their_statuses_and_reasons() {
    let mut failures = crate::client::Failures::default();
    for reason in ["no 23001", "no 23002", "no 23002", "late", "far", "odd", "odd"] {
        let body = reason.as_bytes().to_vec();
        let (status, times) = (if reason == "late" { 504 } else { 502 }, Default::default());
        failures.note(&Ok(crate::client::Response { status, times, timing: None, function_us: None, length: 0, body }));
    }
    failures.note(&Err(crate::client::ClientError::Timeout(std::time::Duration::from_secs(30))));
    let frame = |metric, value| quantity(Experiment::Load, metric, 50, 1, value);
    let model = Sample { metric: None, value: None, valid: false, ..frame("", 0.0) };
    let mut samples = model.of_loop("sent-per-s", 100.0, 1000, &failures);
    samples.push(frame("latency-p50", 2.0));
    let found = evaluated_as(Experiment::Load, &samples).summary;
    let row = &found.metrics[0].rows[0].failures;
    assert_eq!((row.attempts, row.count(), row.by_status[&502], row.by_status[&0]), (1000, 8, 6, 1));
    let expected = "load: a, load 50: 8 of 1000 requests have failed: 3 × 502 (no 23001), 2 × 502 (odd), 1 × 502 (far), \
                    2 for other reasons.";
    assert!(found.warnings.iter().any(|warning| warning == expected), "{:?}", found.warnings);
}

#[test]
fn disturbed_rounds_stay_and_the_median_without_them_is_beside() {
    let mut samples = three_functions();
    for sample in samples.iter_mut().filter(|sample| sample.function == "b" && sample.round <= 10) {
        (sample.foreign_ms, sample.t1) = (Some(300.0), sample.t1.map(|t1| t1 * 4.0));
        // Each turn of a round has a place of its own.
        sample.position = 9;
    }
    let found = evaluated(&samples, &[("a", "process"), ("b", "process"), ("c", "process")]);
    let row = &found.summary.metrics[0].rows[2];
    assert_eq!((row.rounds, row.disturbed), (30, 10));
    assert!((row.undisturbed_median.unwrap() - 25.0).abs() < 0.5 && row.location.unwrap().max > 90.0);
    assert!((found.summary.disturbed - 10.0 / 120.0).abs() < 1e-9, "{}", found.summary.disturbed);
}

#[test]
fn warm_overheads_are_differences_of_the_rounds() {
    let sample = |variant: &str, round, ms| Sample {
        experiment: "warm".to_owned(),
        variant: variant.to_owned(),
        cold: false,
        t0: Some(0.0),
        t1: Some(ms * 1000.0),
        ..cold("a", round, ms)
    };
    let samples: Vec<_> = (0..=10)
        .flat_map(|round| {
            let base = f64::from(round);
            [sample("direct", round, 1.0 + base), sample("daemon", round, 1.25 + base)]
        })
        .collect();
    let reference = Reference::default();
    let functions = functions(&[("a", "process")]);
    let found = evaluate(Experiment::Warm, &samples, &context(&functions, &reference)).unwrap();
    let overhead = found.summary.metrics.iter().find(|metric| metric.id == "warm-overhead").unwrap();
    let location = overhead.rows[0].location.unwrap();
    assert!((location.min - 0.25).abs() < 1e-9 && (location.max - 0.25).abs() < 1e-9, "{location:?}");
    assert_eq!(overhead.rows[0].rounds, 10);
}

#[test]
fn bursts_are_measured_from_their_first_write() {
    let sample = |round, t0: f64, t1: f64| Sample {
        experiment: "burst".to_owned(),
        variant: "burst".to_owned(),
        n: 3,
        t0: Some(t0),
        t1: Some(t1),
        ..cold("a", round, 1.0)
    };
    let mut samples = Vec::new();
    for round in 0..4 {
        samples.extend([sample(round, 0.0, 10_000.0), sample(round, 20.0, 20_000.0), sample(round, 40.0, 30_000.0)]);
    }
    // Writing took a third of the median.
    samples.extend([sample(4, 0.0, 10_000.0), sample(4, 3_000.0, 10_000.0), sample(4, 6_000.0, 30_000.0)]);
    let (reference, functions) = (Reference::default(), functions(&[("a", "process")]));
    let found = evaluate(Experiment::Burst, &samples, &context(&functions, &reference)).unwrap();
    let median = |id: &str| {
        found.summary.metrics.iter().find(|metric| metric.id == id).unwrap().rows[0].location.unwrap().median
    };
    assert_eq!((median("burst-first"), median("burst-median"), median("burst-last")), (10.0, 20.0, 30.0));
    assert!(found.summary.metrics.iter().all(|metric| metric.id != "burst-p95"), "three are too few");
    assert_eq!(found.summary.metrics[0].rows[0].rounds, 3);
    assert!(found.summary.warnings.iter().any(|warning| warning.contains("1 bursts are left out")));
}

#[test]
fn parts_add_up_to_the_sample() {
    let found = evaluated(&three_functions(), &[("a", "process"), ("b", "process"), ("c", "process")]);
    let details = &found.summary.details[0];
    let row = &details.rows[1];
    assert_eq!((details.id.as_str(), row.function.as_str()), (PARTS, "b"));
    let total: f64 = PART_NAMES.iter().map(|part| row.value(details, part).unwrap()).sum();
    assert!((total - found.summary.metrics[0].rows[2].location.unwrap().median).abs() < 0.3, "{row:?}");
}

/// Returns a row with a quantity.
fn quantity(experiment: Experiment, metric: &str, n: u32, round: u32, value: f64) -> Sample {
    let frame =
        Sample { experiment: experiment.name().to_owned(), function: "a".to_owned(), n, round, ..Sample::default() };
    frame.quantity(metric, value)
}

fn evaluated_as(experiment: Experiment, samples: &[Sample]) -> Evaluation {
    let (reference, functions) = (Reference::default(), functions(&[("a", "process")]));
    evaluate(experiment, samples, &context(&functions, &reference)).unwrap()
}

#[test]
fn memory_of_an_instance_is_the_slope() {
    let rounds = 1..=6_u32;
    let samples: Vec<_> = rounds
        .flat_map(|round| {
            [0, 5, 10].map(|n| {
                let value = 40.0 + 12.5 * f64::from(n) + f64::from(round);
                quantity(Experiment::Memory, "available-mib", n, round, value)
            })
        })
        .collect();
    let found = evaluated_as(Experiment::Memory, &samples);
    assert_eq!(found.summary.metrics.len(), 1, "nothing else was measured");
    let row = &found.summary.metrics[0].rows[0];
    assert_eq!((row.rounds, row.n, row.location.unwrap().median), (6, 0, 12.5));
    let intercepts = found.summary.details.iter().find(|details| details.id == "memory-intercept").unwrap();
    let intercept = intercepts.rows[0].value(intercepts, "available memory").unwrap();
    assert!((intercept - 43.5).abs() < 1e-9, "{intercept}");
    let steps = found.summary.details.iter().find(|details| details.id == STEPS).unwrap();
    assert_eq!(steps.rows.iter().map(|row| row.n).collect::<Vec<_>>(), [0, 5, 10]);
}

#[test]
fn work_of_idle_instances_is_a_mean() {
    let values = [0.0, 0.0, 0.0, 400.0];
    let samples: Vec<_> = (1..=6)
        .flat_map(|round| values.map(|value| quantity(Experiment::Idle, "cpu-us-per-s", 10, round, value)))
        .collect();
    let row = &evaluated_as(Experiment::Idle, &samples).summary.metrics[0].rows[0];
    assert_eq!((row.rounds, row.location.unwrap().median), (6, 100.0), "a median would be 0");
}

#[test]
fn loops_have_their_requests_and_failures_and_say_if_the_client_was_the_limit() {
    let samples: Vec<_> = (1..=2)
        .flat_map(|round| {
            let of = |metric, value| quantity(Experiment::Load, metric, 95, round, value);
            let sent = Sample { requests: Some(1000), failed: Some(100), status: Some(500), ..of("sent-per-s", 100.0) };
            [sent, of("latency-p50", 2.0), of("latency-p99", 9.0), of("lateness-p99", 0.5)]
        })
        .collect();
    let found = evaluated_as(Experiment::Load, &samples).summary;
    let row = &found.metrics.iter().find(|metric| metric.id == "load-p99").unwrap().rows[0];
    assert_eq!((row.failures.attempts, row.failures.by_status[&500]), (2000, 200));
    assert_eq!((row.rounds, row.location.unwrap().median), (2, 9.0));
    assert!(found.warnings.iter().any(|warning| warning == "load: the client was the limit of a (95)."), "{found:?}");
}

#[test]
fn clocks_that_differ_are_noticed() {
    let sample = |round| Sample {
        experiment: "cpu".to_owned(),
        variant: "fib, first".to_owned(),
        cold: false,
        t0: Some(0.0),
        t1: Some(500_000.0),
        function_us: Some(400_000.0),
        ..cold("a", round, 1.0)
    };
    let found = evaluated_as(Experiment::Cpu, &(0..=3).map(sample).collect::<Vec<_>>()).summary;
    assert_eq!((found.metrics[0].id.as_str(), found.metrics[0].rows[0].rounds), ("cpu-fib", 3));
    assert!(found.warnings.iter().any(|warning| warning.contains("by the client's clock")), "{:?}", found.warnings);
}
