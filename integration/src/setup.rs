//! Settings of a daemon, and its start with a registry of its own.

use std::{ffi::OsString, fs, net::SocketAddr, path::Path, process::Stdio, sync::Arc};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    SOON,
    daemon::Daemon,
    function::Function,
    home::{Home, unifaas},
    within,
};

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
            // That of an installed daemon does not count.
            environment: vec![("UNIFAAS_CONFIG".to_owned(), "/dev/null".into())],
            program: vec![unifaas().into()],
        }
    }

    /// Returns its directories.
    pub const fn home(&self) -> &Arc<Home> {
        &self.home
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

    /// Leaves out an option that these tests set by default.
    pub fn without(mut self, name: &str) -> Self {
        self.options.retain(|(present, _)| present != name);
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
        let announced = timeout(SOON, stdout.read_line(&mut line)).await;
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
        Daemon::of(self.home, child, stdout, (listen, callback, admin))
    }
}

fn address(url: &str) -> SocketAddr {
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")).expect("a URL");
    authority.parse().unwrap_or_else(|_| panic!("not an address: {authority}"))
}

/// Runs a daemon that must refuse to start, and returns its error message.
///
/// # Panics
/// When it starts, or prints more than one line.
pub async fn refusal(mut command: Command) -> String {
    command.kill_on_drop(true);
    let what = format!("the refusal of {:?}", command.as_std());
    let output = within(SOON, what, command.output()).await.expect("it can be run");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.trim_end().lines().count(), 1, "one clear line, not\n{errors}");
    assert!(output.stdout.is_empty(), "it said that it serves: {output:?}");
    errors
}
