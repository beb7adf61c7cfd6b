//! The start of a confined child, with its output in one pipe.

use std::{fs::File, io, os::fd::OwnedFd, path::Path};

use nix::unistd;
use tokio::net::unix::pipe;

use super::{
    Invocation,
    child::{Child, Stdio},
    confine::Confinement,
    exec::Program,
    user::Credentials,
};
use crate::sandbox::cgroup::Group;

/// A child that is yet to be started.
pub struct Spawn<'a> {
    invocation: &'a Invocation,
    directory: &'a Path,
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    stdin: Option<OwnedFd>,
}

/// A child that runs.
pub struct Spawned {
    pub child: Child,
    /// Its output and its errors, in the order in which it wrote them.
    pub output: pipe::Receiver,
}

impl<'a> Spawn<'a> {
    /// The command is run in `directory`. Without `credentials` it runs as the daemon's user.
    pub fn new(invocation: &'a Invocation, directory: &'a Path, credentials: Option<Credentials>) -> Self {
        Self { invocation, directory, credentials, capabilities: None, stdin: None }
    }

    /// The most that it, and whatever it starts, can ever have of root's capabilities, a bit for each.
    pub fn capabilities(mut self, most: u64) -> Self {
        self.capabilities = Some(most);
        self
    }

    /// Something other than nothing to read from.
    pub fn stdin(mut self, stdin: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Starts it in `group`. Blocks until the child executes its program.
    pub fn run(self, group: Option<&Group>) -> io::Result<Spawned> {
        let (reader, writer) = io::pipe()?;
        if let Some(credentials) = &self.credentials {
            // So that it can open /dev/stdout.
            unistd::fchown(&writer, Some(credentials.uid), Some(credentials.gid))?;
        }
        let doors = group.map(Group::doors).transpose()?.unwrap_or_default();
        let program = Program::new(self.invocation)?;
        let stdin = match self.stdin {
            Some(stdin) => stdin,
            None => File::open("/dev/null")?.into(),
        };
        let stdio = Stdio { stdin, output: writer.into() };
        let confinement = Confinement::new(self.directory, self.credentials, self.capabilities, doors)?;
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        Ok(Spawned { child: Child::start(program, &stdio, &confinement)?, output })
    }
}
