//! What functions ask of admission, and the limits that it keeps.

use std::time::Duration;

use tokio::time::Instant;

use crate::{id::InstanceId, spec::SandboxSpec};

/// The resources of the host that instances may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    /// Memory, in MiB.
    pub memory: u64,
    /// Processes that may be starting at once.
    pub process_starts: usize,
    /// Containers and virtual machines that may be starting at once.
    pub starts: usize,
}

/// Which limit on simultaneous starts applies to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartKind {
    Process,
    /// Containers and virtual machines.
    Isolated,
}

impl From<&SandboxSpec> for StartKind {
    fn from(sandbox: &SandboxSpec) -> Self {
        match sandbox {
            SandboxSpec::Process(_) => StartKind::Process,
            SandboxSpec::Container(_) | SandboxSpec::Vm(_) => StartKind::Isolated,
        }
    }
}

/// One instance that a function wants to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartRequest {
    /// In MiB.
    pub memory: u64,
    pub kind: StartKind,
    pub urgency: Urgency,
}

/// A paused instance that a function wants to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WakeRequest {
    pub instance: InstanceId,
    pub urgency: Urgency,
}

/// The priority of a request. The most urgent one compares as the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// A caller has waited since this time.
    Caller(Instant),
    /// The function keeps `min-instances` ready.
    Minimum,
    /// A request is expected soon. Nothing is evicted for it.
    Prewarm,
    /// A snapshot is taken of it, which has been due since this time. Nothing is evicted for it.
    Template(Instant),
}

/// How long a template waits for a moment at which nothing else starts. After that it starts beside others.
pub(crate) const TEMPLATE_PATIENCE: Duration = Duration::from_secs(30);

impl Urgency {
    /// Returns whether idle instances are evicted for the request.
    pub fn makes_room(self) -> bool {
        matches!(self, Urgency::Caller(_) | Urgency::Minimum)
    }
}

/// An instance that its function can do without.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct IdleInstance {
    pub instance: InstanceId,
    pub idle_since: Instant,
    /// How often it is wanted, per second.
    pub rate: f64,
    /// It runs, and can be paused instead of ended.
    pub pause: Option<Pausable>,
    /// How much later a request is served if it has ended, compared with a paused instance, or with this one if it cannot be
    /// paused.
    pub delay: Duration,
}

/// What a pause of a running instance brings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pausable {
    /// What it is expected to hold then, in MiB.
    pub footprint: u64,
    /// How much later a request is served.
    pub delay: Duration,
}
