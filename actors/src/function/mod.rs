//! FunctionActor: one function. It knows who waits, which instances there are, and how many there should be.
//!
//! A thin shell: the queue is `waiters.rs`, the number of instances `fleet.rs`, the free slots `slots.rs`, all pure.
//! Warm requests do not come by here at all; they take their slot from the [`Desk`]. The actor is asked when there is no
//! free slot, and told when one returns that somebody waits for.
//!
//! A new spec replaces the old one in three steps: requests that come from now on get instances of the new spec;
//! instances of the old one that are idle end at once; those that serve end when they are done. Requests that wait
//! already are content with either.

mod desk;
mod fleet;
mod refusal;
mod slots;
mod waiters;

use std::{collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, MessageResult, SpawnHandle};
use serde::Serialize;
use slog::{Logger, error, info, o, warn};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    id::InstanceId,
    instance::{Birth, Cause, InstanceActor},
    messages::{
        Abandon, Acquire, Configure, Drain, FunctionGone, FunctionQuestion, InstanceGone, InstanceLost, InstanceReady,
        Members, Replenish, Rested, SlotReturned, Stop,
    },
    notice::ExitNotice,
    registry::Draft,
    sandbox::LaunchError,
    spec::FunctionSpec,
    stats::StatsReport,
    world::World,
};
pub use desk::{Desk, Endpoint, Lease};
use fleet::{Backoff, Demand};
pub use refusal::Refusal;
use slots::Gate;
pub(crate) use slots::{Idleness, Returned};
use waiters::{Waiter, Waiters};

type Port = oneshot::Sender<Result<Lease, Refusal>>;

/// One function.
pub struct FunctionActor {
    desk: Arc<Desk>,
    world: Rc<World>,
    log: Logger,
    draft: Draft,
    /// Counts versions of the spec; the first is 1.
    revision: u64,
    phase: Phase,
    waiters: Waiters<Port>,
    instances: HashMap<InstanceId, Member>,
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

struct Member {
    address: Addr<InstanceActor>,
    revision: u64,
    spec: Arc<FunctionSpec>,
    stage: Stage,
}

impl Member {
    fn capacity(&self) -> usize {
        self.spec.concurrent_requests.get()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Booting,
    Serving,
    /// Takes no requests any more, but still holds resources.
    Ending,
}

impl FunctionActor {
    /// Starts the actor of a function on the arbiter of the caller.
    pub(crate) fn launch(
        name: &str,
        draft: Draft,
        world: Rc<World>,
        log: &Logger,
        parent: actix::Recipient<FunctionGone>,
        serial: u64,
    ) -> Arc<Desk> {
        let log = log.new(o!("function" => name.to_owned()));
        let (gate, queue) = front_of(&draft);
        let mut desk = None;
        Self::create(|ctx| {
            let made = Arc::new(Desk::new(name.to_owned(), gate, queue, ctx.address()));
            desk = Some(made.clone());
            let last_words = FunctionGone { name: name.to_owned(), serial, bug: true };
            Self {
                desk: made,
                world,
                log,
                draft,
                revision: 1,
                phase: Phase::Serving,
                waiters: Waiters::default(),
                instances: HashMap::new(),
                backoff: Backoff::default(),
                alarm: None,
                notice: ExitNotice::new(parent, last_words),
            }
        });
        match desk {
            Some(desk) => desk,
            None => unreachable!("`create` runs its closure before it returns"),
        }
    }

    /// What the current spec and the present state ask for.
    fn demand(&self, spec: &FunctionSpec) -> Demand {
        let booting = |current: bool| {
            let of_kind =
                |member: &&Member| member.stage == Stage::Booting && (member.revision == self.revision) == current;
            self.instances.values().filter(of_kind).count()
        };
        let memory_bound = (self.world.memory_budget / spec.memory().max(1)).max(1) as usize;
        Demand {
            waiting: self.waiters.len(),
            waiting_older: self.waiters.older_than(self.revision),
            booting: booting(true),
            booting_older: booting(false),
            usable: self.desk.slots().usable(self.revision),
            alive: self.instances.len(),
            per_instance: spec.concurrent_requests.get(),
            min_instances: spec.min_instances,
            max_instances: spec.max_instances.map_or(memory_bound, |max| max.get()),
        }
    }

    /// Brings everything in line with the present state: the queue is served, the deadlines are kept, and what is
    /// missing is started. Called at the end of every handler.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        self.expire(now);
        self.serve(now);
        match (self.phase, self.draft.clone()) {
            (Phase::Serving, Ok(spec)) => self.grow(&spec, now, ctx),
            (Phase::Serving, Err(reason)) => {
                // Boots of the last good spec still serve those who came before it went bad.
                if !self.instances.values().any(|member| member.stage == Stage::Booting) {
                    self.refuse_all(&Refusal::Misconfigured { reason });
                }
            }
            (Phase::Draining, _) => {
                self.refuse_all(&Refusal::Draining);
                if self.instances.is_empty() {
                    self.finish(ctx);
                }
            }
        }
        self.set_alarm(ctx);
    }

    fn serve(&mut self, now: Instant) {
        while let Some(head) = self.waiters.head() {
            // Whoever has left is not served; its `Abandon` is on the way and will find nothing.
            let slot =
                if head.port.is_closed() { None } else { Some(self.desk.slots().take_ready(head.revision, now)) };
            if matches!(slot, Some(None)) {
                // The head accepts the oldest instances, so nobody behind it can be served either.
                return;
            }
            let Some(waiter) = self.waiters.pop() else { return };
            self.desk.slots().left_queue();
            if let Some(Some((endpoint, fresh))) = slot {
                let lease = Lease::new(self.desk.clone(), endpoint, fresh, now);
                // A caller that left at this moment drops the lease, which gives the slot back.
                let _ = waiter.port.send(Ok(lease));
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(waiter) = self.waiters.pop_expired(now) {
            let after = now - waiter.since;
            self.refuse(waiter, Refusal::QueueTimedOut { after });
        }
    }

    fn refuse(&mut self, waiter: Waiter<Port>, refusal: Refusal) {
        self.desk.slots().left_queue();
        // Nobody to tell: the caller has left.
        let _ = waiter.port.send(Err(refusal));
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        while let Some(waiter) = self.waiters.pop() {
            self.refuse(waiter, refusal.clone());
        }
    }

    fn grow(&mut self, spec: &Arc<FunctionSpec>, now: Instant, ctx: &mut Context<Self>) {
        let mut demand = self.demand(spec);
        if self.backoff.pauses(now) {
            demand.min_instances = 0;
        }
        for _ in 0..demand.starts() {
            let (id, address) = InstanceActor::launch(Birth {
                spec: spec.clone(),
                revision: self.revision,
                desk: self.desk.clone(),
                parent: ctx.address(),
                world: self.world.clone(),
                log: self.log.clone(),
            });
            self.desk.stats().count_start();
            let member = Member { address, revision: self.revision, spec: spec.clone(), stage: Stage::Booting };
            self.instances.insert(id, member);
        }
    }

    fn set_alarm(&mut self, ctx: &mut Context<Self>) {
        let due = self.waiters.next_deadline().into_iter().chain(self.backoff.until()).min();
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
    fn retire(&self, id: InstanceId, cause: Cause) {
        let Some(member) = self.instances.get(&id) else { return };
        if self.desk.slots().retire(id) == 0 {
            member.address.do_send(Stop { cause, now: false });
        }
    }

    /// Lets instances of older specs go, once they have nothing to do.
    fn retire_outdated(&self) {
        // Boots that those who wait are content with go on.
        let wanted_boots = !self.waiters.is_empty();
        for (id, member) in &self.instances {
            let outdated = self.draft.is_err() || member.revision < self.revision;
            match member.stage {
                Stage::Serving if outdated => self.retire(*id, Cause::Outdated),
                Stage::Booting if outdated && !wanted_boots => self.retire(*id, Cause::Outdated),
                _ => {}
            }
        }
    }

    /// Answers those who shared a boot that has failed; `capacity` is what the instance would have served at a time.
    fn answer_victims(&mut self, capacity: usize, refusal: &Refusal) {
        let booting = self.instances.values().filter(|member| member.stage == Stage::Booting);
        let served_by_others = booting.map(Member::capacity).sum();
        for _ in 0..fleet::victims(self.waiters.len(), served_by_others, capacity) {
            let Some(waiter) = self.waiters.pop() else { return };
            self.refuse(waiter, refusal.clone());
        }
    }

    fn finish(&mut self, ctx: &mut Context<Self>) {
        info!(self.log, "function is gone");
        self.notice.amend(|last_words| last_words.bug = false);
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
        // Empty unless this actor panicked: its instances do not outlive it.
        for member in self.instances.values() {
            member.address.do_send(Stop { cause: Cause::Bug, now: true });
        }
    }
}

impl Handler<Acquire> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Acquire { ticket, since, reply }: Acquire, ctx: &mut Self::Context) {
        let patience = self.draft.as_ref().map_or(Duration::ZERO, |spec| spec.queue_timeout);
        let waiter = Waiter { since, deadline: since + patience, revision: self.revision, port: reply };
        match (&self.draft, self.phase) {
            // The gate was shut while the request was on its way.
            (_, Phase::Draining) => self.refuse(waiter, Refusal::Draining),
            (Err(reason), _) => {
                let reason = reason.clone();
                self.refuse(waiter, Refusal::Misconfigured { reason });
            }
            (Ok(_), Phase::Serving) => self.waiters.push(ticket, waiter),
        }
        self.settle(ctx);
    }
}

impl Handler<Abandon> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Abandon { ticket }: Abandon, ctx: &mut Self::Context) {
        if self.waiters.remove(ticket).is_some() {
            self.desk.slots().left_queue();
        }
        self.settle(ctx);
    }
}

impl Handler<SlotReturned> for FunctionActor {
    type Result = ();

    fn handle(&mut self, SlotReturned { instance, returned, failed }: SlotReturned, ctx: &mut Self::Context) {
        self.settle(ctx);
        let Some(member) = self.instances.get(&instance) else { return };
        match returned {
            Returned::Quiet | Returned::Wanted => {}
            Returned::Idle => member.address.do_send(Rested),
            Returned::Vacated => {
                let cause = match self.phase {
                    _ if failed => Cause::Condemned,
                    Phase::Draining => Cause::Drained,
                    Phase::Serving if member.spec.single_use => Cause::SingleUse,
                    Phase::Serving if member.revision < self.revision => Cause::Outdated,
                    // Another request of it had failed before.
                    Phase::Serving => Cause::Condemned,
                };
                member.address.do_send(Stop { cause, now: false });
            }
        }
    }
}

impl Handler<Replenish> for FunctionActor {
    type Result = ();

    fn handle(&mut self, _: Replenish, ctx: &mut Self::Context) {
        self.settle(ctx);
    }
}

impl Handler<InstanceReady> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceReady { instance }: InstanceReady, ctx: &mut Self::Context) {
        self.backoff.succeeded();
        if let Some(member) = self.instances.get_mut(&instance) {
            member.stage = Stage::Serving;
        }
        self.settle(ctx);
        // After those who came before the spec changed were served.
        self.retire_outdated();
    }
}

impl Handler<InstanceLost> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceLost { instance, cause, output }: InstanceLost, ctx: &mut Self::Context) {
        let Some(member) = self.instances.get_mut(&instance) else { return };
        member.stage = Stage::Ending;
        let (capacity, boot_timeout) = (member.capacity(), member.spec.boot_timeout);
        let refusal = match cause {
            Cause::LaunchFailed(LaunchError::Exhausted(why)) => {
                Some(Refusal::HostSaturated { why, retry_after: self.desk.retry_after(self.waiters.len()) })
            }
            Cause::LaunchFailed(error) => Some(Refusal::StartFailed { instance, why: error.to_string() }),
            Cause::BootFailed(exit) => Some(Refusal::BootFailed { instance, exit, output }),
            Cause::BootTimedOut => Some(Refusal::BootTimedOut { instance, after: boot_timeout, output }),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.backoff.failed(Instant::now());
            self.answer_victims(capacity, &refusal);
        }
        self.settle(ctx);
    }
}

impl Handler<InstanceGone> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceGone { instance, bug }: InstanceGone, ctx: &mut Self::Context) {
        let Some(member) = self.instances.remove(&instance) else { return };
        if bug {
            error!(self.log, "an instance's actor panicked; its guest was killed"; "instance" => %instance);
            self.desk.slots().unseat(instance);
            if member.stage == Stage::Booting {
                self.backoff.failed(Instant::now());
                self.answer_victims(member.capacity(), &Refusal::Lost);
            }
        }
        self.settle(ctx);
    }
}

impl Handler<Configure> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Configure(draft): Configure, ctx: &mut Self::Context) {
        if self.phase == Phase::Draining {
            return;
        }
        self.revision += 1;
        match &draft {
            Ok(_) => info!(self.log, "function has changed"; "revision" => self.revision),
            Err(reason) => {
                warn!(self.log, "function is misconfigured"; "revision" => self.revision, "reason" => %reason)
            }
        }
        self.draft = draft;
        self.backoff = Backoff::default();
        let (gate, queue) = front_of(&self.draft);
        self.desk.slots().open(gate, queue);
        self.retire_outdated();
        self.settle(ctx);
    }
}

impl Handler<Drain> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Drain { grace }: Drain, ctx: &mut Self::Context) {
        if self.phase == Phase::Serving {
            info!(self.log, "function is being drained"; "instances" => self.instances.len(), "grace" => ?grace);
        }
        self.phase = Phase::Draining;
        self.desk.slots().open(Gate::Draining, 0);
        for (id, member) in &self.instances {
            match member.stage {
                Stage::Booting | Stage::Serving => self.retire(*id, Cause::Drained),
                Stage::Ending => {}
            }
        }
        self.settle(ctx);
        ctx.run_later(grace, |actor, _| {
            for member in actor.instances.values() {
                member.address.do_send(Stop { cause: Cause::Drained, now: true });
            }
        });
    }
}

/// What `/debug` shows of a function, its instances apart.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionSnapshot {
    /// `serving`, `misconfigured` or `draining`.
    pub state: &'static str,
    /// What is wrong with its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Arc<FunctionSpec>>,
    /// Versions of the spec seen so far.
    pub revision: u64,
    /// Requests that wait for a slot.
    pub waiting: usize,
    /// What became of requests and boots.
    #[serde(flatten)]
    pub stats: StatsReport,
    /// Its instances, to be asked themselves.
    #[serde(skip)]
    pub members: Members,
}

impl Handler<FunctionQuestion> for FunctionActor {
    type Result = MessageResult<FunctionQuestion>;

    fn handle(&mut self, _: FunctionQuestion, _: &mut Self::Context) -> Self::Result {
        let state = match (self.phase, &self.draft) {
            (Phase::Draining, _) => "draining",
            (Phase::Serving, Ok(_)) => "serving",
            (Phase::Serving, Err(_)) => "misconfigured",
        };
        MessageResult(FunctionSnapshot {
            state,
            reason: self.draft.as_ref().err().cloned(),
            spec: self.draft.as_ref().ok().cloned(),
            revision: self.revision,
            waiting: self.desk.slots().waiting(),
            stats: self.desk.stats().report(),
            members: self.instances.iter().map(|(id, member)| (*id, member.address.clone())).collect(),
        })
    }
}

/// What a draft means to those who come with requests: whether they are let in, and how many may wait.
fn front_of(draft: &Draft) -> (Gate, usize) {
    match draft {
        Ok(spec) => (Gate::Open { max_body: spec.max_body }, spec.queue.get()),
        Err(reason) => (Gate::Misconfigured(reason.clone()), 0),
    }
}
