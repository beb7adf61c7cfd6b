//! The daemon with increasing numbers of registered functions: start-up time and memory.

use std::sync::Arc;

use integration::{Home, Setup};
use tokio::time::{Instant, sleep};

use super::{SETTLE_TIME, registry, resident_mib};
use crate::{
    ask::first_byte,
    child::WITH_PARENT,
    figures::Figure,
    options::Options,
    progress,
    report::{Section, Table},
    stats::{median, spread},
};

const ROUNDS: usize = 7;
/// Sizes of the target figures.
const FEW: usize = 10;
const MANY: usize = 10_000;

struct Size {
    functions: usize,
    home: Arc<Home>,
    /// Seconds until it served.
    times: Vec<f64>,
    /// MiB.
    memory: Vec<f64>,
}

impl Size {
    fn new(functions: usize) -> Self {
        Self { functions, home: registry(functions), times: Vec::new(), memory: Vec::new() }
    }

    /// Measures the time from exec to the first response, and memory.
    async fn measure(&mut self, counts: bool) {
        let began = Instant::now();
        let mut daemon = Setup::at(&self.home).run_by(WITH_PARENT).start().await;
        first_byte(daemon.listen, "/healthz");
        let took = began.elapsed();
        sleep(SETTLE_TIME).await;
        if counts {
            self.times.push(took.as_secs_f64());
            self.memory.push(resident_mib(daemon.pid));
        }
        daemon.end().await;
    }
}

/// Runs this part of the section.
pub async fn run(section: &mut Section, options: &Options) {
    let rounds = options.rounds(ROUNDS);
    let mut sizes: Vec<_> = options.functions.0.iter().map(|count| Size::new(*count)).collect();
    // The first start finds the files cold.
    for round in 0..=rounds {
        progress(&format!("scale: start-up, round {round} of {rounds}"));
        for size in &mut sizes {
            size.measure(round > 0).await;
        }
    }
    let columns = [("start-up s", 3), ("spread %", 0), ("resident MiB", 1), ("spread %", 0)];
    let title = format!("Registered functions, none running: medians of {rounds} starts");
    let mut table = Table::new(title, "functions", &columns);
    for Size { functions, times, memory, .. } in &sizes {
        let (time, resident) = (median(times), median(memory));
        table.row(functions.to_string(), &[time, spread(times), resident, spread(memory)]);
        if *functions == FEW {
            section.figure(Figure::MemoryOf10, resident);
        }
        if *functions == MANY {
            section.figure(Figure::MemoryOf10000, resident);
            section.figure(Figure::StartUp, time);
        }
    }
    section.tables.push(table);
}
