//! The daemon under measurement: a child of this process, with a process group, ports, addresses and a state directory of its
//! own, so that a daemon that serves on this machine is not touched.
//!
//! A step between the two, [`execute`], asks the kernel to end the daemon with this process, also when that is killed.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    net::SocketAddr,
    os::unix::process::{CommandExt as _, parent_id},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use hyper::Method;
use nix::{
    sys::{prctl, signal},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::{
    client::{self, ClientError, Connection},
    error::BenchError,
    subnet,
};

/// The hidden command of the program that [`execute`] is behind.
pub const STEP: &str = "bench-daemon";
const START_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(30);
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// This program, which has the step.
    pub program: PathBuf,
    /// The build of the daemon.
    pub daemon: PathBuf,
    /// Its registry.
    pub registry: PathBuf,
    /// Its state directory, which no other daemon uses.
    pub state: PathBuf,
    /// Where its log is appended.
    pub log: PathBuf,
    /// Whether instances are reached over networks other than loopback.
    pub is_networked: bool,
    /// Further options.
    pub options: Vec<(String, String)>,
}

/// A running daemon. Dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// Where functions are invoked, and the admin pages are.
    pub front: SocketAddr,
    log: PathBuf,
    /// Held open so that the daemon's output has a reader.
    _stdout: BufReader<ChildStdout>,
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    ///
    /// # Errors
    /// When it does not, with the last line of its log.
    pub async fn start(settings: &DaemonSettings) -> Result<Self, BenchError> {
        let log = OpenOptions::new().create(true).append(true).open(&settings.log);
        let log = log.map_err(|error| BenchError::Write(settings.log.clone(), error))?;
        let mut child = command(settings, log).spawn().map_err(|error| BenchError::System("the daemon", error))?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError::Daemon("has no output".to_owned()))?;
        let (mut stdout, mut line) = (BufReader::new(stdout), String::new());
        let announced = timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        let front = line.strip_prefix("unifaas: serving http://").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(front) = front else {
            let _ = child.start_kill();
            let late = if announced.is_err() { " in time" } else { "" };
            let said = last_line(&settings.log);
            return Err(BenchError::Daemon(format!("does not start{late}: {said}")));
        };
        Ok(Self { child, front, log: settings.log.clone(), _stdout: stdout })
    }

    /// Returns the process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if the daemon has ended.
    ///
    /// # Errors
    /// When it has, with the last line of its log.
    pub fn check(&mut self) -> Result<(), BenchError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(BenchError::Daemon(format!("has ended ({status}): {}", last_line(&self.log)))),
            Err(error) => Err(BenchError::System("waiting for the daemon", error)),
        }
    }

    /// Returns an admin page.
    ///
    /// # Errors
    /// When the daemon does not answer with one.
    pub async fn page(&self, target: &str) -> Result<Value, BenchError> {
        self.ask(Method::GET, target).await
    }

    /// Ends all instances of a function.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn stop_instances(&self, function: &str) -> Result<(), BenchError> {
        self.ask(Method::POST, &format!("/debug/functions/{function}/stop")).await.map(drop)
    }

    /// Returns the instances of a function.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn instances(&self, function: &str) -> Result<Vec<Value>, BenchError> {
        let page = self.page(&format!("/debug/functions/{function}")).await?;
        Ok(page["instances"].as_array().cloned().unwrap_or_default())
    }

    async fn ask(&self, method: Method, target: &str) -> Result<Value, BenchError> {
        let failed = |error: ClientError| BenchError::Daemon(format!("does not answer {target}: {error}"));
        let mut connection = Connection::open(self.front).await.map_err(failed)?;
        let response = connection.send(method, target, PAGE_TIMEOUT).await.map_err(failed)?;
        if response.status != 200 {
            let text = String::from_utf8_lossy(&response.body).into_owned();
            return Err(BenchError::Daemon(format!("answers {target} with {}: {text}", response.status)));
        }
        serde_json::from_slice(&response.body)
            .map_err(|error| BenchError::Daemon(format!("answers {target} with something else than JSON: {error}")))
    }

    /// Sends an invocation over a new connection.
    ///
    /// # Errors
    /// When there is no complete response.
    pub async fn invoke(&self, function: &str, path: &str, limit: Duration) -> Result<client::Response, ClientError> {
        client::get(self.front, &invocation(function, path), limit).await
    }

    /// Ends the daemon in order, and waits for that.
    ///
    /// # Errors
    /// When it cannot be waited for. After a time limit it is killed.
    pub async fn stop(mut self) -> Result<ExitStatus, BenchError> {
        self.terminate();
        let ended = timeout(END_TIMEOUT, self.child.wait()).await;
        let ended = match ended {
            Ok(ended) => ended,
            Err(_) => {
                let _ = self.child.start_kill();
                self.child.wait().await
            }
        };
        ended.map_err(|error| BenchError::System("waiting for the daemon", error))
    }

    fn terminate(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends its instances in order, also without its parent.
        self.terminate();
    }
}

/// Returns the target of an invocation.
pub fn invocation(function: &str, path: &str) -> String {
    format!("/invoke/{function}{path}")
}

fn command(settings: &DaemonSettings, log: File) -> Command {
    let callback = if settings.is_networked { "0.0.0.0:0" } else { "127.0.0.1:0" };
    let mut command = std::process::Command::new(&settings.program);
    command.arg(STEP).arg(std::process::id().to_string()).arg(&settings.daemon).arg("serve");
    command.arg("--registry").arg(&settings.registry).arg("--state-dir").arg(&settings.state);
    command.args(["--listen", "127.0.0.1:0", "--callback-listen", callback, "--log-format", "json"]);
    command.args(["--drain-grace", "2"]);
    if let Some(subnet) = settings.is_networked.then(subnet::free).flatten() {
        command.args(["--subnet", &subnet]);
    }
    for (name, value) in &settings.options {
        command.arg(name).arg(value);
    }
    // The settings of an installed daemon do not count.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"UNIFAAS_")) {
        command.env_remove(name);
    }
    command.env("UNIFAAS_CONFIG", "/dev/null");
    // A Ctrl-C at the terminal is for this process alone.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command.into()
}

/// Returns the last line of a log, without what is around its message.
fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().next_back().unwrap_or("it has said nothing").to_owned();
    let message = serde_json::from_str::<Value>(&line).ok().and_then(|line| Some(line["msg"].as_str()?.to_owned()));
    message.unwrap_or(line)
}

/// Becomes the daemon: `arguments` are the parent's process id, the program and its arguments. Returns only on failure.
pub fn execute(arguments: &[OsString]) -> io::Error {
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, why.to_owned());
    let [parent, program, arguments @ ..] = arguments else {
        return invalid("expected a process id and a program");
    };
    let Some(parent) = parent.to_str().and_then(|parent| parent.parse::<u32>().ok()) else {
        return invalid("expected a process id");
    };
    if let Err(error) = prctl::set_pdeathsig(signal::Signal::SIGTERM) {
        return error.into();
    }
    // It may have ended before.
    if parent_id() != parent {
        return invalid("the parent has ended");
    }
    std::process::Command::new(program).args(arguments).exec()
}
