//! The start of a confined child, with its output in one pipe. It is written down before, and its process id after.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::{self, Pid, Uid},
};
use tokio::{net::unix::pipe, time};
use unifaas_actors::sandbox::LaunchError;

use super::{
    Invocation, ProcessRuntime,
    child::{Child, Stdio},
    confine::Confinement,
    exec::Program,
    user::Credentials,
};
use crate::{
    host::open_files::is_exhaustion,
    sandbox::cgroup::{CgroupAllocator, Group, ResourceLimits},
    state::{self, Journal, JournalEntry, JournalError, ProcessTree, Resource, SessionLeader},
};

/// Whoever runs as the same user may stop a child that is about to execute its program. It is looked at so often, and told
/// to go on so many times but one before it is given up: a thread waits for it.
const LOOK: Duration = Duration::from_millis(100);
const STOPS: u32 = 5;

/// A child that is yet to be started.
pub struct Spawn {
    invocation: Invocation,
    directory: PathBuf,
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    file_size: Option<u32>,
    port: Option<u16>,
    stdin: Option<OwnedFd>,
}

/// A child that runs.
pub struct Spawned {
    pub child: Child,
    /// Its output and its errors, in the order in which it wrote them.
    pub output: pipe::Receiver,
    /// `None`: it runs without limit.
    pub group: Option<Group>,
    pub record: Record,
}

/// What is written down of the processes of an instance.
#[derive(Debug)]
pub struct Record {
    pub tree: ProcessTree,
    entry: JournalEntry,
}

impl Record {
    /// Writes down that there are about to be some.
    pub async fn begin(journal: &Journal, instance: String) -> Result<Self, JournalError> {
        let tree = ProcessTree { instance, leader: None };
        Ok(Self { entry: journal.record(Resource::Process(tree.clone())).await?, tree })
    }

    /// There are none any more.
    pub fn remove(self) {
        self.entry.remove();
    }

    fn led_by(mut self, leader: SessionLeader) -> Self {
        self.tree.leader = Some(leader);
        self.entry.update(Resource::Process(self.tree.clone()));
        self
    }
}

impl ProcessRuntime {
    /// Starts the child of an instance, in a cgroup of its own. Ready once the child executes its program. When that fails,
    /// or is kept from it, nothing is left, nor written down.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(&self, spawn: Spawn, limits: ResourceLimits, record: Record) -> io::Result<Spawned> {
        let (cgroups, child_pid) = (self.cgroups.clone(), Arc::new(AtomicI32::new(0)));
        let child = child_pid.clone();
        let mut start = pin!(self.spawner.run(move || spawn.run(&cgroups, limits, record, &child)));
        let mut stops = 0;
        while stops < STOPS {
            if let Ok(started) = time::timeout(LOOK, start.as_mut()).await {
                return started;
            }
            // Its number, once it has one, is its own until it is reaped, which nobody does before this returns.
            let pid = child_pid.load(Ordering::Relaxed);
            if pid != 0 && state::is_stopped(pid) {
                stops += 1;
                let way_out = if stops < STOPS { Signal::SIGCONT } else { Signal::SIGKILL };
                let _ = signal::kill(Pid::from_raw(pid), way_out);
            }
        }
        start.await?.undo(&self.cgroups).await?;
        Err(io::Error::new(io::ErrorKind::TimedOut, "it was stopped again and again before it executed its program"))
    }
}

impl Spawned {
    /// Gives everything back, once it has ended: it was killed.
    async fn undo(self, cgroups: &CgroupAllocator) -> io::Result<()> {
        let Self { child, group, record, .. } = self;
        child.ended().await?;
        child.reap()?;
        if let Some(group) = group {
            group.kill();
            cgroups.release(group).await?;
        }
        record.remove();
        Ok(())
    }
}

/// Why a child could not be started, in words of those who know what it is.
pub fn refused(why: String, error: &io::Error) -> LaunchError {
    if is_exhaustion(error) { LaunchError::Exhausted(why) } else { LaunchError::Refused(why) }
}

impl Spawn {
    /// The command is run in `directory`. Without `credentials` it runs as the daemon's user.
    pub fn new(invocation: Invocation, directory: PathBuf, credentials: Option<Credentials>) -> Self {
        Self { invocation, directory, credentials, capabilities: None, file_size: None, port: None, stdin: None }
    }

    /// The most that it, and whatever it starts, can ever have of root's capabilities, a bit for each.
    pub fn capabilities(mut self, most: u64) -> Self {
        self.capabilities = Some(most);
        self
    }

    /// The largest file that it may write, in MiB.
    pub fn file_size(mut self, most: Option<u32>) -> Self {
        self.file_size = most;
        self
    }

    /// The leased port at which it is to listen.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Something other than nothing to read from.
    pub fn stdin(mut self, stdin: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Blocks until the child executes its program.
    fn run(
        self,
        cgroups: &CgroupAllocator,
        limits: ResourceLimits,
        record: Record,
        child_pid: &AtomicI32,
    ) -> io::Result<Spawned> {
        let foreign = self.credentials.as_ref().is_some_and(|user| user.uid != Uid::effective());
        let group = cgroups.group(limits, foreign);
        // The kernel notes the time of a start by the same clock. To ask it for that would take longer than to write.
        let after = state::boot_clock();
        match self.start(group.as_ref(), child_pid) {
            Ok((child, output)) => {
                let leader = SessionLeader { pid: child.pid().as_raw(), after, before: state::boot_clock() };
                Ok(Spawned { child, output, group, record: record.led_by(leader) })
            }
            Err(error) => {
                record.remove();
                Err(error)
            }
        }
    }

    fn start(self, group: Option<&Group>, child_pid: &AtomicI32) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        if let Some(credentials) = &self.credentials {
            // So that it can open /dev/stdout.
            unistd::fchown(&writer, Some(credentials.uid), Some(credentials.gid))?;
        }
        let join_fds = group.map(Group::join_fds).transpose()?.unwrap_or_default();
        let program = Program::new(&self.invocation)?;
        let stdin = match self.stdin {
            Some(stdin) => stdin,
            None => File::open("/dev/null")?.into(),
        };
        let stdio = Stdio { stdin, output: writer.into() };
        let confinement = Confinement::new(
            &self.directory,
            self.credentials,
            self.capabilities,
            self.file_size,
            join_fds,
            self.port,
        )?;
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((Child::start(program, &stdio, &confinement, child_pid)?, output))
    }
}
