//! What a FunctionActor does with each message. Every handler changes one fact and then lets the function settle.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};
use slog::{error, info, warn};

use super::{
    FunctionActor, Phase, Stage,
    backoff::Fault,
    front_of,
    refusal::Refusal,
    slots::{Gate, Returned},
    waiters::Waiter,
};
use crate::{
    instance::Cause,
    messages::{
        Abandon, Acquire, Configure, Drain, Evict, InstanceGone, InstanceLost, InstanceReady, Replenish, Rested,
        RoomMade, SlotReturned, Stop,
    },
    sandbox::LaunchError,
};

impl Handler<Acquire> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Acquire { ticket, since, reply }: Acquire, ctx: &mut Context<Self>) {
        let patience = self.draft.as_ref().map_or(Duration::ZERO, |spec| spec.queue_timeout);
        let waiter = Waiter { since, deadline: since + patience, revision: self.revision, port: reply };
        match (&self.draft, self.phase) {
            // The gate was shut while the request was on its way.
            (_, Phase::Draining) => self.refuse(waiter, Refusal::Draining),
            (Err(reason), _) => {
                let reason = reason.clone();
                self.refuse(waiter, Refusal::Misconfigured { reason });
            }
            // The caller left while its request was on its way; nothing is started for it.
            (Ok(_), Phase::Serving) if waiter.port.is_closed() => self.desk.slots().left_queue(),
            (Ok(_), Phase::Serving) => self.waiters.push(ticket, waiter),
        }
        self.settle(ctx);
    }
}

impl Handler<Abandon> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Abandon { ticket }: Abandon, ctx: &mut Context<Self>) {
        if self.waiters.remove(ticket).is_some() {
            self.desk.slots().left_queue();
        }
        self.settle(ctx);
    }
}

impl Handler<SlotReturned> for FunctionActor {
    type Result = ();

    fn handle(&mut self, SlotReturned { instance, returned, failed }: SlotReturned, ctx: &mut Context<Self>) {
        self.settle(ctx);
        let Some(member) = self.instances.get(instance) else { return };
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

    fn handle(&mut self, _: Replenish, ctx: &mut Context<Self>) {
        self.settle(ctx);
    }
}

impl Handler<RoomMade> for FunctionActor {
    type Result = ();

    fn handle(&mut self, _: RoomMade, ctx: &mut Context<Self>) {
        self.settle(ctx);
    }
}

impl Handler<Evict> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Evict { instance }: Evict, _: &mut Context<Self>) {
        if let Some(member) = self.instances.get(instance) {
            self.desk.stats().count_eviction();
            member.address.do_send(Stop { cause: Cause::Evicted, now: false });
        }
    }
}

impl Handler<InstanceReady> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceReady { instance }: InstanceReady, ctx: &mut Context<Self>) {
        self.instances.advance(instance, Stage::Serving);
        if self.instances.get(instance).is_some_and(|member| member.revision == self.revision) {
            let turn = self.backoff.succeeded();
            self.tell(turn);
        }
        self.settle(ctx);
    }
}

impl Handler<InstanceLost> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceLost { instance, cause, output }: InstanceLost, ctx: &mut Context<Self>) {
        self.instances.advance(instance, Stage::Ending);
        let Some(member) = self.instances.get(instance) else { return };
        let boot_timeout = member.spec.boot_timeout;
        let fault = match cause {
            Cause::LaunchFailed(LaunchError::Missing(_)) => Fault::Host,
            _ => Fault::Function,
        };
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
            self.start_failed(instance, refusal, fault);
        }
        self.settle(ctx);
    }
}

impl Handler<InstanceGone> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceGone { instance, bug }: InstanceGone, ctx: &mut Context<Self>) {
        if bug {
            error!(self.log, "an instance's actor panicked; its guest was killed"; "instance" => %instance);
            self.desk.slots().unseat(instance);
            if self.instances.advance(instance, Stage::Ending) == Some(Stage::Booting) {
                self.start_failed(instance, Refusal::Lost, Fault::Function);
            }
        }
        self.instances.leave(instance);
        self.settle(ctx);
    }
}

impl Handler<Configure> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Configure(draft): Configure, ctx: &mut Context<Self>) {
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
        self.backoff.reset();
        let (gate, queue) = front_of(&self.draft);
        self.desk.slots().open(gate, queue, self.revision);
        self.settle(ctx);
    }
}

impl Handler<Drain> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Drain { grace }: Drain, ctx: &mut Context<Self>) {
        if self.phase == Phase::Serving && !self.instances.is_empty() {
            info!(self.log, "function is being drained"; "instances" => self.instances.len(), "grace" => ?grace);
        }
        self.phase = Phase::Draining;
        self.desk.slots().open(Gate::Draining, 0, self.revision);
        for (id, member) in self.instances.iter() {
            match member.stage {
                Stage::Booting | Stage::Serving => self.retire(id, Cause::Drained),
                Stage::Ending => {}
            }
        }
        self.settle(ctx);
        ctx.run_later(grace, |actor, _| {
            for (_, member) in actor.instances.iter() {
                member.address.do_send(Stop { cause: Cause::Drained, now: true });
            }
        });
    }
}
