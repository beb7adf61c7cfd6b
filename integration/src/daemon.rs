//! Starts the binary with a registry of its own, sends it requests, and checks that it leaves nothing behind.

use std::{
    ffi::OsString,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use hyper::{Request, Response, body::Incoming};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::{Instant, timeout},
};

use crate::{
    client::{Body, Connection, Reply, body_of, empty, request},
    eventually,
    function::Function,
    home::{Home, unifaas},
    processes,
};

const START_TIMEOUT: Duration = Duration::from_secs(15);
const END_TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of a daemon that is not started yet.
#[derive(Debug)]
pub struct Setup {
    home: Arc<Home>,
    options: Vec<(String, OsString)>,
    environment: Vec<(String, OsString)>,
    program: Vec<OsString>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::at(&Home::new())
    }
}

impl Setup {
    /// Uses the directories of an earlier daemon.
    pub fn at(home: &Arc<Home>) -> Self {
        let options = [
            ("--registry", home.registry().into()),
            ("--state-dir", home.path("state").into()),
            ("--listen", "127.0.0.1:0".into()),
            ("--callback-listen", "127.0.0.1:0".into()),
            ("--log-format", "json".into()),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value));
        Self {
            home: Arc::clone(home),
            options: options.into(),
            environment: Vec::new(),
            program: vec![unifaas().into()],
        }
    }

    /// Adds a function to the registry.
    #[track_caller]
    pub fn function(self, function: Function) -> Self {
        self.home.put(&function);
        self
    }

    /// Sets an option of the command line, replacing the default of these tests.
    pub fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.options.retain(|(present, _)| present != name);
        self.options.push((name.to_owned(), value.into()));
        self
    }

    /// Sets an environment variable.
    pub fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Uses another build of the daemon.
    pub fn binary(self, binary: &Path) -> Self {
        Self { program: vec![binary.into()], ..self }
    }

    /// Runs the binary through another program, which gets it after these arguments.
    pub fn run_by<W: Into<OsString>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        self.program.splice(0..0, words.into_iter().map(Into::into));
        self
    }

    /// Hides the cgroup file systems. Needs root.
    pub fn without_cgroups(self) -> Self {
        let hide = "umount --recursive --lazy /sys/fs/cgroup && exec \"$0\" \"$@\"";
        self.run_by(["unshare", "--mount", "--propagation=private", "--", "sh", "-c", hide])
    }

    /// Puts the state directory on a small file system of its own, reachable through [`Daemon::inside`]. Needs root.
    ///
    /// # Panics
    /// When the directory cannot be created.
    pub fn on_a_small_disk(self, size: &str) -> Self {
        let state = self.home.path("state");
        fs::create_dir_all(&state).expect("a directory");
        let mount = format!("mount -t tmpfs -o size={size},mode=755 none {state:?} && exec \"$0\" \"$@\"");
        self.run_by(["unshare", "--mount", "--propagation=private", "--", "sh", "-c", &mount])
    }

    /// Returns the command that starts the daemon.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        for (name, value) in &self.options {
            command.arg(name).arg(value);
        }
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it serves.
    ///
    /// # Panics
    /// When it does not serve in time.
    pub async fn start(self) -> Daemon {
        let command = self.command();
        self.start_as(command).await
    }

    /// Starts the daemon by a given command, which must execute what [`command`](Self::command) does.
    ///
    /// # Panics
    /// When it does not serve in time.
    pub async fn start_as(self, mut command: Command) -> Daemon {
        let log = self.home.path("log");
        let errors = fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        // Only until a `Daemon` exists, which ends it in order.
        command.stdout(Stdio::piped()).stderr(errors).kill_on_drop(true);
        let mut child = command.spawn().expect("unifaas can be run");
        let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
        let mut line = String::new();
        let announced = timeout(START_TIMEOUT, stdout.read_line(&mut line)).await;
        let parts: Vec<_> = line.split_whitespace().collect();
        let (listen, callback, admin) = match parts.as_slice() {
            ["unifaas:", "serving", listen, "callback", callback, "admin", admin, "registry", ..] => {
                (address(listen), address(callback), Some(address(admin)))
            }
            ["unifaas:", "serving", listen, "callback", callback, "registry", ..] => {
                (address(listen), address(callback), None)
            }
            _ => panic!("{announced:?}, stdout {line:?}, stderr:\n{}", fs::read_to_string(log).unwrap_or_default()),
        };
        let pid = child.id().expect("it has just said that it serves");
        Daemon { home: self.home, child, _stdout: stdout, pid, listen, callback, admin, killed: false }
    }
}

fn address(url: &str) -> SocketAddr {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).expect("a URL");
    authority.parse().unwrap_or_else(|_| panic!("not an address: {authority}"))
}

/// A running daemon. Dropping it sends SIGTERM and checks that no process is left.
#[derive(Debug)]
pub struct Daemon {
    /// Its directories.
    pub home: Arc<Home>,
    /// Its process id.
    pub pid: u32,
    /// Address of the front.
    pub listen: SocketAddr,
    /// Address of the callback listener.
    pub callback: SocketAddr,
    /// Address of the admin listener, if there is one.
    pub admin: Option<SocketAddr>,
    child: Child,
    /// Whether leftovers are not checked, because another test or daemon owns them.
    killed: bool,
    /// Held open so that the daemon's output has a reader.
    _stdout: BufReader<ChildStdout>,
}

/// How a daemon exited.
#[derive(Debug)]
pub struct Ending {
    /// Its exit status.
    pub status: ExitStatus,
    /// Time from the signal to the exit.
    pub took: Duration,
}

impl Daemon {
    /// Starts a daemon with one function.
    pub async fn with(function: Function) -> Self {
        Setup::default().function(function).start().await
    }

    /// Opens a connection to the front.
    ///
    /// # Panics
    /// When the connection is refused.
    pub async fn connect(&self) -> Connection {
        Connection::open(self.listen).await.expect("the daemon accepts connections")
    }

    /// Sends a request over a new connection.
    ///
    /// # Errors
    /// When the connection ends before the response is complete.
    pub async fn send(&self, request: Request<Body>) -> hyper::Result<Reply> {
        self.connect().await.send(request).await
    }

    /// Sends a request over a new connection and returns that connection with the response head.
    ///
    /// # Panics
    /// When there is no response.
    pub async fn start(&self, request: Request<Body>) -> (Connection, Response<Incoming>) {
        let mut connection = self.connect().await;
        let response = connection.start(request).await.expect("an answer");
        (connection, response)
    }

    /// Sends a GET.
    ///
    /// # Panics
    /// When there is no complete response.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(request("GET", path, empty())).await.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Sends a POST.
    ///
    /// # Panics
    /// When there is no complete response.
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        let request = request("POST", path, body_of(body.to_owned()));
        self.send(request).await.unwrap_or_else(|error| panic!("POST {path}: {error:?}"))
    }

    /// Requests an admin page from the listener that serves them.
    async fn page(&self, path: &str) -> Reply {
        let mut connection = Connection::open(self.admin.unwrap_or(self.listen)).await.expect("the admin pages");
        let page = connection.send(request("GET", path, empty())).await;
        page.unwrap_or_else(|error| panic!("GET {path}: {error:?}"))
    }

    /// Returns the content of `/debug`.
    pub async fn debug(&self) -> Value {
        self.page("/debug").await.ok().json()
    }

    /// Returns the content of `/debug/functions/<name>`.
    pub async fn function(&self, name: &str) -> Value {
        self.page(&format!("/debug/functions/{name}")).await.ok().json()
    }

    /// Returns the instances of a function, as `/debug` lists them.
    ///
    /// # Panics
    /// When there is no list.
    pub async fn instances(&self, function: &str) -> Vec<Value> {
        let mut function = self.function(function).await;
        match function["instances"].take() {
            Value::Array(instances) => instances,
            other => panic!("no list of instances: {other}"),
        }
    }

    /// Returns a counter of a function.
    ///
    /// # Panics
    /// When there is no such counter.
    pub async fn counter(&self, function: &str, name: &str) -> u64 {
        let function = self.function(function).await;
        function["counters"][name].as_u64().unwrap_or_else(|| panic!("no counter {name} in {function}"))
    }

    /// Waits until `/debug/functions/<name>` satisfies a condition, and returns its content.
    ///
    /// # Panics
    /// When the condition is not met in time.
    #[track_caller]
    pub fn settled(
        &self,
        name: &str,
        what: impl Into<String>,
        condition: impl Fn(&Value) -> bool,
    ) -> impl Future<Output = Value> {
        let path = format!("/debug/functions/{name}");
        eventually(Duration::from_secs(10), format!("{name}: {}", what.into()), async move || {
            let reply = self.page(&path).await;
            (reply.status == 200).then(|| reply.json()).filter(&condition)
        })
    }

    /// Waits until `count` instances of a function are in a state, and returns the function's page.
    ///
    /// # Panics
    /// When that does not happen in time.
    #[track_caller]
    pub fn until(&self, function: &str, state: &str, count: usize) -> impl Future<Output = Value> {
        let wanted = state.to_owned();
        self.settled(function, format!("{count} {state}"), move |function| {
            let instances = function["instances"].as_array().into_iter().flatten();
            instances.filter(|instance| instance["state"] == wanted.as_str()).count() == count
        })
    }

    /// Returns a path of its home directory, as seen from its mount namespace.
    pub fn inside(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.pid, self.home.path(name).display()))
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path("log")).unwrap_or_default()
    }

    /// Sends a signal to the daemon.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid, signal);
    }

    /// Waits for its exit, with a short time limit.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn ended(&mut self) -> Ending {
        self.ended_within(END_TIMEOUT).await
    }

    /// Waits for its exit, at most for `limit`.
    ///
    /// # Panics
    /// When it does not exit in time.
    pub async fn ended_within(&mut self, limit: Duration) -> Ending {
        let asked = Instant::now();
        let status = timeout(limit, self.child.wait()).await.expect("it exits in time").expect("it can be waited for");
        Ending { status, took: asked.elapsed() }
    }

    /// Sends SIGTERM and waits for its exit.
    pub async fn end(&mut self) -> Ending {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Kills the daemon and waits for its death, without checking for leftovers.
    ///
    /// # Panics
    /// When it does not die.
    pub async fn killed(mut self) {
        self.signal(Signal::SIGKILL);
        self.killed = true;
        self.ended().await;
    }

    #[allow(clippy::disallowed_methods, reason = "a destructor cannot await; it runs at the end of a test")]
    fn pause() {
        thread::sleep(Duration::from_millis(10));
    }

    /// Waits until `done` returns true; returns whether it did within `limit`.
    fn wait_for(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
        let rounds = limit.as_millis() / 10;
        (0..rounds).any(|_| {
            done() || {
                Self::pause();
                false
            }
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut over = matches!(self.child.try_wait(), Ok(Some(_)));
        let mut in_time = true;
        if !over {
            self.signal(Signal::SIGTERM);
            over = Self::wait_for(END_TIMEOUT, || matches!(self.child.try_wait(), Ok(Some(_))));
            in_time = over;
        }
        if !over {
            self.signal(Signal::SIGKILL);
            Self::wait_for(END_TIMEOUT, || matches!(self.child.try_wait(), Ok(Some(_))));
        }
        if self.killed {
            return;
        }
        let left = self.home.processes();
        for pid in &left {
            processes::signal(*pid, Signal::SIGKILL);
        }
        let log = self.log();
        if thread::panicking() {
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- the last lines of the daemon's log\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
            return;
        }
        assert!(in_time, "the daemon did not end within {END_TIMEOUT:?} of SIGTERM");
        assert!(left.is_empty(), "processes were left behind: {left:?}");
        assert!(!log.contains("panicked"), "the daemon panicked:\n{log}");
    }
}

/// Returns whether the daemon can put instances into cgroups on this host, and prints a line if not.
pub async fn cgroups_are_usable() -> bool {
    let daemon = Daemon::with(Function::new("f")).await;
    daemon.get("/invoke/f/pid").await.ok();
    let usable = daemon.instances("f").await[0]["resources"].to_string().contains("cgroup");
    if !usable {
        eprintln!("skipped: the daemon has no cgroups here");
    }
    usable
}

/// Returns an integer member of a JSON object.
///
/// # Panics
/// When it is missing or no integer.
#[track_caller]
pub fn number(value: &Value, member: &str) -> u64 {
    value[member].as_u64().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// Runs a daemon that must refuse to start, and returns its error message.
///
/// # Panics
/// When it starts, or prints more than one line.
pub async fn refusal(mut command: Command) -> String {
    let output = timeout(Duration::from_secs(10), command.kill_on_drop(true).output());
    let output = output.await.expect("it refuses at once").expect("it can be run");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "one clear line, not\n{errors}");
    assert!(output.stdout.is_empty(), "it said that it serves: {output:?}");
    errors
}
