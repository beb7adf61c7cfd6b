//! What a FunctionActor does with each message. Every handler changes one fact and then lets the function settle.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};
use slog::{error, info, warn};

use super::{
    FunctionActor, InstancePhase, Phase,
    backoff::Fault,
    intake_of,
    refusal::Refusal,
    slots::{Intake, Released},
    waiters::Waiter,
};
use crate::{
    instance::StopReason,
    messages::{
        Abandon, Acquire, BecameIdle, CapacityAvailable, Configure, Drain, Evict, InstanceGone, InstanceLost,
        InstanceReady, Replenish, SlotReleased, Stop,
    },
    sandbox::LaunchError,
};

impl Handler<Acquire> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Acquire { ticket, since, reply }: Acquire, ctx: &mut Context<Self>) {
        let patience = self.loaded.as_ref().map_or(Duration::ZERO, |spec| spec.queue_timeout);
        let waiter = Waiter { since, deadline: since + patience, revision: self.revision, reply };
        match (&self.loaded, self.phase) {
            // The intake was shut while the request was on its way.
            (_, Phase::Draining) => self.refuse(waiter, Refusal::Draining),
            (Err(reason), _) => {
                let reason = reason.clone();
                self.refuse(waiter, Refusal::Misconfigured { reason });
            }
            // The caller left while its request was on its way; nothing is started for it.
            (Ok(_), Phase::Serving) if waiter.reply.is_closed() => self.handle.slots().left_queue(),
            (Ok(_), Phase::Serving) => self.waiters.push(ticket, waiter),
        }
        self.settle(ctx);
    }
}

impl Handler<Abandon> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Abandon { ticket }: Abandon, ctx: &mut Context<Self>) {
        if self.waiters.remove(ticket).is_some() {
            self.handle.slots().left_queue();
        }
        self.settle(ctx);
    }
}

impl Handler<SlotReleased> for FunctionActor {
    type Result = ();

    fn handle(&mut self, SlotReleased { instance, released, failed }: SlotReleased, ctx: &mut Context<Self>) {
        self.settle(ctx);
        let Some(member) = self.instances.get(instance) else { return };
        match released {
            Released::Free | Released::HasWaiters => {}
            Released::Idle => member.address.do_send(BecameIdle),
            Released::Drained => {
                let reason = match self.phase {
                    _ if failed => StopReason::RequestFailed,
                    Phase::Draining => StopReason::Drained,
                    Phase::Serving if member.spec.single_use => StopReason::SingleUse,
                    Phase::Serving if member.revision < self.revision => StopReason::Outdated,
                    // Another request of it had failed before.
                    Phase::Serving => StopReason::RequestFailed,
                };
                member.address.do_send(Stop { reason, now: false });
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

impl Handler<CapacityAvailable> for FunctionActor {
    type Result = ();

    fn handle(&mut self, _: CapacityAvailable, ctx: &mut Context<Self>) {
        self.settle(ctx);
    }
}

impl Handler<Evict> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Evict { instance }: Evict, _: &mut Context<Self>) {
        if let Some(member) = self.instances.get(instance) {
            self.handle.stats().count_eviction();
            member.address.do_send(Stop { reason: StopReason::Evicted, now: false });
        }
    }
}

impl Handler<InstanceReady> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceReady { instance }: InstanceReady, ctx: &mut Context<Self>) {
        self.instances.advance(instance, InstancePhase::Serving);
        if self.instances.get(instance).is_some_and(|member| member.revision == self.revision) {
            let change = self.backoff.succeeded();
            self.tell(change);
        }
        self.settle(ctx);
    }
}

impl Handler<InstanceLost> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceLost { instance, reason, output }: InstanceLost, ctx: &mut Context<Self>) {
        self.instances.advance(instance, InstancePhase::Ending);
        let Some(member) = self.instances.get(instance) else { return };
        let boot_timeout = member.spec.boot_timeout;
        let fault = match reason {
            StopReason::LaunchFailed(LaunchError::Missing(_)) => Fault::Host,
            _ => Fault::Function,
        };
        let refusal = match reason {
            StopReason::LaunchFailed(LaunchError::Exhausted(why)) => {
                Some(Refusal::HostSaturated { why, retry_after: self.handle.retry_after(self.waiters.len()) })
            }
            StopReason::LaunchFailed(error) => Some(Refusal::StartFailed { instance, why: error.to_string() }),
            StopReason::BootFailed(exit) => Some(Refusal::BootFailed { instance, exit, output }),
            StopReason::BootTimedOut => Some(Refusal::BootTimedOut { instance, after: boot_timeout, output }),
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
            self.handle.slots().remove(instance);
            if self.instances.advance(instance, InstancePhase::Ending) == Some(InstancePhase::Booting) {
                self.start_failed(instance, Refusal::Lost, Fault::Function);
            }
        }
        self.instances.leave(instance);
        self.settle(ctx);
    }
}

impl Handler<Configure> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Configure(loaded): Configure, ctx: &mut Context<Self>) {
        if self.phase == Phase::Draining {
            return;
        }
        self.revision += 1;
        match &loaded {
            Ok(_) => info!(self.log, "function has changed"; "revision" => self.revision),
            Err(reason) => {
                warn!(self.log, "function is misconfigured"; "revision" => self.revision, "reason" => %reason)
            }
        }
        self.loaded = loaded;
        self.backoff.reset();
        let (intake, queue) = intake_of(&self.loaded);
        self.handle.slots().open(intake, queue, self.revision);
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
        self.handle.slots().open(Intake::Draining, 0, self.revision);
        for (id, member) in self.instances.iter() {
            match member.phase {
                InstancePhase::Booting | InstancePhase::Serving => self.retire(id, StopReason::Drained),
                InstancePhase::Ending => {}
            }
        }
        self.settle(ctx);
        ctx.run_later(grace, |actor, _| {
            for (_, member) in actor.instances.iter() {
                member.address.do_send(Stop { reason: StopReason::Drained, now: true });
            }
        });
    }
}
