//! The start of a confined child, with its output in two pipes. It is journaled before, and its process id after.

use std::{
    env,
    ffi::CString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

use nix::{
    libc,
    unistd::{Pid, Uid},
};
use rustix::thread::CapabilitySet;
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    task,
};
use unifaas_actors::{
    BootClock, MemoryUsage, OutputLog, OutputStream, Phase,
    sandbox::{LaunchError, SandboxExit},
    spec::foreign_machine,
};

use super::{
    ProcessRuntime,
    handle::ProcessHandle,
    pause::PauseMethod,
    supervise::{OutputPipes, supervise},
    user::Credentials,
};
use crate::{
    host::open_files,
    sandbox::cgroup::{Group, ResourceLimits},
    spawner::{Child, Failure, Invocation, Spawner},
    state::{Journal, JournalEntry, JournalError, ProcessTree, Resource, SessionLeader},
    syscalls::{Confinement, Failed, Launch, Program, Step},
};

/// A child to be started.
pub struct SpawnRequest {
    invocation: Invocation,
    directory: PathBuf,
    confinement: Confinement,
    other_user: bool,
    stdin: Option<OwnedFd>,
    stdout_is: OutputStream,
}

/// A child that has executed its program.
pub struct Started {
    pub handle: ProcessHandle,
    pub exited: oneshot::Receiver<SandboxExit>,
    pub pid: Pid,
    /// The labels of its cgroup. Empty: it runs without limit.
    pub cgroups: Vec<String>,
    /// Reads the memory that it uses.
    pub memory_usage: Option<MemoryUsage>,
}

/// A child could not be started. Nothing is left of it, nor journaled.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A step before the child is created.
    #[error("{step}: {error}")]
    Prepare { step: &'static str, error: io::Error },
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The program is for another machine.
    #[error("it is built for {machine}, and this host executes {}", env::consts::ARCH)]
    Foreign { machine: String },
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
    /// Runs the command in `directory`. Without `user` it runs as the daemon's user.
    pub fn new(invocation: Invocation, directory: PathBuf, user: Option<&Credentials>) -> Self {
        let (user_ids, open_files) = (user.map(Into::into), open_files::inherited());
        let confinement = Confinement { user: user_ids, open_files, ..Confinement::default() };
        let other_user = user.is_some_and(|user| user.uid != Uid::effective());
        Self { invocation, directory, confinement, other_user, stdin: None, stdout_is: OutputStream::Out }
    }

    /// Limits the capabilities of the child and its descendants.
    pub fn capabilities(mut self, kept: CapabilitySet) -> Self {
        self.confinement.capabilities = Some(kept.bits());
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

    /// Says that its standard output is the console of a virtual machine.
    pub fn console(mut self) -> Self {
        self.stdout_is = OutputStream::Console;
        self
    }

    /// Adds for which machine the program was built, if the kernel cannot execute it.
    fn explain(&self, error: StartError) -> StartError {
        let StartError::Failure(Failure::Step(Failed { step: Step::Exec, errno: libc::ENOEXEC })) = error else {
            return error;
        };
        let files = self.invocation.files();
        let machine = files.iter().find_map(|file| foreign_machine(&self.directory.join(file)));
        machine.map_or(error, |machine| StartError::Foreign { machine })
    }

    /// Starts the child. Returns its output, too.
    fn spawn(&self, spawner: &Spawner) -> io::Result<(Child, OutputPipes)> {
        let ((stdout, out), (stderr, err)) = (io::pipe()?, io::pipe()?);
        let stdin = match &self.stdin {
            Some(stdin) => stdin.try_clone()?,
            None => File::open("/dev/null")?.into(),
        };
        let receiver = |pipe: io::PipeReader| pipe::Receiver::from_owned_fd(pipe.into());
        let pipes = OutputPipes { stdout: receiver(stdout)?, stderr: receiver(stderr)?, stdout_is: self.stdout_is };
        let launch = Launch {
            program: Program::try_from(&self.invocation)?,
            directory: CString::new(self.directory.clone().into_os_string().into_vec())?,
            confinement: Some(self.confinement.clone()),
        };
        Ok((spawner.start(launch, [stdin, out.into(), err.into()]), pipes))
    }
}

impl From<&Credentials> for (u32, u32, Vec<u32>) {
    fn from(user: &Credentials) -> Self {
        (user.uid.as_raw(), user.gid.as_raw(), user.groups.iter().map(|group| group.as_raw()).collect())
    }
}

impl StartError {
    /// Returns the conversion of an error of a step before the child is created.
    pub fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Prepare { step, error }
    }

    /// Says what failed: the program, or a step before it.
    pub fn describe(&self, program: &Path) -> String {
        let name = program.display();
        match self {
            Self::Failure(Failure::Step(failed @ Failed { step: Step::Exec, .. })) => {
                format!("cannot start {name}: {}", failed.error())
            }
            Self::Foreign { .. } => format!("cannot start {name}: {self}"),
            _ => format!("cannot start a process: {self}"),
        }
    }

    /// Returns whether the program could not be executed, rather than a step before it.
    pub fn is_of_program(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Failure(Failure::Step(Failed { step: Step::Exec, .. })))
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Prepare { error, .. } => error.kind(),
            Self::Failure(failure) => failure.error().map_or(io::ErrorKind::Other, |error| error.kind()),
            Self::Foreign { .. } => io::ErrorKind::Other,
        }
    }

    /// Returns the error of a launch, with `why` for the author of the function.
    pub fn into_launch_error(self, why: String) -> LaunchError {
        let exhausted = match &self {
            Self::Prepare { error, .. } => open_files::is_exhaustion(error),
            Self::Failure(failure) => failure.error().is_some_and(|error| open_files::is_exhaustion(&error)),
            Self::Foreign { .. } => false,
        };
        match self {
            _ if exhausted => LaunchError::Exhausted(why),
            // Neither is the function's fault.
            Self::Failure(Failure::SpawnerEnded | Failure::Spawner(_)) => LaunchError::Missing(why),
            _ => LaunchError::Refused(why),
        }
    }
}

impl ProcessRuntime {
    /// Starts a child in a cgroup of its own, and copies its output to `output`. Returns once it has executed its program.
    /// Marks both steps on `clock`.
    ///
    /// # Errors
    /// Names the step that failed. Nothing is left of the child then, nor journaled.
    pub async fn start(
        &self,
        mut request: SpawnRequest,
        limits: ResourceLimits,
        mut record: ProcessRecord,
        output: OutputLog,
        clock: &BootClock,
    ) -> Result<Started, StartError> {
        let mut group = self.cgroups.group(limits, request.other_user).await;
        request.confinement.cgroups = group.as_ref().map(Group::join_files).unwrap_or_default();
        request.confinement.memory = group.as_ref().map(|_| limits.memory);
        let labels = group.iter().flat_map(Group::labels).map(str::to_owned).collect();
        let memory_usage = group.as_mut().and_then(Group::memory_usage);
        let freezer = group.as_ref().and_then(Group::freezer);
        clock.mark(Phase::Created);
        let mut executed = self.execute(&request, &mut record).await;
        if let Err(StartError::Failure(Failure::SpawnerEnded)) = executed {
            // Its successor is as good.
            executed = self.execute(&request, &mut record).await;
        }
        let (child, pipes, pid) = match executed {
            Ok(executed) => executed,
            Err(error) => {
                record.remove();
                return Err(request.explain(error));
            }
        };
        clock.mark(Phase::Started);
        let (signals, received) = mpsc::unbounded_channel();
        let (exit, exited) = oneshot::channel();
        let (finish, done) = oneshot::channel();
        let supervision = supervise(child, pipes, group, limits.memory, output, received, exit);
        task::spawn_local(async move { finish.send(supervision.await) });
        let method = freezer.map_or(PauseMethod::Signals, PauseMethod::Freezer);
        let (cgroups, orphan_reaper) = (self.cgroups.clone(), self.orphan_reaper.clone());
        let handle = ProcessHandle::new(pid, signals, done, record, cgroups, orphan_reaper, method)
            .with_memory_usage(memory_usage.clone());
        Ok(Started { handle, exited, pid, cgroups: labels, memory_usage })
    }

    /// Starts the child, waits until it has executed its program, and journals its PID.
    async fn execute(
        &self,
        request: &SpawnRequest,
        record: &mut ProcessRecord,
    ) -> Result<(Child, OutputPipes, Pid), StartError> {
        let (mut child, pipes) = request.spawn(&self.spawner).map_err(StartError::at("descriptors"))?;
        let leader = child.started().await?;
        record.update(leader);
        Ok((child, pipes, Pid::from_raw(leader.pid)))
    }
}
