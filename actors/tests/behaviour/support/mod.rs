//! A daemon's worth of actors on one thread, with a clock that stands still and a sandbox that follows a script.

mod fake;
mod log;

use std::{
    cell::{Cell, RefCell},
    fs,
    future::Future,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::Addr;
use tempfile::TempDir;
pub use tokio::time::{Instant, sleep};
use tokio::{sync::oneshot, task::JoinHandle};
use unifaas_actors::{
    Budget, Callbacks, Changed, Changes, Desk, Directory, DrainAll, FunctionQuestion, FunctionSnapshot,
    InstanceQuestion, InstanceSnapshot, Lease, Refusal, RegistryActor, Verdict, World, scan_all, scan_one,
    spec::SPEC_FILE,
};

pub use self::{
    fake::{Fake, Launch, OnStop, Reclaim, Script},
    log::Log,
};

/// The function that most tests are about.
const FUNCTION: &str = "f";
/// Of the host, in MiB; an instance takes 128 unless its file says otherwise.
const MEMORY: u64 = 128 * 1000;

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Runs `body` as the only inhabitant of an actix system whose clock stands still.
///
/// Time moves only when every task waits, and then jumps to the nearest timer.
pub fn in_still_time<F: Future>(body: F) -> F::Output {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime of one thread needs no special rights")
    };
    actix::System::with_tokio_rt(runtime).block_on(body)
}

/// A registry with one function, and the world it lives in. Has to be [`finish`](Self::finish)ed.
pub struct Rig {
    registry: Addr<RegistryActor>,
    directory: Arc<Directory>,
    root: TempDir,
    desks: RefCell<Vec<Arc<Desk>>>,
    finished: Cell<bool>,
    pub fake: Fake,
    pub log: Log,
    pub callbacks: Arc<Callbacks>,
    pub memory: Rc<Budget>,
}

impl Rig {
    /// `keys` are those of the function's file outside of its `[process]`. Readiness is probed unless they say otherwise.
    pub fn new(keys: &str) -> Self {
        let root = tempfile::tempdir().expect("the tests may write to the temporary directory");
        fs::create_dir(root.path().join(FUNCTION)).expect("the directory is new");
        write_file(&root, keys);
        let (fake, log, callbacks, directory) =
            (Fake::default(), Log::default(), Arc::<Callbacks>::default(), Arc::<Directory>::default());
        let memory = Rc::new(Budget::new(MEMORY));
        let world = World { sandboxes: Box::new(fake.clone()), callbacks: callbacks.clone(), memory: memory.clone() };
        let drafts = scan_all(root.path()).expect("the registry is there");
        let registry = RegistryActor::launch(root.path().into(), drafts, directory.clone(), world, log.logger());
        let finished = Cell::new(false);
        Self { registry, directory, root, desks: RefCell::default(), finished, fake, log, callbacks, memory }
    }

    /// Where the function's slots are had now. A function that is not there any more is a failure of the test.
    #[track_caller]
    pub fn desk(&self) -> Arc<Desk> {
        let desk = self.directory.find(FUNCTION).expect("the function is there");
        let mut desks = self.desks.borrow_mut();
        if !desks.iter().any(|known| Arc::ptr_eq(known, &desk)) {
            desks.push(desk.clone());
        }
        desk
    }

    pub fn exists(&self) -> bool {
        self.directory.find(FUNCTION).is_some()
    }

    pub async fn acquire(&self) -> Result<Lease, Refusal> {
        self.desk().acquire(tokio::time::Instant::now()).await
    }

    /// A request that goes its own way. It has its slot, or a place in the queue, when this returns.
    pub async fn request(&self) -> JoinHandle<Result<Lease, Refusal>> {
        let desk = self.desk();
        let request = actix::spawn(async move { desk.acquire(tokio::time::Instant::now()).await });
        self.settle().await;
        request
    }

    /// As many of them at once.
    pub async fn requests(&self, count: usize) -> Vec<JoinHandle<Result<Lease, Refusal>>> {
        let desk = self.desk();
        let request = |desk: Arc<Desk>| actix::spawn(async move { desk.acquire(tokio::time::Instant::now()).await });
        let requests = (0..count).map(|_| request(desk.clone())).collect();
        self.settle().await;
        requests
    }

    /// Lets everybody do what can be done at this moment.
    pub async fn settle(&self) {
        sleep(ms(1)).await;
    }

    pub async fn snapshot(&self) -> FunctionSnapshot {
        self.desk().actor().send(FunctionQuestion).await.expect("the function's actor lives")
    }

    /// The instances that there are, in no order.
    pub async fn instances(&self) -> Vec<InstanceSnapshot> {
        let mut instances = Vec::new();
        for (_, address) in self.snapshot().await.members {
            instances.extend(address.send(InstanceQuestion).await);
        }
        instances
    }

    /// The states of the instances, in alphabetical order.
    pub async fn states(&self) -> Vec<&'static str> {
        let mut states: Vec<_> = self.instances().await.iter().map(|instance| instance.state).collect();
        states.sort_unstable();
        states
    }

    /// Changes the function's file and returns once that is in force.
    pub async fn configure(&self, keys: &str) {
        self.write(keys);
        let written = scan_one(self.root.path(), FUNCTION).expect("the file is there");
        for _ in 0..100 {
            // No answer: the actor panics over the change, because the test wants it to.
            if let Ok(now) = self.desk().actor().send(FunctionQuestion).await
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
        write_file(&self.root, keys);
        self.look();
    }

    /// Removes the function's file and returns once the function is not offered any more.
    pub async fn remove(&self) {
        self.desk();
        fs::remove_file(self.root.path().join(FUNCTION).join(SPEC_FILE)).expect("the file is there");
        self.look();
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
    pub async fn call_back(&self, order: usize, from: usize) -> Option<Verdict> {
        let token = self.fake.tokens()[order - 1];
        self.callbacks.deliver(Some(token), fake::address(from).ip()).await
    }

    /// The watcher sees changes in real time; here they are seen at the same virtual time in every run.
    fn look(&self) {
        self.registry.do_send(Changed(Changes::anything()));
    }

    /// Begins to drain everything. The receiver is told when nothing is left.
    pub fn drain(&self, grace: Duration) -> oneshot::Receiver<()> {
        if self.exists() {
            self.desk();
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
        self.fake.check_empty();
        assert_eq!(self.memory.free(), MEMORY, "memory is still set aside");
        let published = self.directory.all();
        for desk in self.desks.take() {
            let listed = published.values().any(|listed| Arc::ptr_eq(listed, &desk));
            let expected = 1 + usize::from(listed);
            assert_eq!(Arc::strong_count(&desk), expected, "a lease is still held, or an actor still lives");
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

fn write_file(root: &TempDir, keys: &str) {
    let readiness = if keys.contains("readiness") { "" } else { "readiness = \"tcp\"" };
    let text = format!("{readiness}\n{keys}\n[process]\ncommand = [\"true\"]\n");
    fs::write(root.path().join(FUNCTION).join(SPEC_FILE), text).expect("the directory is there");
}
