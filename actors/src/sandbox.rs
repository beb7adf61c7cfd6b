//! What the actors need from outside: to start an instance, probe it, end it and reclaim its resources.
//!
//! The daemon implements [`Sandboxes`] with one file per kind of sandbox; the tests implement it with scripts. Everything
//! here runs on the actors' thread: nothing needs to be `Send`, and nothing may block.

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
    redact::Redactor,
    spec::{FunctionSpec, Readiness},
};

/// Starts and probes instances of every kind.
pub trait Sandboxes {
    /// Starts one instance of `order.spec`.
    ///
    /// Resolves as soon as the instance exists and its address is known; it need not be ready. The future is always
    /// polled to its end, never dropped half-way, unless the whole daemon ends.
    ///
    /// # Errors
    /// The instance could not be started, and everything that was acquired for it has been reclaimed.
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>>;

    /// Resolves once the instance at `address` is ready as `readiness` defines it; never for [`Readiness::Callback`].
    /// Dropped when the result is not needed any more.
    fn probe(&self, address: SocketAddr, readiness: &Readiness) -> LocalBoxFuture<'static, ()>;
}

/// The parameters of a launch.
#[derive(Debug)]
pub struct LaunchOrder {
    /// The instance's public id, for labels, file names and logs.
    pub instance: InstanceId,
    /// What to start.
    pub spec: Arc<FunctionSpec>,
    /// The secret part of the callback URL.
    pub token: ReadyToken,
    /// Receives everything that the instance prints.
    pub output: OutputLog,
    /// Has `function` and `instance` bound.
    pub log: Logger,
}

/// An instance that has been started.
pub struct Launched {
    /// Where the function will listen.
    pub address: SocketAddr,
    /// The only address from which its ready callback is accepted.
    pub callback_source: IpAddr,
    /// Controls the instance and owns its resources.
    pub sandbox: Box<dyn SandboxHandle>,
    /// Resolves at once when the instance has exited, for whatever reason.
    pub exited: LocalBoxFuture<'static, SandboxExit>,
    /// Process id on the host: of the child, the container's init or the VMM.
    pub pid: Option<u32>,
    /// The engine's id for it, such as a container id.
    pub engine_id: Option<String>,
    /// Host resources held for it, as text for `/debug`: `"port 127.0.0.1:22768"`, `"cgroup /unifaas/…"`.
    pub resources: Vec<String>,
}

/// Controls a started instance and owns every host resource of it.
///
/// Dropping a handle without [`reclaim`](Self::reclaim) is the last resort after a panic or at the end of the daemon. It
/// kills the instance synchronously and releases what can be released without waiting.
pub trait SandboxHandle {
    /// Asks the instance to exit, by SIGTERM or the engine's equivalent. Never blocks; the instance may ignore it.
    fn terminate(&mut self);

    /// Kills the instance. Never blocks.
    fn kill(&mut self);

    /// Reclaims every host resource. Called once, after `exited` has resolved or is not waited for any more.
    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>>;
}

/// How an instance exited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxExit {
    /// It exited with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// The kernel killed it because it exceeded its memory limit.
    OutOfMemory {
        /// The limit, in MiB.
        limit: u64,
    },
    /// The engine's own description.
    Other(String),
}

impl SandboxExit {
    /// Returns the exit with the instance's secrets redacted.
    pub fn redacted(self, redactor: &Redactor) -> Self {
        match self {
            Self::Other(text) => Self::Other(redactor.redact(text).into_owned()),
            other => other,
        }
    }
}

impl fmt::Display for SandboxExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SandboxExit::Code(code) => write!(f, "exited with status {code}"),
            SandboxExit::Signal(signal) => {
                write!(f, "killed by signal {signal}")?;
                // Only signals whose name explains the failure.
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
            SandboxExit::Other(text) => f.write_str(text),
        }
    }
}

/// Why an instance could not be started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The host cannot run such a function: an engine, a device or a privilege is missing.
    #[error("{0}")]
    Missing(String),
    /// The host has nothing left of a resource that each instance needs.
    #[error("{0}")]
    Exhausted(String),
    /// The engine or the operating system returned this error.
    #[error("{0}")]
    Refused(String),
}

impl LaunchError {
    /// Returns the error with the instance's secrets redacted.
    pub fn redacted(self, redactor: &Redactor) -> Self {
        let redact = |text: String| redactor.redact(text).into_owned();
        match self {
            Self::Missing(text) => Self::Missing(redact(text)),
            Self::Exhausted(text) => Self::Exhausted(redact(text)),
            Self::Refused(text) => Self::Refused(redact(text)),
        }
    }
}

/// Why a resource could not be reclaimed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("could not give back {what}: {why}")]
pub struct ReclaimError {
    /// The resource.
    pub what: String,
    /// The reason.
    pub why: String,
}

/// How long reclaiming an instance's resources may take before they are logged as leaked.
pub const RECLAIM_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_and_errors_redact_the_engine_s_text_only() {
        let env = [("KEY".to_owned(), "hunter2".to_owned())].into_iter().collect::<std::collections::BTreeMap<_, _>>();
        let redactor = Redactor::new(ReadyToken::random(), &env.into());
        let exit = SandboxExit::Other("killed: hunter2".to_owned()).redacted(&redactor);
        assert_eq!(exit, SandboxExit::Other("killed: ${KEY}".to_owned()));
        assert_eq!(SandboxExit::Code(7).redacted(&redactor), SandboxExit::Code(7));
        let error = LaunchError::Refused("no hunter2".to_owned()).redacted(&redactor);
        assert_eq!(error, LaunchError::Refused("no ${KEY}".to_owned()));
    }
}
