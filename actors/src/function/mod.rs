//! FunctionActor: one function. It knows who waits, which instances there are, and how many there should be.
//!
//! A thin shell: the queue is `waiters.rs`, the instances `instances.rs`, how many there should be `scaling.rs`, what follows
//! from failed starts `backoff.rs`, the free slots `slots.rs`, all pure. Whether the host has room for an instance is
//! `admission/`'s matter. Warm requests do not come by here at all; they take their slot from the [`FunctionHandle`]. The actor is
//! asked when there is no free slot, and told when one returns that somebody waits for.
//!
//! A new spec replaces the old one in three steps: requests that come from now on get instances of the new spec;
//! instances of the old one that are idle end at once; those that serve end when they are done. Requests that wait
//! already are content with either.

mod backoff;
mod endpoint;
mod handle;
mod handlers;
mod instances;
mod refusal;
mod scaling;
mod slots;
mod snapshot;
mod waiters;

use std::{rc::Rc, sync::Arc};

use actix::{Actor, ActorContext, AsyncContext, Context, SpawnHandle};
use slog::{Logger, debug, info, o, warn};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    admission::{Denial, FunctionKey, Permit, StartKind, StartRequest, Urgency},
    id::InstanceId,
    instance::{InstanceActor, InstanceArgs, StopReason},
    messages::{FunctionGone, Stop},
    notice::ExitNotice,
    registry::LoadedSpec,
    services::Services,
    spec::FunctionSpec,
};
pub use backoff::FailingReport;
use backoff::{Allowance, Backoff, BackoffChange, Fault};
pub use endpoint::Endpoint;
pub use handle::{FunctionHandle, Lease};
use instances::{Instance, InstancePhase, Instances};
pub use refusal::Refusal;
use scaling::Demand;
use slots::Intake;
pub(crate) use slots::{Idleness, Released};
pub use snapshot::FunctionSnapshot;
use waiters::{Waiter, Waiters};

type ReplySender = oneshot::Sender<Result<Lease, Refusal>>;

/// One function.
pub struct FunctionActor {
    key: FunctionKey,
    handle: Arc<FunctionHandle>,
    services: Rc<Services>,
    log: Logger,
    loaded: LoadedSpec,
    /// Counts versions of the spec; the first is 1.
    revision: u64,
    phase: Phase,
    waiters: Waiters<ReplySender>,
    instances: Instances,
    backoff: Backoff,
    /// The one timer: for the earliest deadline of a waiter, or the end of a pause in keeping the minimum.
    alarm: Option<(Instant, SpawnHandle)>,
    notice: ExitNotice<FunctionGone>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}

impl FunctionActor {
    /// Starts the actor of a function on the arbiter of the caller.
    pub(crate) fn launch(
        name: &str,
        loaded: LoadedSpec,
        services: Rc<Services>,
        log: &Logger,
        parent: actix::Recipient<FunctionGone>,
        key: FunctionKey,
    ) -> Arc<FunctionHandle> {
        let log = log.new(o!("function" => name.to_owned()));
        let (intake, queue) = intake_of(&loaded);
        let mut handle = None;
        Self::create(|ctx| {
            let made = Arc::new(FunctionHandle::new(name.to_owned(), intake, queue, ctx.address()));
            handle = Some(made.clone());
            services.admission.enter(key, made.clone());
            let message = FunctionGone { name: name.to_owned(), serial: key, bug: true };
            Self {
                key,
                handle: made,
                services,
                log,
                loaded,
                revision: 1,
                phase: Phase::Serving,
                waiters: Waiters::default(),
                instances: Instances::default(),
                backoff: Backoff::default(),
                alarm: None,
                notice: ExitNotice::new(parent, message),
            }
        });
        match handle {
            Some(handle) => handle,
            None => unreachable!("`create` runs its closure before it returns"),
        }
    }

    /// What the current spec and the present state ask for.
    fn demand(&self, spec: &FunctionSpec) -> Demand {
        let booting = self.instances.booting().count();
        let booting_older = self.instances.booting().filter(|member| member.revision < self.revision).count();
        Demand {
            waiting: self.waiters.len(),
            waiting_older: self.waiters.older_than(self.revision),
            booting: booting - booting_older,
            booting_older,
            usable: self.handle.slots().usable(self.revision),
            alive: self.instances.len(),
            per_instance: spec.concurrent_requests.get(),
            min_instances: spec.min_instances,
            max_instances: spec.max_instances.map_or(usize::MAX, |max| max.get()),
        }
    }

    /// Brings everything in line with the present state: the queue is served, the deadlines are kept, and what is
    /// missing is started. Called at the end of every handler.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.expire(now);
        self.serve(now);
        match (self.phase, self.loaded.clone()) {
            (Phase::Serving, Ok(spec)) => {
                self.retire_outdated();
                self.grow(&spec, now, ctx);
                self.refuse_while_failing(now);
            }
            (Phase::Serving, Err(reason)) => {
                self.retire_outdated();
                self.services.admission.withdraw(self.key);
                // Boots of the last good spec still serve those who came before it went bad.
                if !self.boots() {
                    self.refuse_all(&Refusal::Misconfigured { reason });
                }
            }
            (Phase::Draining, _) => {
                self.services.admission.withdraw(self.key);
                self.refuse_all(&Refusal::Draining);
                // Those who were let in before the intake was shut, and whose `Acquire` is on the way, get an answer.
                if self.instances.is_empty() && self.handle.slots().waiting() == 0 {
                    self.finish(ctx);
                }
            }
        }
        if self.services.admission.is_short() && !self.handle.slots().idle_instances().is_empty() {
            self.services.admission.make_room();
        }
        self.set_alarm(now, ctx);
    }

    /// Whether an instance is on its way.
    fn boots(&self) -> bool {
        self.instances.booting().next().is_some()
    }

    fn serve(&mut self, now: Instant) {
        while let Some(head) = self.waiters.head() {
            // Whoever has left is not served; its `Abandon` is on the way and will find nothing.
            let slot =
                if head.reply.is_closed() { None } else { Some(self.handle.slots().take_ready(head.revision, now)) };
            if matches!(slot, Some(None)) {
                // The head accepts the oldest instances, so nobody behind it can be served either.
                return;
            }
            let Some(waiter) = self.waiters.pop() else { return };
            self.handle.slots().left_queue();
            if let Some(Some((endpoint, fresh))) = slot {
                let lease = Lease::new(self.handle.clone(), endpoint, fresh, now);
                // A caller that left at this moment drops the lease, which gives the slot back.
                let _ = waiter.reply.send(Ok(lease));
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(waiter) = self.waiters.pop_expired(now) {
            let after = now - waiter.since;
            let refusal = match self.services.admission.wait_reason(self.key) {
                Some((why, retry_after)) => Refusal::HostSaturated { why, retry_after },
                None => Refusal::QueueTimedOut { after },
            };
            self.refuse(waiter, refusal);
        }
    }

    fn refuse(&mut self, waiter: Waiter<ReplySender>, refusal: Refusal) {
        self.handle.slots().left_queue();
        // Nobody to tell: the caller has left.
        let _ = waiter.reply.send(Err(refusal));
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        while let Some(waiter) = self.waiters.pop() {
            self.refuse(waiter, refusal.clone());
        }
    }

    /// Whether there is an instance that those who wait may hope for.
    fn has_prospects(&self) -> bool {
        self.boots() || self.handle.slots().usable(0) > 0
    }

    /// Starts what is missing, as far as the host has room and starts are allowed.
    fn grow(&mut self, spec: &Arc<FunctionSpec>, now: Instant, ctx: &mut Context<Self>) {
        let mut demand = self.demand(spec);
        match self.backoff.allows(now) {
            Allowance::All => {}
            Allowance::ForCallers => demand.min_instances = 0,
            Allowance::Trial => {
                demand.max_instances = demand.max_instances.min(demand.alive + 1 - demand.booting.min(1))
            }
            Allowance::None => demand.max_instances = 0,
        }
        while demand.starts() > 0 {
            let caller = demand.first_unserved().and_then(|position| self.waiters.since_of(position));
            let urgency = caller.map_or(Urgency::Minimum, Urgency::Caller);
            let request = StartRequest { memory: spec.memory(), kind: StartKind::from(&spec.sandbox), urgency };
            match self.services.admission.ask(self.key, request) {
                Ok(permit) => self.start(spec, permit, ctx),
                Err(Denial::Wait) => return,
                Err(Denial::Never { why, retry_after }) if !self.has_prospects() => {
                    return self.refuse_all(&Refusal::HostSaturated { why, retry_after });
                }
                Err(Denial::Never { .. }) => return,
            }
            demand.booting += 1;
            demand.alive += 1;
        }
        self.services.admission.withdraw(self.key);
    }

    /// Callers do not wait for the end of a pause, unless there is an instance that may serve them before.
    fn refuse_while_failing(&mut self, now: Instant) {
        if let Some(refusal) = self.backoff.refusal(now).filter(|_| !self.has_prospects()) {
            self.refuse_all(&refusal);
        }
    }

    fn start(&mut self, spec: &Arc<FunctionSpec>, permit: Permit, ctx: &mut Context<Self>) {
        let id = permit.instance();
        let address = InstanceActor::launch(
            permit,
            InstanceArgs {
                spec: spec.clone(),
                revision: self.revision,
                function: self.handle.clone(),
                parent: ctx.address(),
                services: self.services.clone(),
                log: self.log.clone(),
            },
        );
        self.handle.stats().count_start();
        let (revision, spec, generation) = (self.revision, spec.clone(), self.backoff.generation());
        self.instances.enter(id, Instance { address, revision, spec, phase: InstancePhase::Booting, generation });
    }

    fn set_alarm(&mut self, now: Instant, ctx: &mut Context<Self>) {
        let due = self.waiters.next_deadline().into_iter().chain(self.backoff.until(now)).min();
        if due == self.alarm.as_ref().map(|(at, _)| *at) {
            return;
        }
        if let Some((_, alarm)) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        if let Some(at) = due {
            let rest = at.saturating_duration_since(Instant::now());
            let alarm = ctx.run_later(rest, |actor, ctx| {
                actor.alarm = None;
                actor.settle(ctx);
            });
            self.alarm = Some((at, alarm));
        }
    }

    /// Ends the instance as soon as it serves nobody.
    fn retire(&self, id: InstanceId, reason: StopReason) {
        let Some(member) = self.instances.get(id) else { return };
        if self.handle.slots().retire(id) == 0 {
            member.address.do_send(Stop { reason, now: false });
        }
    }

    /// Lets instances of older specs go, once they have nothing to do.
    fn retire_outdated(&self) {
        // Of those who wait, the head is content with the oldest instances.
        let wanted = self.waiters.head().map_or(self.revision, |head| head.revision);
        self.instances.outdated(self.revision, wanted).for_each(|id| self.retire(id, StopReason::Outdated));
    }

    /// A start has failed: those who shared it are answered.
    fn start_failed(&mut self, id: InstanceId, mut refusal: Refusal, fault: Fault) {
        let now = Instant::now();
        let Some(member) = self.instances.get(id) else { return };
        let (revision, capacity, generation) = (member.revision, member.capacity(), member.generation);
        if matches!(refusal, Refusal::HostSaturated { .. }) {
            self.backoff.set_back(now);
        } else {
            let change = self.backoff.failed(generation, refusal.clone(), fault, now);
            self.tell(change);
            if let Some(Refusal::Failing { retry_after, .. }) = self.backoff.refusal(now) {
                refusal = Refusal::Failing { last: Box::new(refusal), retry_after };
            }
        }
        self.answer_victims(revision, capacity, &refusal);
    }

    fn tell(&self, change: Option<BackoffChange>) {
        match change {
            None => {}
            Some(BackoffChange::Failing(pause)) => {
                warn!(self.log, "function keeps failing to start"; "retry_in" => ?pause)
            }
            Some(BackoffChange::Recovered) => info!(self.log, "function has recovered"),
        }
    }

    /// Answers those who shared a boot that has failed; `capacity` is what the instance would have served at a time.
    fn answer_victims(&mut self, revision: u64, capacity: usize, refusal: &Refusal) {
        // Those who came after the spec had changed would not have been served by it.
        let content = self.waiters.older_than(revision + 1);
        for _ in 0..scaling::victims(content, self.instances.promised_slots(), capacity) {
            let Some(waiter) = self.waiters.pop() else { return };
            self.refuse(waiter, refusal.clone());
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
        self.services.admission.leave(self.key);
        // Empty unless this actor panicked: its instances do not outlive it.
        for (_, member) in self.instances.iter() {
            member.address.do_send(Stop { reason: StopReason::Bug, now: true });
        }
    }
}

/// What a loaded means to those who come with requests: whether they are let in, and how many may wait.
fn intake_of(loaded: &LoadedSpec) -> (Intake, usize) {
    match loaded {
        Ok(spec) => (Intake::Open { max_body: spec.max_body }, spec.queue.get()),
        Err(reason) => (Intake::Misconfigured(reason.clone()), 0),
    }
}
