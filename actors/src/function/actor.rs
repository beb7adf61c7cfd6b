//! The FunctionActor: its start, the queue, the retirement of instances, its timer and its end.

use std::{rc::Rc, sync::Arc};

use actix::{Actor, ActorContext, AsyncContext, Context, Recipient};
use slog::{Logger, debug, o};
use tokio::time::Instant;

use super::{
    FunctionActor, FunctionGone, FunctionHandle, Lease, Phase,
    backoff::Backoff,
    cloning::Cloning,
    instances::Instances,
    messages::ReplySender,
    prewarming::wants_prewarming,
    replacement::Replacement,
    slots::{Expired, Intake},
    starts::PendingStart,
    templates::wants_snapshot,
    waiters::{Waiter, Waiters},
};
use crate::{
    admission::{ExplainWait, IdleAvailable, IdleFound, Unregister, WaitReason, Withdraw},
    id::{FunctionKey, InstanceId},
    instance::{Pause, Stop},
    notice::ExitNotice,
    refusal::Refusal,
    services::Services,
    spec::LoadedSpec,
    stop_reason::StopReason,
    warmth::EventRate,
};

impl FunctionActor {
    /// Starts the actor of a function on the arbiter of the caller.
    pub(crate) fn launch(
        name: &str,
        loaded: LoadedSpec,
        services: Rc<Services>,
        log: &Logger,
        parent: Recipient<FunctionGone>,
        key: FunctionKey,
    ) -> Arc<FunctionHandle> {
        let log = log.new(o!("function" => name.to_owned()));
        let mut launched = None;
        Self::create(|ctx| {
            let handle = Arc::new(FunctionHandle::new(
                name.to_owned(),
                Intake::from(&loaded),
                ctx.address(),
                services.history.clone(),
            ));
            launched = Some(handle.clone());
            let prewarming = wants_prewarming(&loaded).then(Box::default);
            let mut cloning = Cloning::default();
            cloning.configure(wants_snapshot(&loaded), services.sandboxes.snapshot(name));
            Self {
                key,
                name: name.into(),
                handle,
                services,
                log,
                loaded,
                revision: 1,
                versions: 1,
                invalid: None,
                phase: Phase::Serving,
                waiters: Waiters::default(),
                expired: Vec::new(),
                instances: Instances::default(),
                pending_start: PendingStart::default(),
                replacement: None,
                backoff: Backoff::default(),
                cloning,
                logged_not_paused: false,
                comebacks: EventRate::begin(Instant::now()),
                prewarming,
                footprint: None,
                reported_idle: None,
                alarm: None,
                notice: ExitNotice::new(parent, FunctionGone { name: name.to_owned(), key, bug: true }),
            }
        });
        match launched {
            Some(handle) => handle,
            None => unreachable!("`create` runs its closure before it returns"),
        }
    }

    /// Brings everything in line with the present state: serves the queue, keeps the deadlines, retires instances and
    /// requests missing ones. Called at the end of every handler.
    pub(super) fn settle(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.note_request();
        self.expire_waiters(now);
        self.serve(now);
        self.expire_idle(now);
        self.note_idleness();
        match (self.phase, self.loaded.clone()) {
            (Phase::Serving, Ok(spec)) => {
                self.retire_outdated();
                self.advance_restart(&spec, now);
                self.request_starts(&spec, now, ctx);
                self.refuse_while_failing(now);
            }
            // There never was a valid spec, so there are no instances.
            (Phase::Serving, Err(reason)) => self.refuse_all(&Refusal::Misconfigured { reason }),
            (Phase::Draining, _) => {
                self.withdraw_request();
                self.refuse_all(&Refusal::Draining);
                // Callers that were accepted before the drain get an answer, even if their `Acquire` is still on its way.
                if self.instances.is_empty() && self.handle.slots().waiting() == 0 {
                    self.finish(ctx);
                }
            }
        }
        self.announce_idle();
        self.publish_activity();
        self.set_alarm(now, ctx);
    }

    fn serve(&mut self, now: Instant) {
        while let Some(head) = self.waiters.head() {
            // A caller that has given up is skipped; its `Abandon` will find nothing.
            let abandoned = head.reply.is_closed();
            let slot = if abandoned { None } else { self.handle.slots().take_ready(head.revision, now) };
            if slot.is_none() && !abandoned {
                // The head accepts the oldest instances, so no caller behind it can be served either.
                return;
            }
            let Some(waiter) = self.waiters.pop() else { return };
            self.handle.slots().leave_queue();
            if let Some((endpoint, fresh)) = slot {
                let was_there = endpoint.ready_at().is_some_and(|ready_at| ready_at < waiter.since);
                let mut lease = Lease::new(self.handle.clone(), endpoint, fresh, now);
                lease.set_waited_for_host(was_there && self.pending_start.is_waiting());
                // If the caller has given up meanwhile, the lease is dropped, which releases the slot.
                let _ = waiter.reply.send(Ok(lease));
            }
        }
    }

    /// Takes callers past their deadline out of the queue and asks admission what they have waited for.
    fn expire_waiters(&mut self, now: Instant) {
        let expired: Vec<_> = std::iter::from_fn(|| self.waiters.pop_expired(now)).collect();
        if expired.is_empty() {
            return;
        }
        self.expired.extend(expired);
        if self.pending_start.is_registered() && self.services.admission.connected() {
            self.services.admission.do_send(ExplainWait { function: self.key });
        } else {
            // They have waited for nothing of the host, or the AdmissionActor has panicked.
            self.refuse_expired(None);
        }
    }

    /// Refuses callers past their deadline: for the host if it lacked something, else for the function's slots.
    pub(super) fn refuse_expired(&mut self, reason: Option<WaitReason>) {
        for waiter in std::mem::take(&mut self.expired) {
            let refusal = match reason.clone() {
                Some((why, wait)) => Refusal::HostSaturated { why, retry_after: Some(wait) },
                None => Refusal::QueueTimedOut { after: waiter.deadline - waiter.since },
            };
            self.refuse(waiter, refusal);
        }
    }

    pub(super) fn refuse(&mut self, waiter: Waiter<ReplySender>, refusal: Refusal) {
        self.handle.slots().leave_queue();
        // The caller may have given up.
        let _ = waiter.reply.send(Err(refusal));
    }

    pub(super) fn refuse_all(&mut self, refusal: &Refusal) {
        while let Some(waiter) = self.waiters.pop() {
            self.refuse(waiter, refusal.clone());
        }
    }

    pub(super) fn is_booting(&self) -> bool {
        self.instances.booting().next().is_some()
    }

    /// Returns whether an instance exists that may serve the waiting callers.
    pub(super) fn has_prospects(&self) -> bool {
        self.is_booting() || self.handle.slots().usable(0) > 0
    }

    pub(super) fn withdraw_request(&mut self) {
        if self.pending_start.withdraw() {
            self.services.admission.do_send(Withdraw { function: self.key });
        }
    }

    pub(super) fn stop(&self, id: InstanceId, reason: StopReason, now: bool) {
        if let Some(instance) = self.instances.get(id) {
            instance.address.do_send(Stop { reason, now });
        }
    }

    /// Stops the instance as soon as it serves no request.
    pub(super) fn retire(&mut self, id: InstanceId, reason: StopReason) {
        self.instances.set_retired(id);
        if self.handle.slots().retire(id) == 0 {
            self.stop(id, reason, false);
        }
    }

    /// Retires instances of older specs.
    fn retire_outdated(&mut self) {
        // Of the waiting callers, the head accepts the oldest instances.
        let accepted = self.waiters.head().map_or(self.revision, |head| head.revision);
        for id in self.instances.outdated(self.revision, accepted) {
            self.retire(id, StopReason::Outdated);
        }
    }

    /// Pauses or stops the instances that have been idle for their keepalive.
    fn expire_idle(&mut self, now: Instant) {
        let Expired { paused, retired } = self.handle.slots().expire(now, self.expected_until(now));
        for instance in paused.into_iter().filter_map(|id| self.instances.get(id)) {
            instance.address.do_send(Pause);
        }
        for id in retired {
            self.stop(id, StopReason::Idle, false);
        }
    }

    /// Answers admission's search for idle instances.
    pub(super) fn report_idle(&mut self) {
        let idle = self.handle.slots().idle_instances();
        self.reported_idle = Some(idle.iter().map(|idle| (idle.instance, idle.runs)).collect());
        let idle = self.valued(&idle, Instant::now());
        self.services.admission.do_send(IdleFound { function: self.key, idle });
    }

    /// Notifies admission once of idle instances that it does not know of, if it has asked.
    fn announce_idle(&mut self) {
        let Some(reported) = &self.reported_idle else { return };
        let mut slots = self.handle.slots();
        if slots.idle_instances().iter().any(|idle| !reported.contains(&(idle.instance, idle.runs))) {
            self.reported_idle = None;
            self.services.admission.do_send(IdleAvailable);
        } else {
            // In every call: a notified instance may have got the next waiting caller instead of becoming idle.
            slots.notify_when_idle();
        }
    }

    fn set_alarm(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let keepalive = self.handle.slots().next_idle_check();
        let restart = self.replacement.as_ref().map(Replacement::deadline);
        let (template, prewarm) = (self.cloning.next_template(now), self.prewarm_due(now));
        let due = [self.waiters.next_deadline(), self.backoff.until(now), keepalive, restart, template, prewarm];
        let due = due.into_iter().flatten().min();
        if due == self.alarm.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, alarm)) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        if let Some(at) = due {
            let delay = at.saturating_duration_since(Instant::now());
            let alarm = ctx.run_later(delay, |actor, ctx| {
                actor.alarm = None;
                actor.settle(ctx);
            });
            self.alarm = Some((at, alarm));
        }
    }

    fn finish(&mut self, ctx: &mut Context<Self>) {
        debug!(self.log, "function is gone");
        self.notice.amend(|message| message.bug = false);
        ctx.stop();
    }
}

impl Actor for FunctionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.settle(ctx);
    }
}

impl Drop for FunctionActor {
    fn drop(&mut self) {
        if self.pending_start.is_registered() {
            self.services.admission.do_send(Unregister { function: self.key });
        }
        // Empty unless this actor panicked: its instances do not outlive it.
        for (_, instance) in self.instances.iter() {
            instance.address.do_send(Stop { reason: StopReason::Bug, now: true });
        }
    }
}
