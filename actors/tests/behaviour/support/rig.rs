//! The rig: a registry of functions with everything around it.

use std::{
    cell::{Cell, RefCell},
    fs,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use unifaas_actors::{
    AdmissionActor, AdmissionQuestion, AdmissionReport, CallbackOutcome, Callbacks, ChangeSource, Changes, Directory,
    DrainAll, FilesChanged, FunctionHandle, FunctionSnapshot, History, HostLimits, InstanceSnapshot, Lease, Refusal,
    RegistryActor, Rescan, Rescanned, Services, StartTracker, ended, scan_all, scan_one, spec::SPEC_FILE,
};

use super::{
    FUNCTION, ROOMY,
    fake::{self, Fake},
    log::Log,
    ms,
};

/// A registry and everything around it. Most tests are about one function of it, [`FUNCTION`]; methods for another one are
/// named `..._of`. Has to be [`finish`](Self::finish)ed.
pub struct Rig {
    registry: Addr<RegistryActor>,
    pub directory: Arc<Directory>,
    pub admission: Addr<AdmissionActor>,
    root: TempDir,
    /// Every handle that was ever used.
    handles: RefCell<Vec<Arc<FunctionHandle>>>,
    finished: Cell<bool>,
    limits: HostLimits,
    pub fake: Fake,
    pub log: Log,
    pub callbacks: Arc<Callbacks>,
    pub history: Arc<History>,
}

impl Rig {
    /// Creates a rig with one function. `keys` are those of its file outside of `[process]`. Its readiness is probed unless
    /// they say otherwise.
    pub fn new(keys: &str) -> Self {
        Self::with(ROOMY, &[(FUNCTION, keys)])
    }

    /// Creates a rig with several functions and these limits. A line `memory = …` among the keys is one of `[process]`.
    pub fn with(limits: HostLimits, functions: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("the tests may write to the temporary directory");
        for (function, keys) in functions {
            write_file(&root, function, keys);
        }
        let (log, callbacks, directory) = (Log::default(), Arc::<Callbacks>::default(), Arc::<Directory>::default());
        let (fake, admission) = (Fake::new(callbacks.clone()), AdmissionActor::launch(limits));
        let history = Arc::<History>::default();
        let services = Services {
            sandboxes: Box::new(fake.clone()),
            callbacks: callbacks.clone(),
            admission: admission.clone(),
            history: history.clone(),
            starts: StartTracker::default(),
        };
        let specs = scan_all(root.path()).expect("the registry exists");
        // A watcher would report changes in real time; messages come at the same virtual time in every run.
        let (path, source) = (root.path().to_owned(), ChangeSource::Messages);
        let registry = RegistryActor::launch(path, specs, directory.clone(), services, source, log.logger());
        let (handles, finished) = (RefCell::default(), Cell::new(false));
        Self { registry, directory, admission, root, handles, finished, limits, fake, log, callbacks, history }
    }

    /// Returns the function's present handle. Panics if the function does not exist.
    #[track_caller]
    pub fn handle(&self) -> Arc<FunctionHandle> {
        self.handle_of(FUNCTION).expect("the function exists")
    }

    pub fn handle_of(&self, function: &str) -> Option<Arc<FunctionHandle>> {
        let handle = self.directory.find(function)?;
        let mut handles = self.handles.borrow_mut();
        if !handles.iter().any(|known| Arc::ptr_eq(known, &handle)) {
            handles.push(handle.clone());
        }
        Some(handle)
    }

    pub fn exists(&self) -> bool {
        self.directory.find(FUNCTION).is_some()
    }

    pub async fn acquire(&self) -> Result<Lease, Refusal> {
        self.handle().acquire().await
    }

    /// Spawns a request. It has its slot or its place in the queue when this returns.
    pub async fn request(&self) -> JoinHandle<Result<Lease, Refusal>> {
        self.request_of(FUNCTION).await
    }

    pub async fn request_of(&self, function: &str) -> JoinHandle<Result<Lease, Refusal>> {
        let [request] = self.requests_of(function, 1).await.try_into().expect("it is one");
        request
    }

    /// Spawns that many requests at once.
    pub async fn requests(&self, count: usize) -> Vec<JoinHandle<Result<Lease, Refusal>>> {
        self.requests_of(FUNCTION, count).await
    }

    pub async fn requests_of(&self, function: &str, count: usize) -> Vec<JoinHandle<Result<Lease, Refusal>>> {
        let handle = self.handle_of(function).expect("the function exists");
        let request = |handle: Arc<FunctionHandle>| actix::spawn(async move { handle.acquire().await });
        let requests = (0..count).map(|_| request(handle.clone())).collect();
        self.settle().await;
        requests
    }

    /// Lets every task do what can be done now.
    pub async fn settle(&self) {
        sleep(ms(1)).await;
    }

    /// Returns how many instances were evicted, of all functions that were used.
    pub fn evicted(&self) -> u64 {
        self.handles.borrow().iter().map(|handle| handle.stats().report().instances_evicted).sum()
    }

    pub async fn admission(&self) -> AdmissionReport {
        self.admission.send(AdmissionQuestion).await.expect("the AdmissionActor runs")
    }

    pub async fn snapshot(&self) -> FunctionSnapshot {
        self.snapshot_of(FUNCTION).await
    }

    pub async fn snapshot_of(&self, function: &str) -> FunctionSnapshot {
        let handle = self.handle_of(function).expect("the function exists");
        handle.inspect(100).await.expect("the function's actor runs").function
    }

    /// Returns the function's instances in no particular order.
    pub async fn instances(&self) -> Vec<InstanceSnapshot> {
        self.instances_of(FUNCTION).await
    }

    pub async fn instances_of(&self, function: &str) -> Vec<InstanceSnapshot> {
        let handle = self.handle_of(function).expect("the function exists");
        handle.inspect(100).await.expect("the function's actor runs").instances
    }

    /// Returns the states of the function's instances in alphabetical order.
    pub async fn states(&self) -> Vec<&'static str> {
        self.states_of(FUNCTION).await
    }

    pub async fn states_of(&self, function: &str) -> Vec<&'static str> {
        let mut states: Vec<_> = self.instances_of(function).await.iter().map(|instance| instance.state).collect();
        states.sort_unstable();
        states
    }

    /// Changes the function's file and returns once the change is in force.
    pub async fn configure(&self, keys: &str) {
        self.write(keys);
        let written = scan_one(self.root.path(), FUNCTION).expect("the file exists");
        for _ in 0..100 {
            // None: the actor panics because of the change, as the test wants.
            if let Some(now) = self.handle().inspect(100).await
                && now.function.reason.as_ref() == written.as_ref().err()
                && written.as_ref().is_ok_and(|written| now.function.spec.as_ref() == Some(written)) == written.is_ok()
            {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("the change is not noticed: {written:?}");
    }

    /// Changes the function's file and does not wait for the effect.
    pub fn write(&self, keys: &str) {
        self.write_of(FUNCTION, keys);
    }

    /// Changes or adds any function's file.
    pub fn write_of(&self, function: &str, keys: &str) {
        write_file(&self.root, function, keys);
        self.report_change();
    }

    /// Changes or adds any function's file, which is not noticed before the next scan.
    pub fn write_silently(&self, function: &str, keys: &str) {
        write_file(&self.root, function, keys);
    }

    /// Reads the registry now, and returns what is in force then.
    pub async fn rescan(&self) -> Result<Rescanned, String> {
        let (done, rescanned) = oneshot::channel();
        self.registry.do_send(Rescan { done });
        rescanned.await.expect("the registry answers")
    }

    /// Removes a function's file, if it exists, and does not wait for the effect.
    pub fn erase_of(&self, function: &str) {
        let _ = fs::remove_file(self.root.path().join(function).join(SPEC_FILE));
        self.report_change();
    }

    /// Removes the function's file and returns once the function is not in the directory any more.
    pub async fn remove(&self) {
        self.handle();
        self.erase_of(FUNCTION);
        for _ in 0..100 {
            if !self.exists() {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("the removal is not noticed");
    }

    /// Undoes [`remove`](Self::remove).
    pub async fn add_again(&self, keys: &str) {
        self.write(keys);
        for _ in 0..100 {
            if self.exists() {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("the function's file is not noticed");
    }

    /// Sends the ready callback of the instance of one order, from the address of the instance of another or the same.
    pub async fn call_back(&self, order: usize, from: usize) -> Option<CallbackOutcome> {
        let token = self.fake.tokens()[order - 1];
        self.callbacks.deliver(Some(token), fake::address(from).ip()).await
    }

    fn report_change(&self) {
        self.registry.do_send(FilesChanged(Changes::anything()));
    }

    /// Starts to drain everything. The receiver is notified when nothing is left.
    pub fn drain(&self, grace: Duration) -> oneshot::Receiver<()> {
        for function in self.directory.all().keys() {
            self.handle_of(function);
        }
        let (done, drained) = oneshot::channel();
        self.registry.do_send(DrainAll { grace, done });
        drained
    }

    /// Makes the RegistryActor panic, and waits until its end is noticed.
    pub async fn lose_registry(self) {
        self.finished.set(true);
        let ended = ended(&self.registry);
        tokio::pin!(ended);
        self.settle().await;
        assert!(futures::poll!(&mut ended).is_pending(), "the registry works");
        self.log.panic_at("function was added");
        write_file(&self.root, "new", "");
        self.report_change();
        ended.await;
        assert_eq!(self.log.panics(), 1);
    }

    /// Drains everything and checks that nothing is left: no instance, resource, lease or callback.
    pub async fn finish(self) {
        // A failure from here on is reported by itself.
        self.finished.set(true);
        self.drain(Duration::ZERO).await.expect("the registry answers");
        // The drain does not wait for stuck instances, whose memory is taken until they exit.
        self.fake.end_stuck();
        self.settle().await;
        self.fake.check_empty();
        let (dropped, panics) = self.fake.dropped_and_panics();
        assert!(dropped <= panics + self.log.panics(), "{dropped} instances were not reclaimed");
        assert!(self.fake.max_memory() <= self.limits.memory, "{} MiB were held at once", self.fake.max_memory());
        let report = self.admission().await;
        assert_eq!((report.memory_taken, report.memory_free), (0, self.limits.memory), "memory is still taken");
        assert_eq!((report.starting, report.functions_waiting), (0, 0), "a start is still counted or awaited");
        let published = self.directory.all();
        for handle in self.handles.take() {
            let listed = published.values().any(|listed| Arc::ptr_eq(listed, &handle));
            let expected = 1 + usize::from(listed);
            assert_eq!(Arc::strong_count(&handle), expected, "a lease is still held, or an actor still runs");
        }
        let callbacks = format!("{:?}", self.callbacks);
        assert!(!callbacks.contains("ReadyToken"), "a callback of an ended instance is still expected");
        assert_eq!(self.history.instances.live(), 0, "an ended instance counts as existing");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        assert!(self.finished.get() || std::thread::panicking(), "the test did not finish its rig");
    }
}

/// The tables of a guest whose instances are clones.
pub const CLONED: &str = "[vm]\nkernel = \"kernel\"\nnetwork = \"user\"\nsnapshot = true\nhypervisor.type = \"qemu\"";

/// Returns a file that looks like a Linux kernel.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 5 * 512 + 16];
    for (at, bytes) in [(0x1f4, &[1][..]), (0x202, b"HdrS\x0f\x02"), (0x238, &[0, 8]), (0x25a, &[16])] {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
    image
}

fn write_file(root: &TempDir, function: &str, keys: &str) {
    let readiness = if keys.contains("readiness") { "" } else { "readiness = \"tcp\"" };
    let (memory, keys): (Vec<_>, Vec<_>) = keys.lines().partition(|line| line.starts_with("memory"));
    let (memory, keys) = (memory.join("\n"), keys.join("\n"));
    let directory = root.path().join(function);
    fs::create_dir_all(&directory).expect("the tests may write there");
    if keys.contains(CLONED) {
        fs::write(directory.join("kernel"), kernel()).expect("the directory exists");
        let readiness = if readiness.is_empty() { "" } else { "readiness = { http = \"/\" }" };
        let text = format!("{readiness}\n{keys}\n{memory}\n");
        return fs::write(directory.join(SPEC_FILE), text).expect("the directory exists");
    }
    let text = format!("{readiness}\n{keys}\n[process]\ncommand = [\"true\"]\n{memory}\n");
    fs::write(directory.join(SPEC_FILE), text).expect("the directory exists");
}
