//! `bench list`: which experiments are possible with which functions, and how long they take by what is usual for their kinds.

use std::process::ExitCode;

use crate::{
    error::BenchError,
    experiments,
    options::RunArgs,
    plan::{self, Item, Plan, Schedule, Speed},
    progress::duration,
    remote,
    run::{Host, print, session, sources, take_lock},
};

/// Prints the list. Sends no request to any function.
///
/// # Errors
/// When there are no functions, or no daemon can be started that checks them.
pub async fn list(arguments: &RunArgs, host: &Host) -> Result<ExitCode, BenchError> {
    let place = remote::place(arguments)?;
    let (sources, mut problems) = sources(arguments, host, place).await?;
    let plan = Plan::of(arguments, 0);
    let _lock = take_lock(arguments, host, place)?;
    if place.is_none() {
        let mut session = session(plan.clone(), arguments, host)?;
        problems.extend(experiments::configuration_problems(&mut session, &sources).await?);
    }
    let mut text = String::new();
    let mut items = Vec::new();
    for source in &sources {
        let problem = problems.iter().find(|(name, _)| *name == source.name);
        for experiment in &plan.experiments {
            let answer = match problem {
                Some((_, reason)) => format!("no: {}", reason.lines().next().unwrap_or_default()),
                None if experiment.needs_host() && place.is_some() => "no: it needs the host of the daemon".to_owned(),
                None => {
                    // The first function takes part twice.
                    let is_first = items.iter().all(|item: &Item| item.function == source.name);
                    let times = if is_first { 2 } else { 1 };
                    let item = plan::item(&plan, *experiment, source, &Speed::usual(source), times);
                    items.push(item.clone());
                    let condition =
                        if experiment.needs_benchmark_function() { "if it runs the benchmark function, " } else { "" };
                    format!("yes, {condition}about {}", duration(Schedule::new(vec![item], None).left()))
                }
            };
            text.push_str(&format!("{:<10} {:<24} {answer}\n", experiment.name(), source.name));
        }
    }
    let unreadable = problems.iter().filter(|(name, _)| sources.iter().all(|source| source.name != *name));
    unreadable.for_each(|(name, reason)| text.push_str(&format!("{:<10} {name:<24} no: {reason}\n", "all")));
    text.push_str(&format!("together about {}", duration(Schedule::new(items, None).left())));
    let limit = plan.budget.map(|budget| format!(", fitted into {} by fewer rounds", duration(budget)));
    text.push_str(&limit.unwrap_or_default());
    text.push('\n');
    print(&text);
    Ok(ExitCode::SUCCESS)
}
