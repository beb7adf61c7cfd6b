//! Counts malformed responses, instance by instance. One such response is a failure of its request; several in a row, and no
//! good one between them, are a failure of the instance.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use foldhash::HashMap;
use unifaas_actors::InstanceId;

/// Malformed responses in a row after which an instance has failed.
const MAX_MALFORMED: u32 = 3;
/// Instances that are remembered. Those that end without a good response are forgotten with all others at this count.
const MAX_INSTANCES: usize = 1024;

/// Malformed responses in a row, by instance.
#[derive(Debug, Default)]
pub struct MalformedResponses {
    counts: Mutex<HashMap<InstanceId, u32>>,
    /// Whether there are any: good responses need not look.
    any: AtomicBool,
}

impl MalformedResponses {
    /// Counts a malformed response. Returns whether the instance has failed by that.
    pub fn count(&self, instance: InstanceId) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= MAX_INSTANCES {
            counts.clear();
        }
        self.any.store(true, Ordering::Relaxed);
        let count = counts.entry(instance).or_default();
        *count += 1;
        *count >= MAX_MALFORMED
    }

    /// Notes a good response.
    pub fn reset(&self, instance: InstanceId) {
        if self.any.load(Ordering::Relaxed) {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            counts.remove(&instance);
            self.any.store(!counts.is_empty(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_malformed_responses_in_a_row_fail_an_instance() {
        let (responses, [one, other]) = (MalformedResponses::default(), [(); 2].map(|()| InstanceId::random()));
        assert_eq!([one, one, other].map(|instance| responses.count(instance)), [false; 3]);
        responses.reset(one);
        assert_eq!([one, one, one].map(|instance| responses.count(instance)), [false, false, true]);
        responses.reset(one);
        responses.reset(other);
        assert!(!responses.any.load(Ordering::Relaxed));
    }
}
