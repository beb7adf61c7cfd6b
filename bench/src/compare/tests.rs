//! A folder with itself, with slower samples, and with another machine.

use super::*;
use crate::{
    options::{Experiment, Preset},
    sample::SampleWriter,
    summary::FunctionInfo,
};

fn plan() -> Plan {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        run: crate::options::RunArgs,
    }
    let command = <Command as clap::Parser>::try_parse_from(["bench", "cold", "throughput", "--seed", "7"]).unwrap();
    Plan::of(&command.run, 7)
}

/// Writes a folder whose cold starts take some 10 ms times `slow`, and whose throughput is divided by it.
fn folder(slow: f64, rounds: u32, change: impl FnOnce(&mut Results)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("samples")).unwrap();
    let facts =
        [("processor", "x"), ("kernel", "6.1")].map(|(name, value)| serde_json::json!({"name": name, "value": value}));
    let machine = serde_json::json!({"processors": 2, "facts": facts, "advice": []});
    let mut results = Results {
        schema: crate::results::SCHEMA,
        complete: true,
        command: "bench".to_owned(),
        began: "2026-11-30T00:00:00Z".to_owned(),
        ended: None,
        plan: plan(),
        machine: serde_json::from_value(machine).unwrap(),
        throttled: (None, None),
        functions: vec![FunctionInfo {
            name: "f".to_owned(),
            sandbox: crate::registry::Sandbox { name: "process".to_owned(), emulated: false },
            memory: 128,
            cpus: None,
            path: "/hello".to_owned(),
        }],
        left_out: Vec::new(),
        unsupported: Vec::new(),
        reductions: Vec::new(),
        calibration: None,
        warnings: Vec::new(),
        summaries: Vec::new(),
    };
    change(&mut results);
    assert_eq!(results.plan.preset, Preset::Default);
    let (mut cold, mut loops) = (
        SampleWriter::create(directory.path(), "cold").unwrap(),
        SampleWriter::create(directory.path(), "throughput").unwrap(),
    );
    for round in 1..=rounds {
        // Some per cent of noise, the same in each folder.
        let noise = 1.0 + f64::from(round * 37 % 11) / 500.0;
        let model = sample::Sample { function: "f".to_owned(), round, ..sample::Sample::default() };
        for function in ["f", "f.control"] {
            let start = sample::Sample {
                experiment: Experiment::Cold.name().to_owned(),
                function: function.to_owned(),
                variant: "cold".to_owned(),
                n: 1,
                cold: true,
                valid: true,
                status: Some(200),
                c0: Some(0.0),
                t1: Some(10_000.0 * slow * noise),
                ..model.clone()
            };
            cold.write(&start).unwrap();
        }
        let variant = "daemon".to_owned();
        loops
            .write(&sample::Sample { variant, n: 16, ..model.quantity("answers-per-s", 5000.0 / slow * noise) })
            .unwrap();
    }
    cold.flush().unwrap();
    loops.flush().unwrap();
    results.write(directory.path()).unwrap();
    directory
}

fn compared(one: &tempfile::TempDir, other: &tempfile::TempDir) -> Result<Comparison, BenchError> {
    compare(one.path(), other.path(), 0.05, false)
}

#[test]
fn a_folder_with_itself_finds_nothing() {
    for rounds in [8, 30] {
        let one = folder(1.0, rounds, |_| {});
        let found = compared(&one, &one).unwrap();
        assert_eq!(found.rows.len(), 2);
        assert!(found.rows.iter().all(|row| row.change == Some(Change::NoDifference)), "{}", found.text());
        assert!(!found.has_regression() && found.text().contains("2 medians: 0 worse, 0 better"), "{}", found.text());
    }
}

#[test]
fn samples_that_take_a_fifth_longer_are_a_regression() {
    for rounds in [8, 30] {
        let (one, other) = (folder(1.0, rounds, |_| {}), folder(1.2, rounds, |_| {}));
        let found = compared(&one, &other).unwrap();
        // Times have grown and rates have shrunk: both are worse.
        assert!(found.rows.iter().all(|row| row.change == Some(Change::Regression)), "{}", found.text());
        let back = compared(&other, &one).unwrap();
        assert!(back.rows.iter().all(|row| row.change == Some(Change::Improvement)), "{}", back.text());
        assert!(found.has_regression() && !back.has_regression());
    }
    let (few, slow) = (folder(1.0, 3, |_| {}), folder(1.2, 3, |_| {}));
    let found = compared(&few, &slow).unwrap();
    assert!(found.rows.iter().all(|row| row.change.is_none()) && found.text().contains("too few rounds"));
}

#[test]
fn other_machines_settings_and_unfinished_runs_are_refused() {
    let one = folder(1.0, 8, |_| {});
    let others = [
        (
            folder(2.0, 8, |results| results.machine.facts[0].value = "y".to_owned()),
            "the machines differ (processor: x and y)",
        ),
        (folder(2.0, 8, |results| results.machine.processors = 4), "the machines differ"),
        (folder(2.0, 8, |results| results.plan.memory = Some(512)), "the settings"),
        (folder(2.0, 8, |results| results.functions[0].memory = 64), "the functions differ"),
        (folder(2.0, 8, |results| results.complete = false), "the second run was cut short"),
        (folder(2.0, 8, |results| results.schema = 1), "expected version"),
    ];
    for (other, reason) in &others {
        let error = compared(&one, other).unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
    }
    // Another seed or UniFaaS is what is compared.
    assert!(compared(&one, &folder(1.0, 8, |results| results.plan.seed = 8)).is_ok());
    let forced = compare(one.path(), others[0].0.path(), 0.05, true).unwrap();
    assert!(forced.rows.iter().all(|row| row.change.is_none() && row.before > 0.0), "{}", forced.text());
    assert!(
        !forced.has_regression() && forced.text().contains("No judgements: the machines differ"),
        "{}",
        forced.text()
    );
}
