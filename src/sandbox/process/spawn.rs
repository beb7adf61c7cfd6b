//! The start of a confined child, with all its output in one pipe. It is journaled before, and its process id after.

use std::{
    borrow::Cow,
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::unistd::{Pid, Uid};
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task,
};
use unifaas_actors::{
    OutputLog,
    sandbox::{LaunchError, SandboxExit},
};

use super::{
    ProcessRuntime,
    handle::ProcessHandle,
    supervise::supervise,
    user::{Credentials, is_only_user},
};
use crate::{
    host::open_files,
    sandbox::cgroup::{Group, ResourceLimits},
    spawner::{Child, Confinement, EXEC, Failure, Invocation, Launch, Spawner},
    state::{Journal, JournalEntry, JournalError, ProcessTree, Resource, SessionLeader},
};

/// A child to be started.
pub struct SpawnRequest {
    invocation: Invocation,
    directory: PathBuf,
    confinement: Confinement,
    other_user: bool,
    stdin: Option<OwnedFd>,
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
    step: Cow<'static, str>,
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

    /// Sets its standard input, instead of an empty one.
    pub fn stdin(&mut self, stdin: OwnedFd) {
        self.stdin = Some(stdin);
    }

    /// Starts the child. Returns its output, too.
    fn spawn(self, spawner: &Spawner) -> io::Result<(Child, pipe::Receiver)> {
        let Self { invocation, directory, confinement, stdin, .. } = self;
        let (output, writer) = io::pipe()?;
        let stdin = stdin.map_or_else(|| File::open("/dev/null").map(OwnedFd::from), Ok)?;
        let standard = [stdin, writer.try_clone()?.into(), writer.into()];
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let launch = Launch { invocation, directory: directory.into(), confinement: Some(confinement) };
        Ok((spawner.start(launch, standard), output))
    }
}

impl From<&Credentials> for (u32, u32, Vec<u32>) {
    fn from(user: &Credentials) -> Self {
        (user.uid.as_raw(), user.gid.as_raw(), user.groups.iter().map(|group| group.as_raw()).collect())
    }
}

impl From<Failure> for StartError {
    fn from(Failure { step, errno }: Failure) -> Self {
        Self { step, error: io::Error::from_raw_os_error(errno) }
    }
}

impl StartError {
    /// Creates the error of a step before the child is created.
    pub fn new(step: &'static str, error: io::Error) -> Self {
        Self { step: step.into(), error }
    }

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
        let (child, stdout, pid) = match self.execute(request, &mut record).await {
            Ok(executed) => executed,
            Err(error) => {
                record.remove();
                return Err(error);
            }
        };
        let (signals, received) = mpsc::unbounded_channel();
        let (exit, exited) = oneshot::channel();
        let (finish, done) = oneshot::channel();
        let supervision = supervise(child, stdout, group, limits.memory, output, received, exit);
        task::spawn_local(async move { finish.send(supervision.await) });
        let (cgroups, orphan_reaper) = (self.cgroups.clone(), self.orphan_reaper.clone());
        let handle = ProcessHandle::new(pid, signals, done, record, cgroups, orphan_reaper);
        Ok(Started { handle, exited, pid, cgroups: labels })
    }

    /// Starts the child, journals its PID, and waits until it has executed its program.
    async fn execute(
        &self,
        request: SpawnRequest,
        record: &mut ProcessRecord,
    ) -> Result<(Child, pipe::Receiver, Pid), StartError> {
        let (mut child, stdout) =
            request.spawn(&self.spawner).map_err(|error| StartError::new("descriptors", error))?;
        let leader = child.created().await?;
        record.update(leader);
        child.executed().await?;
        Ok((child, stdout, Pid::from_raw(leader.pid)))
    }
}
