//! What a FunctionActor does with the messages of callers, leases and the registry. Each handler changes one fact and then
//! lets the function settle.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler};
use slog::{info, warn};

use super::{
    FunctionActor, Phase,
    instances::InstancePhase,
    messages::{Abandon, Acquire, Configure, Drain, Replenish, SlotReleased},
    slots::{Intake, Released},
    waiters::Waiter,
};
use crate::{refusal::Refusal, stop_reason::StopReason};

impl Handler<Acquire> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Acquire { ticket, since, reply }: Acquire, ctx: &mut Context<Self>) {
        let queue_timeout = self.loaded.as_ref().map_or(Duration::ZERO, |spec| spec.queue_timeout);
        let waiter = Waiter { since, deadline: since + queue_timeout, revision: self.revision, reply };
        match (&self.loaded, self.phase) {
            // The intake closed while the request was on its way.
            (_, Phase::Draining) => self.refuse(waiter, Refusal::Draining),
            (Err(reason), _) => {
                let reason = reason.clone();
                self.refuse(waiter, Refusal::Misconfigured { reason });
            }
            // The caller has given up meanwhile; nothing is started for it.
            (Ok(_), Phase::Serving) if waiter.reply.is_closed() => self.handle.slots().leave_queue(),
            (Ok(_), Phase::Serving) => self.waiters.push(ticket, waiter),
        }
        self.settle(ctx);
    }
}

impl Handler<Abandon> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Abandon { ticket }: Abandon, ctx: &mut Context<Self>) {
        if self.waiters.remove(ticket).is_some() {
            self.handle.slots().leave_queue();
        }
        self.settle(ctx);
    }
}

impl Handler<SlotReleased> for FunctionActor {
    type Result = ();

    fn handle(&mut self, SlotReleased { instance, released, failed }: SlotReleased, ctx: &mut Context<Self>) {
        self.settle(ctx);
        let Some(member) = self.instances.get(instance).filter(|_| released == Released::Drained) else { return };
        let reason = match self.phase {
            _ if failed => StopReason::RequestFailed,
            Phase::Draining => StopReason::Drained,
            Phase::Serving if member.spec.single_use => StopReason::SingleUse,
            Phase::Serving if member.revision < self.revision || member.retired => StopReason::Outdated,
            // An earlier request of it had failed.
            Phase::Serving => StopReason::RequestFailed,
        };
        self.stop(instance, reason, false);
    }
}

impl Handler<Replenish> for FunctionActor {
    type Result = ();

    fn handle(&mut self, _: Replenish, ctx: &mut Context<Self>) {
        self.settle(ctx);
    }
}

impl Handler<Configure> for FunctionActor {
    type Result = ();

    fn handle(&mut self, Configure(loaded): Configure, ctx: &mut Context<Self>) {
        if self.phase == Phase::Draining {
            return;
        }
        self.versions += 1;
        match (&loaded, &self.loaded) {
            (Err(reason), Ok(_)) => {
                warn!(self.log, "function is misconfigured and its last valid version stays in force";
                    "revision" => self.versions, "serves_revision" => self.revision, "reason" => %reason);
                self.invalid = Some(reason.clone());
            }
            // The version in force is back.
            (Ok(new), Ok(current)) if new == current => {
                info!(self.log, "function has changed"; "revision" => self.versions, "serves_revision" => self.revision);
                self.invalid = None;
                self.backoff.reset();
            }
            _ => {
                match &loaded {
                    Ok(_) => info!(self.log, "function has changed"; "revision" => self.versions),
                    Err(reason) => warn!(self.log, "function is misconfigured"; "revision" => self.versions,
                        "reason" => %reason),
                }
                (self.loaded, self.revision, self.invalid) = (loaded, self.versions, None);
                // Every instance is outdated now.
                self.replacement = None;
                self.backoff.reset();
                self.configure_cloning();
                self.configure_prewarming();
                self.handle.slots().configure(Intake::from(&self.loaded), self.revision);
            }
        }
        self.handle.slots().set_file(self.versions, self.invalid.clone());
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
        self.replacement = None;
        self.handle.slots().configure(Intake::Draining, self.revision);
        let is_alive = |phase| phase != InstancePhase::Ending;
        let alive = self.instances.iter().filter(|(_, instance)| is_alive(instance.phase));
        for id in alive.map(|(id, _)| id).collect::<Vec<_>>() {
            self.retire(id, StopReason::Drained);
        }
        self.settle(ctx);
        ctx.run_later(grace, |actor, _| {
            for (id, _) in actor.instances.iter() {
                actor.stop(id, StopReason::Drained, true);
            }
        });
    }
}
