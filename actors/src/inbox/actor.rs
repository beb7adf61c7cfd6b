//! The InboxActor: follows what the store has committed, begins attempts, and has their ends recorded.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::{Actor, Addr, AsyncContext as _, Context, Handler, MessageResult, SpawnHandle};
use tokio::sync::oneshot;

use super::{
    commands::{Command, CommandSender},
    fact::StoreFact,
    messages::{
        AskRoom, Attempt, AttemptEnd, AttemptRoom, Attempted, Attempts, FunctionInbox, InboxQuestion, InboxReport,
        RoomReturned, StopStarting,
    },
    pending::Limits,
    record::Seq,
    scheduler::{Action, Scheduler},
    settle::Settlement,
    store::Settle,
    time::UnixMillis,
};
use crate::{directory::Directory, notice::EndGuard, spec::AsyncSpec};

/// The longest sleep while there is work: the clock may jump meanwhile.
const MAX_SLEEP: Duration = Duration::from_secs(10);
/// Between two looks whether a function serves again that has work.
const FUNCTION_CHECK: Duration = Duration::from_millis(500);

/// The asynchronous invocations of the daemon, as far as they have not ended.
pub struct InboxActor {
    scheduler: Scheduler,
    limits: FunctionLimits,
    store: Arc<dyn CommandSender>,
    attempts: Box<dyn Attempts>,
    alarm: Option<SpawnHandle>,
    /// Attempts that wait for room, of what any node of the site has accepted.
    guests: VecDeque<AskRoom>,
    /// Notified when no attempt is under way any more.
    stopping: Vec<oneshot::Sender<()>>,
    end_guards: Vec<EndGuard>,
}

/// The limits that the functions' files and the daemon's settings give.
struct FunctionLimits {
    directory: Arc<Directory>,
    /// Attempts at the same time, of all functions.
    most: usize,
}

impl FunctionLimits {
    /// Returns how a function's invocations are treated. `None`: it is not there, or cannot serve.
    fn policy(&self, function: &str) -> Option<AsyncSpec> {
        Some(self.directory.find(function)?.spec()?.asynchronous.clone())
    }
}

impl Limits for FunctionLimits {
    fn of(&self, function: &str) -> usize {
        let spec = self.directory.find(function).and_then(|handle| handle.spec());
        spec.map_or(0, |spec| spec.asynchronous.concurrency.get())
    }

    fn of_all(&self) -> usize {
        self.most
    }
}

impl InboxActor {
    /// Starts the actor on the arbiter of the caller. `most`: attempts at the same time.
    pub fn launch(
        directory: Arc<Directory>,
        store: Arc<dyn CommandSender>,
        attempts: Box<dyn Attempts>,
        most: usize,
    ) -> Addr<Self> {
        let limits = FunctionLimits { directory, most };
        let (scheduler, guests, alarm, stopping, end_guards) = Default::default();
        Self { scheduler, limits, store, attempts, alarm, guests, stopping, end_guards }.start()
    }

    /// Does what is due, and sets the alarm for what is due next.
    fn work(&mut self, ctx: &mut Context<Self>) {
        let now = UnixMillis::now();
        loop {
            // In turns with this node's own work.
            let is_granted = self.grant_room(ctx);
            let attempts = |function: &str| {
                let policy = self.limits.policy(function).unwrap_or_default();
                policy.attempts.get()
            };
            match self.scheduler.next_action(now, &self.limits, attempts) {
                None if is_granted => {}
                None => break,
                Some(Action::Start(entry)) => {
                    let max_response = self.limits.policy(&entry.function).unwrap_or_default().max_response;
                    self.attempts.begin(Attempt { entry, max_response }, ctx.address().recipient());
                }
                Some(Action::End(entry, settlement)) => {
                    self.record(
                        &entry.function,
                        Settle { was_running: false, ..settle_of(entry.seq, entry.epoch, settlement) },
                    );
                }
            }
        }
        if let Some(alarm) = self.alarm.take() {
            ctx.cancel_future(alarm);
        }
        let due = self.scheduler.wake_at(&self.limits).map(|at| now.until(at).min(MAX_SLEEP));
        let waits = !self.guests.is_empty() || self.scheduler.pending().has_unservable(&self.limits);
        let check = waits.then_some(FUNCTION_CHECK);
        if let Some(sleep) = due.into_iter().chain(check).min() {
            self.alarm = Some(ctx.run_later(sleep, |actor, ctx| {
                actor.alarm = None;
                actor.work(ctx);
            }));
        }
        if self.scheduler.is_idle() {
            for stopped in self.stopping.drain(..) {
                // The receiver may have given up.
                let _ = stopped.send(());
            }
        }
    }

    /// Gives room to the first attempt that finds some. Returns whether there is one.
    fn grant_room(&mut self, ctx: &Context<Self>) -> bool {
        self.guests.retain(|guest| !guest.reply.is_closed());
        if self.scheduler.is_stopped() {
            self.guests.clear();
        }
        let (scheduler, limits) = (&mut self.scheduler, &self.limits);
        let Some(next) = self.guests.iter().position(|guest| scheduler.take_room(&guest.function, limits)) else {
            return false;
        };
        if let Some(AskRoom { function, reply }) = self.guests.remove(next) {
            // Dropped, it comes back.
            let _ = reply.send(AttemptRoom { function, inbox: ctx.address().recipient() });
        }
        true
    }

    fn record(&self, function: &str, settle: Settle) {
        let policy = self.limits.policy(function).unwrap_or_default();
        let is_dead = matches!(settle.settlement, Settlement::Dead { .. });
        let keep = if is_dead { policy.keep_dead } else { policy.keep };
        // A store that takes no commands has ended: the next daemon tries again.
        let _ = self.store.send(Command::Settle(Box::new(Settle { keep, ..settle })));
    }
}

/// Returns what is recorded of an attempt without an answer.
fn settle_of(seq: Seq, epoch: u32, settlement: Settlement) -> Settle {
    Settle { seq, epoch, was_running: true, settlement, response: None, keep: Duration::ZERO }
}

impl Actor for InboxActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Facts of many clients may come at once.
        ctx.set_mailbox_capacity(1024);
    }
}

impl Handler<StoreFact> for InboxActor {
    type Result = ();

    fn handle(&mut self, fact: StoreFact, ctx: &mut Self::Context) {
        self.scheduler.learn(fact);
        self.work(ctx);
    }
}

impl Handler<Attempted> for InboxActor {
    type Result = ();

    fn handle(&mut self, Attempted { seq, end }: Attempted, ctx: &mut Self::Context) {
        let now = UnixMillis::now();
        match end {
            AttemptEnd::Stale => self.scheduler.not_begun(seq, true, now),
            AttemptEnd::NotRecorded => self.scheduler.not_begun(seq, false, now),
            AttemptEnd::Made { epoch, outcome, response } => {
                let Some(function) = self.scheduler.function_of(seq) else { return };
                let policy = self.limits.policy(&function).unwrap_or_default();
                let settlement = self.scheduler.attempted((seq, epoch), outcome, &policy, now, rand::random());
                if let Some(settlement) = settlement {
                    self.record(&function, Settle { response, ..settle_of(seq, epoch, settlement) });
                }
            }
        }
        self.work(ctx);
    }
}

impl Handler<AskRoom> for InboxActor {
    type Result = ();

    fn handle(&mut self, guest: AskRoom, ctx: &mut Self::Context) {
        self.guests.push_back(guest);
        self.work(ctx);
    }
}

impl Handler<RoomReturned> for InboxActor {
    type Result = ();

    fn handle(&mut self, RoomReturned(function): RoomReturned, ctx: &mut Self::Context) {
        self.scheduler.return_room(&function);
        self.work(ctx);
    }
}

impl Handler<StopStarting> for InboxActor {
    type Result = ();

    fn handle(&mut self, StopStarting(stopped): StopStarting, ctx: &mut Self::Context) {
        self.scheduler.stop();
        self.stopping.push(stopped);
        self.work(ctx);
    }
}

impl Handler<InboxQuestion> for InboxActor {
    type Result = MessageResult<InboxQuestion>;

    fn handle(&mut self, _: InboxQuestion, _: &mut Self::Context) -> Self::Result {
        let pending = self.scheduler.pending();
        let functions = pending.by_function().map(|(function, queued, running, first_due)| FunctionInbox {
            function: function.clone(),
            queued,
            running,
            first_due,
        });
        MessageResult(InboxReport {
            queued: pending.queued(),
            running: pending.running(),
            functions: functions.collect(),
        })
    }
}

impl Handler<EndGuard> for InboxActor {
    type Result = ();

    fn handle(&mut self, guard: EndGuard, _: &mut Self::Context) {
        self.end_guards.push(guard);
    }
}
