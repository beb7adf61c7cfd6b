//! What a FunctionActor does with the facts that admission and its instances send.

use std::sync::Arc;

use actix::{Context, Handler};
use slog::error;
use tokio::time::Instant;

use super::{FunctionActor, Phase, backoff::Fault, instances::InstancePhase};
use crate::{
    admission::{AdmissionEvent, EvictionDone},
    endpoint::Endpoint,
    id::InstanceId,
    instance::{InstanceEvent, InstanceGone},
    refusal::Refusal,
    sandbox::LaunchError,
    stop_reason::StopReason,
};

impl Handler<AdmissionEvent> for FunctionActor {
    type Result = ();

    fn handle(&mut self, event: AdmissionEvent, ctx: &mut Context<Self>) {
        match event {
            AdmissionEvent::Granted { serial, permit } => {
                if self.pending_start.complete(serial) && self.phase == Phase::Serving {
                    self.use_permit(permit, ctx);
                }
            }
            AdmissionEvent::Denied { serial, reason } => {
                if self.pending_start.complete(serial) {
                    self.pending_start.deny(reason, self.revision);
                }
            }
            AdmissionEvent::WaitExplained(reason) => self.refuse_expired(reason),
            AdmissionEvent::FindIdle => self.report_idle(),
            AdmissionEvent::Evict { instance } => {
                let evicted = self.handle.slots().retire_idle(instance);
                if evicted {
                    self.handle.stats().count_eviction();
                    self.stop(instance, StopReason::Evicted, false);
                }
                self.services.admission.do_send(EvictionDone { instance, evicted });
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
            InstanceEvent::Lost { instance, reason, output } => self.instance_lost(instance, reason, output),
            InstanceEvent::CallbackRefused => self.handle.stats().count_refused_callback(),
        }
        self.settle(ctx);
    }
}

impl FunctionActor {
    fn instance_ready(&mut self, endpoint: Arc<Endpoint>) {
        let id = endpoint.instance;
        self.handle.stats().observe_boot(endpoint.boot());
        self.instances.set_phase(id, InstancePhase::Serving);
        let Some(instance) = self.instances.get(id) else { return };
        if instance.revision == self.revision {
            let change = self.backoff.succeeded();
            self.log_backoff(change);
        }
        // A retired instance is being stopped: its `Stop` crossed this message.
        if !instance.retired {
            self.handle.slots().add(endpoint, Instant::now());
        }
    }

    fn instance_lost(&mut self, instance: InstanceId, reason: StopReason, output: Vec<String>) {
        self.handle.slots().remove(instance);
        self.instances.set_phase(instance, InstancePhase::Ending);
        let Some(lost) = self.instances.get(instance) else { return };
        let boot_timeout = lost.spec.boot_timeout;
        let fault = match reason {
            StopReason::LaunchFailed(LaunchError::Missing(_)) => Fault::Host,
            _ => Fault::Function,
        };
        let refusal = match reason {
            StopReason::LaunchFailed(LaunchError::Exhausted(why)) => {
                Refusal::HostSaturated { why, retry_after: self.handle.retry_after(self.waiters.len()) }
            }
            StopReason::LaunchFailed(error) => Refusal::StartFailed { instance, why: error.to_string() },
            StopReason::BootFailed(exit) => Refusal::BootFailed { instance, exit, output },
            StopReason::BootTimedOut => Refusal::BootTimedOut { instance, after: boot_timeout, output },
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
            if self.instances.set_phase(instance, InstancePhase::Ending) == Some(InstancePhase::Booting) {
                self.start_failed(instance, Refusal::Lost, Fault::Function);
            }
        }
        self.instances.remove(instance);
        self.settle(ctx);
    }
}
