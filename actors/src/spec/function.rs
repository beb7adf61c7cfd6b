//! [`FunctionSpec`]: one function, as the rest of the daemon sees it.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;

use super::{AsyncSpec, ClusterSpec, Environment, SandboxSpec, SnapshotSpec, SpecError, Triggers, check, files};

/// The content of a function's file: a spec, or every problem of the file.
pub type LoadedSpec = Result<Arc<FunctionSpec>, Arc<str>>;

/// The name of the file that makes a directory a function.
pub const SPEC_FILE: &str = "function.toml";

/// One checked function. Two specs are equal if instances of one can serve for the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FunctionSpec {
    /// The name of the directory, and of the function in `/invoke/<name>/`.
    pub name: String,
    /// The absolute path of the directory. Relative paths in the file start here.
    pub directory: PathBuf,
    /// Requests one instance serves at any moment. Always 1 for single-use functions.
    pub concurrent_requests: NonZeroUsize,
    /// Whether an instance ends after its first request.
    pub single_use: bool,
    /// How long an instance may be idle after its last response before it is paused or stopped.
    #[serde(serialize_with = "seconds")]
    pub keepalive: Duration,
    /// How long an idle instance is kept paused after `keepalive`. Zero: it is stopped instead.
    #[serde(serialize_with = "seconds")]
    pub keep_paused: Duration,
    /// Whether an instance is started and paused ahead of predicted requests.
    pub prewarm: bool,
    /// Instances kept ready without any request.
    pub min_instances: usize,
    /// Instances that may exist at once, including those that start or stop. `None`: limited by memory only.
    pub max_instances: Option<NonZeroUsize>,
    /// The limit from dispatch to the last byte of the response. `None`: no limit.
    #[serde(serialize_with = "optional_seconds")]
    pub timeout: Option<Duration>,
    /// The limit from the launch order to readiness.
    #[serde(serialize_with = "seconds")]
    pub boot_timeout: Duration,
    /// How long an instance may take to exit before it is killed.
    #[serde(serialize_with = "seconds")]
    pub stop_grace: Duration,
    /// Requests that may wait for a slot; the next one is refused.
    pub queue: NonZeroUsize,
    /// How long a request may wait for a slot.
    #[serde(serialize_with = "seconds")]
    pub queue_timeout: Duration,
    /// Largest request body, in bytes. `None`: no limit.
    pub max_body: Option<u64>,
    /// Where the function listens in its instance. Process instances get a port each instead.
    pub port: u16,
    /// How readiness is detected.
    pub readiness: Readiness,
    /// Environment of containers and processes. The values may be secrets: only the names are ever shown.
    pub env: Environment,
    /// How asynchronous invocations are treated.
    #[serde(rename = "async")]
    pub asynchronous: AsyncSpec,
    /// What invokes the function besides requests.
    #[serde(flatten)]
    pub triggers: Triggers,
    /// How other nodes take part in serving it.
    pub cluster: ClusterSpec,
    /// The kind of sandbox that an instance runs in.
    pub sandbox: SandboxSpec,
}

impl FunctionSpec {
    /// Reads and checks `directory/function.toml` and the files that it names. The function is named like the directory.
    ///
    /// # Errors
    /// Every problem of the file, or the one reason why it cannot be read or is not TOML.
    pub fn load(directory: &Path) -> Result<FunctionSpec, SpecError> {
        files::load(directory, None, false)
    }

    /// Does the same for a function whose directory is not named like it.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn load_named(name: &str, directory: &Path) -> Result<FunctionSpec, SpecError> {
        files::load(directory, Some(name), false)
    }

    /// Does the same as [`load`](Self::load), and checks that this host has its user, and its program in PATH.
    ///
    /// # Errors
    /// Those of `load`, and what is missing.
    pub fn check(directory: &Path) -> Result<FunctionSpec, SpecError> {
        files::load(directory, None, true)
    }

    /// Checks the text of a `function.toml` that belongs into `directory`. Reads no file.
    ///
    /// # Errors
    /// Every problem of the text.
    pub fn parse(name: &str, directory: &Path, text: &str) -> Result<FunctionSpec, SpecError> {
        check::check(name, directory, text).finish(directory.join(SPEC_FILE))
    }

    /// Returns how its instances are restored from a snapshot, if they are.
    pub fn snapshot(&self) -> Option<&SnapshotSpec> {
        match &self.sandbox {
            SandboxSpec::Vm(vm) => vm.snapshot.as_ref(),
            SandboxSpec::Process(_) | SandboxSpec::Container(_) => None,
        }
    }

    /// Returns the memory limit of one instance, in MiB.
    pub fn memory(&self) -> u64 {
        match &self.sandbox {
            SandboxSpec::Process(process) => process.memory,
            SandboxSpec::Container(container) => container.memory,
            SandboxSpec::Vm(vm) => vm.memory,
        }
    }
}

/// How readiness is detected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// The instance requests its callback URL.
    Callback,
    /// Its port accepts a connection.
    Tcp,
    /// A `GET` of this path answers with a status below 400.
    Http(String),
}

pub(super) fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn optional_seconds<S: serde::Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}
