//! What a FunctionActor does with the facts that admission and its instances send.

use std::{sync::Arc, time::Duration};

use actix::{Context, Handler};
use slog::{error, warn};
use tokio::time::Instant;

use super::{FunctionActor, Phase, backoff::Fault, instances::InstancePhase};
use crate::{
    admission::{AdmissionEvent, EvictionDone},
    boot::Origin,
    endpoint::Endpoint,
    id::InstanceId,
    instance::{InstanceEvent, InstanceGone, Occupancy, Pause},
    refusal::Refusal,
    sandbox::{LaunchError, PauseError},
    stats::PrewarmResult,
    stop_reason::StopReason,
};

/// An instance that ends by itself so soon after it was ready, without a request, is a failed start. Otherwise the minimum
/// would be started again and again without a pause.
const UNUSED_END: Duration = Duration::from_secs(1);

impl Handler<AdmissionEvent> for FunctionActor {
    type Result = ();

    fn handle(&mut self, event: AdmissionEvent, ctx: &mut Context<Self>) {
        match event {
            AdmissionEvent::Granted { serial, permit } => {
                if let Some(request) = self.pending_start.complete(serial).filter(|_| self.phase == Phase::Serving) {
                    self.use_permit(permit, request.urgency, ctx);
                }
            }
            AdmissionEvent::Denied { serial, reason } => {
                if self.pending_start.complete(serial).is_some() {
                    warn!(self.log, "function can never be started on this host"; "why" => &reason);
                    self.pending_start.deny(reason, self.revision);
                }
            }
            AdmissionEvent::Woken { instance } => self.instance_woken(instance),
            AdmissionEvent::WaitExplained(reason) => self.refuse_expired(reason),
            AdmissionEvent::FindIdle => self.report_idle(),
            AdmissionEvent::Evict { instance, to } => {
                let outcome = self.evict(instance, to);
                self.services.admission.do_send(EvictionDone { instance, function: self.name.clone(), outcome });
            }
        }
        self.settle(ctx);
    }
}

impl Handler<InstanceEvent> for FunctionActor {
    type Result = ();

    fn handle(&mut self, event: InstanceEvent, ctx: &mut Context<Self>) {
        match event {
            InstanceEvent::Ready(endpoint) => self.instance_ready(endpoint),
            InstanceEvent::Paused { instance, footprint } => self.instance_paused(instance, footprint),
            InstanceEvent::PausedExternally(instance) => self.paused_externally(instance),
            InstanceEvent::Resumed { instance, took } => self.instance_resumed(instance, took),
            InstanceEvent::NotPaused { instance, error } => self.instance_not_paused(instance, &error),
            InstanceEvent::Lost { instance, reason, output } => self.instance_lost(instance, reason, output),
            InstanceEvent::CallbackRefused => self.handle.stats().count_refused_callback(),
        }
        self.settle(ctx);
    }
}

impl FunctionActor {
    fn instance_ready(&mut self, endpoint: Arc<Endpoint>) {
        let (id, origin) = (endpoint.instance, endpoint.clock.started_from());
        self.observe_start(origin, endpoint.boot());
        self.instances.set_phase(id, InstancePhase::Serving);
        self.instances.take_start(id);
        let Some(instance) = self.instances.get(id) else { return };
        if origin == Origin::Restored {
            self.cloning.restored();
        } else if instance.revision == self.revision {
            let now = Instant::now();
            self.cloning.started_cold(instance.may_restore, now - instance.record.age(), now);
        }
        if instance.revision == self.revision {
            let change = self.backoff.succeeded();
            self.log_backoff(change);
        }
        // A retired instance is being stopped: its `Stop` crossed this message.
        if !instance.retired {
            match instance.is_prewarmed {
                true => self.add_prewarmed(endpoint, Instant::now()),
                false => self.handle.slots().add(endpoint, Instant::now()),
            }
            self.replace_next(id);
        }
    }

    fn observe_start(&self, origin: Origin, took: Duration) {
        self.handle.stats().observe_start(origin, took);
        self.services.history.starts.observe(origin, took);
    }

    fn instance_resumed(&mut self, instance: InstanceId, took: Duration) {
        self.observe_start(Origin::Resumed, took);
        // Another program had paused it during a request, after which it was to be paused: the order may have been lost.
        if self.handle.slots().is_paused(instance) {
            if let Some(instance) = self.instances.get(instance) {
                instance.address.do_send(Pause);
            }
            return;
        }
        self.handle.slots().resumed(instance, true, Instant::now());
    }

    fn instance_not_paused(&mut self, instance: InstanceId, error: &PauseError) {
        self.handle.slots().resumed(instance, false, Instant::now());
        self.charge_whole(instance);
        if !std::mem::replace(&mut self.logged_not_paused, true) {
            warn!(self.log, "instances cannot be paused, and end after their keepalive"; "why" => %error,
                "instance" => %instance);
        }
    }

    fn instance_lost(&mut self, instance: InstanceId, reason: StopReason, output: Vec<String>) {
        let now = Instant::now();
        let occupancy = self.handle.slots().occupancy(instance);
        let served = self.handle.slots().remove(instance);
        self.instances.set_phase(instance, InstancePhase::Ending);
        let start = self.instances.take_start(instance);
        let is_failed_start = reason.is_failed_start();
        self.prewarm_ended(instance, if is_failed_start { PrewarmResult::Failed } else { PrewarmResult::Unused });
        self.note_lost_in_restart(instance, reason.is_failed_start());
        let Some(lost) = self.instances.get(instance) else { return };
        lost.record.set_served(served);
        if lost.is_template {
            return self.template_lost(instance, &reason, now);
        }
        if let StopReason::RestoreFailed(error) = &reason {
            return self.restore_failed(instance, error, start.is_none_or(|start| start.is_alone()), now);
        }
        let boot_timeout = lost.spec.boot_timeout;
        let is_unused = |it: Occupancy| it.served == 0 && now - it.since < UNUSED_END;
        if let StopReason::Exited(exit) = &reason
            && lost.revision == self.revision
            && occupancy.is_some_and(is_unused)
        {
            let refusal = Refusal::BootFailed { instance, exit: exit.clone(), output };
            let change = self.backoff.ended_unused(refusal, now);
            return self.log_backoff(change);
        }
        let fault = match reason {
            StopReason::LaunchFailed(LaunchError::Missing(_)) => Fault::Host,
            _ => Fault::Function,
        };
        let refusal = match reason {
            StopReason::LaunchFailed(LaunchError::Exhausted(why)) => {
                Refusal::HostSaturated { why, retry_after: Some(self.handle.retry_after(self.waiters.len())) }
            }
            StopReason::LaunchFailed(error) => Refusal::StartFailed { instance, why: error.to_string() },
            StopReason::BootFailed(exit) => Refusal::BootFailed { instance, exit, output },
            StopReason::Unreachable(why) => Refusal::Unreachable { instance, why: why.into(), output },
            StopReason::BootTimedOut(why) => {
                Refusal::BootTimedOut { instance, after: boot_timeout, why: why.into(), output }
            }
            _ => return,
        };
        self.start_failed(instance, refusal, fault);
    }
}

impl Handler<InstanceGone> for FunctionActor {
    type Result = ();

    fn handle(&mut self, InstanceGone { instance, bug }: InstanceGone, ctx: &mut Context<Self>) {
        if bug {
            error!(self.log, "an instance's actor panicked; the instance was killed"; "instance" => %instance);
            self.handle.slots().remove(instance);
            let phase = self.instances.set_phase(instance, InstancePhase::Ending);
            self.cloning.capture_failed(instance, "the actor of the template panicked", Instant::now());
            let is_failed_start = phase == Some(InstancePhase::Booting);
            self.note_lost_in_restart(instance, is_failed_start);
            if is_failed_start {
                self.start_failed(instance, Refusal::Lost, Fault::Function);
            }
        }
        self.instances.remove(instance);
        self.settle(ctx);
    }
}
