//! What is kept of one instance, while it exists and after its end.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    boot::BootRecord,
    id::InstanceId,
    memory_usage::MemoryUsage,
    output::{MAX_LINES, OutputLine, OutputLog},
    sandbox::SandboxExit,
    stop_reason::StopReason,
    wall_time::{WallTime, rounded_seconds},
};

/// What is kept of one instance. Its InstanceActor writes it, but for the requests and the charge, which are its
/// FunctionActor's.
#[derive(Debug)]
pub struct InstanceRecord {
    /// Its function.
    pub function: Arc<str>,
    /// Its public id.
    pub instance: InstanceId,
    /// The record of its start.
    pub boot: Arc<BootRecord>,
    /// Everything that it prints.
    pub output: OutputLog,
    /// Memory that its spec declares, in MiB.
    pub memory: u64,
    /// Memory that it is charged, in MiB.
    charged: AtomicU64,
    /// Reads the memory that it uses.
    memory_usage: OnceLock<MemoryUsage>,
    ordered_at: Instant,
    served: AtomicU64,
    end: OnceLock<End>,
}

#[derive(Debug)]
struct End {
    cause: &'static str,
    is_orderly: bool,
    exit: Option<SandboxExit>,
    at: WallTime,
    lifetime: Duration,
    /// Of the output, in bytes.
    size: usize,
}

impl InstanceRecord {
    /// Begins the record of an instance that is ordered now.
    pub(crate) fn new(boot: BootRecord, output: OutputLog, ordered_at: Instant, memory: u64) -> Self {
        let (function, instance) = (boot.function.clone(), boot.instance);
        let (memory_usage, served, end) = Default::default();
        let (boot, charged) = (Arc::new(boot), AtomicU64::new(memory));
        Self { function, instance, boot, output, memory, charged, memory_usage, ordered_at, served, end }
    }

    /// Returns how much memory the instance is charged, in MiB: what it declares, and what it holds while it is paused.
    pub fn charged(&self) -> u64 {
        self.charged.load(Relaxed)
    }

    pub(crate) fn set_charged(&self, memory: u64) {
        self.charged.store(memory, Relaxed);
    }

    /// Returns how long ago the instance was ordered.
    pub(crate) fn age(&self) -> Duration {
        self.ordered_at.elapsed()
    }

    /// Notes what reads the memory that the instance uses.
    pub(crate) fn set_memory_usage(&self, usage: MemoryUsage) {
        // It is launched once.
        let _ = self.memory_usage.set(usage);
    }

    /// Reads how many bytes of memory the instance uses. Blocks as long as the kernel takes. `None`: it is not known.
    pub fn memory_used(&self) -> Option<u64> {
        self.memory_usage.get()?.used()
    }

    /// Reads how many bytes of memory the instance has used at most. Blocks likewise. `None`: it is not known.
    pub fn memory_peak(&self) -> Option<u64> {
        self.memory_usage.get()?.peak()
    }

    /// Notes how many requests the instance has got, when it gets no more.
    pub(crate) fn set_served(&self, served: u64) {
        self.served.store(served, Relaxed);
    }

    /// Notes the end of the instance. Its output is complete; later output is dropped.
    pub(super) fn set_ended(&self, cause: &StopReason, exit: Option<SandboxExit>) {
        let size = self.output.seal();
        let (cause, is_orderly, at) = (cause.code(), cause.is_orderly(), WallTime::now());
        // It ends once.
        let _ = self.end.set(End { cause, is_orderly, exit, at, lifetime: self.ordered_at.elapsed(), size });
    }

    /// Returns whether the daemon ended the instance because it was not needed any more.
    pub(super) fn ended_orderly(&self) -> bool {
        self.end.get().is_some_and(|end| end.is_orderly)
    }

    /// Returns the size of an ended instance's output, in bytes.
    pub(super) fn size(&self) -> usize {
        self.end.get().map_or(0, |end| end.size)
    }

    /// Returns what the admin pages show of an ended instance. `None`: it still exists.
    pub fn ended(&self) -> Option<EndedReport> {
        let end = self.end.get()?;
        Some(EndedReport {
            id: self.instance,
            state: "gone",
            cause: end.cause,
            exit: end.exit.as_ref().map(ToString::to_string),
            ended: end.at,
            lifetime_seconds: rounded_seconds(end.lifetime),
            revision: self.boot.revision,
            served: self.served.load(Relaxed),
            output: Vec::new(),
        })
    }

    /// Returns the same with its output.
    pub fn ended_with_output(&self) -> Option<EndedReport> {
        self.ended().map(|ended| EndedReport { output: self.output.tail(MAX_LINES), ..ended })
    }
}

/// What the admin pages show of an ended instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndedReport {
    /// Its public id.
    pub id: InstanceId,
    /// `gone`.
    pub state: &'static str,
    /// Why it stopped serving, as [`StopReason::code`] has it.
    pub cause: &'static str,
    /// How it exited, if that was observed.
    pub exit: Option<String>,
    /// When nothing was left of it.
    pub ended: WallTime,
    /// From the launch order to that moment.
    pub lifetime_seconds: f64,
    /// The version of the function's spec that it was started from.
    pub revision: u64,
    /// Requests that it got.
    pub served: u64,
    /// The last lines that it printed, on its own page.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<Arc<OutputLine>>,
}
