//! RegistryActor: which functions exist. The directory on disk is the truth; this actor follows it.
//!
//! It starts, reconfigures and drains one FunctionActor per function, rebuilds one that panicked, and publishes who
//! there is in the [`Directory`], so that no request has to ask it.

mod diff;
mod scan;
mod watcher;

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler, SpawnHandle};
use slog::{Logger, error, info, warn};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    directory::Directory,
    function::{FunctionActor, FunctionHandle},
    messages::{AllReleased, Configure, Drain, DrainAll, FilesChanged, FunctionGone, Scanned},
    services::Services,
};
use diff::{Step, Unconfirmed};
pub use scan::{LoadedSpec, scan_all, scan_one};
pub use watcher::Changes;
use watcher::RegistryWatcher;

/// From the first sign of a change until it is looked at; changes in between are looked at together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Until a function that seems bad or gone is looked at again.
const RECHECK_DELAY: Duration = Duration::from_millis(250);
/// A function's actor may panic this often within [`RESTART_WINDOW`]; then the function is given up until its file changes.
const RESTARTS: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(10);

/// How the registry hears of changes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeSource {
    /// It watches them.
    Watcher,
    /// Somebody says [`FilesChanged`].
    Messages,
}

/// The functions of the daemon.
pub struct RegistryActor {
    root: PathBuf,
    directory: Arc<Directory>,
    services: Rc<Services>,
    log: Logger,
    functions: BTreeMap<String, FunctionEntry>,
    /// Functions that were removed and still have instances, by the serial of their actor.
    leaving: BTreeMap<u64, Arc<FunctionHandle>>,
    serials: u64,
    unconfirmed: Unconfirmed,
    pending: Changes,
    look: Option<SpawnHandle>,
    source: ChangeSource,
    watch: Option<Arc<RegistryWatcher>>,
    /// Who is told when everything has ended; non-empty from the first `DrainAll` on.
    draining: Vec<oneshot::Sender<()>>,
}

struct FunctionEntry {
    handle: Arc<FunctionHandle>,
    loaded: LoadedSpec,
    serial: u64,
    panics: VecDeque<Instant>,
}

impl RegistryActor {
    /// Serves what `specs` say, and follows the files below `root` from then on, in the way that `follow` says.
    ///
    /// `root` is absolute. The actor runs on the arbiter of the caller, and so do all actors below it.
    pub fn launch(
        root: PathBuf,
        specs: impl IntoIterator<Item = (String, LoadedSpec)>,
        directory: Arc<Directory>,
        services: Services,
        source: ChangeSource,
        log: Logger,
    ) -> Addr<Self> {
        let specs: Vec<_> = specs.into_iter().collect();
        Self::create(|ctx| {
            let mut actor = Self {
                root,
                directory,
                services: Rc::new(services),
                log,
                functions: BTreeMap::new(),
                leaving: BTreeMap::new(),
                serials: 0,
                unconfirmed: Unconfirmed::new(),
                pending: Changes::default(),
                look: None,
                source,
                watch: None,
                draining: Vec::new(),
            };
            // Here and not in `started`, so that the directory is filled when this returns.
            for (name, loaded) in specs {
                actor.start_function(name, loaded, VecDeque::new(), ctx);
            }
            actor.publish();
            actor
        })
    }

    fn start_function(&mut self, name: String, loaded: LoadedSpec, panics: VecDeque<Instant>, ctx: &mut Context<Self>) {
        if let Err(reason) = &loaded {
            warn!(self.log, "function is misconfigured"; "function" => &name, "reason" => %reason);
        }
        self.serials += 1;
        let serial = self.serials;
        let parent = ctx.address().recipient();
        let handle = FunctionActor::launch(&name, loaded.clone(), self.services.clone(), &self.log, parent, serial);
        self.functions.insert(name, FunctionEntry { handle, loaded, serial, panics });
    }

    /// Puts a new actor in the place of one that panicked, unless that happens too often.
    fn restart(&mut self, name: String, mut entry: FunctionEntry, ctx: &mut Context<Self>) {
        error!(self.log, "a function's actor panicked"; "function" => &name);
        let now = Instant::now();
        entry.panics.push_back(now);
        entry.panics.retain(|at| now - *at <= RESTART_WINDOW);
        let given_up = entry.panics.len() > RESTARTS;
        let loaded =
            if given_up { Err("the function's actor keeps failing; see the log".into()) } else { entry.loaded };
        self.start_function(name, loaded, entry.panics, ctx);
    }

    fn publish(&self) {
        let functions = self.functions.iter().map(|(name, entry)| (name.clone(), entry.handle.clone()));
        self.directory.publish(functions.collect());
    }

    fn take_step(&mut self, name: String, step: Step, ctx: &mut Context<Self>) {
        match step {
            Step::Start(loaded) => {
                info!(self.log, "function was added"; "function" => &name);
                self.start_function(name, loaded, VecDeque::new(), ctx);
            }
            Step::Reconfigure(loaded) => {
                if let Some(entry) = self.functions.get_mut(&name) {
                    entry.loaded = loaded.clone();
                    entry.panics.clear();
                    entry.handle.actor().do_send(Configure(loaded));
                }
            }
            Step::Drain => {
                info!(self.log, "function was removed"; "function" => &name);
                if let Some(entry) = self.functions.remove(&name) {
                    let grace = entry.loaded.as_ref().ok().and_then(|spec| spec.timeout).unwrap_or(Duration::MAX);
                    entry.handle.actor().do_send(Drain { grace });
                    self.leaving.insert(entry.serial, entry.handle);
                }
            }
            Step::Recheck => {
                ctx.run_later(RECHECK_DELAY, move |actor, ctx| {
                    actor.pending.names.insert(name);
                    actor.look_soon(ctx);
                });
            }
        }
    }

    fn look_soon(&mut self, ctx: &mut Context<Self>) {
        if self.look.is_none() && self.draining.is_empty() {
            self.look = Some(ctx.run_later(DEBOUNCE, |actor, ctx| {
                actor.look = None;
                actor.look_now(ctx);
            }));
        }
    }

    /// Reads the files in question on a thread that may block; the result comes back as [`Scanned`].
    fn look_now(&mut self, ctx: &mut Context<Self>) {
        let changes = std::mem::take(&mut self.pending);
        let (root, me, log) = (self.root.clone(), ctx.address(), self.log.clone());
        let watch = self.watch.clone();
        tokio::task::spawn_blocking(move || {
            // Before it is read, so that nothing is missed in between.
            match &watch {
                Some(watch) if changes.all => watch.follow_all(),
                Some(watch) => watch.follow(changes.names.iter()),
                None => {}
            }
            let scanned = if changes.all {
                scan_all(&root).map(|specs| {
                    let specs = specs.into_iter().map(|(name, loaded)| (name, Some(loaded))).collect();
                    Scanned { specs, complete: true }
                })
            } else {
                std::fs::read_dir(&root).map(|_| {
                    let look = |name: String| {
                        let loaded = scan_one(&root, &name);
                        (name, loaded)
                    };
                    Scanned { specs: changes.names.into_iter().map(look).collect(), complete: false }
                })
            };
            match scanned {
                Ok(scanned) => me.do_send(scanned),
                // Nothing is known then, least of all that the functions are gone.
                Err(error) => {
                    warn!(log, "the registry cannot be read"; "registry" => %root.display(), "error" => %error)
                }
            }
        });
    }

    fn answer_when_drained(&mut self) {
        // The last also says that those are gone whose function has panicked.
        if self.functions.is_empty() && self.leaving.is_empty() && self.services.admission.is_empty() {
            for done in self.draining.drain(..) {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Thousands of functions may report at once; admission is the handles' business, not the mailbox's.
        ctx.set_mailbox_capacity(0);
        if self.source == ChangeSource::Watcher {
            self.watch = Some(RegistryWatcher::new(&self.root, ctx.address().recipient(), self.log.clone()));
        }
        // What changed between the first reading and the start of the watch.
        self.pending.all = true;
        self.look_soon(ctx);
    }
}

impl Handler<FilesChanged> for RegistryActor {
    type Result = ();

    fn handle(&mut self, FilesChanged(changes): FilesChanged, ctx: &mut Self::Context) {
        self.pending.merge(changes);
        self.look_soon(ctx);
    }
}

impl Handler<Scanned> for RegistryActor {
    type Result = ();

    fn handle(&mut self, scanned: Scanned, ctx: &mut Self::Context) {
        if !self.draining.is_empty() {
            return;
        }
        let mut specs: BTreeMap<_, _> = scanned.specs.into_iter().collect();
        if scanned.complete {
            for name in self.functions.keys() {
                specs.entry(name.clone()).or_insert(None);
            }
        }
        let mut published = true;
        for (name, seen) in specs {
            let current = self.functions.get(&name).map(|entry| &entry.loaded);
            if let Some(step) = diff::step(&name, current, seen, &mut self.unconfirmed) {
                published &= !matches!(step, Step::Start(_) | Step::Drain);
                self.take_step(name, step, ctx);
            }
        }
        if !published {
            self.publish();
        }
    }
}

impl Handler<FunctionGone> for RegistryActor {
    type Result = ();

    fn handle(&mut self, gone: FunctionGone, ctx: &mut Self::Context) {
        self.leaving.remove(&gone.serial);
        let current = self.functions.get(&gone.name).is_some_and(|entry| entry.serial == gone.serial);
        if current
            && let Some(entry) = self.functions.remove(&gone.name)
            && self.draining.is_empty()
        {
            if gone.bug {
                self.restart(gone.name, entry, ctx);
            }
            self.publish();
        }
        self.answer_when_drained();
    }
}

impl Handler<AllReleased> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: AllReleased, _: &mut Self::Context) {
        self.answer_when_drained();
    }
}

impl Handler<DrainAll> for RegistryActor {
    type Result = ();

    fn handle(&mut self, DrainAll { grace, done }: DrainAll, ctx: &mut Self::Context) {
        self.draining.push(done);
        self.services.admission.tell_when_empty(ctx.address().recipient());
        self.watch = None;
        let current = self.functions.values().map(|entry| &entry.handle);
        for handle in current.chain(self.leaving.values()) {
            handle.actor().do_send(Drain { grace });
        }
        self.answer_when_drained();
    }
}
