//! What the actors need from outside: to start an instance, probe it, end it and reclaim its resources.
//!
//! The daemon implements [`Sandboxes`] with one file per kind of sandbox; the tests implement it with scripts. Everything
//! here runs on the actors' thread: nothing needs to be `Send`, and nothing may block.

mod failures;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::{
    future::{self, LocalBoxFuture},
    stream::LocalBoxStream,
};
use slog::Logger;

use crate::{
    boot::BootClock,
    id::{InstanceId, ReadyToken},
    memory_usage::MemoryUsage,
    output::OutputLog,
    spec::FunctionSpec,
    wall_time::WallTime,
};

pub use failures::{CaptureError, LaunchError, PauseError, ReclaimError, RestoreError, SandboxExit};

/// Starts instances of every kind.
pub trait Sandboxes {
    /// Starts one instance of `order.spec`.
    ///
    /// Resolves as soon as the instance exists and its address is known; it need not be ready. The future is always
    /// polled to its end, never dropped half-way, unless the whole daemon ends.
    ///
    /// # Errors
    /// The instance could not be started, and everything that was acquired for it has been reclaimed.
    fn launch(&self, order: LaunchOrder) -> LocalBoxFuture<'static, Result<Launched, LaunchError>>;

    /// Returns the snapshot that is kept of a function.
    fn snapshot(&self, _function: &str) -> Option<SnapshotInfo> {
        None
    }

    /// Removes the snapshots of a function, soon.
    fn remove_snapshots(&self, _function: &str) {}
}

/// Finds out whether an instance accepts requests, and why not. Its futures are dropped when their result is not needed.
pub trait Prober {
    /// Resolves once the instance is ready as its spec's `readiness` defines it; never if its callback decides that.
    fn ready(self: Rc<Self>) -> LocalBoxFuture<'static, Reached>;

    /// Connects to an instance that has called back.
    ///
    /// # Errors
    /// Says how the instance did not accept a connection for too long.
    fn connect(self: Rc<Self>) -> LocalBoxFuture<'static, Result<Reached, String>>;

    /// Says what was seen of an instance that is not ready in time. `refused` is the source of a callback with its token
    /// that came from another address.
    fn explain(self: Rc<Self>, refused: Option<IpAddr>) -> LocalBoxFuture<'static, String>;
}

/// How the daemon connects to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where the instance listens.
    pub address: SocketAddr,
    /// The interface of the instance, where others have the same address on theirs: connections are bound to it.
    pub device: Option<Arc<str>>,
}

impl From<SocketAddr> for Route {
    fn from(address: SocketAddr) -> Self {
        Self { address, device: None }
    }
}

/// Where an instance was found to accept requests.
#[derive(Debug)]
pub struct Reached {
    /// How it is connected to.
    pub route: Route,
    /// The connection that was opened there, on which nothing was sent.
    pub connection: Option<OwnedFd>,
}

impl From<Route> for Reached {
    fn from(route: Route) -> Self {
        Self { route, connection: None }
    }
}

impl From<SocketAddr> for Reached {
    fn from(address: SocketAddr) -> Self {
        Route::from(address).into()
    }
}

/// The parameters of a launch.
#[derive(Debug)]
pub struct LaunchOrder {
    /// The instance's public id, for labels, file names and logs.
    pub instance: InstanceId,
    /// What to start.
    pub spec: Arc<FunctionSpec>,
    /// What it is started for.
    pub purpose: Purpose,
    /// The secret part of the callback URL.
    pub token: ReadyToken,
    /// Receives everything that the instance prints.
    pub output: OutputLog,
    /// Marked at the end of each phase that this kind of sandbox has.
    pub clock: BootClock,
    /// Has `function` and `instance` bound.
    pub log: Logger,
}

/// What an instance is launched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve requests. `restore`: as a clone, if there is a snapshot of what would be booted.
    Serve {
        /// Whether it may be a clone.
        restore: bool,
    },
    /// To have its snapshot taken. It never serves.
    Template,
}

/// A snapshot that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its size on disk.
    pub bytes: u64,
    /// When it was taken.
    pub taken: WallTime,
}

/// An instance that has been started.
pub struct Launched {
    /// It is a clone that was restored from a snapshot, and runs already.
    pub restored: bool,
    /// How it is reached. `None`: it has exited before its address was known.
    pub network: Option<InstanceNetwork>,
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
    /// Reads the memory that it uses.
    pub memory_usage: Option<MemoryUsage>,
}

/// How the daemon and an instance reach each other.
#[derive(Clone)]
pub struct InstanceNetwork {
    /// Where the function is to listen.
    pub address: SocketAddr,
    /// The only address from which its ready callback is accepted.
    pub callback_source: IpAddr,
    /// Finds out whether it listens.
    pub prober: Rc<dyn Prober>,
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

    /// Pauses the instance, so that it uses no processor until it is resumed. [`terminate`](Self::terminate), [`kill`](Self::kill),
    /// [`reclaim`](Self::reclaim) and the drop of the handle also end an instance that is paused or being paused.
    ///
    /// # Errors
    /// Why it runs on.
    fn pause(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        Box::pin(future::ready(Err(PauseError::Unsupported)))
    }

    /// Resumes an instance that was paused.
    ///
    /// # Errors
    /// Why it may still be paused.
    fn resume(&mut self) -> LocalBoxFuture<'static, Result<(), PauseError>> {
        Box::pin(future::ready(Err(PauseError::Unsupported)))
    }

    /// Takes a snapshot of a template that is ready, and keeps it in place of earlier ones. The template does not run
    /// afterwards.
    ///
    /// # Errors
    /// Why there is no snapshot. Nothing is left of it.
    fn capture(&mut self) -> LocalBoxFuture<'static, Result<SnapshotInfo, CaptureError>> {
        Box::pin(future::ready(Err(CaptureError("this kind of sandbox has no snapshots".to_owned()))))
    }

    /// Returns how many bytes of memory the instance holds while it is paused. `None`: it is not known, and counts as what
    /// the spec declares.
    fn footprint(&self) -> Option<u64> {
        None
    }

    /// Yields each time that another program has paused the instance, which [`resume`](Self::resume) undoes as well. `None`: no
    /// program can do so unnoticed. Called once, after the launch.
    fn external_pauses(&mut self) -> Option<LocalBoxStream<'static, ()>> {
        None
    }

    /// Reclaims every host resource. Called once, after `exited` has resolved or is not waited for any more.
    fn reclaim(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), ReclaimError>>;
}

/// How long reclaiming an instance's resources may take before they are logged as leaked.
pub const RECLAIM_TIMEOUT: Duration = Duration::from_secs(30);
