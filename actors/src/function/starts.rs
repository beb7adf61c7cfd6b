//! Starting instances: how many are requested from admission, one permit at a time, and what follows from failed starts.

use std::sync::Arc;

use actix::{AsyncContext, Context};
use slog::{info, warn};
use tokio::time::Instant;

use super::{
    FunctionActor,
    backoff::{Allowance, BackoffChange, Fault},
    instances::{Instance, InstancePhase},
    scaling::{self, Demand},
};
use crate::{
    admission::{Permit, Register, RequestStart, StartKind, StartRequest, Urgency, WaitReason},
    id::InstanceId,
    instance::{InstanceActor, InstanceArgs},
    refusal::Refusal,
    spec::FunctionSpec,
};

/// The function's request at admission, of which there is at most one.
#[derive(Debug, Default)]
pub(super) struct PendingStart {
    /// The serial of the last request; 0 before the first one.
    serial: u64,
    /// The request, and the revision of the spec that it is for.
    requested: Option<(StartRequest, u64)>,
    /// Why the spec of that revision can never be started.
    denied: Option<(WaitReason, u64)>,
}

impl PendingStart {
    /// Replaces the request. Returns the serial if admission does not know it yet.
    ///
    /// A request for another revision gets a new serial, so that a permit for the old one is not used for the new one.
    fn update(&mut self, request: StartRequest, revision: u64) -> Option<u64> {
        let new = Some((request, revision));
        if self.requested == new {
            return None;
        }
        if self.requested.is_none_or(|(_, requested)| requested != revision) {
            self.serial += 1;
        }
        self.requested = new;
        Some(self.serial)
    }

    /// Returns whether admission knows the function.
    pub fn is_registered(&self) -> bool {
        self.serial > 0
    }

    /// Takes the request back. Returns whether there was one.
    pub fn withdraw(&mut self) -> bool {
        self.requested.take().is_some()
    }

    /// Completes the request of that serial. Returns false if it has been withdrawn or replaced.
    pub fn complete(&mut self, serial: u64) -> bool {
        serial == self.serial && self.requested.take().is_some()
    }

    /// Notes that a spec can never be started.
    pub fn deny(&mut self, reason: WaitReason, revision: u64) {
        self.denied = Some((reason, revision));
    }

    fn denial(&self, revision: u64) -> Option<&WaitReason> {
        self.denied.as_ref().filter(|(_, denied)| *denied == revision).map(|(reason, _)| reason)
    }
}

impl FunctionActor {
    /// Returns what the spec, the present state and the backoff ask for.
    fn demand(&self, spec: &FunctionSpec, now: Instant) -> Demand {
        let booting = self.instances.booting().count();
        let booting_older = self.instances.booting().filter(|it| it.revision < self.revision).count();
        let demand = Demand {
            waiting: self.waiters.len(),
            waiting_older: self.waiters.older_than(self.revision),
            booting: booting - booting_older,
            booting_older,
            usable: self.handle.slots().usable(self.revision),
            alive: self.instances.len(),
            per_instance: spec.concurrent_requests.get(),
            min_instances: spec.min_instances,
            max_instances: spec.max_instances.map_or(usize::MAX, |max| max.get()),
        };
        match self.backoff.allows(now) {
            Allowance::All => demand,
            Allowance::ForCallers => Demand { min_instances: 0, ..demand },
            Allowance::Trial => {
                let one = demand.alive + 1 - demand.booting.min(1);
                Demand { max_instances: demand.max_instances.min(one), ..demand }
            }
            Allowance::None => Demand { max_instances: 0, ..demand },
        }
    }

    /// Requests the next missing instance, or withdraws the request if none is missing.
    pub(super) fn request_starts(&mut self, spec: &Arc<FunctionSpec>, now: Instant, ctx: &mut Context<Self>) {
        let demand = self.demand(spec, now);
        if demand.starts() == 0 {
            return self.withdraw_request();
        }
        if let Some((why, retry_after)) = self.pending_start.denial(self.revision).cloned() {
            if !self.has_prospects() {
                self.refuse_all(&Refusal::HostSaturated { why, retry_after });
            }
            return;
        }
        let caller = demand.first_unserved().and_then(|position| self.waiters.since_of(position));
        let urgency = caller.map_or(Urgency::Minimum, Urgency::Caller);
        let request = StartRequest { memory: spec.memory(), kind: StartKind::from(&spec.sandbox), urgency };
        let is_registered = self.pending_start.is_registered();
        if let Some(serial) = self.pending_start.update(request, self.revision) {
            let (admission, function) = (&self.services.admission, self.key);
            if !is_registered {
                admission.do_send(Register { function, events: ctx.address().recipient() });
            }
            admission.do_send(RequestStart { function, serial, request });
        }
    }

    /// Uses a permit for the next instance. If none is missing any more, the permit is dropped, which returns it.
    pub(super) fn use_permit(&mut self, permit: Permit, ctx: &mut Context<Self>) {
        if let Ok(spec) = self.loaded.clone()
            && self.demand(&spec, Instant::now()).starts() > 0
        {
            self.start(spec, permit, ctx);
        }
    }

    fn start(&mut self, spec: Arc<FunctionSpec>, permit: Permit, ctx: &mut Context<Self>) {
        let id = permit.instance();
        let args = InstanceArgs {
            spec: spec.clone(),
            revision: self.revision,
            events: ctx.address().recipient(),
            services: self.services.clone(),
            log: self.log.clone(),
        };
        let address = InstanceActor::launch(permit, args, ctx.address().recipient());
        self.handle.stats().count_start();
        let (revision, generation) = (self.revision, self.backoff.generation());
        let phase = InstancePhase::Booting;
        self.instances.insert(id, Instance { address, revision, spec, phase, generation, retired: false });
    }

    /// Answers the callers that shared a failed start, and starts or extends the backoff.
    pub(super) fn start_failed(&mut self, id: InstanceId, mut refusal: Refusal, fault: Fault) {
        let now = Instant::now();
        let Some(instance) = self.instances.get(id) else { return };
        let (revision, capacity, generation) = (instance.revision, instance.capacity(), instance.generation);
        if matches!(refusal, Refusal::HostSaturated { .. }) {
            self.backoff.host_exhausted(now);
        } else {
            let change = self.backoff.failed(generation, refusal.clone(), fault, now);
            self.log_backoff(change);
            if let Some(Refusal::Failing { retry_after, .. }) = self.backoff.refusal(now) {
                refusal = Refusal::Failing { last: Box::new(refusal), retry_after };
            }
        }
        self.refuse_sharers(revision, capacity, &refusal);
    }

    pub(super) fn log_backoff(&self, change: Option<BackoffChange>) {
        match change {
            None => {}
            Some(BackoffChange::Failing(pause)) => {
                warn!(self.log, "function keeps failing to start"; "retry_in" => ?pause)
            }
            Some(BackoffChange::Recovered) => info!(self.log, "function has recovered"),
        }
    }

    /// Refuses the callers that shared a failed boot, up to the `capacity` that the instance would have had.
    fn refuse_sharers(&mut self, revision: u64, capacity: usize, refusal: &Refusal) {
        // Callers from after the spec had changed would not have been served by it.
        let accepting = self.waiters.older_than(revision + 1);
        for _ in 0..scaling::sharers(accepting, self.instances.promised_slots(), capacity) {
            let Some(waiter) = self.waiters.pop() else { return };
            self.refuse(waiter, refusal.clone());
        }
    }

    /// Refuses callers during a pause in starts, unless an instance may serve them before it ends.
    pub(super) fn refuse_while_failing(&mut self, now: Instant) {
        if let Some(refusal) = self.backoff.refusal(now).filter(|_| !self.has_prospects()) {
            self.refuse_all(&refusal);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINIMUM: StartRequest = StartRequest { memory: 128, kind: StartKind::Process, urgency: Urgency::Minimum };

    #[test]
    fn sends_each_change_of_a_request_once_under_its_serial() {
        let mut pending = PendingStart::default();
        let urgent = StartRequest { urgency: Urgency::Caller(Instant::now()), ..MINIMUM };
        assert_eq!([pending.update(MINIMUM, 1), pending.update(MINIMUM, 1)], [Some(1), None]);
        assert_eq!(pending.update(urgent, 1), Some(1));
        assert!(pending.complete(1));
        assert_eq!(pending.update(urgent, 1), Some(2));
    }

    #[test]
    fn a_permit_for_a_withdrawn_or_replaced_request_is_not_used() {
        let mut pending = PendingStart::default();
        pending.update(MINIMUM, 1);
        assert!(pending.withdraw() && !pending.withdraw());
        assert!(!pending.complete(1));
        pending.update(MINIMUM, 1);
        assert_eq!(pending.update(MINIMUM, 2), Some(3), "the spec has changed");
        assert!(!pending.complete(2));
        assert!(pending.complete(3) && !pending.complete(3));
    }

    #[test]
    fn a_denial_is_for_one_revision() {
        let mut pending = PendingStart::default();
        pending.deny(("too large".to_owned(), Duration::from_secs(60)), 1);
        assert!(pending.denial(1).is_some() && pending.denial(2).is_none());
    }
}
