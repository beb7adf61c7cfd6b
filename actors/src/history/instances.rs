//! The instances that exist, and the last ones that ended.
//!
//! An instance that failed is of more interest than an idle one. So the oldest orderly end makes room, unless few of
//! them are left.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::record::InstanceRecord;
use crate::{id::InstanceId, sandbox::SandboxExit, stop_reason::StopReason};

/// Ended instances that are kept, and the size of their output in bytes.
const MAX_ENDED: usize = 256;
const MAX_ENDED_BYTES: usize = 4 << 20;
/// Of those, as many of one function.
const MAX_ENDED_OF_FUNCTION: usize = 20;

/// The instances by id. Each InstanceActor enters its own, and moves it to the ended ones.
#[derive(Debug, Default)]
pub struct InstanceHistory(Mutex<Instances>);

#[derive(Debug, Default)]
struct Instances {
    live: HashMap<InstanceId, Arc<InstanceRecord>>,
    /// Oldest first.
    ended: VecDeque<Arc<InstanceRecord>>,
    /// Size of the output of ended instances.
    bytes: usize,
}

/// The entry of an instance that exists. Dropping it moves the record to the ended ones.
#[derive(Debug)]
pub(crate) struct LiveInstance {
    history: Arc<super::History>,
    pub record: Arc<InstanceRecord>,
    /// Why the instance stopped serving.
    pub cause: StopReason,
    /// How it exited.
    pub exit: Option<SandboxExit>,
}

impl LiveInstance {
    /// Enters an instance.
    pub fn enter(history: Arc<super::History>, record: Arc<InstanceRecord>) -> Self {
        history.instances.lock().live.insert(record.instance, record.clone());
        // Until its actor knows another reason.
        Self { history, record, cause: StopReason::Bug, exit: None }
    }
}

impl Drop for LiveInstance {
    fn drop(&mut self) {
        self.record.set_ended(&self.cause, self.exit.take());
        self.history.instances.lock().end(self.record.clone());
    }
}

impl InstanceHistory {
    /// Returns an instance that exists or is kept.
    pub fn find(&self, id: InstanceId) -> Option<Arc<InstanceRecord>> {
        let instances = self.lock();
        let ended = || instances.ended.iter().find(|record| record.instance == id);
        instances.live.get(&id).or_else(ended).cloned()
    }

    /// Returns the kept instances of a function that have ended, the last one first.
    pub fn ended_of(&self, function: &str) -> Vec<Arc<InstanceRecord>> {
        self.lock().ended.iter().rev().filter(|record| *record.function == *function).cloned().collect()
    }

    /// Returns the kept instances of a function, or of all functions: those that have ended, oldest first, and those that
    /// exist.
    pub fn all_of(&self, function: Option<&str>) -> Vec<Arc<InstanceRecord>> {
        let instances = self.lock();
        let all = instances.ended.iter().chain(instances.live.values());
        all.filter(|record| function.is_none_or(|function| *record.function == *function)).cloned().collect()
    }

    /// Returns the instances that exist.
    pub fn all_live(&self) -> Vec<Arc<InstanceRecord>> {
        self.lock().live.values().cloned().collect()
    }

    /// Returns how many instances exist.
    pub fn live(&self) -> usize {
        self.lock().live.len()
    }

    fn lock(&self) -> MutexGuard<'_, Instances> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Instances {
    fn end(&mut self, record: Arc<InstanceRecord>) {
        self.live.remove(&record.instance);
        self.bytes += record.size();
        let function = record.function.clone();
        self.ended.push_back(record);
        if self.ended.iter().filter(|record| record.function == function).count() > MAX_ENDED_OF_FUNCTION {
            self.forget(MAX_ENDED_OF_FUNCTION, |record| record.function == function);
        }
        while self.ended.len() > MAX_ENDED || self.bytes > MAX_ENDED_BYTES {
            self.forget(MAX_ENDED, |_| true);
        }
    }

    /// Forgets one of the ended instances that `of` selects, `limit` of which may be kept.
    fn forget(&mut self, limit: usize, of: impl Fn(&InstanceRecord) -> bool) {
        let orderly = |record: &Arc<InstanceRecord>| of(record) && record.ended_orderly();
        let many = self.ended.iter().filter(|record| orderly(record)).count() > limit / 2;
        let oldest = self.ended.iter().position(|record| if many { orderly(record) } else { of(record) });
        if let Some(forgotten) = oldest.and_then(|oldest| self.ended.remove(oldest)) {
            self.bytes -= forgotten.size();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        boot::{BootClock, BootRecord, StartCause},
        history::History,
        output::{OutputLog, OutputStream},
    };

    fn enter(history: &Arc<History>, function: &str) -> LiveInstance {
        let (clock, id) = (BootClock::new(Instant::now()), InstanceId::random());
        let boot = BootRecord::new(function.into(), "process", 1, id, StartCause::Caller, clock);
        let record = InstanceRecord::new(boot, OutputLog::default(), Instant::now(), 128);
        LiveInstance::enter(history.clone(), Arc::new(record))
    }

    fn end(history: &Arc<History>, function: &str, cause: StopReason) -> InstanceId {
        let mut instance = enter(history, function);
        instance.cause = cause;
        instance.record.instance
    }

    fn crash(history: &Arc<History>, function: &str) -> InstanceId {
        end(history, function, StopReason::Exited(SandboxExit::Code(1)))
    }

    #[test]
    fn an_instance_is_found_while_it_exists_and_after_its_end() {
        let history = Arc::<History>::default();
        let mut instance = enter(&history, "f");
        let id = instance.record.instance;
        assert_eq!(history.instances.find(id).and_then(|record| record.ended()), None);
        instance.record.output.write(OutputStream::Err, b"last words\nunfinished");
        instance.record.set_served(7);
        (instance.cause, instance.exit) = (StopReason::Exited(SandboxExit::Code(3)), Some(SandboxExit::Code(3)));
        drop(instance);
        let record = history.instances.find(id).unwrap();
        record.output.write(OutputStream::Err, b"too late\n");
        let ended = record.ended_with_output().unwrap();
        assert_eq!((ended.cause, ended.exit.as_deref(), ended.served), ("exited", Some("exited with status 3"), 7));
        let texts: Vec<_> = ended.output.iter().map(|line| &*line.text).collect();
        assert_eq!(texts, ["last words", "unfinished"]);
        assert_eq!((history.instances.ended_of("f").len(), history.instances.ended_of("g").len()), (1, 0));
    }

    #[test]
    fn an_actor_that_panics_leaves_a_record() {
        let history = Arc::<History>::default();
        let id = enter(&history, "f").record.instance;
        assert_eq!(history.instances.find(id).and_then(|record| record.ended()).map(|ended| ended.cause), Some("bug"));
    }

    #[test]
    fn the_last_twenty_of_a_function_are_kept() {
        let history = Arc::<History>::default();
        let other = crash(&history, "g");
        let ids: Vec<_> = (0..25).map(|_| crash(&history, "f")).collect();
        let kept: Vec<_> = history.instances.ended_of("f").iter().map(|record| record.instance).collect();
        assert_eq!(kept, ids[5..].iter().rev().copied().collect::<Vec<_>>());
        assert!(history.instances.find(other).is_some() && history.instances.find(ids[4]).is_none());
    }

    #[test]
    fn orderly_ends_do_not_displace_crashes() {
        let history = Arc::<History>::default();
        let crashed = crash(&history, "f");
        let idle: Vec<_> = (0..100).map(|_| end(&history, "f", StopReason::Idle)).collect();
        assert!(history.instances.find(crashed).is_some() && history.instances.find(idle[99]).is_some());
        assert_eq!(history.instances.ended_of("f").len(), MAX_ENDED_OF_FUNCTION);
        let crashes: Vec<_> = (0..20).map(|_| crash(&history, "f")).collect();
        assert!(history.instances.find(crashed).is_none(), "it is older than the last twenty");
        assert!(crashes[10..].iter().all(|id| history.instances.find(*id).is_some()));
        let last = end(&history, "f", StopReason::Idle);
        assert!(history.instances.find(last).is_some());
    }

    #[test]
    fn number_and_size_of_ended_instances_are_bounded() {
        let history = Arc::<History>::default();
        for number in 0..1000 {
            crash(&history, &format!("f{}", number / 10));
        }
        assert_eq!(history.instances.lock().ended.len(), MAX_ENDED);
        for number in 0..100 {
            let instance = enter(&history, &format!("f{number}"));
            for _ in 0..100 {
                instance.record.output.write(OutputStream::Out, &[&[b'x'; 1000][..], b"\n"].concat());
            }
        }
        let instances = history.instances.lock();
        let sum: usize = instances.ended.iter().map(|record| record.size()).sum();
        assert_eq!(instances.bytes, sum);
        assert!(sum <= MAX_ENDED_BYTES && sum > MAX_ENDED_BYTES - (200 << 10), "{sum}");
        assert!(instances.live.is_empty());
    }
}
