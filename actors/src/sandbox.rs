//! What the actors ask of the outside services: start an instance, probe it, end it, give everything back.
//!
//! The daemon implements [`Sandboxes`] (one file per kind of sandbox); the tests implement it with a script. Everything
//! here runs on the thread of the actors, so nothing needs to be `Send`, and nothing may block.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures::future::LocalBoxFuture;
use slog::Logger;

use crate::{
    id::{InstanceId, ReadyToken},
    output::OutputLog,
    spec::{FunctionSpec, Readiness},
};

/// Every way to run an instance, behind one door.
pub trait Sandboxes {
    /// Starts one instance of `order.spec`.
    ///
    /// Resolves as soon as the instance exists and its address is known; it need not be ready. An error means that
    /// nothing is left: whatever was made on the way has been given back.
    ///
    /// The future is always polled to its end, never dropped half-way, unless the whole daemon goes down.
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>>;

    /// Resolves once the instance at `address` is ready in the sense of `readiness`; never, for
    /// [`Readiness::Callback`]. Dropped when nobody is interested any more.
    fn probe(&self, address: SocketAddr, readiness: &Readiness) -> LocalBoxFuture<'static, ()>;
}

/// What is to be started.
#[derive(Debug)]
pub struct LaunchOrder {
    /// The instance's public name, for labels, file names and logs.
    pub instance: InstanceId,
    /// What to start.
    pub spec: Arc<FunctionSpec>,
    /// The secret part of the callback URL.
    pub token: ReadyToken,
    /// Where everything the instance prints goes.
    pub output: OutputLog,
    /// Has `function` and `instance` bound.
    pub log: Logger,
}

/// An instance that has been started.
pub struct Launched {
    /// Where the function will listen.
    pub address: SocketAddr,
    /// The only address from which its ready callback is believed.
    pub callback_source: IpAddr,
    /// The hold on it.
    pub sandbox: Box<dyn SandboxHandle>,
    /// Resolves at once when the instance has ended, whoever ended it.
    pub exited: LocalBoxFuture<'static, SandboxExit>,
    /// Process id on the host (of the child, the container's init or the machine monitor).
    pub pid: Option<u32>,
    /// What the engine calls it, such as a container id.
    pub engine_id: Option<String>,
    /// Host resources held for it, in words for `/debug`: `"port 127.0.0.1:22768"`, `"cgroup /unifaas/…"`.
    pub resources: Vec<String>,
}

/// The hold on a started instance, and on everything the host lent it.
///
/// Dropping a guest is the last resort (a panic, a daemon that goes down): it kills synchronously and gives back what
/// can be given back without waiting.
pub trait SandboxHandle {
    /// Asks the instance to end by itself (SIGTERM or what the engine has for it). Never blocks; may be ignored by it.
    fn terminate(&mut self);

    /// Ends the instance for sure. Never blocks.
    fn kill(&mut self);

    /// Gives back every resource of the host. Called once, after `exited` has resolved or has been given up on.
    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>>;
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxExit {
    /// It ended by itself with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// The kernel ended it because it used more memory than allowed, in MiB.
    OutOfMemory {
        /// The limit, in MiB.
        limit: u64,
    },
    /// In the engine's own words.
    Other(String),
}

impl fmt::Display for SandboxExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxExit::Code(code) => write!(f, "exited with status {code}"),
            SandboxExit::Signal(signal) => {
                write!(f, "killed by signal {signal}")?;
                // Those that say by themselves what went wrong.
                let name = match signal {
                    6 => "SIGABRT",
                    7 => "SIGBUS",
                    11 => "SIGSEGV",
                    24 => "SIGXCPU",
                    25 => "SIGXFSZ",
                    31 => "SIGSYS",
                    _ => return Ok(()),
                };
                write!(f, " ({name})")
            }
            SandboxExit::OutOfMemory { limit } => write!(f, "killed: out of memory (limit {limit} MiB)"),
            SandboxExit::Other(words) => f.write_str(words),
        }
    }
}

/// Why an instance could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// This host cannot run such a function: an engine, a device or a privilege is missing.
    #[error("{0}")]
    Missing(String),
    /// The host has nothing left of something each instance needs.
    #[error("{0}")]
    Exhausted(String),
    /// The engine or the operating system refused, in its own words.
    #[error("{0}")]
    Refused(String),
}

/// Why a resource could not be given back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not give back {what}: {why}")]
pub struct ReclaimError {
    /// The resource.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// How long the return of an instance's resources may take before it is given up, logged and counted as leaked.
pub const RECLAIM_TIMEOUT: Duration = Duration::from_secs(30);
