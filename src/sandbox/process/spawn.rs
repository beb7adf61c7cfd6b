//! Fork and exec of a confined child, with its output in one pipe.

use std::{io, path::Path, process::Stdio};

use nix::unistd::{self, Pid};
use tokio::{
    net::unix::pipe,
    process::{Child, Command},
};

use super::{Invocation, confine::Confinement, user::Credentials};
use crate::sandbox::cgroup::Group;

/// A child that is yet to be started.
pub struct Spawn<'a> {
    invocation: &'a Invocation,
    directory: &'a Path,
    credentials: Option<Credentials>,
    capabilities: Option<u64>,
    file_size: Option<u32>,
    stdin: Stdio,
}

/// A child that runs.
pub struct Spawned {
    pub child: Child,
    pub pid: Pid,
    /// Its output and its errors, in the order in which it wrote them.
    pub output: pipe::Receiver,
}

impl<'a> Spawn<'a> {
    /// The command is run in `directory`. Without `credentials` it runs as the daemon's user.
    pub fn new(invocation: &'a Invocation, directory: &'a Path, credentials: Option<Credentials>) -> Self {
        Self { invocation, directory, credentials, capabilities: None, file_size: None, stdin: Stdio::null() }
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
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Starts it in `group`. Blocks for fork and exec.
    pub fn run(self, group: Option<&Group>) -> io::Result<Spawned> {
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
        Confinement::new(self.credentials, self.capabilities, self.file_size, doors).apply_to(&mut command);
        let output = pipe::Receiver::from_owned_fd(reader.into())?;
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).ok_or(io::ErrorKind::NotFound)?;
        Ok(Spawned { child, pid: Pid::from_raw(pid), output })
    }
}
