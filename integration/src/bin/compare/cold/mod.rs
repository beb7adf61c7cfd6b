//! Cold starts: requests that find no instance, beside the same instance started by hand.
//!
//! A start by hand has the fewest possible steps; `process.rs`, `container.rs` and `vm.rs` say which. Both alternate.

pub mod container;
pub mod process;
mod vm;

use std::time::Duration;

use crate::{
    apart,
    figures::Figure,
    firecracker,
    options::{Options, SectionName},
    report::{Section, Table},
    stats::{added, fastest, median, milliseconds, spread},
};

/// Start times in milliseconds.
#[derive(Debug, Default)]
pub struct Starts {
    by_hand: Vec<f64>,
    through: Vec<f64>,
}

impl Starts {
    /// Adds a pair.
    pub fn push(&mut self, by_hand: Duration, through: Duration) {
        self.by_hand.push(milliseconds(by_hand));
        self.through.push(milliseconds(through));
    }
}

/// Runs the section.
pub async fn run(options: &Options) -> Section {
    let mut section = Section::new(SectionName::Cold.word());
    let columns = [
        ("rounds", 0),
        ("by hand ms", 2),
        ("spread %", 0),
        ("UniFaaS ms", 2),
        ("spread %", 0),
        ("added ms", 2),
        ("fastest by hand", 2),
        ("fastest UniFaaS", 2),
        ("added to fastest", 2),
    ];
    let mut table =
        Table::new("Cold start to the first byte of the answer: medians, and the fastest", "kind", &columns);
    let mut note = |section: &mut Section, name: &str, figure, outcome: Result<Starts, String>| match outcome {
        Err(why) => section.miss(name, &why),
        Ok(Starts { by_hand, through }) => {
            let extra = added(median(&through), median(&by_hand));
            let least = (fastest(&by_hand), fastest(&through));
            let values = [
                Some(by_hand.len() as f64),
                median(&by_hand),
                spread(&by_hand),
                median(&through),
                spread(&through),
                extra,
                least.0,
                least.1,
                added(least.1, least.0),
            ];
            table.row(name, &values);
            section.figure(figure, extra);
        }
    };
    note(&mut section, "process", Figure::ColdProcess, apart(async || process::starts(options).await));
    // Both runtimes share one engine, which takes seconds to start, but a failure of one must not lose the other's result.
    let of_runtimes = match container::obstacle() {
        Some(why) => container::RUNTIMES.map(|_| Err(why.clone())),
        None => apart(async || container::starts(options).await).unwrap_or_else(|why| [Err(why.clone()), Err(why)]),
    };
    let figures = [Figure::ColdRunc, Figure::ColdRunsc];
    for ((runtime, figure), outcome) in container::RUNTIMES.into_iter().zip(figures).zip(of_runtimes) {
        note(&mut section, &format!("container, {runtime}"), figure, outcome);
    }
    note(&mut section, "QEMU microvm", Figure::ColdMicrovm, vm::starts(vm::Kind::Microvm, options));
    let of_firecracker = match firecracker() {
        Some(_) => vm::starts(vm::Kind::Firecracker, options),
        None => Err("neither in FIRECRACKER_EXE nor on the PATH".to_owned()),
    };
    note(&mut section, "Firecracker", Figure::ColdFirecracker, of_firecracker);
    section.tables.push(table);
    section
}
