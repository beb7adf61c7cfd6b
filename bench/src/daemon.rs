//! The daemon under measurement: a child of this process, with a process group, ports, addresses and a state directory of its
//! own, so that a daemon that serves on this machine is not touched.
//!
//! A step between the two, [`execute`], asks the kernel to end the daemon with this process, also when that is killed.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::process::{CommandExt as _, parent_id},
    path::{Path, PathBuf},
    process::Stdio,
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
    time::{sleep, timeout},
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
/// Pause between the looks for a change.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
    /// Its place among the daemons that run at the same time.
    pub index: usize,
    /// Further options.
    pub options: Vec<(String, String)>,
}

/// Where a daemon serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where functions are invoked.
    pub front: SocketAddr,
    /// Where its pages are.
    pub admin: SocketAddr,
}

/// A running daemon. Dropping it ends it, unless it is another's.
#[derive(Debug)]
pub struct Daemon {
    own: Option<Own>,
    /// Where functions are invoked.
    pub front: SocketAddr,
    /// Where its pages are.
    admin: SocketAddr,
}

/// A daemon that is a child of this process.
#[derive(Debug)]
struct Own {
    child: Child,
    log: PathBuf,
    /// Held open so that the daemon's output has a reader.
    stdout: BufReader<ChildStdout>,
    /// It was asked to end.
    is_ending: bool,
}

/// The address of a daemon that does not serve yet.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl Daemon {
    /// Starts a daemon and waits until it serves.
    ///
    /// # Errors
    /// When it does not, with the last line of its log.
    pub async fn start(settings: &DaemonSettings) -> Result<Self, BenchError> {
        let mut daemon = Self::spawn(settings)?;
        daemon.until_serving().await?;
        Ok(daemon)
    }

    /// Starts a daemon, which does not serve yet.
    ///
    /// # Errors
    /// When its process cannot be started.
    pub fn spawn(settings: &DaemonSettings) -> Result<Self, BenchError> {
        let log = OpenOptions::new().create(true).append(true).open(&settings.log);
        let log = log.map_err(|error| BenchError::Write(settings.log.clone(), error))?;
        let mut child = command(settings, log).spawn().map_err(|error| BenchError::System("the daemon", error))?;
        let stdout = child.stdout.take().ok_or_else(|| BenchError::Daemon("has no output".to_owned()))?;
        let own = Own { child, log: settings.log.clone(), stdout: BufReader::new(stdout), is_ending: false };
        Ok(Self { own: Some(own), front: NOWHERE, admin: NOWHERE })
    }

    /// Waits until an own daemon serves.
    ///
    /// # Errors
    /// When it does not, with the last line of its log. It is killed then.
    pub async fn until_serving(&mut self) -> Result<(), BenchError> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let mut line = String::new();
        let announced = timeout(START_TIMEOUT, own.stdout.read_line(&mut line)).await;
        let front = line.strip_prefix("unifaas: serving http://").and_then(|rest| rest.split(' ').next()?.parse().ok());
        let Some(front) = front else {
            let _ = own.child.start_kill();
            let late = if announced.is_err() { " in time" } else { "" };
            let said = last_line(&own.log);
            return Err(BenchError::Daemon(format!("does not start{late}: {said}")));
        };
        (self.front, self.admin) = (front, front);
        Ok(())
    }

    /// Returns a daemon that runs already.
    pub fn running(Place { front, admin }: Place) -> Self {
        Self { own: None, front, admin }
    }

    /// Returns the process id. `None`: it is another's.
    pub fn pid(&self) -> Option<u32> {
        self.own.as_ref()?.child.id()
    }

    /// Returns whether it is a child of this process.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Fails if the daemon has ended.
    ///
    /// # Errors
    /// When it has, with the last line of its log.
    pub fn check(&mut self) -> Result<(), BenchError> {
        let Some(own) = &mut self.own else { return Ok(()) };
        match own.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(BenchError::Daemon(format!("has ended ({status}): {}", last_line(&own.log)))),
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

    /// Ends all instances of a function. A daemon that is another's may refuse that.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn stop_instances(&self, function: &str) -> Result<(), BenchError> {
        let target = format!("/debug/functions/{function}/stop");
        if self.is_own() {
            return self.ask(Method::POST, &target).await.map(drop);
        }
        self.exchange(Method::POST, &target).await.map(drop)
    }

    /// Returns the instances of a function.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn instances(&self, function: &str) -> Result<Vec<Value>, BenchError> {
        let page = self.function(function).await?;
        Ok(page["instances"].as_array().cloned().unwrap_or_default())
    }

    /// Returns the page of a function.
    ///
    /// # Errors
    /// When the daemon does not answer with one.
    pub async fn function(&self, function: &str) -> Result<Value, BenchError> {
        self.page(&format!("/debug/functions/{function}")).await
    }

    /// Waits until the daemon has read a function, or no longer has it.
    ///
    /// # Errors
    /// When it does not within a limit.
    pub async fn until_known(&self, function: &str, is_known: bool, limit: Duration) -> Result<(), BenchError> {
        let target = format!("/debug/functions/{function}");
        let known = async {
            while (self.exchange(Method::GET, &target).await?.status == 200) != is_known {
                sleep(LOOK_INTERVAL).await;
            }
            Ok(())
        };
        let late = |_| BenchError::Daemon(format!("takes over {} s to notice a change of {function}", limit.as_secs()));
        timeout(limit, known).await.map_err(late)?
    }

    async fn exchange(&self, method: Method, target: &str) -> Result<client::Response, BenchError> {
        let failed = |error: ClientError| BenchError::Daemon(format!("does not answer {target}: {error}"));
        let mut connection = Connection::open(self.admin).await.map_err(failed)?;
        connection.send(method, target, PAGE_TIMEOUT).await.map_err(failed)
    }

    async fn ask(&self, method: Method, target: &str) -> Result<Value, BenchError> {
        let response = self.exchange(method, target).await?;
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

    /// Ends an own daemon in order, and waits for that. If the wait is cut off, another call waits for the rest.
    ///
    /// # Errors
    /// When it cannot be waited for. After a time limit it is killed.
    pub async fn stop(&mut self) -> Result<(), BenchError> {
        self.terminate();
        let Some(own) = &mut self.own else { return Ok(()) };
        let ended = match timeout(END_TIMEOUT, own.child.wait()).await {
            Ok(ended) => ended,
            Err(_) => {
                let _ = own.child.start_kill();
                own.child.wait().await
            }
        };
        ended.map(drop).map_err(|error| BenchError::System("waiting for the daemon", error))
    }

    fn terminate(&mut self) {
        let Some(own) = self.own.as_mut().filter(|own| !own.is_ending) else { return };
        // There is none once it has been waited for.
        if let Some(pid) = own.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
        }
        own.is_ending = true;
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
    if let Some(subnet) = settings.is_networked.then(|| subnet::free(settings.index)).flatten() {
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
