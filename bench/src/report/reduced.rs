//! What a time limit has left out.

use crate::{options::Experiment, plan::Reduction, progress::duration, results::Results};

/// Returns a line for each experiment that some functions do not have, with the reason.
pub fn left_out(results: &Results) -> Vec<String> {
    let text = |experiment: Experiment, functions: &[&Reduction], limit: String| {
        let each = functions.iter().map(|one| format!("{} ({} a round)", one.function, duration(one.round_s.max(1.0))));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("{} was not run with {each}, as it does not fit into {limit}.", experiment.name())
    };
    lines(results, |reduction| reduction.rounds == 0, text)
}

/// Returns a line for each experiment that some functions have fewer rounds of, with the reason.
pub fn fewer(results: &Results) -> Vec<String> {
    let text = |experiment: Experiment, functions: &[&Reduction], limit: String| {
        let one = |one: &&Reduction| {
            let Reduction { function, rounds, wanted, round_s, .. } = one;
            format!("{function} {rounds} of {wanted} ({} each)", duration(round_s.max(1.0)))
        };
        let each = functions.iter().map(one).collect::<Vec<_>>().join(", ");
        format!("{}, fewer rounds to end within {limit}: {each}", experiment.name())
    };
    lines(results, |reduction| reduction.rounds > 0, text)
}

fn lines(
    results: &Results,
    is_wanted: impl Fn(&Reduction) -> bool,
    text: impl Fn(Experiment, &[&Reduction], String) -> String,
) -> Vec<String> {
    let limit = || results.plan.budget.map_or_else(|| "the time".to_owned(), duration);
    let of = |experiment: Experiment| {
        let reductions = results.reductions.iter().filter(|one| one.experiment == experiment && is_wanted(one));
        let reductions: Vec<_> = reductions.collect();
        (!reductions.is_empty()).then(|| text(experiment, &reductions, limit()))
    };
    results.plan.experiments.iter().copied().filter_map(of).collect()
}
