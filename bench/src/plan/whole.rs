//! The whole plan of quick runs over `examples/bench/registry`, by a virtual clock: the time limit is kept, also if sandboxes are
//! many times slower than the survey has found, and nothing is left out without being said.

use std::{collections::BTreeMap, path::Path};

use super::{Plan, Schedule, Speed, item};
use crate::{
    options::{Experiment, RunArgs},
    registry::{self, Source},
};

/// What a run took before its first experiment, in seconds.
const SURVEY: f64 = 40.0;

/// Returns how fast the functions are on two processors without KVM.
fn speed(source: &Source) -> Speed {
    let start_s = match source.name.as_str() {
        "bench" => 0.02,
        "bench-linux" => 2.7,
        "bench-runc" => 0.2,
        "bench-runsc" => 0.3,
        _ => 0.1,
    };
    Speed { start_s, ..Speed::usual(source) }
}

struct Run {
    schedule: Schedule,
    sources: Vec<Source>,
    plan: Plan,
    /// When the last measurement ended.
    end: f64,
}

/// Runs the plan. `slower` says how many times as long as expected a function takes.
fn run(words: &[&str], slower: impl Fn(&str) -> f64) -> Run {
    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        run: RunArgs,
    }
    let command = <Command as clap::Parser>::try_parse_from([&["bench"], words].concat()).unwrap();
    let mut plan = Plan::of(&command.run, 1);
    let registry = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/bench/registry");
    let (sources, damaged) = registry::read(&registry, &[], false).unwrap();
    assert_eq!((sources.len(), damaged.len()), (6, 0));
    let all = Experiment::ALL.into_iter().flat_map(|experiment| {
        let plan = &plan;
        sources.iter().enumerate().map(move |(place, source)| {
            // The first function takes part twice.
            item(plan, experiment, source, &speed(source), if place == 0 { 2 } else { 1 })
        })
    });
    let mut schedule = Schedule::new(all.collect(), plan.budget);
    let (limit, mut now) = (schedule.end().unwrap(), SURVEY);
    let thin = |schedule: &mut Schedule, plan: &mut Plan, now| {
        schedule.refit(now).into_iter().for_each(|experiment| drop(plan.thin(experiment)));
    };
    for experiment in Experiment::ALL {
        thin(&mut schedule, &mut plan, now);
        if !sources.iter().any(|source| schedule.is_planned(experiment, &source.name)) {
            schedule.finish(experiment);
            continue;
        }
        schedule.begin(experiment, &BTreeMap::new());
        let lasts = |source: &Source| {
            let found = item(&plan, experiment, source, &speed(source), 1);
            (found.round_s * slower(&source.name), found.fixed_s * slower(&source.name))
        };
        let durations: Vec<_> = sources.iter().map(lasts).collect();
        for (source, (_, fixed)) in sources.iter().zip(&durations) {
            now += if schedule.is_planned(experiment, &source.name) { *fixed } else { 0.0 };
        }
        for round in 0..=plan.rounds_of(experiment) {
            schedule.refit(now);
            for (source, (seconds, _)) in sources.iter().zip(&durations) {
                if now < limit && schedule.has_round(experiment, &source.name, round) {
                    // A measurement that is still going on at the end is cut off.
                    now = (now + seconds).min(limit);
                    schedule.note(experiment, &source.name, *seconds);
                }
            }
            if now < limit {
                schedule.end_round(experiment, round);
            }
        }
        schedule.finish(experiment);
    }
    Run { schedule, sources, plan, end: now }
}

impl Run {
    /// Returns the rounds of a function that counted.
    fn rounds(&self, experiment: Experiment, function: &str) -> u32 {
        let source = self.sources.iter().find(|source| source.name == function).unwrap();
        let wanted = self.plan.rounds_with(experiment, source.sandbox.emulated);
        let reductions = self.schedule.reductions();
        let reduction = reductions.iter().find(|it| it.experiment == experiment && it.function == function);
        reduction.map_or(wanted, |it| it.rounds)
    }

    /// Returns the experiments that a function does not have.
    fn missing(&self, function: &str) -> Vec<Experiment> {
        Experiment::ALL.into_iter().filter(|experiment| self.rounds(*experiment, function) == 0).collect()
    }
}

#[test]
fn a_quick_run_has_every_experiment_of_every_function() {
    let run = run(&["--quick"], |_| 1.0);
    assert!(run.end <= 1155.0 && run.end > 600.0, "{}", run.end);
    for source in &run.sources {
        assert_eq!(run.missing(&source.name), [], "{}: {:#?}", source.name, run.schedule.reductions());
        assert!(run.rounds(Experiment::Cold, &source.name) >= 6, "an interval: {:#?}", run.schedule.reductions());
    }
}

#[test]
fn a_sandbox_that_is_five_times_slower_than_found_costs_the_others_little() {
    for slow in ["bench-linux", "bench-runsc", "unikernel-q35"] {
        let run = run(&["--quick"], |name| if name == slow { 5.0 } else { 1.0 });
        assert!(run.end <= 1155.0, "{}", run.end);
        for source in run.sources.iter().filter(|source| source.name != slow) {
            // What is worth least, and runs last.
            let is_least = |experiment: &Experiment| *experiment == Experiment::Replay;
            assert!(run.missing(&source.name).iter().all(is_least), "{} beside {slow}", source.name);
        }
        assert!(run.rounds(Experiment::Cold, slow) > 0 && run.missing(slow).len() < 6, "{:?}", run.missing(slow));
    }
}

#[test]
fn a_machine_that_is_five_times_slower_keeps_the_limit() {
    for budget in ["5", "10", "20"] {
        let run = run(&["--quick", "--budget", budget], |_| 5.0);
        assert!(run.end <= run.schedule.end().unwrap(), "{}", run.end);
        for source in &run.sources {
            assert!(run.rounds(Experiment::Cold, &source.name) > 0, "{budget} min, {}", source.name);
        }
    }
}

#[test]
fn what_a_function_can_answer_is_found_each_time_that_it_takes_part() {
    let Run { plan, sources, .. } = run(&["--quick"], |_| 1.0);
    assert!(plan.has_shares());
    for source in &sources {
        let fixed = |times| item(&plan, Experiment::Load, source, &speed(source), times).fixed_s;
        let (second, third) = (fixed(2) - fixed(1), fixed(3) - fixed(2));
        // A start, and a loop of 1.3 s.
        assert!(second > speed(source).start_s + 1.3 && (third - second).abs() < 1e-9, "{second} {third}");
    }
}
