//! A daemon's worth of actors on one thread, with a clock that stands still and a sandbox that follows a script.

mod fake;
mod log;
mod script;

use std::{
    cell::{Cell, RefCell},
    fs,
    future::Future,
    panic,
    sync::{Arc, Once},
    time::Duration,
};

use actix::Addr;
use tempfile::TempDir;
pub use tokio::time::{Instant, sleep};
use tokio::{sync::oneshot, task::JoinHandle};
use unifaas_actors::{
    Admission, CallbackOutcome, Callbacks, ChangeSource, Changes, Directory, DrainAll, FilesChanged, FunctionHandle,
    FunctionQuestion, FunctionSnapshot, HostLimits, InstanceQuestion, InstanceSnapshot, Lease, Refusal, RegistryActor,
    Services, scan_all, scan_one, spec::SPEC_FILE,
};

pub use self::{
    fake::{Fake, VERSION},
    log::Log,
    script::{Call, Caller, Launch, OnStop, Reclaim, Script},
};

/// The function that most tests are about.
pub const FUNCTION: &str = "f";
/// How the message of a panic begins that a test wants.
const PLANNED: &str = "as planned";
/// There is room for a thousand instances of 128 MiB, which is what one takes unless its file says otherwise.
pub const ROOMY: HostLimits = HostLimits { memory: 128 * 1000, process_starts: usize::MAX, starts: usize::MAX };

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs `body` as the only inhabitant of an actix system whose clock stands still.
///
/// Time moves only when every task waits, and then jumps to the nearest timer.
pub fn with_paused_clock<F: Future>(body: F) -> F::Output {
    hush_planned_panics();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime of one thread needs no special rights")
    };
    actix::System::with_tokio_rt(runtime).block_on(body)
}

/// What panics on purpose says so, and nobody has to read it.
fn hush_planned_panics() {
    static HUSHED: Once = Once::new();
    HUSHED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let said = info.payload_as_str().unwrap_or_default();
            if !said.starts_with(PLANNED) {
                usual(info);
            }
        }));
    });
}

/// A registry and the services it versions in. Most tests are about one function of it, [`FUNCTION`]; what concerns another is
/// named `..._of`. Has to be [`finish`](Self::finish)ed.
pub struct Rig {
    registry: Addr<RegistryActor>,
    directory: Arc<Directory>,
    root: TempDir,
    handles: RefCell<Vec<Arc<FunctionHandle>>>,
    finished: Cell<bool>,
    limits: HostLimits,
    pub fake: Fake,
    pub log: Log,
    pub callbacks: Arc<Callbacks>,
    pub admission: Arc<Admission>,
}

impl Rig {
    /// `keys` are those of the function's file outside of its `[process]`. Readiness is probed unless they say otherwise.
    pub fn new(keys: &str) -> Self {
        Self::with(ROOMY, &[(FUNCTION, keys)])
    }

    /// Several functions, on a host of that size. A line `memory = …` among the keys is one of `[process]`.
    pub fn with(limits: HostLimits, functions: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().expect("the tests may write to the temporary directory");
        for (function, keys) in functions {
            write_file(&root, function, keys);
        }
        let (log, callbacks, directory) = (Log::default(), Arc::<Callbacks>::default(), Arc::<Directory>::default());
        let (fake, admission) = (Fake::new(callbacks.clone()), Admission::new(limits));
        let services =
            Services { sandboxes: Box::new(fake.clone()), callbacks: callbacks.clone(), admission: admission.clone() };
        let specs = scan_all(root.path()).expect("the registry is there");
        // A watcher would see changes in real time; here they are seen at the same virtual time in every run.
        let (path, follow) = (root.path().to_owned(), ChangeSource::Messages);
        let registry = RegistryActor::launch(path, specs, directory.clone(), services, follow, log.logger());
        let (handles, finished) = (RefCell::default(), Cell::new(false));
        Self { registry, directory, root, handles, finished, limits, fake, log, callbacks, admission }
    }

    /// Where the function's slots are had now. A function that is not there any more is a failure of the test.
    #[track_caller]
    pub fn handle(&self) -> Arc<FunctionHandle> {
        self.handle_of(FUNCTION).expect("the function is there")
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

    /// A request that goes its own way. It has its slot, or a place in the queue, when this returns.
    pub async fn request(&self) -> JoinHandle<Result<Lease, Refusal>> {
        self.request_of(FUNCTION).await
    }

    pub async fn request_of(&self, function: &str) -> JoinHandle<Result<Lease, Refusal>> {
        let [request] = self.requests_of(function, 1).await.try_into().expect("it is one");
        request
    }

    /// As many of them at once.
    pub async fn requests(&self, count: usize) -> Vec<JoinHandle<Result<Lease, Refusal>>> {
        self.requests_of(FUNCTION, count).await
    }

    pub async fn requests_of(&self, function: &str, count: usize) -> Vec<JoinHandle<Result<Lease, Refusal>>> {
        let handle = self.handle_of(function).expect("the function is there");
        let request = |handle: Arc<FunctionHandle>| actix::spawn(async move { handle.acquire().await });
        let requests = (0..count).map(|_| request(handle.clone())).collect();
        self.settle().await;
        requests
    }

    /// Lets everybody do what can be done at this moment.
    pub async fn settle(&self) {
        sleep(ms(1)).await;
    }

    /// Instances that were ended because others needed their memory, of all functions that were ever looked at.
    pub fn evicted(&self) -> u64 {
        self.handles.borrow().iter().map(|handle| handle.stats().report().instances_evicted).sum()
    }

    pub async fn snapshot(&self) -> FunctionSnapshot {
        self.snapshot_of(FUNCTION).await
    }

    pub async fn snapshot_of(&self, function: &str) -> FunctionSnapshot {
        let handle = self.handle_of(function).expect("the function is there");
        handle.actor().send(FunctionQuestion).await.expect("the function's actor versions")
    }

    /// The instances that there are, in no order.
    pub async fn instances(&self) -> Vec<InstanceSnapshot> {
        self.instances_of(FUNCTION).await
    }

    pub async fn instances_of(&self, function: &str) -> Vec<InstanceSnapshot> {
        let mut instances = Vec::new();
        for (_, address) in self.snapshot_of(function).await.instance_addrs {
            instances.extend(address.send(InstanceQuestion).await);
        }
        instances
    }

    /// The states of the instances, in alphabetical order.
    pub async fn states(&self) -> Vec<&'static str> {
        self.states_of(FUNCTION).await
    }

    pub async fn states_of(&self, function: &str) -> Vec<&'static str> {
        let mut states: Vec<_> = self.instances_of(function).await.iter().map(|instance| instance.state).collect();
        states.sort_unstable();
        states
    }

    /// Changes the function's file and returns once that is in force.
    pub async fn configure(&self, keys: &str) {
        self.write(keys);
        let written = scan_one(self.root.path(), FUNCTION).expect("the file is there");
        for _ in 0..100 {
            // No answer: the actor panics over the change, because the test wants it to.
            if let Ok(now) = self.handle().actor().send(FunctionQuestion).await
                && (now.spec.as_ref(), now.reason.as_ref()) == (written.as_ref().ok(), written.as_ref().err())
            {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("the change is not noticed: {written:?}");
    }

    /// Changes the function's file and does not wait for what comes of it.
    pub fn write(&self, keys: &str) {
        self.write_of(FUNCTION, keys);
    }

    /// The same for any function, be it new.
    pub fn write_of(&self, function: &str, keys: &str) {
        write_file(&self.root, function, keys);
        self.look();
    }

    /// Removes a function's file, if there is one, and does not wait for what comes of it.
    pub fn erase_of(&self, function: &str) {
        let _ = fs::remove_file(self.root.path().join(function).join(SPEC_FILE));
        self.look();
    }

    /// Removes the function's file and returns once the function is not offered any more.
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
    pub async fn bring_back(&self, keys: &str) {
        self.write(keys);
        for _ in 0..100 {
            if self.exists() {
                return;
            }
            sleep(ms(10)).await;
        }
        panic!("the function's return is not noticed");
    }

    /// The ready callback of the instance of one order, from the address of the instance of another or the same.
    pub async fn call_back(&self, order: usize, from: usize) -> Option<CallbackOutcome> {
        let token = self.fake.tokens()[order - 1];
        self.callbacks.deliver(Some(token), fake::address(from).ip()).await
    }

    fn look(&self) {
        self.registry.do_send(FilesChanged(Changes::anything()));
    }

    /// Begins to drain everything. The receiver is told when nothing is left.
    pub fn drain(&self, grace: Duration) -> oneshot::Receiver<()> {
        for function in self.directory.all().keys() {
            self.handle_of(function);
        }
        let (done, drained) = oneshot::channel();
        self.registry.do_send(DrainAll { grace, done });
        drained
    }

    /// Drains everything and sees that nothing is left: no guest, nothing of the host's, no lease, no callback.
    pub async fn finish(self) {
        // Whatever fails from here on has been looked at.
        self.finished.set(true);
        self.drain(Duration::ZERO).await.expect("the registry answers");
        // Nobody waits for what cannot be ended, and it is counted until it has ended.
        self.fake.release();
        self.settle().await;
        self.fake.check_empty();
        let (abandoned, panics) = self.fake.abandoned();
        assert!(abandoned <= panics + self.log.exploded(), "{abandoned} guests were not reclaimed");
        assert!(self.fake.most_memory() <= self.limits.memory, "{} MiB were held at once", self.fake.most_memory());
        let report = self.admission.report();
        assert_eq!((report.memory_taken, report.memory_free), (0, self.limits.memory), "memory is still set aside");
        assert_eq!((report.starting, report.functions_waiting), (0, 0), "somebody starts or waits for it");
        let published = self.directory.all();
        for handle in self.handles.take() {
            let listed = published.values().any(|listed| Arc::ptr_eq(listed, &handle));
            let expected = 1 + usize::from(listed);
            assert_eq!(Arc::strong_count(&handle), expected, "a lease is still held, or an actor still versions");
        }
        let callbacks = format!("{:?}", self.callbacks);
        assert!(!callbacks.contains("ReadyToken"), "a callback of an instance that is gone is still expected");
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        assert!(self.finished.get() || std::thread::panicking(), "the test did not finish its rig");
    }
}

fn write_file(root: &TempDir, function: &str, keys: &str) {
    let readiness = if keys.contains("readiness") { "" } else { "readiness = \"tcp\"" };
    let (memory, keys): (Vec<_>, Vec<_>) = keys.lines().partition(|line| line.starts_with("memory"));
    let (memory, keys) = (memory.join("\n"), keys.join("\n"));
    let text = format!("{readiness}\n{keys}\n[process]\ncommand = [\"true\"]\n{memory}\n");
    let directory = root.path().join(function);
    fs::create_dir_all(&directory).expect("the tests may write there");
    fs::write(directory.join(SPEC_FILE), text).expect("the directory is there");
}
