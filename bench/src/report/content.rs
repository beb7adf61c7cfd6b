//! What the report says, in its order: warnings first.

use std::collections::BTreeMap;

use super::{
    QUICK, Section,
    document::{Block, Document},
    format::number,
    method, reduced,
    table::{Column, Table},
};
use crate::{
    experiments::Unsupported,
    options::{Experiment, Preset},
    results::Results,
    summary::Summary,
};

/// Returns the report.
pub fn document(results: &Results, sections: &[Section], damaged: Vec<String>) -> Document {
    let mut blocks = Vec::new();
    let is_quick = results.plan.preset == Preset::Quick;
    let title = if is_quick { format!("UniFaaS benchmark ({QUICK})") } else { "UniFaaS benchmark".to_owned() };
    let warnings = warnings(results, damaged);
    blocks.push(Block::Heading("Warnings".to_owned()));
    if warnings.is_empty() {
        blocks.push(Block::Text("None.".to_owned()));
    } else {
        blocks.push(Block::Warnings(warnings));
    }
    blocks.push(Block::Heading("Run".to_owned()));
    blocks.push(Block::List(run(results)));
    if !results.functions.is_empty() {
        blocks.push(Block::Table(functions(results)));
    }
    for section in sections {
        blocks.push(Block::Heading(heading(section.experiment).to_owned()));
        blocks.extend(section.figures.iter().cloned().map(Block::Figure));
        blocks.extend(section.tables.iter().cloned().map(Block::Table));
    }
    blocks.push(Block::Heading("Machine".to_owned()));
    blocks.push(Block::Table(machine(results)));
    if !results.machine.advice.is_empty() {
        blocks.push(Block::Text("What raises variance here, and what would change it:".to_owned()));
        blocks.push(Block::List(results.machine.advice.clone()));
    }
    blocks.push(Block::Heading("Method".to_owned()));
    blocks.extend(method::paragraphs().into_iter().map(Block::Text));
    blocks.push(Block::Heading("Files and citation".to_owned()));
    blocks.extend(files(results));
    Document { title, blocks }
}

const fn heading(experiment: Experiment) -> &'static str {
    match experiment {
        Experiment::Cold => "Cold starts",
        Experiment::Warm => "Warm requests",
        Experiment::Burst => "Bursts",
        Experiment::Cpu => "Computing",
        Experiment::Alloc => "Allocating memory",
        Experiment::Read => "Reading a file",
        Experiment::Unzip => "Unpacking an archive",
        Experiment::Throughput => "Throughput",
        Experiment::Load => "Open load",
        Experiment::Transfer => "Large responses",
        Experiment::Memory => "Memory of idle instances",
        Experiment::Idle => "Processor time of idle instances",
        Experiment::Replay => "Keep-alive policies",
    }
}

fn warnings(results: &Results, damaged: Vec<String>) -> Vec<String> {
    let mut lines = Vec::new();
    if results.plan.preset == Preset::Quick {
        lines.push(format!("{QUICK}: a first impression. Most figures have no interval, and none should be cited."));
    }
    if !results.complete {
        lines.push("The run was cut short. These are the samples that there are.".to_owned());
    }
    if let Some(calibration) = results.calibration.as_ref().filter(|calibration| !calibration.is_reliable) {
        lines.push(format!(
            "The client's clock is unreliable here: a delay of {} ms took {} ms by the function's clock and {} ms by the \
             client's (medians of {}).",
            calibration.delay_us / 1000.0,
            number(calibration.function_us / 1000.0),
            number(calibration.client_us / 1000.0),
            calibration.count
        ));
    }
    if let (Some(before), Some(after)) = results.throttled
        && after > before
    {
        lines.push(format!("Processors were throttled for heat {} times during the run.", after - before));
    }
    if results.functions.iter().any(|function| function.sandbox.emulated) {
        lines.push(
            "There is no KVM for some virtual machines: their processors are emulated, many times slower.".to_owned(),
        );
    }
    if results.machine.processors <= 2 {
        lines.push("Client, daemon and functions share two processors or fewer.".to_owned());
    }
    let memory: Vec<_> = results.functions.iter().map(|function| function.memory).collect();
    if results.plan.memory.is_none() && memory.iter().any(|size| Some(size) != memory.first()) {
        lines.push("The functions have different memory; `--memory` makes them comparable.".to_owned());
    }
    let cpus: Vec<_> = results.functions.iter().map(|function| function.cpus).collect();
    if cpus.iter().any(|count| Some(count) != cpus.first()) {
        lines.push("The functions have different processors; `--cpus` makes them comparable.".to_owned());
    }
    lines.extend(
        results
            .left_out
            .iter()
            .map(|(name, reason)| format!("{name} was left out: {}", reason.lines().next().unwrap_or_default())),
    );
    lines.extend(reduced::left_out(results));
    lines.extend(damaged);
    lines.extend(results.warnings.iter().cloned());
    let disturbed = |summary: &Summary| {
        (summary.disturbed > 0.0)
            .then(|| format!("{:.0} % of those of {}", (summary.disturbed * 100.0).max(1.0), summary.experiment.name()))
    };
    let disturbed: Vec<_> = results.summaries.iter().filter_map(disturbed).collect();
    if !disturbed.is_empty() {
        lines.push(format!(
            "Other work on this machine disturbed rounds; the tables have the medians without them: {}.",
            disturbed.join(", ")
        ));
    }
    lines.extend(results.summaries.iter().flat_map(|summary| summary.warnings.iter().cloned()));
    lines
}

fn run(results: &Results) -> Vec<String> {
    let plan = &results.plan;
    let mut lines = vec![
        format!("Command: `unifaas {}`", results.command),
        format!("Began {}, ended {}", results.began, results.ended.as_deref().unwrap_or("at an unknown time")),
        format!("Seed {}: `--seed {}` repeats the order", plan.seed, plan.seed),
    ];
    for experiment in &plan.experiments {
        let warmup = if experiment.has_warmup() { " and one to warm up" } else { "" };
        let rounds = plan.rounds_of(*experiment);
        let plural = if rounds == 1 { "" } else { "s" };
        lines.push(format!("{}: {rounds} round{plural}{warmup}", experiment.name()));
    }
    if let Some(baseline) = &plan.baseline {
        lines.push(format!("Baseline: `{}`, in the same rounds", baseline.display()));
    }
    if let Some(daemon) = &plan.daemon {
        lines
            .push(format!("Daemon: {daemon}, with its functions as they are; the machine below is that of the client"));
    }
    lines.extend(reduced::fewer(results));
    lines.extend(unsupported(results));
    if let Some(calibration) = results.calibration.as_ref().filter(|calibration| calibration.is_reliable) {
        lines.push(format!(
            "Calibration: a delay of {} ms took {} ms by the function's clock and {} ms by the client's (medians of {})",
            calibration.delay_us / 1000.0,
            number(calibration.function_us / 1000.0),
            number(calibration.client_us / 1000.0),
            calibration.count
        ));
    }
    lines
}

/// Returns a line for each experiment, and each part of its work, that some functions do not support.
fn unsupported(results: &Results) -> Vec<String> {
    let mut groups = BTreeMap::<_, Vec<&Unsupported>>::new();
    for one in &results.unsupported {
        groups.entry((one.experiment, one.task.as_deref())).or_default().push(one);
    }
    let line = |((experiment, task), group): ((Experiment, Option<&str>), Vec<&Unsupported>)| {
        let names = group.iter().map(|one| one.function.as_str()).collect::<Vec<_>>().join(", ");
        let task = task.map_or_else(String::new, |task| format!(" ({task})"));
        format!("{}{task} without {names}: {}", experiment.name(), group.first().map_or("", |one| &one.reason))
    };
    groups.into_iter().map(line).collect()
}

fn columns(names: &[(&str, bool)]) -> Vec<Column> {
    names.iter().map(|(name, is_number)| Column { name: (*name).to_owned(), is_number: *is_number }).collect()
}

fn functions(results: &Results) -> Table {
    let rows = results.functions.iter().map(|function| {
        let emulated = if function.sandbox.emulated { ", emulated" } else { "" };
        vec![
            function.name.clone(),
            format!("{}{emulated}", function.sandbox.name),
            function.memory.to_string(),
            function.cpus.map_or_else(|| "not limited".to_owned(), |cpus| cpus.to_string()),
            function.path.clone(),
        ]
    });
    Table {
        id: "functions".to_owned(),
        caption: "The functions. Their files as they were measured are in registry/.".to_owned(),
        columns: columns(&[
            ("function", false),
            ("sandbox", false),
            ("memory, MiB", true),
            ("processors", true),
            ("request", false),
        ]),
        rows: rows.collect(),
    }
}

fn machine(results: &Results) -> Table {
    let rows = results.machine.facts.iter().map(|fact| vec![fact.name.clone(), fact.value.clone()]);
    Table {
        id: "machine".to_owned(),
        caption: "The machine at the begin of the run. Nothing of it was changed.".to_owned(),
        columns: columns(&[("what", false), ("value", false)]),
        rows: rows.collect(),
    }
}

fn files(results: &Results) -> Vec<Block> {
    let version = results.machine.fact("UniFaaS").unwrap_or("unknown");
    let date = results.began.get(..10).unwrap_or_default();
    let year = results.began.get(..4).unwrap_or_default();
    let cite = format!(
        "@misc{{unifaas-bench,\n  title        = {{UniFaaS {version}: benchmark of {date}}},\n  howpublished = {{`unifaas bench`, \
         seed {}}},\n  year         = {{{year}}},\n  note         = {{Samples, machine description and method are in the folder \
         of results}}\n}}",
        results.plan.seed
    );
    vec![
        Block::Text(
            "`samples/` has every request, `results.json` all figures, `tables/` the tables as Markdown, LaTeX and CSV, `plots/` \
             the plots. `unifaas bench report FOLDER` makes everything but the samples again. Plots become PDF for LaTeX with \
             `rsvg-convert --format pdf plot.svg` (Debian's librsvg2-bin); if that is installed, they are there already."
                .to_owned(),
        ),
        Block::Text("Cite the run together with its folder, which others need to check it:".to_owned()),
        Block::Code(cite),
        Block::Text(
            "The experiments follow Moebius, Pfandzelter, Bermbach: Are Unikernels Ready for Serverless on the Edge? 2024, \
             arXiv:2403.00515."
                .to_owned(),
        ),
    ]
}
