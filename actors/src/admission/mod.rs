//! Admission: which instances the host has room for. A function asks before it starts one, and holds a [`Permit`] for as
//! long as the instance holds anything of the host.
//!
//! The order in which those are served who have to wait is `ledger.rs`'s, which is pure. Here the functions are told when
//! their turn has come, and made to end instances that have nothing to do when somebody else needs their memory: those
//! that have been idle longest, but none that serves, that somebody waits for or that a minimum keeps, and only if that
//! makes enough room. Until then callers wait in the queue of their function.
//!
//! Used on the actors' thread; any thread may request for a report.

mod ledger;
mod rate;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use actix::Recipient;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    function::FunctionHandle,
    id::InstanceId,
    messages::{AllReleased, CapacityAvailable, Evict},
};
pub use ledger::HostLimits;
use ledger::{Decision, Ledger};
pub(crate) use ledger::{FunctionKey, IdleInstance, StartKind, StartRequest, Urgency};

/// A start that takes longer does not count as one any more: it waits for something else than a processor, and functions
/// that never get ready must not keep all others from starting.
const LONGEST_START: Duration = Duration::from_secs(5);

/// What the host has for instances, and who holds some or waits for it.
#[derive(Debug)]
pub struct Admission {
    ledger: Mutex<Ledger>,
    functions: Mutex<HashMap<FunctionKey, Arc<FunctionHandle>>>,
    /// Told when nobody holds anything any more that would be waited for.
    last_one_out: Mutex<Option<Recipient<AllReleased>>>,
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denial {
    /// Not now. The function stands in the queue and will be told with [`CapacityAvailable`].
    Wait,
    /// Not on this host: why, and when to come back all the same.
    Never { why: String, retry_after: Duration },
}

impl Admission {
    /// Nothing is taken.
    pub fn new(limits: HostLimits) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::new(Ledger::new(limits)),
            functions: Mutex::default(),
            last_one_out: Mutex::default(),
        })
    }

    /// What is taken now.
    pub fn report(&self) -> AdmissionReport {
        let ledger = self.ledger();
        AdmissionReport {
            memory_taken: ledger.taken(),
            memory_free: ledger.free(),
            starting: ledger.starting(),
            functions_waiting: ledger.waiting(),
        }
    }

    /// Whether nobody holds anything that would be waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.ledger().is_empty()
    }

    /// Tells `listener` whenever that comes to be so. This knows also of instances whose function has panicked.
    pub(crate) fn tell_when_empty(&self, listener: Recipient<AllReleased>) {
        *self.last_one_out.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    pub(crate) fn enter(&self, function: FunctionKey, handle: Arc<FunctionHandle>) {
        self.functions().insert(function, handle);
    }

    pub(crate) fn leave(&self, function: FunctionKey) {
        self.functions().remove(&function);
        self.ledger().forget(function);
        self.advance();
    }

    /// A permit for one instance of a function that has entered, or a place in the queue.
    pub(crate) fn ask(self: &Arc<Self>, function: FunctionKey, request: StartRequest) -> Result<Permit, Denial> {
        let instance = InstanceId::random();
        let (decision, bounded) = {
            let mut ledger = self.ledger();
            (ledger.ask(function, instance, request, Instant::now()), ledger.bound(request.kind) < usize::MAX)
        };
        self.advance();
        match decision {
            Decision::Granted => {
                if bounded {
                    let admission = self.clone();
                    actix::spawn(async move {
                        sleep(LONGEST_START).await;
                        admission.started(instance);
                    });
                }
                Ok(Permit { admission: self.clone(), instance })
            }
            Decision::Queued => Err(Denial::Wait),
            Decision::Never => {
                let (why, retry_after) = self.ledger().too_large(request.memory);
                Err(Denial::Never { why, retry_after })
            }
        }
    }

    /// The function does not want to start anything now.
    pub(crate) fn withdraw(&self, function: FunctionKey) {
        self.ledger().withdraw(function);
        self.advance();
    }

    /// What a function in the queue waits for, in words, and how long others should stay away for it.
    pub(crate) fn wait_reason(&self, function: FunctionKey) -> Option<(String, Duration)> {
        self.ledger().wait_reason(function, Instant::now())
    }

    /// Whether somebody needs memory that others might do without.
    pub(crate) fn is_short(&self) -> bool {
        self.ledger().shortage().is_some()
    }

    /// Ends idle instances for whoever is first in need of their memory. To be called when one may have become idle.
    pub(crate) fn make_room(&self) {
        loop {
            let Some(shortage) = self.ledger().shortage() else { return };
            let holders = self.ledger().holders();
            let others = holders.iter().filter(|holder| **holder != shortage.function);
            let handles: Vec<_> = others.filter_map(|holder| self.functions().get(holder).cloned()).collect();
            let idle = handles.iter().flat_map(|handle| handle.slots().idle_instances()).collect();
            let victims = self.ledger().victims(shortage.missing, idle);
            if victims.is_empty() {
                return;
            }
            // One that a caller takes at this moment is spared, and others are looked for.
            for victim in victims {
                self.evict(victim);
            }
        }
    }

    fn evict(&self, instance: InstanceId) {
        let Some(function) = self.ledger().function_of(instance) else { return };
        let Some(handle) = self.functions().get(&function).cloned() else { return };
        if handle.slots().retire_idle(instance) {
            self.ledger().returning(instance, Instant::now());
            handle.actor().do_send(Evict { instance });
        }
    }

    fn tell_if_empty(&self) {
        if self.is_empty()
            && let Some(listener) = &*self.last_one_out.lock().unwrap_or_else(PoisonError::into_inner)
        {
            listener.do_send(AllReleased);
        }
    }

    fn started(&self, instance: InstanceId) {
        self.ledger().started(instance, Instant::now());
        self.advance();
    }

    /// Tells those whose turn has come, and makes room for the one who waits for it. After every change.
    fn advance(&self) {
        let admissible = self.ledger().take_notifications();
        for function in admissible {
            if let Some(handle) = self.functions().get(&function) {
                handle.actor().do_send(CapacityAvailable);
            }
        }
        self.make_room();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every operation leaves it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn functions(&self) -> MutexGuard<'_, HashMap<FunctionKey, Arc<FunctionHandle>>> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an instance holds of the host's memory and starts. Given back when dropped: whoever has it drops it when nothing
/// of the instance is left.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    instance: InstanceId,
}

impl Permit {
    /// The name of the instance that it is for.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The instance is ready: another one may start.
    pub fn started(&self) {
        self.admission.started(self.instance);
    }

    /// The instance is being ended and will be gone soon: nobody else has to make room for what it holds.
    pub fn returning(&self) {
        self.admission.ledger().returning(self.instance, Instant::now());
        self.admission.advance();
    }

    /// The instance could not be ended. What it may still use stays taken until it has ended all the same, whenever that is:
    /// others make room as if it would never come back, and the end of the daemon does not wait for it.
    pub fn keep_until(self: Rc<Self>, ended: impl Future<Output = ()> + 'static) {
        self.admission.ledger().stuck(self.instance, Instant::now());
        self.admission.advance();
        self.admission.tell_if_empty();
        actix::spawn(async move {
            ended.await;
            drop(self);
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.ledger().released(self.instance, Instant::now());
        self.admission.advance();
        self.admission.tell_if_empty();
    }
}

/// What `/debug` shows of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AdmissionReport {
    /// What the instances that there are may use together, in MiB.
    pub memory_taken: u64,
    /// What is left of the budget, in MiB.
    pub memory_free: u64,
    /// Instances that are starting.
    pub starting: usize,
    /// Functions that wait for memory or for leave to start an instance.
    pub functions_waiting: usize,
}
