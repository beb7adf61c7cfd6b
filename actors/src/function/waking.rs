//! Paused instances: what they are charged, and how they get the memory with which they can run again.
//!
//! The FunctionActor alone tells admission of both, so that these messages arrive in their order: a charge that is lowered
//! after an instance was woken would let it run on memory that others have.

use slog::info;
use tokio::time::Instant;

use super::FunctionActor;
use crate::{
    admission::{RequestWake, SetFootprint, Urgency, WakeRequest, WithdrawWake},
    id::InstanceId,
    instance::Resume,
    spec::FunctionSpec,
    stats::PrewarmResult,
};

impl FunctionActor {
    /// Wakes as many paused instances as callers and the minimum need, and leaves those paused that they do not need any
    /// more.
    pub(super) fn wake_paused(&mut self, spec: &FunctionSpec, now: Instant) {
        let surplus = self.demand(spec, now).surplus_wakes();
        if surplus > 0 {
            let left = self.handle.slots().stop_waking(surplus, now);
            for instance in left {
                self.services.admission.do_send(WithdrawWake { instance });
            }
        }
        for _ in 0..self.demand(spec, now).resumptions() {
            let waiting_since = self.demand(spec, now).first_unserved().and_then(|it| self.waiters.since_of(it));
            let urgency = waiting_since.map_or(Urgency::Minimum, Urgency::Caller);
            let Some(instance) = self.handle.slots().wake_next(self.revision, now) else { return };
            match self.instances.get(instance).is_some_and(|it| it.record.charged() < it.record.memory) {
                true => self.services.admission.do_send(RequestWake(WakeRequest { instance, urgency })),
                false => {
                    self.charge_whole(instance);
                    self.resume(instance);
                }
            }
        }
    }

    /// Charges a paused instance what it holds, unless it is wanted again.
    pub(super) fn instance_paused(&mut self, id: InstanceId, footprint: Option<u64>) {
        let Some(instance) = self.instances.get(id).filter(|_| self.handle.slots().is_paused(id)) else { return };
        let record = &instance.record;
        let memory = footprint.map_or(record.memory, |bytes| bytes.div_ceil(1 << 20).clamp(1, record.memory));
        record.set_charged(memory);
        self.footprint = Some(memory);
        self.services.admission.do_send(SetFootprint { instance: id, memory });
    }

    /// Keeps an instance for the next request that another program has paused, or resumes it at once if it serves some. As
    /// that program may resume it too, it is charged all its memory.
    pub(super) fn paused_externally(&self, id: InstanceId) {
        info!(self.log, "another program has paused an instance, which is resumed when a request needs it";
            "instance" => %id);
        let now = Instant::now();
        let is_busy = self.handle.slots().paused_externally(id, now);
        if let Some(busy) = self.instances.get(id).filter(|_| is_busy) {
            busy.address.do_send(Resume { wanted_at: now });
        }
        // An order to pause it that has crossed this message is not answered otherwise.
        self.charge_whole(id);
    }

    /// Charges an instance all its memory: it was to be paused, and runs on.
    pub(super) fn charge_whole(&self, id: InstanceId) {
        if let Some(instance) = self.instances.get(id) {
            self.services.admission.do_send(SetFootprint { instance: id, memory: instance.record.memory });
        }
    }

    /// Resumes an instance that has the memory for it. If it is not wanted any more, it returns that memory.
    pub(super) fn instance_woken(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(id) else { return };
        if self.handle.slots().is_paused(id) {
            self.services.admission.do_send(SetFootprint { instance: id, memory: instance.record.charged() });
        } else {
            self.resume(id);
        }
    }

    /// Resumes a waking instance.
    fn resume(&mut self, id: InstanceId) {
        let Some(wanted_at) = self.handle.slots().resume(id) else { return };
        self.comebacks.note(Instant::now());
        self.prewarm_ended(id, PrewarmResult::Used);
        if let Some(instance) = self.instances.get(id) {
            instance.record.set_charged(instance.record.memory);
            instance.address.do_send(Resume { wanted_at });
        }
    }
}
