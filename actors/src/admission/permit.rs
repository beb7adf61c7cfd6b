//! The right to run one instance.

use std::rc::Rc;

use actix::Addr;

use super::{
    AdmissionActor,
    messages::{HoldingChange, HoldingChanged},
};
use crate::{boot::EvictedInstance, id::InstanceId};

/// The right to run one instance, and its share of the host. Returned to the AdmissionActor when it is dropped, so its
/// owner drops it after everything else of the instance.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Addr<AdmissionActor>,
    instance: InstanceId,
    evicted: Vec<EvictedInstance>,
}

impl Permit {
    pub(super) fn new(admission: Addr<AdmissionActor>, instance: InstanceId, evicted: Vec<EvictedInstance>) -> Self {
        Self { admission, instance, evicted }
    }

    /// Returns the id of the instance that it is for.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// Returns the instances that were paused or ended to make room for it.
    pub fn evicted(&self) -> &[EvictedInstance] {
        &self.evicted
    }

    /// Reports that the instance is ready, so that another one may start.
    pub fn set_started(&self) {
        self.send(HoldingChange::Started);
    }

    /// Reports that the instance is being ended, so that its memory is released soon.
    pub fn set_stopping(&self) {
        self.send(HoldingChange::Stopping);
    }

    /// Keeps the memory of an instance that could not be ended until `ended` resolves. Other functions evict instances as
    /// if that memory were never released, and the end of the daemon does not wait for it.
    pub fn keep_until(self: Rc<Self>, ended: impl Future<Output = ()> + 'static) {
        self.send(HoldingChange::Stuck);
        actix::spawn(async move {
            ended.await;
            drop(self);
        });
    }

    fn send(&self, change: HoldingChange) {
        self.admission.do_send(HoldingChanged { instance: self.instance, change });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.send(HoldingChange::Released);
    }
}
