//! Reports of made-up folders.

use std::fs;

use super::*;
use crate::{
    host::Machine,
    options::PageCache,
    plan::{Load, Plan, Reduction},
    registry::Sandbox,
    results::SCHEMA,
    sample::{Sample, SampleWriter},
    summary::FunctionInfo,
};

fn results(preset: Preset) -> Results {
    let plan = Plan {
        preset,
        seed: 7,
        experiments: vec![Experiment::Cold, Experiment::Warm],
        rounds: Some(8),
        budget: None,
        bursts: vec![1, 10],
        pairs: (500, 50),
        connections: vec![1, 16],
        loads: vec![Load::Share(50)],
        windows: (3.0, 10.0),
        steps: vec![0, 5],
        idle: (10, 10, 30),
        policies: Vec::new(),
        trace: None,
        replay: 20.0,
        simulate: false,
        precision: None,
        memory: None,
        cpus: None,
        page_cache: PageCache::Warm,
        path: None,
        settle: 0,
        baseline: None,
        daemon: None,
    };
    let function = |name: &str, sandbox: &str| FunctionInfo {
        name: name.to_owned(),
        sandbox: Sandbox { name: sandbox.to_owned(), emulated: sandbox == "qemu-q35" },
        memory: 128,
        cpus: None,
        path: "/<hello>".to_owned(),
    };
    Results {
        schema: SCHEMA,
        complete: false,
        command: "bench --quick".to_owned(),
        began: "2026-01-02T03:04:05Z".to_owned(),
        ended: None,
        plan,
        machine: Machine::inspect(Path::new("/"), "1.0", false),
        throttled: (None, None),
        functions: vec![function("a", "process"), function("b", "qemu-q35")],
        left_out: vec![("c".to_owned(), "it answers & with <404>".to_owned())],
        unsupported: Vec::new(),
        reductions: Vec::new(),
        calibration: None,
        warnings: Vec::new(),
        summaries: Vec::new(),
    }
}

/// Returns a folder with cold starts of two functions.
fn folder() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("samples")).unwrap();
    let mut writer = SampleWriter::create(directory.path(), "cold").unwrap();
    for round in 0..=8_u32 {
        for (function, ms) in [("a", 5.0), ("a.control", 5.0), ("b", 700.0)] {
            let ms = ms * (1.0 + f64::from(round * 7 % 5) / 100.0);
            let sample = Sample {
                experiment: "cold".to_owned(),
                function: function.to_owned(),
                variant: "cold".to_owned(),
                n: 1,
                round,
                warmup: round == 0,
                cold: true,
                valid: true,
                status: Some(200),
                c0: Some(0.0),
                c1: Some(50.0),
                t0: Some(60.0),
                t1: Some(ms * 1000.0),
                t2: Some(ms * 1000.0),
                queue: Some(0.0),
                boot: Some(ms * 800.0),
                upstream: Some(300.0),
                ..Sample::default()
            };
            writer.write(&sample).unwrap();
        }
    }
    writer.flush().unwrap();
    directory
}

#[test]
fn report_is_one_well_formed_file_that_loads_nothing() {
    let (directory, mut results) = (folder(), results(Preset::Quick));
    write(directory.path(), &mut results).unwrap();
    let html = fs::read_to_string(directory.path().join("report.html")).unwrap();
    // Void elements are the only difference to XML here.
    let xml = html.replacen("<!DOCTYPE html>", "", 1).replace("<meta charset=\"utf-8\">", "");
    let xml = xml.replace("initial-scale=1\">", "initial-scale=1\"/>");
    let document = roxmltree::Document::parse(&xml).unwrap();
    for node in document.descendants() {
        assert!(!["script", "link", "img", "iframe", "image"].contains(&node.tag_name().name()), "{node:?}");
        for attribute in node.attributes() {
            let is_local = attribute.name() == "href" && attribute.value().starts_with('#');
            let loads = ["src", "href", "srcset", "data"].contains(&attribute.name());
            assert!(is_local || !loads, "{attribute:?}");
            assert!(!attribute.name().starts_with("on"), "{attribute:?}");
        }
    }
    assert_eq!(document.descendants().filter(|node| node.has_tag_name("svg")).count(), 4);
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is missing"));
    assert!(place("cut short") < place("id=\"cold-starts\""), "warnings come first");
    assert!(html.contains("it answers &amp; with &lt;404&gt;"));
}

#[test]
fn quick_runs_are_marked_in_each_table_and_plot() {
    let (directory, mut results) = (folder(), results(Preset::Quick));
    write(directory.path(), &mut results).unwrap();
    for part in ["tables", "plots"] {
        let files: Vec<_> =
            fs::read_dir(directory.path().join(part)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 4, "{files:?}");
        let has_caption =
            |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "md" || kind == "tex" || kind == "svg");
        for path in files.iter().filter(has_caption) {
            assert!(fs::read_to_string(path).unwrap().contains(QUICK), "{}", path.display());
        }
    }
    assert!(fs::read_to_string(directory.path().join("report.md")).unwrap().contains(QUICK));
}

#[test]
fn tables_have_intervals_and_findings() {
    let (directory, mut results) = (folder(), results(Preset::Default));
    write(directory.path(), &mut results).unwrap();
    let table = fs::read_to_string(directory.path().join("tables/cold.csv")).unwrap();
    let rows: Vec<_> = table.lines().collect();
    assert!(rows[0].starts_with("function,sandbox,rounds,median,95 % interval,"), "{table}");
    assert!(rows[1].starts_with("a,process,8,"), "{table}");
    assert!(rows[2].starts_with("a again (A/A control),process,8,"), "{table}");
    assert!(rows[3].starts_with("b,\"qemu-q35, emulated\",8,") && rows[3].contains("140 to 140 times"), "{table}");
    assert_eq!(rows.len(), 4);
}

#[test]
fn what_a_time_limit_has_left_out_is_said_with_the_reason() {
    let (directory, mut results) = (folder(), results(Preset::Default));
    results.plan.budget = Some(1200.0);
    let reduction =
        |experiment, rounds| Reduction { experiment, function: "b".to_owned(), rounds, wanted: 10, round_s: 12.3 };
    results.reductions = vec![reduction(Experiment::Cold, 6), reduction(Experiment::Warm, 0)];
    write(directory.path(), &mut results).unwrap();
    let report = fs::read_to_string(directory.path().join("report.md")).unwrap();
    let place = |text: &str| report.find(text).unwrap_or_else(|| panic!("{text} is missing: {report}"));
    let left_out = place("- warm was not run with b (12 s a round), as it does not fit into 20 min.\n");
    let fewer = place("- cold, fewer rounds to end within 20 min: b 6 of 10 (12 s each)\n");
    assert!(left_out < place("## Run") && place("## Run") < fewer, "what is missing is a warning");
}

#[test]
fn reports_are_the_same_when_they_are_written_again() {
    let (directory, mut results) = (folder(), results(Preset::Default));
    write(directory.path(), &mut results).unwrap();
    let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
    let (html, json) = (read("report.html"), read("results.json"));
    let mut again = Results::read(directory.path()).unwrap();
    write(directory.path(), &mut again).unwrap();
    assert!(html == read("report.html") && json == read("results.json"));
}

#[test]
fn results_of_another_version_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("results.json"), "{\"schema\": 99}").unwrap();
    let error = Results::read(directory.path()).unwrap_err().to_string();
    assert!(error.contains("expected version 3 of the results, found 99"), "{error}");
}
