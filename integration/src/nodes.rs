//! Three nodes and a NATS server in network namespaces, as `examples/cluster/run` makes them: a, b and c.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::geteuid,
};
use tokio::runtime::Builder;

use crate::{
    Connection, Function, Home, Reply, SOON, brokers,
    cli::{self, Ran},
    empty, eventually, home, processes, request, tools,
    wait::poll_blocking,
};

/// Where each node takes requests, within its namespace.
pub const FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8123);

/// The nodes. Dropping it ends them, and checks that no namespace is left.
#[derive(Debug)]
pub struct Nodes {
    home: Arc<Home>,
    child: Child,
    stdin: Option<ChildStdin>,
    prefix: String,
}

impl Nodes {
    /// Starts them, with functions on the nodes of these names, and waits until they know each other. `None`: this host or
    /// user cannot, which was printed.
    ///
    /// # Panics
    /// When the script fails.
    #[allow(clippy::print_stderr, reason = "the test runner shows it")]
    pub async fn start(functions: impl IntoIterator<Item = (&'static str, Function)>) -> Option<Self> {
        if !geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let nats = brokers::nats_server()?;
        for name in ["ip", "nsenter", "curl"] {
            tools::system_program(name)?;
        }
        let home = Home::new();
        let directory = home.path("nodes");
        for node in ["a", "b", "c"] {
            fs::create_dir_all(directory.join(node).join("registry")).expect("a registry");
        }
        for (node, function) in functions {
            function.write(&directory.join(node).join("registry"), &home);
        }
        let (out, log) = (home.path("run.out"), home.path("run.log"));
        let mut command = Command::new(home::shipped("examples/cluster/run"));
        command.arg("--hold").arg(&directory).env("UNIFAAS_EXE", home::unifaas()).env("NATS_SERVER_EXE", nats);
        command.stdin(Stdio::piped()).stdout(fs::File::create(&out).expect("a file"));
        let mut child = command.stderr(fs::File::create(&log).expect("a file")).spawn().expect("the script");
        let stdin = child.stdin.take();
        let mut nodes = Self { home, child, stdin, prefix: String::new() };
        let said = async || fs::read_to_string(&out).unwrap_or_default();
        let is_ready = |said: &String| said.lines().any(|line| line.starts_with("ready "));
        let said = eventually(4 * SOON, "the nodes know each other", said, is_ready).await;
        nodes.prefix = said.lines().find_map(|line| line.strip_prefix("ready ")).unwrap_or_default().to_owned();
        Some(nodes)
    }

    /// Moves the calling thread into the network of a node, so that [`FRONT`] is that node's.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn enter(&self, node: &str) {
        enter(&format!("{}-{node}", self.prefix));
    }

    /// Asks a node, whatever network this thread is in.
    ///
    /// # Panics
    /// When it gives no answer.
    pub fn get(&self, node: &str, path: &str) -> Reply {
        let (namespace, path) = (format!("{}-{node}", self.prefix), path.to_owned());
        let ask = move || {
            enter(&namespace);
            Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
                let mut connection = Connection::open(FRONT).await.expect("the node accepts connections");
                connection.send(request("GET", &path, empty())).await.expect("an answer")
            })
        };
        thread::spawn(ask).join().expect("the node answers")
    }

    /// Runs a command of the binary on a node.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn cli(&self, node: &str, arguments: &[&str]) -> Ran {
        let namespace = format!("--net=/run/netns/{}-{node}", self.prefix);
        let mut command = Command::new("nsenter");
        command.arg(namespace).arg("--").arg(home::unifaas()).args(arguments).stdin(Stdio::null());
        command.env("UNIFAAS_CONFIG", "/dev/null").env("UNIFAAS_URL", format!("http://{FRONT}"));
        cli::run(command).await
    }

    /// Returns the directories of all nodes, and of what they are to get.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Connects a node with the network, or cuts it off without a word.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn set_link(&self, node: &str, state: &str) {
        let network = format!("{}-net", self.prefix);
        let status = Command::new("ip").args(["-n", &network, "link", "set", "dev", node, state]).status();
        assert!(status.expect("ip can be run").success(), "{node} {state}");
    }

    /// Kills a node.
    ///
    /// # Panics
    /// When it is not there.
    pub fn kill(&self, node: &str) {
        processes::signal(self.pid(&format!("{node}/pid")), Signal::SIGKILL);
    }

    /// Kills the NATS server, and waits until the script has started another one.
    ///
    /// # Panics
    /// When it is not there, or none is started.
    pub async fn kill_server(&self) {
        let before = self.pid("nats.pid");
        processes::signal(before, Signal::SIGKILL);
        eventually(SOON, "another NATS server", async || self.pid("nats.pid"), |pid| *pid != before).await;
    }

    /// Kills the NATS server, and has the script wait before it starts another one.
    ///
    /// # Panics
    /// As above.
    pub async fn kill_server_for(&self, away: Duration) {
        let file = self.path("nats.away");
        fs::write(&file, away.as_secs().to_string()).expect("a file");
        let before = self.pid("nats.pid");
        processes::signal(before, Signal::SIGKILL);
        eventually(away + SOON, "another NATS server", async || self.pid("nats.pid"), |pid| *pid != before).await;
        fs::remove_file(file).expect("the file is there");
    }

    fn pid(&self, file: &str) -> u32 {
        let read = || fs::read_to_string(self.path(file)).ok().and_then(|text| text.trim().parse().ok());
        poll_blocking(SOON, read, Option::is_some).ok().flatten().expect("a process id")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path("nodes").join(name)
    }
}

impl Drop for Nodes {
    #[allow(clippy::print_stderr, reason = "what a failed test needs to be understood")]
    fn drop(&mut self) {
        drop(self.stdin.take());
        let ended = poll_blocking(4 * SOON, || matches!(self.child.try_wait(), Ok(Some(_))), |ended| *ended);
        if thread::panicking() {
            for name in ["../run.log", "a/log", "b/log", "c/log", "nats.log"] {
                eprintln!("--- {name}\n{}", fs::read_to_string(self.path(name)).unwrap_or_default());
            }
            return;
        }
        assert!(ended.is_ok(), "the script does not end");
        let left = fs::read_dir("/run/netns").map(|all| {
            let names = all.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()));
            names.filter(|name| name.starts_with(&format!("{}-", self.prefix))).collect::<Vec<_>>()
        });
        assert_eq!(left.unwrap_or_default(), [] as [String; 0], "namespaces are left");
    }
}

fn enter(namespace: &str) {
    let file = fs::File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a network");
}
