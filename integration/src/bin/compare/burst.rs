//! Bursts: many simultaneous cold requests, each of which needs its own instance, beside as many simultaneous starts by
//! hand.

use std::{path::Path, sync::Barrier, thread, time::Duration};

use futures::future::join_all;
use integration::{Daemon, Home, Setup};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    apart,
    ask::{ForwardedRequest, first_byte},
    child::{Running, WITH_PARENT},
    cold::{
        container,
        process::{ByHand, single_use},
    },
    figures::Figure,
    options::{Options, SectionName},
    progress,
    report::{Section, Table},
    stats::{median, milliseconds, ratio},
};

const ROUNDS: usize = 9;
const CONTAINER_ROUNDS: usize = 3;
/// Size of the burst whose last response is one of the figures.
const FIGURE: usize = 100;
/// Pause before each burst, so that the kernel's cleanup of the last one does not disturb it.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Times of the responses of one burst, in milliseconds since its begin, in order.
type Answers = Vec<f64>;

/// Bursts of one size.
#[derive(Debug, Default)]
struct Bursts {
    by_hand: Vec<Answers>,
    through: Vec<Answers>,
}

/// Runs the section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new(SectionName::Burst.word());
    match apart(async || processes(options).await) {
        Err(why) => section.miss("processes", &why),
        Ok(bursts) => {
            let ratios = note(&mut section, "processes", &bursts);
            let figure = ratios.into_iter().find(|(count, _)| *count == FIGURE);
            section.figure(Figure::Burst, figure.and_then(|(_, ratio)| ratio));
        }
    }
    let outcome = match container::obstacle() {
        Some(why) => Err(why),
        None => apart(async || containers(options).await),
    };
    match outcome {
        Err(why) => section.miss("containers", &why),
        Ok(bursts) => drop(note(&mut section, "containers (runc)", &bursts)),
    }
    section
}

/// Adds a table. Returns the delay of the last response against the starts by hand, by burst size.
fn note(section: &mut Section, what: &str, bursts: &[(usize, Bursts)]) -> Vec<(usize, Option<f64>)> {
    let columns = [
        ("by hand: first ms", 1),
        ("median ms", 1),
        ("last ms", 1),
        ("UniFaaS: first ms", 1),
        ("median ms", 1),
        ("last ms", 1),
        ("last to last", 2),
    ];
    let rounds = bursts.first().map_or(0, |(_, bursts)| bursts.through.len());
    let title = format!("Cold starts at once, {what}: when the answers came, medians of {rounds} bursts");
    let mut table = Table::new(title, "at once", &columns);
    let mut ratios = Vec::new();
    for (count, Bursts { by_hand, through }) in bursts {
        let [by_hand, through] = [by_hand, through].map(|answers| summary(answers));
        let last = ratio(through[2], by_hand[2]);
        let values: Vec<_> = by_hand.into_iter().chain(through).chain([last]).collect();
        table.row(count.to_string(), &values);
        ratios.push((*count, last));
    }
    section.tables.push(table);
    ratios
}

/// Returns the medians of the first, the middle and the last response of each burst.
fn summary(bursts: &[Answers]) -> [Option<f64>; 3] {
    let over = |pick: &dyn Fn(&Answers) -> Option<f64>| median(&bursts.iter().filter_map(pick).collect::<Vec<_>>());
    [
        over(&|answers| answers.first().copied()),
        over(&|answers| median(answers)),
        over(&|answers| answers.last().copied()),
    ]
}

async fn processes(options: &Options) -> Vec<(usize, Bursts)> {
    let home = Home::new();
    let lean = home.program("lean");
    let setup = Setup::at(&home).run_by(WITH_PARENT).function(ForwardedRequest::function());
    let daemon = setup.function(single_use("f")).start().await;
    let request = ForwardedRequest::of(daemon.listen);
    let mut all = Vec::new();
    for count in &options.burst.0 {
        let (mut bursts, rounds) = (Bursts::default(), options.rounds(ROUNDS));
        progress(&format!("burst: {count} processes, {rounds} rounds"));
        for round in 0..=rounds {
            sleep(SETTLE_TIME).await;
            let by_hand = processes_by_hand(*count, &lean, &request);
            sleep(SETTLE_TIME).await;
            let (through, _) = at_once(vec![(); *count], |()| first_byte(daemon.listen, "/invoke/f/"));
            daemon.settled("f", "no instance", |function| function["instances"] == json!([])).await;
            if round > 0 {
                bursts.by_hand.push(by_hand);
                bursts.through.push(through);
            }
        }
        all.push((*count, bursts));
    }
    all
}

fn processes_by_hand(count: usize, program: &Path, request: &ForwardedRequest) -> Answers {
    let prepared = (0..count).map(|_| ByHand::prepare(program, request)).collect();
    let (answers, running): (_, Vec<Running>) = at_once(prepared, ByHand::run);
    drop(running);
    answers
}

/// Runs `work` for each element, each on its own thread; returns the completion times and the results.
fn at_once<T: Send, R: Send>(all: Vec<T>, work: impl Fn(T) -> R + Sync) -> (Answers, Vec<R>) {
    let barrier = Barrier::new(all.len());
    let (barrier, work) = (&barrier, &work);
    let one = |each: T| {
        barrier.wait();
        let began = Instant::now();
        let result = work(each);
        (began, Instant::now(), result)
    };
    let done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|each| scope.spawn(move || one(each))).collect();
        threads.into_iter().map(|thread| thread.join().expect("every start gets a response")).collect()
    });
    let answers = since_the_first(done.iter().map(|(began, ended, _)| (*began, *ended)));
    (answers, done.into_iter().map(|(.., result)| result).collect())
}

/// Returns times since the earliest start.
fn since_the_first(times: impl Iterator<Item = (Instant, Instant)> + Clone) -> Answers {
    let Some(first) = times.clone().map(|(began, _)| began).min() else { return Answers::new() };
    in_order(times.map(|(_, ended)| ended - first).collect())
}

async fn containers(options: &Options) -> Vec<(usize, Bursts)> {
    let runtime = container::RUNTIMES[0];
    let (daemon, engine) = container::daemon().await;
    let docker = engine.docker().await;
    let request = ForwardedRequest::of(daemon.listen);
    let mut all = Vec::new();
    for count in &options.container_burst.0 {
        let (mut bursts, rounds) = (Bursts::default(), options.rounds(CONTAINER_ROUNDS));
        progress(&format!("burst: {count} containers, {rounds} rounds"));
        for round in 0..=rounds {
            sleep(SETTLE_TIME).await;
            let began = Instant::now();
            let by_hand =
                (0..*count).map(async |_| (container::by_hand(&docker, runtime, &request).await, began.elapsed()));
            let (containers, by_hand) = join_all(by_hand).await.into_iter().unzip();
            let containers: Vec<String> = containers;
            join_all(containers.iter().map(|container| container::remove(&docker, container))).await;
            sleep(SETTLE_TIME).await;
            let through = containers_through(&daemon, runtime, *count).await;
            engine.none_left(runtime).await;
            if round > 0 {
                bursts.by_hand.push(in_order(by_hand));
                bursts.through.push(in_order(through));
            }
        }
        all.push((*count, bursts));
    }
    all
}

async fn containers_through(daemon: &Daemon, function: &str, count: usize) -> Vec<Duration> {
    let began = Instant::now();
    let path = format!("/invoke/{function}/");
    let requests = (0..count).map(async |_| {
        daemon.get(&path).await.ok();
        began.elapsed()
    });
    join_all(requests).await
}

fn in_order(answers: Vec<Duration>) -> Answers {
    let mut answers: Answers = answers.into_iter().map(milliseconds).collect();
    answers.sort_by(f64::total_cmp);
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_has_first_middle_and_last_response() {
        let bursts = [vec![1.0, 2.0, 9.0], vec![3.0, 4.0, 5.0], vec![2.0, 6.0, 7.0]];
        assert_eq!(summary(&bursts), [Some(2.0), Some(4.0), Some(7.0)]);
        assert_eq!(summary(&[]), [None, None, None]);
    }

    #[test]
    fn times_count_from_first_start() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        let times = [(after(2), after(9)), (after(0), after(4)), (after(1), after(3))];
        assert_eq!(since_the_first(times.into_iter()), [3.0, 4.0, 9.0]);
    }

    #[test]
    fn runs_all_work_concurrently() {
        // A barrier: without concurrency none would get past it.
        let together = Barrier::new(8);
        let (answers, results) = at_once((0..8).collect(), |number| {
            together.wait();
            number * 2
        });
        assert_eq!(results, [0, 2, 4, 6, 8, 10, 12, 14]);
        assert!(answers.len() == 8 && answers.is_sorted());
    }
}
