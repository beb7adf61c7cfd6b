//! Collects what `/debug` shows of a function and its instances. Callable from any thread.
//!
//! Listing many functions costs the actors' thread nothing for those that are inactive: they are read from their handles.
//! Callers that list all functions go through them in slices and let other tasks run in between.

use std::time::Duration;

use actix::Addr;
use futures::future::join_all;
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    function::{FunctionHandle, FunctionQuestion, FunctionSnapshot, InstanceRef},
    id::InstanceId,
    instance::{InstanceActor, InstanceQuestion, InstanceSnapshot, Occupancy},
    output::MAX_LINES,
};

/// How long an actor may take to answer before it is left out.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A function and its instances.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionReport {
    /// The function itself.
    #[serde(flatten)]
    pub function: FunctionSnapshot,
    /// Its instances; the one whose state changed last is first.
    pub instances: Vec<InstanceSnapshot>,
}

impl FunctionHandle {
    /// Returns what the function and its instances look like now. An inactive function is not asked, only read. Instances
    /// that do not answer in time are left out, and so is all but the last `lines` of each one's output. `None`: the
    /// function's actor has ended or does not answer in time.
    pub async fn inspect(&self, lines: usize) -> Option<FunctionReport> {
        if let Some(function) = self.inactive_snapshot() {
            return Some(FunctionReport { function, instances: Vec::new() });
        }
        let function = self.ask().await?;
        let questions = function.instances.iter().map(|it| ask_instance(&it.address, it.occupancy, lines));
        let mut instances: Vec<_> = join_all(questions).await.into_iter().flatten().collect();
        instances.sort_by(|a, b| a.since_seconds.total_cmp(&b.since_seconds));
        Some(FunctionReport { function, instances })
    }

    /// Returns what one instance of the function looks like now. `None`: it is not an instance of this function, or does
    /// not answer in time.
    pub async fn inspect_instance(&self, id: InstanceId) -> Option<InstanceSnapshot> {
        if self.is_inactive() {
            return None;
        }
        let InstanceRef { address, occupancy, .. } = self.ask().await?.instances.into_iter().find(|it| it.id == id)?;
        ask_instance(&address, occupancy, MAX_LINES).await
    }

    async fn ask(&self) -> Option<FunctionSnapshot> {
        timeout(ANSWER_TIMEOUT, self.actor().send(FunctionQuestion)).await.ok()?.ok()
    }
}

async fn ask_instance(
    instance: &Addr<InstanceActor>,
    occupancy: Option<Occupancy>,
    lines: usize,
) -> Option<InstanceSnapshot> {
    timeout(ANSWER_TIMEOUT, instance.send(InstanceQuestion { occupancy, lines })).await.ok()?.ok()
}
