//! An engine with a function to start, and ways to inspect its processes.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZeroUsize,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use futures::future::LocalBoxFuture;
use slog::{Drain, Level, Logger, o};
use tokio::{
    task::LocalSet,
    time::{Duration, Instant, sleep, timeout},
};
use unifaas_actors::{
    BootClock, InstanceId, OutputLog, ReadyToken,
    sandbox::{LaunchOrder, Purpose, SandboxHandle},
    spec::{AsyncSpec, ClusterSpec, FunctionSpec, Readiness, SandboxSpec},
};

use super::super::*;
use crate::{
    spawner::ARGUMENT,
    state::{Resource, State, recorded},
};

/// Tests count descriptors and processes, so only one may run at a time.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const SOON: Duration = Duration::from_secs(5);

pub struct Rig {
    pub engine: Processes,
    pub function: PathBuf,
    pub warnings: Arc<Mutex<Vec<String>>>,
    pub env: BTreeMap<String, String>,
    pub memory: u64,
    pub pids_limit: u32,
    pub file_size: Option<u32>,
    pub user: Option<String>,
    pub state: State,
    _home: tempfile::TempDir,
}

pub struct Running {
    pub sandbox: Box<dyn SandboxHandle>,
    pub exited: LocalBoxFuture<'static, SandboxExit>,
    pub output: OutputLog,
    pub pid: i32,
    pub port: u16,
    pub resources: Vec<String>,
}

/// The result of an instance that has ended and returned its resources.
pub struct Ended {
    pub exit: SandboxExit,
    /// All its output.
    pub lines: Vec<String>,
    pub resources: Vec<String>,
}

struct Warnings(Arc<Mutex<Vec<String>>>);

impl Drain for Warnings {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        if record.level() == Level::Warning {
            self.0.lock().unwrap().push(record.msg().to_string());
        }
        Ok(())
    }
}

impl Rig {
    /// Creates a function below a directory that only the daemon's user may enter.
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let function = home.path().join("function");
        fs::create_dir(&function).unwrap();
        fs::set_permissions(&function, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let log = Logger::root(Warnings(warnings.clone()).fuse(), o!());
        let (state, _) = State::open(&home.path().join("state")).unwrap();
        let runtime = ProcessRuntime {
            ports: Ports::below_ephemeral(),
            cgroups: CgroupAllocator::set_up(&state, &log),
            journal: state.journal.clone(),
            spawner: Spawner::new(&state, &log).unwrap(),
            orphan_reaper: OrphanReaper::default(),
            peers: FunctionPeers::default(),
        };
        let engine = Processes::new(Callback::local(([127, 0, 0, 1], 8124).into()), runtime);
        Self {
            engine,
            function,
            warnings,
            env: BTreeMap::new(),
            memory: 128,
            pids_limit: 512,
            file_size: None,
            user: None,
            state,
            _home: home,
        }
    }

    pub async fn try_run(&self, command: &[&str]) -> Result<Running, LaunchError> {
        let process = ProcessSpec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            memory: self.memory,
            cpus: None,
            pids_limit: self.pids_limit,
            file_size: self.file_size,
            user: self.user.clone(),
        };
        let spec = FunctionSpec {
            name: "f".to_owned(),
            directory: self.function.clone(),
            concurrent_requests: NonZeroUsize::MIN,
            single_use: false,
            keepalive: SOON,
            keep_paused: Duration::ZERO,
            prewarm: false,
            min_instances: 0,
            max_instances: None,
            timeout: None,
            boot_timeout: SOON,
            stop_grace: SOON,
            queue: NonZeroUsize::MIN,
            queue_timeout: SOON,
            max_body: None,
            port: 8080,
            readiness: Readiness::Callback,
            env: self.env.clone().into(),
            asynchronous: AsyncSpec::default(),
            cluster: ClusterSpec::default(),
            triggers: Default::default(),
            sandbox: SandboxSpec::Process(process.clone()),
        };
        let output = OutputLog::default();
        let order = LaunchOrder {
            purpose: Purpose::Serve { restore: false },
            instance: InstanceId::random(),
            spec: Arc::new(spec),
            token: ReadyToken::random(),
            output: output.clone(),
            clock: BootClock::new(Instant::now()),
            log: Logger::root(slog::Discard, o!()),
        };
        let launched = self.engine.launch(order, &process).await?;
        Ok(Running {
            sandbox: launched.sandbox,
            exited: launched.exited,
            output,
            pid: launched.pid.unwrap() as i32,
            port: launched.network.as_ref().unwrap().address.port(),
            resources: launched.resources,
        })
    }

    pub async fn run(&self, command: &[&str]) -> Running {
        self.try_run(command).await.unwrap()
    }

    pub async fn sh(&self, script: &str) -> Running {
        self.run(&["sh", "-c", script]).await
    }

    /// Returns all output of a script.
    pub async fn output_of(&self, script: &str) -> Vec<String> {
        self.sh(script).await.end().await.lines
    }

    pub fn without_cgroups(&mut self) {
        self.engine.runtime.cgroups = CgroupAllocator::none(&Logger::root(slog::Discard, o!()));
    }

    /// Returns how many process trees the journal has, without that of the spawner process.
    pub fn journaled(&self) -> usize {
        self.state.journal.flush();
        let is_tree = |resource: &Resource| matches!(resource, Resource::Process(_));
        recorded(self.state.directory()).iter().filter(|resource| is_tree(resource)).count() - 1
    }

    pub fn has_cgroups(&self) -> bool {
        self.engine.runtime.cgroups.parents().next().is_some()
    }
}

impl Running {
    pub async fn exit(&mut self) -> SandboxExit {
        timeout(SOON, &mut self.exited).await.expect("ends")
    }

    /// Waits for its end, and returns its resources.
    pub async fn end(mut self) -> Ended {
        let exit = self.exit().await;
        let lines = self.output.texts(usize::MAX);
        self.sandbox.reclaim().await.unwrap();
        Ended { exit, lines, resources: self.resources }
    }

    /// Kills it, then as [`end`](Self::end).
    pub async fn kill(mut self) -> Ended {
        self.sandbox.kill();
        self.end().await
    }

    /// Waits for the first line.
    pub async fn line(&self) -> String {
        eventually(|| self.output.texts(1).pop()).await
    }
}

pub async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    timeout(SOON, async {
        loop {
            match look() {
                Some(seen) => return seen,
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    })
    .await
    .expect("happens")
}

pub async fn world(test: impl AsyncFnOnce()) {
    let _alone = ONE_AT_A_TIME.lock().await;
    LocalSet::new().run_until(test()).await;
}

/// Returns whether it runs. A zombie does not.
pub fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X'])))
}

pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Counts descriptors of the kinds that only child processes need, of this process and of the spawner processes.
pub fn held() -> usize {
    let count = |table: PathBuf| {
        let entries = fs::read_dir(table).into_iter().flatten().flatten();
        let is_of_child = |link: &PathBuf| {
            let link = link.to_string_lossy();
            ["pipe:", "pidfd", "/tasks", "cgroup."].iter().any(|kind| link.contains(kind))
        };
        entries.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(is_of_child).count()
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok()).collect::<String>();
    let is_spawner = |pid: &&str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == format!("unifaas\0{ARGUMENT}\0").as_bytes())
    };
    let spawners = children.split_whitespace().filter(is_spawner);
    count("/proc/self/fd".into()) + spawners.map(|pid| count(format!("/proc/{pid}/fd").into())).sum::<usize>()
}

/// Counts processes in the cgroups of instances, in the hierarchy with the most.
pub fn members(rig: &Rig) -> usize {
    let procs =
        |cgroup: PathBuf| fs::read_to_string(cgroup.join("cgroup.procs")).map_or(0, |pids| pids.lines().count());
    let parents = rig.engine.runtime.cgroups.parents();
    parents.map(|parent| instances(parent).map(procs).sum()).max().unwrap_or(0)
}

/// Counts cgroups of instances, without those kept for reuse.
pub fn cgroups(rig: &Rig) -> usize {
    let cgroups = &rig.engine.runtime.cgroups;
    let all = cgroups.parents().flat_map(instances).count();
    all - cgroups.kept() * cgroups.parents().count()
}

pub fn instances(parent: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(parent).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}
