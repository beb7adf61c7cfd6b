//! The start of a confined child, with its output in one pipe. It is written down before, and its process id after.

use std::{fs::File, io, os::fd::OwnedFd, path::PathBuf};

use nix::unistd::{self, Uid};
use tokio::net::unix::pipe;

use super::{
    Invocation, Means,
    child::{Child, Stdio},
    confine::Confinement,
    exec::Program,
    user::Credentials,
};
use crate::{
    sandbox::cgroup::{Allowance, Group, Limits},
    state::{self, Entry, Family, Journal, JournalError, Leader, Thing},
};

/// A child that is yet to be started.
pub struct Spawn {
    invocation: Invocation,
    directory: PathBuf,
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    file_size: Option<u32>,
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
    pub family: Family,
    entry: Entry,
}

impl Record {
    /// Writes down that there are about to be some.
    pub fn begin(journal: &Journal, instance: String) -> Result<Self, JournalError> {
        let family = Family { instance, leader: None };
        Ok(Self { entry: journal.enter(Thing::Process(family.clone()))?, family })
    }

    /// There are none any more.
    pub fn strike(self) {
        self.entry.strike();
    }

    fn led_by(mut self, leader: Leader) -> Self {
        self.family.leader = Some(leader);
        self.entry.amend(Thing::Process(self.family.clone()));
        self
    }
}

impl Means {
    /// Starts the child of an instance, in a cgroup of its own. Ready once the child executes its program. When that fails,
    /// nothing is left, nor written down.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(&self, spawn: Spawn, allowance: Allowance, record: Record) -> io::Result<Spawned> {
        let limits = self.limits.clone();
        self.spawner.run(move || spawn.run(&limits, allowance, record)).await
    }
}

impl Spawn {
    /// The command is run in `directory`. Without `credentials` it runs as the daemon's user.
    pub fn new(invocation: Invocation, directory: PathBuf, credentials: Option<Credentials>) -> Self {
        Self { invocation, directory, credentials, capabilities: None, file_size: None, stdin: None }
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

    /// Something other than nothing to read from.
    pub fn stdin(mut self, stdin: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Blocks until the child executes its program.
    fn run(self, limits: &Limits, allowance: Allowance, record: Record) -> io::Result<Spawned> {
        let foreign = self.credentials.as_ref().is_some_and(|user| user.uid != Uid::effective());
        let group = limits.group(allowance, foreign);
        // The kernel notes the time of a start by the same clock. To ask it for that would take longer than to write.
        let after = state::boot_clock();
        match self.start(group.as_ref()) {
            Ok((child, output)) => {
                let leader = Leader { pid: child.pid().as_raw(), after, before: state::boot_clock() };
                Ok(Spawned { child, output, group, record: record.led_by(leader) })
            }
            Err(error) => {
                record.strike();
                Err(error)
            }
        }
    }

    fn start(self, group: Option<&Group>) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        if let Some(credentials) = &self.credentials {
            // So that it can open /dev/stdout.
            unistd::fchown(&writer, Some(credentials.uid), Some(credentials.gid))?;
        }
        let doors = group.map(Group::doors).transpose()?.unwrap_or_default();
        let program = Program::new(&self.invocation)?;
        let stdin = match self.stdin {
            Some(stdin) => stdin,
            None => File::open("/dev/null")?.into(),
        };
        let stdio = Stdio { stdin, output: writer.into() };
        let confinement =
            Confinement::new(&self.directory, self.credentials, self.capabilities, self.file_size, doors)?;
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok((Child::start(program, &stdio, &confinement)?, output))
    }
}
