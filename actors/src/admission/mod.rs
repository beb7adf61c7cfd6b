//! AdmissionActor: which instances the host has capacity for.
//!
//! A FunctionActor requests a [`Permit`] before it starts an instance; the InstanceActor owns the permit as long as the
//! instance holds anything of the host. A paused instance is charged what it holds, and needs the rest again before it is
//! resumed. If memory is short, the actor ends the template, and pauses and evicts idle instances of other functions: what costs the least per byte, by
//! `crate::warmth`, and only if that suffices. It never evicts an instance that serves, that callers wait for or that a minimum
//! keeps. `ledger.rs` accounts, `queue.rs` orders the requests, `eviction.rs` runs the rounds; they are pure. `permit.rs` is the
//! permit, `request.rs` and `messages.rs` are the words of the protocol, `handlers.rs` handles them.
//!
//! # Invariants
//! 1. The ledger counts an instance from its grant until its permit is dropped, wherever the permit is: also inside a
//!    message to a function that has withdrawn, changed its spec or ended. Such a permit returns by its Drop.
//! 2. A request is granted or denied at most once: `serial` tells an update of a granted request from the next request.
//! 3. Admission knows nothing of slots. Functions report which instances are idle, and decide whether an eviction still
//!    holds, because a caller may take a slot in between.
//! 4. An actor's messages arrive in the order in which it sent them, so `Started` precedes the function's reports about
//!    that instance, and `Unregister` is a function's last message.
//! 5. A function that has ended is not waited for.

mod eviction;
mod handlers;
mod ledger;
mod messages;
mod permit;
mod queue;
mod rate;
mod request;
#[cfg(test)]
mod simulation;

use std::{collections::HashMap, time::Duration};

use actix::{Actor, Addr, AsyncContext, Context, Recipient, SpawnHandle};
use tokio::time::Instant;

use crate::{
    boot::EvictedInstance,
    id::FunctionKey,
    notice::EndGuard,
    warmth::{GreedyDual, Rung},
};
use eviction::Eviction;
pub(crate) use ledger::WaitReason;
use ledger::{Admitted, Ledger};
pub(crate) use messages::{
    AdmissionEvent, AllReleased, EvictionDone, EvictionOutcome, ExplainWait, IdleAvailable, IdleFound,
    NotifyWhenReleased, Register, RequestStart, RequestWake, SetFootprint, Unregister, Withdraw, WithdrawWake,
};
pub use messages::{AdmissionQuestion, AdmissionReport, ForeignMemory};
pub(crate) use permit::Permit;
pub use request::HostLimits;
pub(crate) use request::{IdleInstance, Pausable, StartKind, StartRequest, TEMPLATE_PATIENCE, Urgency, WakeRequest};

/// A start that takes longer does not count as one any more: it waits for something other than a processor, and functions
/// that never get ready must not keep all others from starting.
const MAX_START: Duration = Duration::from_secs(5);
/// Evicted instances that the record of a start names.
const MAX_EVICTED: usize = 16;

/// Grants permits to start instances.
pub struct AdmissionActor {
    ledger: Ledger,
    functions: HashMap<FunctionKey, Registration>,
    eviction: Eviction,
    greedy: GreedyDual,
    /// The instances that were paused or ended for the request of a function that still waits.
    made_room: HashMap<FunctionKey, Vec<EvictedInstance>>,
    /// When a template will not wait any longer, and the timer for that.
    alarm: Option<(Instant, SpawnHandle)>,
    /// Notified once no instance holds anything.
    listeners: Vec<Recipient<AllReleased>>,
    end_guards: Vec<EndGuard>,
}

struct Registration {
    events: Recipient<AdmissionEvent>,
    /// The serial of the last request.
    requested: u64,
    /// The serial of the last request that was granted or denied.
    granted: u64,
}

impl AdmissionActor {
    /// Starts the actor on the arbiter of the caller.
    pub fn launch(limits: HostLimits) -> Addr<Self> {
        let (functions, eviction, greedy, made_room, alarm, listeners, end_guards) = Default::default();
        Self { ledger: Ledger::new(limits), functions, eviction, greedy, made_room, alarm, listeners, end_guards }
            .start()
    }

    /// Grants what can be granted, and makes room for the first request that lacks memory. Called after every change.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        while let Some(admitted) = self.ledger.admit_next(Instant::now()) {
            let admitted = match admitted {
                Admitted::Start(admitted) => admitted,
                Admitted::Wake { function, instance } => {
                    self.send(function, AdmissionEvent::Woken { instance });
                    continue;
                }
            };
            let evicted = self.made_room.remove(&admitted.function).unwrap_or_default();
            let permit = Permit::new(ctx.address(), admitted.instance, evicted);
            if self.ledger.start_limit(admitted.kind) < usize::MAX {
                ctx.run_later(MAX_START, move |actor, ctx| {
                    actor.ledger.set_started(admitted.instance, Instant::now());
                    actor.advance(ctx);
                });
            }
            // Without a registration the permit is dropped, which releases what it holds.
            if let Some(registration) = self.functions.get_mut(&admitted.function) {
                let serial = registration.requested;
                registration.granted = serial;
                registration.events.do_send(AdmissionEvent::Granted { serial, permit });
            }
        }
        self.make_room();
        self.set_alarm(ctx);
    }

    fn set_alarm(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        let due = self.ledger.next_template(now);
        if due == self.alarm.map(|(at, _)| at) {
            return;
        }
        if let Some((_, alarm)) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        self.alarm = due.map(|at| {
            let alarm = ctx.run_later(at - now, |actor, ctx| {
                actor.alarm = None;
                actor.advance(ctx);
            });
            (at, alarm)
        });
    }

    /// Starts an eviction round if memory is short and the last round does not hold any more.
    fn make_room(&mut self) {
        if let Some((function, instance)) = self.ledger.end_template(Instant::now()) {
            self.send(function, AdmissionEvent::Evict { instance, to: Rung::Ended });
        }
        let Self { ledger, functions, eviction, .. } = self;
        let shortage = ledger.shortage();
        let others = || {
            let may_lose = |holder: &FunctionKey| shortage.is_some_and(|shortage| shortage.may_evict_of(*holder));
            ledger.holders().into_iter().filter(|holder| may_lose(holder) && functions.contains_key(holder)).collect()
        };
        if eviction.start(shortage, others) {
            for function in eviction.asked() {
                if let Some(registration) = functions.get(&function) {
                    registration.events.do_send(AdmissionEvent::FindIdle);
                }
            }
        }
    }

    /// Adds a function's idle instances to the round, and evicts once all functions have answered.
    fn collect(&mut self, function: FunctionKey, idle: Vec<IdleInstance>) {
        let Some(mut idle) = self.eviction.collect(function, idle) else { return };
        // The queue may have changed since the functions were asked.
        let shortage = self.ledger.shortage();
        let victims = match shortage {
            Some(shortage) => {
                let owner = |idle: &IdleInstance| self.ledger.function_of(idle.instance);
                let may_lose = |it| shortage.may_evict_of(it) && self.functions.contains_key(&it);
                idle.retain(|idle| owner(idle).is_some_and(may_lose));
                self.greedy.select(shortage.missing, self.ledger.steps(idle), Instant::now())
            }
            None => Vec::new(),
        };
        let function = shortage.map(|shortage| shortage.function);
        self.eviction.evict(function, victims.iter().map(|(instance, _)| *instance));
        for (instance, to) in victims {
            if let Some(function) = self.ledger.function_of(instance) {
                self.send(function, AdmissionEvent::Evict { instance, to });
            }
        }
        self.make_room();
    }

    /// Returns whether a function has a request that was not answered yet.
    fn is_waiting(&self, function: FunctionKey) -> bool {
        self.functions.get(&function).is_some_and(|registration| registration.requested > registration.granted)
    }

    /// Notes that an instance was paused or ended for a function, until that gets its permit.
    fn note_evicted(&mut self, function: FunctionKey, evicted: EvictedInstance) {
        let made_room = self.made_room.entry(function).or_default();
        // It may be ended after its pause has released too little.
        made_room.retain(|before| before.instance != evicted.instance);
        if made_room.len() < MAX_EVICTED {
            made_room.push(evicted);
        }
    }

    fn send(&self, function: FunctionKey, event: AdmissionEvent) {
        if let Some(registration) = self.functions.get(&function) {
            registration.events.do_send(event);
        }
    }

    fn notify_if_released(&mut self) {
        if self.ledger.is_empty() {
            for listener in self.listeners.drain(..) {
                listener.do_send(AllReleased);
            }
        }
    }
}

impl Actor for AdmissionActor {
    type Context = Context<Self>;
}
