//! Observes a schedule while it runs, and checks what must hold.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
    time::Duration,
};

use unifaas_actors::{HostLimits, InstanceId, Lease, Origin, Refusal, WaitedFor};

use crate::support::*;

/// Events that must happen in some schedule.
pub const EVENTS: [&str; 28] = [
    "stuck",
    "served",
    "caller gave up",
    "not found",
    "saturated",
    "host saturated",
    "queue timed out",
    "misconfigured",
    "start failed",
    "boot failed",
    "unreachable",
    "boot timed out",
    "failing",
    "draining",
    "lost",
    "crash",
    "evicted",
    "recovered",
    "callback refused",
    "paused",
    "resumed",
    "waited for memory",
    "paused externally",
    "resume failed",
    "not paused",
    "captured",
    "restored",
    "snapshot discarded",
];

#[derive(Default)]
pub struct Observer {
    /// Requests in flight and requests so far, by instance.
    instances: RefCell<HashMap<InstanceId, (usize, usize)>>,
    /// The grace of a drain is over: requests are aborted.
    pub grace_over: Cell<bool>,
    /// FunctionActors panic, which stops their instances.
    buggy: bool,
    /// How often each event happened.
    pub tally: Cell<BTreeMap<&'static str, usize>>,
}

impl Observer {
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

    pub fn request_started(&self, lease: &Lease, arrived: Instant, fake: &Fake) {
        self.note("served");
        let wait = lease.wait(arrived);
        if wait.boot_from == Some(Origin::Resumed) && wait.queue_for == Some(WaitedFor::Host) {
            self.note("waited for memory");
        }
        let endpoint = lease.endpoint();
        assert!(!fake.is_paused(endpoint.instance), "a request went to a paused instance");
        let mut instances = self.instances.borrow_mut();
        let (serving, served) = instances.entry(endpoint.instance).or_default();
        assert_eq!(lease.is_fresh(), *served == 0);
        *serving += 1;
        *served += 1;
        assert!(*serving <= endpoint.spec.concurrent_requests.get(), "more requests at once than the instance takes");
        assert!(!endpoint.spec.single_use || *served == 1, "a single-use instance was used again");
    }

    pub fn request_finished(&self, lease: &Lease) {
        if let Some((serving, _)) = self.instances.borrow_mut().get_mut(&lease.endpoint().instance) {
            *serving -= 1;
        }
    }

    /// Checks that the instance was not stopped during its request, unless the grace of a drain is over.
    pub fn check_live(&self, lease: &Lease, fake: &Fake) {
        let endpoint = lease.endpoint();
        // It could not be resumed.
        let paused_externally = fake.was_paused_externally(endpoint.instance);
        let excused = fake.died(endpoint.instance) || paused_externally || self.grace_over.get() || self.buggy;
        assert!(!fake.is_paused(endpoint.instance), "the instance was paused during its request");
        assert!(endpoint.is_live() || excused, "the instance was stopped during its request");
    }

    pub fn refused(&self, refusal: &Refusal) {
        self.note(match refusal {
            Refusal::Misconfigured { .. } => "misconfigured",
            Refusal::Saturated { .. } => "saturated",
            Refusal::HostSaturated { .. } => "host saturated",
            Refusal::Draining => "draining",
            Refusal::StartFailed { .. } => "start failed",
            Refusal::BootFailed { .. } => "boot failed",
            Refusal::Unreachable { .. } => "unreachable",
            Refusal::BootTimedOut { .. } => "boot timed out",
            Refusal::Failing { .. } => "failing",
            Refusal::QueueTimedOut { .. } => "queue timed out",
            Refusal::Lost => "lost",
        });
    }

    /// Counts the events that only the log and the counters show.
    pub fn note_log(&self, rig: &Rig) {
        self.count("evicted", rig.evicted() as usize);
        self.count("stuck", rig.log.count("the instance that could not be ended has ended"));
        self.count("recovered", rig.log.count("function has recovered"));
        self.count("paused", rig.fake.pauses());
        for (origin, times) in rig.history.starts.totals() {
            if origin == Origin::Resumed {
                self.count("resumed", times.count() as usize);
            }
        }
        let (_, captured, restored) = rig.fake.snapshots();
        self.count("captured", captured);
        self.count("restored", restored);
        self.count("snapshot discarded", rig.log.count("the snapshot of the function is discarded"));
        self.count("resume failed", rig.log.count("instance could not be resumed"));
        self.count("not paused", rig.log.count("instances cannot be paused, and end after their keepalive"));
        self.count("callback refused", rig.callbacks.refused() as usize);
    }
}

/// Checks that the host is never overcommitted, neither in the ledger nor in fact.
pub async fn check_limits(rig: Rc<Rig>, limits: HostLimits) {
    loop {
        let report = rig.admission().await;
        assert_eq!(report.memory_taken + report.memory_free, limits.memory);
        let (processes, isolated) = (report.starting_processes, report.starting - report.starting_processes);
        let is_within = processes <= limits.process_starts && isolated <= limits.starts;
        assert!(is_within, "{processes} processes and {isolated} guests start");
        let held = rig.fake.memory();
        assert!(held <= report.memory_taken, "{held} MiB are held, {} are accounted for", report.memory_taken);
        sleep(ms(47)).await;
    }
}

/// Lets stuck instances exit at intervals.
pub async fn end_stuck(rig: Rc<Rig>, pause: Duration) {
    loop {
        sleep(pause).await;
        rig.fake.end_stuck();
    }
}
