//! Injected faults with their times, and the responses that they excuse.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use integration::{Answer, Outcome};
use tokio::time::Instant;

use crate::rig::{FLEETING, LOST};

/// Time after a fault during which its consequences may appear.
const AFTERMATH: Duration = Duration::from_secs(3);

/// Time in which a death may go unnoticed: requests meanwhile are sent to the dead instance.
const NOTICE: Duration = Duration::from_secs(1);
/// Longest time during which a failing function answers with its last error.
const BACKING_OFF: Duration = Duration::from_secs(60);

/// Conditions under which the platform cannot start instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The container engine is stopped or hangs.
    Engine,
    /// The disk of the state directory is full.
    Disk,
    /// A tap was removed that a guest may have just acquired.
    Tap,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// Number of faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Killed instances by id, with the time of death.
    killed: HashMap<String, Instant>,
    /// Instances whose tap was removed.
    without_tap: HashMap<String, Instant>,
    troubles: Vec<(Trouble, Instant, Instant)>,
}

impl Ledger {
    pub fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// Records the death of an instance. Call it when the instance is dead.
    pub fn killed(&mut self, instance: String) {
        self.killed.insert(instance, Instant::now());
    }

    pub fn without_tap(&mut self, instance: String) {
        self.without_tap.insert(instance, Instant::now());
    }

    /// Records a condition that lasted from `since` until now.
    pub fn troubled(&mut self, trouble: Trouble, since: Instant) {
        self.troubles.push((trouble, since, Instant::now()));
    }

    fn during(&self, trouble: Trouble, answer: &Answer) -> bool {
        let felt = if is_repeated(answer) { AFTERMATH + BACKING_OFF } else { AFTERMATH };
        let touches = |since: Instant, until: Instant| answer.answered >= since && answer.asked <= until + felt;
        self.troubles.iter().any(|(kind, since, until)| *kind == trouble && touches(*since, *until))
    }

    /// Returns what is known about the faults before a response, in seconds before its request.
    pub fn faults_before(&self, answer: &Answer) -> String {
        let before = |time: &Instant| answer.asked.duration_since(*time).as_secs_f32();
        let Outcome::Platform { instance: Some(id), .. } = &answer.outcome else { return String::new() };
        let [killed, without_tap] = [&self.killed, &self.without_tap].map(|victims| victims.get(id).map(before));
        let troubles = self.troubles.iter().filter(|(_, since, _)| *since <= answer.answered);
        let last: Vec<_> = troubles.rev().take(3).map(|(kind, _, until)| (kind, before(until))).collect();
        format!("instance killed {killed:?}, without its tap {without_tap:?}, last troubles {last:?}")
    }

    /// Returns whether a client may get this response at that time.
    pub fn excuses(&self, answer: &Answer) -> bool {
        let (status, code, detail, instance) = match &answer.outcome {
            Outcome::Function { status } => return *status == 200 && answer.function != LOST,
            Outcome::NoAnswer { .. } => return false,
            Outcome::Platform { status, code, detail, instance } => (*status, code.as_str(), detail, instance),
        };
        // Of an instance that was considered alive when the request was sent.
        let felt = if is_repeated(answer) { NOTICE + BACKING_OFF } else { NOTICE };
        let hit = |victims: &HashMap<String, Instant>| {
            instance.as_ref().and_then(|id| victims.get(id)).is_some_and(|dead| answer.asked <= *dead + felt)
        };
        let container = answer.function.starts_with("boxed");
        let machine = answer.function.starts_with("machine") || answer.function.starts_with("disk");
        let no_engine = container && self.during(Trouble::Engine, answer);
        let no_tap = machine && self.during(Trouble::Tap, answer);
        // An instance that had just acquired the tap may end before it is listed.
        let lost_tap = no_tap && detail.contains("its network interface") && detail.ends_with("was removed");
        let no_room = detail.contains("No space left") && self.during(Trouble::Disk, answer);
        // Before the daemon has noticed the removal of the function.
        let is_missing = detail.contains("directory does not exist") || detail.contains("No such file or directory");
        let no_directory = answer.function == FLEETING && is_missing;
        match (status, code) {
            // A restarted engine ends the containers it finds, and some connections are not closed.
            (502, "instance_failed") => hit(&self.killed) || hit(&self.without_tap) || no_engine || lost_tap,
            (502, "boot_failed") => hit(&self.killed) || hit(&self.without_tap) || no_engine || no_tap,
            (502, "start_failed") => no_engine || no_tap || no_room || no_directory,
            (503, "host_saturated") => no_room,
            (504, "boot_timed_out") => answer.function == LOST || no_engine || no_tap,
            (504, "queue_timed_out" | "function_timed_out") => no_engine,
            (404, "no_such_function") | (503, "draining") => answer.function == FLEETING,
            _ => false,
        }
    }
}

/// Returns whether the response repeats an earlier failure.
fn is_repeated(answer: &Answer) -> bool {
    matches!(&answer.outcome, Outcome::Platform { detail, .. } if detail.contains("again and again"))
}
