//! What is seen of a schedule while it runs, and what must hold then.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use unifaas_actors::{HostLimits, InstanceId, Lease, Refusal};

use crate::support::*;

/// What has to happen in some schedule or other.
pub const EVERYTHING: [&str; 18] = [
    "stuck",
    "served",
    "client left",
    "not there",
    "saturated",
    "host saturated",
    "queue timed out",
    "misconfigured",
    "start failed",
    "boot failed",
    "boot timed out",
    "failing",
    "draining",
    "lost",
    "crash",
    "evicted",
    "recovered",
    "callback refused",
];

#[derive(Default)]
pub struct Scene {
    /// Requests that each instance serves now, and has been given.
    instances: RefCell<HashMap<InstanceId, (usize, usize)>>,
    /// The grace of a drain is over: requests are cut short.
    pub hurried: Cell<bool>,
    /// Actors of functions panic, and take their instances with them.
    buggy: bool,
    /// How often what happened.
    pub tally: Cell<BTreeMap<&'static str, usize>>,
}

impl Scene {
    pub fn new(buggy: bool) -> Self {
        Self { buggy, ..Self::default() }
    }

    pub fn note(&self, what: &'static str) {
        self.count(what, 1);
    }

    fn count(&self, what: &'static str, count: usize) {
        let mut tally = self.tally.take();
        *tally.entry(what).or_default() += count;
        self.tally.set(tally);
    }

    pub fn enter(&self, lease: &Lease) {
        self.note("served");
        let endpoint = lease.endpoint();
        let mut instances = self.instances.borrow_mut();
        let (serving, served) = instances.entry(endpoint.instance).or_default();
        assert_eq!(lease.is_fresh(), *served == 0);
        *serving += 1;
        *served += 1;
        assert!(*serving <= endpoint.spec.concurrent_requests.get(), "more requests at once than the instance takes");
        assert!(!endpoint.spec.single_use || *served == 1, "a single-use instance was used again");
    }

    pub fn leave(&self, lease: &Lease) {
        if let Some((serving, _)) = self.instances.borrow_mut().get_mut(&lease.endpoint().instance) {
            *serving -= 1;
        }
    }

    /// An instance versions as long as its requests, unless it dies by itself or there is no time.
    pub fn check_alive(&self, lease: &Lease, fake: &Fake) {
        let endpoint = lease.endpoint();
        let excused = fake.died(endpoint.instance) || self.hurried.get() || self.buggy;
        assert!(endpoint.is_live() || excused, "the instance was ended under its request");
    }

    pub fn refused(&self, refusal: &Refusal) {
        self.note(match refusal {
            Refusal::Misconfigured { .. } => "misconfigured",
            Refusal::Saturated { .. } => "saturated",
            Refusal::HostSaturated { .. } => "host saturated",
            Refusal::Draining => "draining",
            Refusal::StartFailed { .. } => "start failed",
            Refusal::BootFailed { .. } => "boot failed",
            Refusal::BootTimedOut { .. } => "boot timed out",
            Refusal::Failing { .. } => "failing",
            Refusal::QueueTimedOut { .. } => "queue timed out",
            Refusal::Lost => "lost",
        });
    }

    /// What only the log and the counters tell.
    pub fn note_log(&self, rig: &Rig) {
        self.count("evicted", rig.evicted() as usize);
        self.count("stuck", rig.log.count("the instance that could not be ended has ended"));
        self.count("recovered", rig.log.count("function has recovered"));
        self.count("callback refused", rig.callbacks.refused() as usize);
    }
}

/// Sees that the host is never overcommitted: neither by its books, nor in fact.
pub async fn watch(rig: Rc<Rig>, limits: HostLimits) {
    loop {
        let report = rig.admission().await;
        assert_eq!(report.memory_taken + report.memory_free, limits.memory);
        assert!(report.starting <= limits.process_starts, "{} are starting", report.starting);
        let held = rig.fake.memory();
        assert!(held <= report.memory_taken, "{held} MiB are held, {} are accounted for", report.memory_taken);
        sleep(ms(47)).await;
    }
}

/// Lets what could not be ended end at last, now and then.
pub async fn end_what_is_stuck(rig: Rc<Rig>, pause: Duration) {
    loop {
        sleep(pause).await;
        rig.fake.end_stuck();
    }
}
