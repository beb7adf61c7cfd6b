//! What was done to the daemon and when, and which answers that excuses.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use integration::{Answer, Outcome};
use tokio::time::Instant;

use crate::stage::{EDITED, FLEETING, LOST};

/// How long a trouble is felt after it is over: what was begun meanwhile is still under way.
const AFTERMATH: Duration = Duration::from_secs(3);

/// How long a death may take to be noticed: a request that comes meanwhile is in flight on the dead.
const NOTICE: Duration = Duration::from_millis(100);
/// How long a function whose starts have failed again and again may be told the last failure instead of being started.
const BACKING_OFF: Duration = Duration::from_secs(60);

/// What keeps the platform from starting instances for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The container engine is away, or hangs.
    Engine,
    /// The disk of the state directory is full.
    Disk,
    /// A tap was removed that a guest may just have been given.
    Tap,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Instances that were killed, by id, and when that was done.
    killed: HashMap<String, Instant>,
    /// Instances whose tap was removed.
    cut_off: HashMap<String, Instant>,
    troubles: Vec<(Trouble, Instant, Instant)>,
}

impl Ledger {
    pub fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// To be called when it is dead.
    pub fn killed(&mut self, instance: String) {
        self.killed.insert(instance, Instant::now());
    }

    pub fn cut_off(&mut self, instance: String) {
        self.cut_off.insert(instance, Instant::now());
    }

    /// There was trouble from `since` until now.
    pub fn troubled(&mut self, trouble: Trouble, since: Instant) {
        self.troubles.push((trouble, since, Instant::now()));
    }

    fn during(&self, trouble: Trouble, answer: &Answer) -> bool {
        let felt = if is_repeated(answer) { AFTERMATH + BACKING_OFF } else { AFTERMATH };
        let touches = |since: Instant, until: Instant| answer.answered >= since && answer.asked <= until + felt;
        self.troubles.iter().any(|(kind, since, until)| *kind == trouble && touches(*since, *until))
    }

    /// Whether this answer is what a client may be told at that moment.
    pub fn excuses(&self, answer: &Answer) -> bool {
        let (status, code, detail, instance) = match &answer.outcome {
            Outcome::Function { status } => return *status == 200 && answer.function != LOST,
            Outcome::Nobody { .. } => return false,
            Outcome::Platform { status, code, detail, instance } => (*status, code.as_str(), detail, instance),
        };
        // Of an instance that was still taken to be alive when the request was sent.
        let felt = if is_repeated(answer) { NOTICE + BACKING_OFF } else { NOTICE };
        let hit = |victims: &HashMap<String, Instant>| {
            instance.as_ref().and_then(|id| victims.get(id)).is_some_and(|dead| answer.asked <= *dead + felt)
        };
        let container = answer.function.starts_with("boxed");
        let machine = answer.function.starts_with("machine") || answer.function.starts_with("disk");
        let no_engine = container && self.during(Trouble::Engine, answer);
        let no_tap = machine && self.during(Trouble::Tap, answer);
        let no_room = detail.contains("No space left") && self.during(Trouble::Disk, answer);
        // Before the daemon has seen that a function is no more.
        let no_directory = answer.function == FLEETING && detail.contains("directory does not exist");
        match (status, code) {
            // An engine that comes back ends the containers that it finds, some of them without a word to their peers.
            (502, "instance_failed") => hit(&self.killed) || hit(&self.cut_off) || no_engine,
            (502, "boot_failed") => hit(&self.killed) || no_tap,
            (502, "start_failed") => no_engine || no_tap || no_room || no_directory,
            (503, "host_saturated") => no_room,
            (504, "boot_timed_out") => answer.function == LOST || no_engine || no_tap,
            (504, "queue_timed_out" | "function_timed_out") => no_engine,
            (500, "function_misconfigured") => answer.function == EDITED,
            (404, "no_such_function") | (503, "draining") => answer.function == FLEETING,
            _ => false,
        }
    }
}

/// Whether it tells an earlier failure.
fn is_repeated(answer: &Answer) -> bool {
    matches!(&answer.outcome, Outcome::Platform { detail, .. } if detail.contains("again and again"))
}
