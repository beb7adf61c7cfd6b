//! Pauses and resumes one container.
//!
//! The freezer of its cgroup stops it in a fraction of a millisecond, and the engine goes on calling it running. Without a
//! cgroup of its own, its processes are stopped by signals. If this daemon can neither write the cgroup nor signal the processes, the
//! engine does it, which takes some ten milliseconds. One way is chosen at the first pause and never left.
//!
//! Other programs can pause it through the engine. That is undone in the same way, at the next [`resume`](Pauser::resume).

#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
};

use bollard::Docker;
use futures::stream::{self, LocalBoxStream, StreamExt};
use tokio::{
    sync::{OnceCell, mpsc},
    task,
};
use unifaas_actors::{MemoryUsage, sandbox::PauseError};

use super::{
    engine::{Engine, QUICK_CALL_TIMEOUT},
    engine_error::EngineError,
    first_process,
    inspection::is_paused,
    stopped_tree::{StoppedTree, can_stop, resume_tree},
};
use crate::{
    sandbox::{
        cgroup::{self, Freezer},
        pause_deadline::PAUSE_TIMEOUT,
        process::proportional_set_size,
    },
    state::{self, ProcessId},
};

/// Pauses and resumes one container.
#[derive(Debug)]
pub struct Pauser {
    engine: Rc<Engine>,
    container: String,
    /// Its first process, if that is of this host.
    first: Option<ProcessId>,
    /// Reads the memory that its cgroup uses.
    memory_usage: Option<MemoryUsage>,
    way: OnceCell<Way>,
    pause: RefCell<Pause>,
    /// The engine says that it is paused, which another program has asked for.
    external: Cell<bool>,
    is_ending: Cell<bool>,
    events: mpsc::UnboundedSender<()>,
    receiver: RefCell<Option<mpsc::UnboundedReceiver<()>>>,
}

/// How a container is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Freezer {
        freezer: Freezer,
        first: ProcessId,
    },
    /// Signals to this process and its descendants.
    Signals(ProcessId),
    Engine,
}

/// What this daemon has done to pause a container.
#[derive(Debug)]
enum Pause {
    None,
    /// It is being stopped by signals.
    Stopping,
    Stopped(StoppedTree),
    Frozen(Freezer),
    /// The engine was asked to pause it.
    Engine,
}

impl Pauser {
    /// Returns the pauser of a running container. `first` is its first process, if that is of this host.
    pub fn new(
        engine: Rc<Engine>,
        container: String,
        first: Option<ProcessId>,
        memory_usage: Option<MemoryUsage>,
    ) -> Rc<Self> {
        let (events, receiver) = mpsc::unbounded_channel();
        Rc::new(Self {
            engine,
            container,
            first,
            memory_usage,
            way: OnceCell::new(),
            pause: RefCell::new(Pause::None),
            external: Cell::new(false),
            is_ending: Cell::new(false),
            events,
            receiver: RefCell::new(Some(receiver)),
        })
    }

    /// Returns the pauses by other programs. There is one receiver.
    pub fn external_pauses(&self) -> Option<LocalBoxStream<'static, ()>> {
        let mut receiver = self.receiver.borrow_mut().take()?;
        Some(stream::poll_fn(move |context| receiver.poll_recv(context)).boxed_local())
    }

    /// Notes that the engine has paused the container, or has resumed it.
    pub fn engine_has(&self, paused: bool) {
        let was = self.external.replace(paused && !matches!(*self.pause.borrow(), Pause::Engine));
        if self.external.get() && !was {
            // The receiver is gone if the instance is being ended.
            let _ = self.events.send(());
        }
    }

    /// Returns whether it is paused, as far as is known.
    pub fn is_paused(&self) -> bool {
        self.external.get() || !matches!(*self.pause.borrow(), Pause::None)
    }

    /// Returns how many bytes of memory the container holds until it is resumed. `None`: that is not known, or another program
    /// can resume it.
    pub fn footprint(&self) -> Option<u64> {
        if self.external.get() || !self.is_paused() {
            return None;
        }
        match &self.memory_usage {
            Some(usage) => usage.used(),
            None => proportional_set_size(self.way.get()?.first()?.pid),
        }
    }

    /// Pauses the container.
    ///
    /// # Errors
    /// Returns why it runs on.
    pub async fn pause(&self) -> Result<(), PauseError> {
        let way = self.way().await;
        // Otherwise it is paused already, or would not end.
        let is_useful = !self.external.get() && !self.is_ending.get();
        let paused = match way {
            _ if !is_useful => Ok(()),
            Way::Freezer { freezer, .. } => self.freeze(freezer).await,
            Way::Signals(first) => self.stop(*first).await,
            Way::Engine => self.pause_by_engine().await.map_err(io::Error::other),
        };
        paused.map_err(|error| PauseError::Failed(error.to_string()))
    }

    /// Resumes the container, whatever has paused it.
    ///
    /// # Errors
    /// Returns why it may still be paused.
    pub async fn resume(&self) -> Result<(), PauseError> {
        // Cleared before the call: an event after it tells of another pause.
        let by_engine = self.external.replace(false) || matches!(*self.pause.borrow(), Pause::Engine);
        let freezer = match self.pause.replace(Pause::None) {
            Pause::Frozen(freezer) => Some(freezer),
            // Before the engine, which could not resume a sandbox that is stopped.
            Pause::Stopped(tree) => {
                drop(tree);
                None
            }
            Pause::Stopping | Pause::Engine | Pause::None => None,
        };
        // It would take a request before it exits.
        let is_killed = self.way.get().is_some_and(Way::is_killed);
        let resumed = if by_engine { resume(&self.engine, &self.container).await } else { Ok(()) };
        match (freezer, resumed) {
            // After the engine, which resumes nothing that runs. It uses the same freezer.
            (Some(freezer), _) => freezer.thaw().map_err(|error| PauseError::Failed(error.to_string())),
            (None, Err(error)) => {
                self.external.set(true);
                Err(PauseError::Failed(error.to_string()))
            }
            (None, Ok(())) => Ok(()),
        }?;
        if is_killed { Err(PauseError::Failed("it was killed while it was paused".to_owned())) } else { Ok(()) }
    }

    /// Lets the container run that this daemon has paused without the engine: at once, so that a signal reaches it.
    pub fn thaw(&self) {
        let mut pause = self.pause.borrow_mut();
        match &*pause {
            Pause::Engine => return,
            // It fails if the cgroup is gone.
            Pause::Frozen(freezer) => drop(freezer.thaw()),
            Pause::None | Pause::Stopping | Pause::Stopped(_) => {}
        }
        *pause = Pause::None;
    }

    /// Thaws the container for its end, after which it is not paused again.
    pub fn end(&self) {
        self.is_ending.set(true);
        self.thaw();
    }

    async fn way(&self) -> &Way {
        let choose = async || {
            let (first, container) = (self.first, self.container.clone());
            task::spawn_blocking(move || Way::choose(first, &container)).await.unwrap_or(Way::Engine)
        };
        self.way.get_or_init(choose).await
    }

    async fn freeze(&self, freezer: &Freezer) -> io::Result<()> {
        self.pause.replace(Pause::Frozen(freezer.clone()));
        let frozen = match freezer.freeze() {
            Ok(()) => freezer.frozen().await,
            Err(error) => Err(error),
        };
        // It may have been thawed meanwhile, to be ended.
        if frozen.is_err() && matches!(*self.pause.borrow(), Pause::Frozen(_)) {
            self.thaw();
            return frozen;
        }
        Ok(())
    }

    async fn stop(&self, first: ProcessId) -> io::Result<()> {
        self.pause.replace(Pause::Stopping);
        let stopped = StoppedTree::stop(first).await;
        // Otherwise it was thawed meanwhile, and the tree continues as it is dropped.
        if matches!(*self.pause.borrow(), Pause::Stopping) {
            let (pause, result) =
                stopped.map_or_else(|error| (Pause::None, Err(error)), |tree| (Pause::Stopped(tree), Ok(())));
            self.pause.replace(pause);
            return result;
        }
        Ok(())
    }

    async fn pause_by_engine(&self) -> Result<(), EngineError> {
        self.pause.replace(Pause::Engine);
        let pause = async |docker: Docker| docker.pause_container(&self.container).await;
        let mut paused = self.engine.ask("pause", PAUSE_TIMEOUT, pause).await;
        if matches!(paused, Err(EngineError::Refused { .. })) {
            // runc gives up soon if a process is busy.
            paused = self.engine.ask("pause", PAUSE_TIMEOUT, pause).await;
        }
        if paused.is_err() {
            self.pause.replace(Pause::None);
            // The engine may have paused it nevertheless, or may still do so, of which its event tells.
            let _ = resume(&self.engine, &self.container).await;
        }
        paused
    }
}

impl Drop for Pauser {
    fn drop(&mut self) {
        self.thaw();
    }
}

impl Way {
    /// Chooses the fastest way that this daemon can go. Blocks.
    fn choose(first: Option<ProcessId>, container: &str) -> Self {
        let Some(first) = first else { return Self::Engine };
        match cgroup::container_freezer(first.pid, container) {
            Some(freezer) => Self::Freezer { freezer, first },
            None if can_stop(first) => Self::Signals(first),
            None => Self::Engine,
        }
    }

    /// Returns whether the first process has exited, or will as soon as it runs.
    fn is_killed(&self) -> bool {
        self.first().is_some_and(|first| state::is_killed(first.pid))
    }

    /// Returns the first process, if it is of this host.
    fn first(&self) -> Option<ProcessId> {
        match self {
            Way::Freezer { first, .. } | Way::Signals(first) => Some(*first),
            Way::Engine => None,
        }
    }
}

/// Resumes a container that an earlier daemon may have paused, in whatever way, so that it can be removed.
pub async fn resume_leftover(engine: &Engine, container: &str) {
    let inspect = async |docker: Docker| docker.inspect_container(container, None).await;
    let Ok(found) = engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await else { return };
    if is_paused(&found) {
        let _ = resume(engine, container).await;
    }
    let pid = found.state.and_then(|state| u32::try_from(state.pid?).ok()).filter(|pid| *pid != 0);
    let id = found.id.unwrap_or_else(|| container.to_owned());
    let thaw = move || match Way::choose(pid.and_then(|pid| first_process::find(pid, &id)), &id) {
        Way::Freezer { freezer, .. } => drop(freezer.thaw()),
        Way::Signals(first) => resume_tree(first),
        Way::Engine => {}
    };
    let _ = task::spawn_blocking(thaw).await;
}

/// Asks the engine to resume a container. If it runs or is gone, nothing is needed.
async fn resume(engine: &Engine, container: &str) -> Result<(), EngineError> {
    let resume = async |docker: Docker| docker.unpause_container(container).await;
    let resumed = engine.ask("unpause", QUICK_CALL_TIMEOUT, resume).await;
    if !matches!(resumed, Err(EngineError::Refused { .. })) {
        return resumed;
    }
    let inspect = async |docker: Docker| docker.inspect_container(container, None).await;
    match engine.ask("inspect", QUICK_CALL_TIMEOUT, inspect).await {
        Ok(found) if is_paused(&found) => resumed,
        Err(error) if !error.is_not_found() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}
