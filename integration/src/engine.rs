//! A private Docker engine with runc and gVisor. `integration/engine/run` isolates it from the host in a network namespace
//! and removes everything when the tests end, however they end.
//!
//! Containers are reachable only from within that network. A test enters it with its thread, and its daemons inherit it.

use std::{
    collections::HashMap,
    env,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use bollard::{
    Docker,
    models::{ContainerCreateBody, ContainerSummary},
    query_parameters::{CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder},
};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::Signal,
    unistd::geteuid,
};
use tempfile::TempDir;

use crate::{Daemon, Function, Setup, eventually, eventually_blocking, processes, root, wait::poll_blocking};

/// Time until a new engine must answer.
const START: Duration = Duration::from_secs(60);
/// Time until containers, or the engine itself, must be gone.
const END: Duration = Duration::from_secs(30);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/engine/run");
/// Required programs.
const PROGRAMS: [&str; 6] = ["dockerd", "containerd", "runc", "runsc", "iptables", "unshare"];
/// Image of the function under test.
pub const IMAGE: &str = "unifaas/testfn";

/// A private engine. It ends with its last user, or with the process.
#[derive(Debug)]
pub struct Engine {
    directory: PathBuf,
    child: Child,
    /// Closing the pipe ends the engine.
    pipe: Option<ChildStdin>,
    network: File,
}

impl Engine {
    /// Returns the engine that the tests of one process share, and moves the calling thread into its network. Returns `None`
    /// if there can be no engine here, after printing the reason.
    ///
    /// # Panics
    /// When it does not start, or is unavailable under `CI=true`.
    pub fn shared(testfn: &str) -> Option<&'static Engine> {
        static SHARED: OnceLock<Option<Engine>> = OnceLock::new();
        let engine = SHARED.get_or_init(|| Engine::start(testfn)).as_ref()?;
        engine.enter();
        Some(engine)
    }

    /// Starts an engine for one test, which may disturb it.
    ///
    /// # Panics
    /// See [`shared`](Self::shared).
    pub fn private(testfn: &str) -> Option<Engine> {
        let engine = Engine::start(testfn)?;
        engine.enter();
        Some(engine)
    }

    fn start(testfn: &str) -> Option<Engine> {
        if let Some(reason) = obstacle() {
            assert!(!matches!(env::var("CI").as_deref(), Ok("true" | "1")), "skipped under CI: {reason}");
            eprintln!("skipped: {reason}");
            return None;
        }
        let parent = TempDir::with_prefix("unifaas-engine-").expect("a temporary directory");
        let directory = parent.keep();
        let mut child = Command::new("unshare")
            .args(["--net", "--", SCRIPT])
            .arg(&directory)
            // Ctrl-C for the tests must not reach the engine first.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare can be run");
        let pipe = child.stdin.take();
        let pid = child.id();
        let mut engine =
            Engine { directory, child, pipe, network: File::open("/proc/self/ns/net").expect("a network") };
        engine.wait_until(START, true);
        engine.network = File::open(format!("/proc/{pid}/ns/net")).expect("its network");
        engine.load(testfn);
        Some(engine)
    }

    /// Moves the calling thread, and the processes it starts, into the network of the engine.
    ///
    /// # Panics
    /// When that is not allowed.
    pub fn enter(&self) {
        setns(&self.network, CloneFlags::CLONE_NEWNET).expect("root may enter a network");
    }

    /// Returns the path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("docker.sock")
    }

    /// Returns the value of `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Returns a client of the engine.
    ///
    /// # Panics
    /// When the engine does not answer.
    pub async fn docker(&self) -> Docker {
        let docker = Docker::connect_with_host(&self.host()).expect("the socket is there");
        docker.negotiate_version().await.expect("the engine answers")
    }

    /// Returns settings of a daemon that uses this engine.
    pub fn setup(&self) -> Setup {
        Setup::default().option("--callback-listen", "0.0.0.0:0").variable("DOCKER_HOST", self.host())
    }

    /// Starts a daemon with one function.
    pub async fn daemon(&self, function: Function) -> Daemon {
        self.setup().function(function).start().await
    }

    /// Lists all containers whose name has a prefix, in every state and of every owner.
    ///
    /// # Panics
    /// When the engine does not answer.
    pub async fn containers(&self, prefix: &str) -> Vec<ContainerSummary> {
        let all = ListContainersOptionsBuilder::new().all(true).build();
        let containers = self.docker().await.list_containers(Some(all)).await.expect("the engine tells its containers");
        let named = |container: &ContainerSummary| {
            container.names.iter().flatten().any(|name| name.trim_start_matches('/').starts_with(prefix))
        };
        containers.into_iter().filter(named).collect()
    }

    /// Returns a line about each of its processes, but those in containers that it has lost.
    pub fn tree(&self) -> Vec<String> {
        processes::tree(self.child.id())
    }

    /// Returns the processes in its containers, whether it knows them or not.
    pub fn inside(&self) -> Vec<u32> {
        processes::in_cgroup(&format!("/unifaas-engine-{}/", self.child.id()))
    }

    /// Waits until no container of a function is left.
    ///
    /// # Panics
    /// When one is left after the time limit.
    #[track_caller]
    pub fn none_left<'a>(&'a self, function: &'a str) -> impl Future<Output = ()> + 'a {
        let prefix = format!("unifaas-{function}-");
        let what = format!("no container of {function} is left");
        let left = eventually(END, what, async move || self.containers(&prefix).await, Vec::is_empty);
        async { drop(left.await) }
    }

    /// Removes a container by force, without the daemon.
    ///
    /// # Panics
    /// When the engine refuses.
    pub async fn remove(&self, container: &str) {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.docker().await.remove_container(container, Some(options)).await.expect("the container can be removed");
    }

    /// Starts a container that belongs to no daemon.
    ///
    /// # Panics
    /// When the engine refuses.
    pub async fn foreign(&self, name: &str) -> String {
        let docker = self.docker().await;
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let labels = HashMap::from([("unifaas.daemon".to_owned(), "another-daemon".to_owned())]);
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            cmd: Some(["none", "--callbacks", "0"].map(str::to_owned).to_vec()),
            labels: Some(labels),
            ..Default::default()
        };
        let created = docker.create_container(Some(options), body).await.expect("it can be made");
        docker.start_container(&created.id, None).await.expect("it can be started");
        created.id
    }

    /// Sends a signal to the engine process. A supervisor restarts it if it exits, unless held: see [`kill`](Self::kill).
    ///
    /// # Panics
    /// When the engine does not run.
    pub fn signal(&self, signal: Signal) {
        let running = processes::with_token(&self.host());
        assert!(!running.is_empty(), "the engine does not run");
        for pid in running {
            processes::signal(pid, signal);
        }
    }

    /// Kills the engine and waits until its socket is dead; containers keep running. With `hold` it is not restarted.
    ///
    /// # Panics
    /// When it does not run, or does not exit.
    pub fn kill(&self, hold: bool) {
        if hold {
            fs::write(self.directory.join("hold"), "").expect("a file");
        }
        self.signal(Signal::SIGKILL);
        if hold {
            self.wait_until(END, false);
        }
    }

    /// Restarts a held engine and waits for it.
    ///
    /// # Panics
    /// When it does not start.
    pub fn release(&self) {
        fs::remove_file(self.directory.join("hold")).expect("it was held");
        self.wait_until(START, true);
    }

    /// Builds the image of the function under test.
    fn load(&self, testfn: &str) {
        let stage = TempDir::with_prefix("unifaas-image-").expect("a temporary directory");
        root::make(Path::new(testfn), stage.path());
        let import = "tar -C \"$1\" -c . | docker --host \"$2\" import --change 'ENTRYPOINT [\"/testfn\"]' - \"$3\"";
        let stage = stage.path().to_string_lossy();
        root::run(Command::new("bash").args(["-o", "pipefail", "-c", import, "import", &stage, &self.host(), IMAGE]));
    }

    /// Makes an image of the function under test with other settings, given as instructions of a Dockerfile.
    ///
    /// # Panics
    /// When the engine refuses.
    pub fn derive(&self, image: &str, instructions: &[&str]) {
        let build = "printf '%s\n' \"${@:3}\" | DOCKER_BUILDKIT=0 docker --host \"$1\" build --tag \"$2\" -";
        let from = format!("FROM {IMAGE}");
        let mut build_command = Command::new("bash");
        build_command.args(["-o", "pipefail", "-c", build, "build", &self.host(), image, &from]).args(instructions);
        root::run(&mut build_command);
    }

    /// Waits until the engine answers or does not.
    ///
    /// # Panics
    /// When that does not happen in time. The message has the engine's log.
    #[track_caller]
    fn wait_until(&self, limit: Duration, answering: bool) {
        let what = if answering { "the engine answers" } else { "the engine does not answer" };
        let log = || fs::read_to_string(self.directory.join("dockerd.log")).unwrap_or_default();
        let look = || answers(&self.socket()).then_some(()).ok_or_else(log);
        let _ = eventually_blocking(limit, what, look, |found| found.is_ok() == answering);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let pid = self.child.id();
        let left = || self.child.try_wait().is_ok_and(|status| status.is_none()).then(|| processes::tree(pid));
        let ended = poll_blocking(END, left, Option::is_none);
        assert!(thread::panicking() || ended.is_ok(), "the engine did not end within {END:?}: {ended:?}");
    }
}

/// Returns why there can be no engine here, if so.
pub fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("only root can start a container engine".to_owned());
    }
    let missing: Vec<_> = PROGRAMS.into_iter().chain(["docker"]).filter(|program| !is_installed(program)).collect();
    (!missing.is_empty()).then(|| format!("not installed: {}", missing.join(" ")))
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Returns whether the engine answers, without a client that needs a runtime.
fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer: String| answer.contains(" 200 "))
}

/// Returns the function under test as a container. `flags` are its arguments, `top` the top-level keys and `keys` those of
/// `[container]`, one per line.
pub fn contained(name: &str, flags: &[&str], top: &str, keys: &str) -> Function {
    let words = ["%callback"].iter().chain(flags).map(|word| format!("{word:?}"));
    let command = words.collect::<Vec<_>>().join(", ");
    let text = format!("{top}\n[container]\nimage = \"{IMAGE}\"\ncommand = [{command}]\n{keys}\n");
    Function::verbatim(name, &text)
}
