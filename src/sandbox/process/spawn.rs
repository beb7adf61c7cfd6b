//! Fork and exec of a confined child, with its output in one pipe. It is written down before, and its process id after.

use std::{io, path::Path, process::Stdio};

use nix::unistd::{self, Pid};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

use super::{Invocation, confine::Confinement, user::Credentials};
use crate::{
    sandbox::cgroup::Group,
    state::{self, Entry, Family, Journal, JournalError, Leader, Thing},
};

/// A child that is yet to be started.
pub struct Spawn<'a> {
    invocation: &'a Invocation,
    directory: &'a Path,
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    stdin: Stdio,
}

/// A child that runs.
pub struct Spawned {
    pub child: Child,
    pub pid: Pid,
    /// Its output and its errors, in the order in which it wrote them.
    pub output: pipe::Receiver,
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

impl<'a> Spawn<'a> {
    /// The command is run in `directory`. Without `credentials` it runs as the daemon's user.
    pub fn new(invocation: &'a Invocation, directory: &'a Path, credentials: Option<Credentials>) -> Self {
        Self { invocation, directory, credentials, capabilities: None, stdin: Stdio::null() }
    }

    /// The most that it, and whatever it starts, can ever have of root's capabilities, a bit for each.
    pub fn capabilities(mut self, most: u64) -> Self {
        self.capabilities = Some(most);
        self
    }

    /// Something other than nothing to read from.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Starts it in `group`. Blocks for fork and exec. When that fails, nothing is left, nor written down.
    pub fn run(self, group: Option<&Group>, record: Record) -> io::Result<Spawned> {
        // The kernel notes the time of a start by the same clock. To ask it for that would take longer than to write.
        let after = state::boot_clock();
        match self.start(group) {
            Ok((child, pid, output)) => {
                let leader = Leader { pid: pid.as_raw(), after, before: state::boot_clock() };
                Ok(Spawned { child, pid, output, record: record.led_by(leader) })
            }
            Err(error) => {
                record.strike();
                Err(error)
            }
        }
    }

    fn start(self, group: Option<&Group>) -> io::Result<(Child, Pid, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        if let Some(credentials) = &self.credentials {
            // So that it can open /dev/stdout.
            unistd::fchown(&writer, Some(credentials.uid), Some(credentials.gid))?;
        }
        let doors = group.map(Group::doors).transpose()?.unwrap_or_default();
        let mut command = Command::new(&self.invocation.program);
        command
            .arg0(&self.invocation.name)
            .args(&self.invocation.arguments)
            .env_clear()
            .envs(self.invocation.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory)
            .stdin(self.stdin)
            .stdout(writer.try_clone()?)
            .stderr(writer);
        Confinement::new(self.credentials, self.capabilities, doors).apply_to(&mut command);
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
        Ok((child, Pid::from_raw(pid), output))
    }
}
