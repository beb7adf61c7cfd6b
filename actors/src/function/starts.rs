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
    admission::{Permit, Register, RequestStart, StartKind, StartRequest, Urgency},
    boot::StartCause,
    history::Failed,
    id::InstanceId,
    instance::{InstanceActor, InstanceArgs},
    refusal::Refusal,
    sandbox::Purpose,
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
    denied: Option<(String, u64)>,
    /// Since when instances are missing.
    wanted_since: Option<Instant>,
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

    /// Notes whether instances are missing.
    fn set_wanted(&mut self, is_wanted: bool, now: Instant) {
        self.wanted_since = is_wanted.then(|| self.wanted_since.unwrap_or(now));
    }

    /// Returns whether an instance waits for admission.
    pub fn is_waiting(&self) -> bool {
        self.requested.is_some()
    }

    /// Returns whether admission knows the function.
    pub fn is_registered(&self) -> bool {
        self.serial > 0
    }

    /// Takes the request back. Returns whether there was one.
    pub fn withdraw(&mut self) -> bool {
        self.requested.take().is_some()
    }

    /// Completes the request of that serial, and returns it unless it has been withdrawn or replaced.
    pub fn complete(&mut self, serial: u64) -> Option<StartRequest> {
        self.requested.take_if(|_| serial == self.serial).map(|(request, _)| request)
    }

    /// Notes that a spec can never be started.
    pub fn deny(&mut self, reason: String, revision: u64) {
        self.denied = Some((reason, revision));
    }

    fn denial(&self, revision: u64) -> Option<&str> {
        self.denied.as_ref().filter(|(_, denied)| *denied == revision).map(|(reason, _)| reason.as_str())
    }
}

impl FunctionActor {
    /// Returns what the spec, the present state and the backoff ask for.
    pub(super) fn demand(&self, spec: &FunctionSpec, now: Instant) -> Demand {
        let booting = self.instances.booting().count();
        let booting_older = self.instances.booting().filter(|it| it.revision < self.revision).count();
        let (to_replace, replacing) =
            self.replacement.as_ref().map_or((0, 0), |it| (it.remaining(), self.replacing(it)));
        let slots = self.handle.slots();
        let demand = Demand {
            waiting: self.waiters.len(),
            waiting_older: self.waiters.older_than(self.revision),
            booting: booting - booting_older,
            booting_older,
            waking: slots.waking(),
            resuming: slots.resuming(),
            paused: slots.paused(self.revision),
            usable: slots.usable(self.revision),
            alive: self.instances.limited(),
            to_replace,
            replacing,
            per_instance: spec.concurrent_requests.get(),
            min_instances: spec.min_instances,
            max_instances: spec.max_instances.map_or(usize::MAX, |max| max.get()),
        };
        drop(slots);
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

    /// Wakes paused instances, and requests the next instance that is missing then. If none is, withdraws the request.
    pub(super) fn request_starts(&mut self, spec: &Arc<FunctionSpec>, now: Instant, ctx: &mut Context<Self>) {
        self.wake_paused(spec, now);
        let demand = self.demand(spec, now);
        self.pending_start.set_wanted(demand.starts() > 0, now);
        if demand.starts() == 0 {
            return if self.wants_prewarm(now) {
                self.request_start(spec, Urgency::Prewarm, ctx);
            } else if let Some(since) = self.wants_template(now) {
                self.request_start(spec, Urgency::Template(since), ctx);
            } else {
                self.withdraw_request();
            };
        }
        if let Some(why) = self.pending_start.denial(self.revision) {
            let refusal = Refusal::HostSaturated { why: why.to_owned(), retry_after: None };
            if !self.has_prospects() {
                self.refuse_all(&refusal);
            }
            return;
        }
        let caller = demand.first_unserved().and_then(|position| self.waiters.since_of(position));
        self.request_start(spec, caller.map_or(Urgency::Minimum, Urgency::Caller), ctx);
    }

    fn request_start(&mut self, spec: &FunctionSpec, urgency: Urgency, ctx: &mut Context<Self>) {
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
    pub(super) fn use_permit(&mut self, permit: Permit, urgency: Urgency, ctx: &mut Context<Self>) {
        let (Ok(spec), now) = (self.loaded.clone(), Instant::now()) else { return };
        let demand = self.demand(&spec, now);
        match urgency {
            Urgency::Template(_) if demand.starts() == 0 && self.wants_template(now).is_some() => {
                self.start(spec, permit, StartCause::Template, now, ctx);
            }
            Urgency::Prewarm if demand.starts() == 0 && self.wants_prewarm(now) => {
                self.start(spec, permit, StartCause::Prewarm, now, ctx);
            }
            Urgency::Template(_) | Urgency::Prewarm => {}
            Urgency::Caller(_) | Urgency::Minimum if demand.starts() > 0 => {
                let caller = demand.first_unserved().and_then(|position| self.waiters.since_of(position));
                let cause = if caller.is_some() { StartCause::Caller } else { StartCause::Minimum };
                // A caller may have waited for a slot before another instance was missing.
                let wanted_at = caller.max(self.pending_start.wanted_since).unwrap_or(now);
                self.start(spec, permit, cause, wanted_at, ctx);
            }
            Urgency::Caller(_) | Urgency::Minimum => {}
        }
    }

    /// Starts an instance that was first wanted at `wanted_at`.
    fn start(
        &mut self,
        spec: Arc<FunctionSpec>,
        permit: Permit,
        cause: StartCause,
        wanted_at: Instant,
        ctx: &mut Context<Self>,
    ) {
        let id = permit.instance();
        let (is_template, is_prewarmed) = (cause == StartCause::Template, cause == StartCause::Prewarm);
        let may_restore = !is_template && self.cloning.may_restore();
        let purpose = if is_template { Purpose::Template } else { Purpose::Serve { restore: may_restore } };
        let args = InstanceArgs {
            function: self.name.clone(),
            spec: spec.clone(),
            purpose,
            revision: self.revision,
            cause,
            wanted_at,
            events: ctx.address().recipient(),
            services: self.services.clone(),
            stats: self.handle.stats().clone(),
            log: self.log.clone(),
        };
        let (address, record) = InstanceActor::launch(permit, args, ctx.address().recipient());
        let phase = if is_template {
            self.cloning.template_started(id);
            InstancePhase::Capturing
        } else {
            self.handle.stats().count_start();
            match &mut self.prewarming {
                Some(prewarming) if is_prewarmed => prewarming.started(),
                _ => self.comebacks.note(Instant::now()),
            }
            InstancePhase::Booting
        };
        let (revision, generation, retired) = (self.revision, self.backoff.generation(), false);
        let instance = Instance {
            address,
            record,
            revision,
            spec,
            phase,
            start: Some(self.services.starts.begin()),
            generation,
            may_restore,
            is_template,
            is_prewarmed,
            retired,
        };
        self.instances.insert(id, instance);
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
        if self.refuse_sharers(revision, capacity, &refusal) == 0 {
            let (root, code) = (refusal.root().to_string(), refusal.outcome().code());
            let (function, group) = (self.handle.name(), &*root);
            let failed = Failed { function, code, group, message: &root, request_id: None, instance: Some(id) };
            self.services.history.errors.note(failed);
        }
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

    /// Refuses the callers that shared a failed boot, up to the `capacity` that the instance would have had. Returns how many.
    fn refuse_sharers(&mut self, revision: u64, capacity: usize, refusal: &Refusal) -> usize {
        // Callers from after the spec had changed would not have been served by it.
        let accepting = self.waiters.older_than(revision + 1);
        let slots = self.handle.slots();
        let coming = (slots.waking() + slots.resuming()) * capacity;
        drop(slots);
        let sharers = scaling::sharers(accepting, self.instances.promised_slots() + coming, capacity);
        for refused in 0..sharers {
            let Some(waiter) = self.waiters.pop() else { return refused };
            self.refuse(waiter, refusal.clone());
        }
        sharers
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
    use super::*;

    const MINIMUM: StartRequest = StartRequest { memory: 128, kind: StartKind::Process, urgency: Urgency::Minimum };

    #[test]
    fn sends_each_change_of_a_request_once_under_its_serial() {
        let mut pending = PendingStart::default();
        let urgent = StartRequest { urgency: Urgency::Caller(Instant::now()), ..MINIMUM };
        assert_eq!([pending.update(MINIMUM, 1), pending.update(MINIMUM, 1)], [Some(1), None]);
        assert_eq!(pending.update(urgent, 1), Some(1));
        assert_eq!(pending.complete(1), Some(urgent));
        assert_eq!(pending.update(urgent, 1), Some(2));
    }

    #[test]
    fn a_permit_for_a_withdrawn_or_replaced_request_is_not_used() {
        let mut pending = PendingStart::default();
        pending.update(MINIMUM, 1);
        assert!(pending.withdraw() && !pending.withdraw());
        assert_eq!(pending.complete(1), None);
        pending.update(MINIMUM, 1);
        assert_eq!(pending.update(MINIMUM, 2), Some(3), "the spec has changed");
        assert_eq!([2, 3, 3].map(|serial| pending.complete(serial)), [None, Some(MINIMUM), None]);
    }

    #[test]
    fn a_denial_is_for_one_revision() {
        let mut pending = PendingStart::default();
        pending.deny("too large".to_owned(), 1);
        assert!(pending.denial(1).is_some() && pending.denial(2).is_none());
    }
}
