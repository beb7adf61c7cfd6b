//! The start of a confined child, with all its output in one pipe. It is journaled before, and its process id after.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::pin,
    process::Stdio,
    time::Duration,
};

use futures::future;
use nix::{
    sys::signal::{self, Signal},
    unistd::{Pid, Uid, getpid},
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, Command},
    sync::{mpsc, oneshot},
    task, time,
};
use unifaas_actors::{
    OutputLog,
    sandbox::{LaunchError, SandboxExit},
};

use super::{
    Invocation, ProcessRuntime,
    command::DAEMON_PROGRAM,
    confine::{self, Confinement, EXEC},
    handle::{ProcessHandle, SignalSender},
    supervise::supervise,
    user::{Credentials, is_only_user},
};
use crate::{
    host::open_files,
    sandbox::cgroup::{Group, ResourceLimits},
    spawner::Reply,
    state::{self, Journal, JournalEntry, JournalError, ProcessTree, Resource, SessionLeader},
};

/// Other processes of its user may stop a child before it executes its program. It is checked this often, and continued
/// until it has been stopped `MAX_STOPS` times.
const STOP_CHECK_INTERVAL: Duration = Duration::from_millis(100);
const MAX_STOPS: u32 = 5;

type Stdin = Box<dyn FnOnce() -> io::Result<OwnedFd> + Send>;

/// A child to be started.
pub struct SpawnRequest {
    invocation: Invocation,
    directory: PathBuf,
    confinement: Confinement,
    other_user: bool,
    stdin: Option<Stdin>,
}

/// A child that has executed its program.
pub struct Started {
    pub handle: ProcessHandle,
    pub exited: oneshot::Receiver<SandboxExit>,
    pub pid: Pid,
    /// The labels of its cgroup. Empty: it runs without limit.
    pub cgroups: Vec<String>,
}

/// A child could not be started. Nothing is left of it, nor journaled.
#[derive(Debug)]
pub struct StartError {
    /// The step that failed: [`EXEC`], or one before the program is executed.
    step: String,
    error: io::Error,
}

/// The journal entry of a process tree.
#[derive(Debug)]
pub struct ProcessRecord {
    pub tree: ProcessTree,
    entry: JournalEntry,
}

impl ProcessRecord {
    /// Journals that there will be processes of `instance`.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub async fn begin(journal: &Journal, instance: String) -> Result<Self, JournalError> {
        let tree = ProcessTree { instance, leader: None };
        Ok(Self { entry: journal.record(Resource::Process(tree.clone())).await?, tree })
    }

    /// Removes the entry: there are no such processes any more.
    pub fn remove(self) {
        self.entry.remove();
    }

    fn update(&mut self, leader: SessionLeader) {
        self.tree.leader = Some(leader);
        self.entry.update(Resource::Process(self.tree.clone()));
    }
}

impl SpawnRequest {
    /// Runs the command in `directory`. Without `user` it runs as the daemon's user, as it does where that is the only one.
    pub fn new(invocation: Invocation, directory: PathBuf, user: Option<&Credentials>) -> Self {
        let user = user.filter(|_| !is_only_user());
        let confinement = Confinement {
            daemon: getpid().as_raw(),
            user: user.map(Into::into),
            capabilities: None,
            file_size: None,
            open_files: open_files::inherited(),
            cgroups: Vec::new(),
        };
        let other_user = user.is_some_and(|user| user.uid != Uid::effective());
        Self { invocation, directory, confinement, other_user, stdin: None }
    }

    /// Limits the capabilities of the child and its descendants, a bit for each.
    pub fn capabilities(mut self, kept: u64) -> Self {
        self.confinement.capabilities = Some(kept);
        self
    }

    /// Limits the size of files that it writes, in MiB.
    pub fn file_size(mut self, limit: Option<u32>) -> Self {
        self.confinement.file_size = limit.map(|mib| u64::from(mib) << 20);
        self
    }

    /// Sets its standard input, instead of an empty one. `stdin` is called on the spawner's thread, within its runtime.
    pub fn stdin(mut self, stdin: impl FnOnce() -> io::Result<OwnedFd> + Send + 'static) -> Self {
        self.stdin = Some(Box::new(stdin));
        self
    }

    /// Creates the child, which will execute its program after the confinement. On the spawner's thread.
    fn spawn(self) -> Result<Child, StartError> {
        let Self { invocation, directory, confinement, stdin, .. } = self;
        let at = |step: &'static str| move |error| StartError { step: step.to_owned(), error };
        let confinement = serde_json::to_string(&confinement).map_err(io::Error::from).map_err(at("arguments"))?;
        let stdin = stdin.map_or_else(|| Ok(Stdio::null()), |stdin| stdin().map(Stdio::from)).map_err(at("stdin"))?;
        let mut command = Command::new(DAEMON_PROGRAM);
        command.args([confine::ARGUMENT, &confinement]).arg(directory).arg(invocation.program).arg(invocation.name);
        command.args(invocation.arguments).env_clear().envs(invocation.env);
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().map_err(at(EXEC))
    }
}

impl StartError {
    /// Says what failed: the program, or a step before it.
    pub fn describe(&self, program: &Path) -> String {
        if self.is_of_program() {
            format!("cannot start {}: {}", program.display(), self.error)
        } else {
            format!("cannot start a process: {}: {}", self.step, self.error)
        }
    }

    /// Returns whether the program could not be executed, rather than a step before it.
    pub fn is_of_program(&self) -> bool {
        self.step == EXEC
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }

    /// Returns the error of a launch, with `why` for the author of the function.
    pub fn into_launch_error(self, why: String) -> LaunchError {
        if open_files::is_exhaustion(&self.error) { LaunchError::Exhausted(why) } else { LaunchError::Refused(why) }
    }

    fn of_report(report: &str) -> Self {
        match confine::parse_report(report) {
            Some((step, error)) => Self { step: step.to_owned(), error },
            // The dynamic loader failed, or the step panicked.
            None => Self { step: confine::ARGUMENT.to_owned(), error: io::Error::other(report.trim().to_owned()) },
        }
    }
}

impl ProcessRuntime {
    /// Starts a child in a cgroup of its own, and copies its output to `output`. Returns once it has executed its program.
    ///
    /// # Errors
    /// Names the step that failed. Nothing is left of the child then, nor journaled.
    pub async fn start(
        &self,
        mut request: SpawnRequest,
        limits: ResourceLimits,
        mut record: ProcessRecord,
        output: OutputLog,
    ) -> Result<Started, StartError> {
        let (cgroups, other_user) = (self.cgroups.clone(), request.other_user);
        // The kernel creates cgroups one at a time.
        let group = task::spawn_blocking(move || cgroups.group(limits, other_user)).await.unwrap_or_default();
        request.confinement.cgroups = group.iter().flat_map(Group::join_files).collect();
        let labels = group.iter().flat_map(Group::labels).map(str::to_owned).collect();
        let mailbox = self.spawner.mailbox();
        let (created, is_created) = self.spawner.reply();
        let (exit, exited) = self.spawner.reply();
        let (finish, done) = self.spawner.reply();
        let work = move || async move {
            let (child, pid) = start(request, created).await?;
            let (signals, received) = mpsc::unbounded_channel();
            let supervision = supervise(child, pid, group, limits.memory, output, received, exit);
            task::spawn_local(async move { finish.send(supervision.await) });
            Ok((pid, SignalSender::new(signals, mailbox)))
        };
        let journal = async {
            if let Ok(leader) = is_created.await {
                record.update(leader);
            }
        };
        let (started, ()) = future::join(self.spawner.run(work), journal).await;
        let panicked = |error| StartError { step: "spawn".to_owned(), error };
        match started.map_err(panicked).flatten() {
            Ok((pid, signals)) => {
                let (cgroups, orphan_reaper) = (self.cgroups.clone(), self.orphan_reaper.clone());
                let handle = ProcessHandle::new(pid, signals, done, record, cgroups, orphan_reaper);
                Ok(Started { handle, exited, pid, cgroups: labels })
            }
            Err(error) => {
                record.remove();
                Err(error)
            }
        }
    }
}

/// Starts a child, on the spawner's thread. Returns once it has executed its program. Nothing is left of it after an error.
async fn start(request: SpawnRequest, created: Reply<SessionLeader>) -> Result<(Child, Pid), StartError> {
    // The kernel notes start times by the same clock. To ask it for one takes longer.
    let after = state::boot_clock();
    let mut child = request.spawn()?;
    let pid = Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or_default());
    created.send(SessionLeader { pid: pid.as_raw(), after, before: state::boot_clock() });
    let executed = match child.stderr.take() {
        Some(report) => executed(report, pid).await,
        None => Ok(()),
    };
    if executed.is_err() {
        let _ = child.kill().await;
    }
    executed.map(|()| (child, pid))
}

/// Waits until the child has executed its program, which closes `report`.
async fn executed(mut report: ChildStderr, pid: Pid) -> Result<(), StartError> {
    let mut text = String::new();
    let mut stops = 0;
    let read = {
        let mut read = pin!(report.read_to_string(&mut text));
        loop {
            if let Ok(read) = time::timeout(STOP_CHECK_INTERVAL, read.as_mut()).await {
                break read;
            }
            if state::is_stopped(pid.as_raw()) {
                stops += 1;
                if stops == MAX_STOPS {
                    let why = "another process stopped it before it executed its program";
                    break Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                let _ = signal::kill(pid, Signal::SIGCONT);
            }
        }
    };
    match read {
        Ok(0) => Ok(()),
        Ok(_) => Err(StartError::of_report(&text)),
        Err(error) => Err(StartError { step: confine::ARGUMENT.to_owned(), error }),
    }
}
