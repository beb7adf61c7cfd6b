//! The RegistryActor: scans, starts, reconfigures and drains functions.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::{Actor, Addr, AsyncContext, Context, Handler};
use slog::{Logger, error, info, warn};
use tokio::time::Instant;

use super::{
    ChangeSource, Changes, DrainAll, FilesChanged, FollowTriggers, FunctionEntry, RegistryActor, Rescan, RescanReply,
    Rescanned, TriggersChanged,
    diff::{self, Step, Unconfirmed},
    messages::Scanned,
    roots::Roots,
    watcher::RegistryWatcher,
};
use crate::{
    admission::{AllReleased, NotifyWhenReleased},
    directory::Directory,
    function::{Configure, Drain, FunctionActor, FunctionGone},
    notice::EndGuard,
    services::Services,
    spec::{FunctionSpec, LoadedSpec},
};

/// From the first sign of a change until the scan; changes in between are scanned together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Until a function that seems invalid or removed is scanned again.
const RECHECK_DELAY: Duration = Duration::from_millis(250);
/// How often a function's actor may panic within [`RESTART_WINDOW`] before it is given up until its file changes.
const MAX_RESTARTS: usize = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(10);

impl RegistryActor {
    /// Starts the functions that `specs` describe and follows the files of the registry as `source` says.
    ///
    /// The roots are absolute. The actor runs on the arbiter of the caller, and so do all actors below it. The directory is
    /// filled when this returns.
    pub fn launch(
        roots: impl Into<Roots>,
        specs: impl IntoIterator<Item = (String, LoadedSpec)>,
        directory: Arc<Directory>,
        services: Services,
        source: ChangeSource,
        log: Logger,
    ) -> Addr<Self> {
        let (specs, roots): (Vec<_>, _) = (specs.into_iter().collect(), roots.into());
        Self::create(|ctx| {
            let mut actor = Self {
                roots,
                directory,
                services: Rc::new(services),
                log,
                functions: BTreeMap::new(),
                leaving: BTreeMap::new(),
                last_key: 0,
                unconfirmed: Unconfirmed::new(),
                pending: Changes::default(),
                scan: None,
                rescans: Vec::new(),
                source,
                watcher: None,
                triggers: None,
                draining: Vec::new(),
                is_ending: false,
                end_guards: Vec::new(),
            };
            // Here rather than in `started`, which runs after this has returned.
            for (name, loaded) in specs {
                actor.start_function(name, loaded, None, VecDeque::new(), ctx);
            }
            actor.publish();
            actor
        })
    }

    /// Starts a function whose file contains `loaded`. If that is invalid, `valid` is in force.
    fn start_function(
        &mut self,
        name: String,
        loaded: LoadedSpec,
        valid: Option<Arc<FunctionSpec>>,
        panics: VecDeque<Instant>,
        ctx: &mut Context<Self>,
    ) {
        let valid = loaded.as_ref().ok().cloned().or(valid);
        if let (Err(reason), None) = (&loaded, &valid) {
            warn!(self.log, "function is misconfigured"; "function" => &name, "reason" => %reason);
        }
        self.last_key += 1;
        let key = self.last_key;
        let parent = ctx.address().recipient();
        let in_force = valid.clone().map_or_else(|| loaded.clone(), Ok);
        let handle = FunctionActor::launch(&name, in_force, self.services.clone(), &self.log, parent, key);
        if loaded.is_err() && valid.is_some() {
            handle.actor().do_send(Configure(loaded.clone()));
        }
        self.functions.insert(name.clone(), FunctionEntry { handle, loaded, valid, key, panics });
        self.report_triggers(name);
    }

    /// Reports the triggers of a function that are in force.
    fn report_triggers(&self, function: String) {
        let Some(listener) = &self.triggers else { return };
        let valid = self.functions.get(&function).and_then(|entry| entry.valid.as_ref());
        let triggers = valid.map(|spec| spec.triggers.clone()).unwrap_or_default();
        listener.do_send(TriggersChanged { function, triggers });
    }

    /// Replaces an actor that panicked, unless that happens too often.
    fn restart(&mut self, name: String, mut entry: FunctionEntry, ctx: &mut Context<Self>) {
        error!(self.log, "a function's actor panicked"; "function" => &name);
        let now = Instant::now();
        entry.panics.push_back(now);
        entry.panics.retain(|at| now - *at <= RESTART_WINDOW);
        let given_up = entry.panics.len() > MAX_RESTARTS;
        let (loaded, valid) = match given_up {
            true => (Err("the function's actor keeps failing; see the log".into()), None),
            false => (entry.loaded, entry.valid),
        };
        self.start_function(name, loaded, valid, entry.panics, ctx);
    }

    fn publish(&self) {
        let functions = self.functions.iter().map(|(name, entry)| (name.clone(), entry.handle.clone()));
        self.directory.publish(functions.collect());
    }

    fn take_step(&mut self, name: String, step: Step, ctx: &mut Context<Self>) {
        match step {
            Step::Start(loaded) => {
                info!(self.log, "function was added"; "function" => &name);
                self.start_function(name, loaded, None, VecDeque::new(), ctx);
            }
            Step::Reconfigure(loaded) => {
                if let Some(entry) = self.functions.get_mut(&name) {
                    entry.loaded = loaded.clone();
                    entry.valid = loaded.as_ref().ok().cloned().or(entry.valid.take());
                    entry.panics.clear();
                    entry.handle.actor().do_send(Configure(loaded));
                    self.report_triggers(name);
                }
            }
            Step::Drain => {
                info!(self.log, "function was removed"; "function" => &name);
                if let Some(entry) = self.functions.remove(&name) {
                    let grace = entry.valid.as_ref().and_then(|spec| spec.timeout).unwrap_or(Duration::MAX);
                    entry.handle.actor().do_send(Drain { grace });
                    self.leaving.insert(entry.key, entry.handle);
                    self.report_triggers(name);
                }
            }
            Step::Recheck => {
                ctx.run_later(RECHECK_DELAY, move |actor, ctx| {
                    actor.pending.names.insert(name);
                    actor.schedule_scan(ctx);
                });
            }
        }
    }

    fn schedule_scan(&mut self, ctx: &mut Context<Self>) {
        if self.scan.is_none() && !self.is_ending {
            self.scan = Some(ctx.run_later(DEBOUNCE, |actor, ctx| {
                actor.scan = None;
                actor.start_scan(Vec::new(), ctx);
            }));
        }
    }

    /// Reads the pending files on a thread that may block. The result comes back as [`Scanned`], with the requests for it.
    fn start_scan(&mut self, rescans: Vec<RescanReply>, ctx: &mut Context<Self>) {
        let changes = std::mem::take(&mut self.pending);
        let (roots, me, log) = (self.roots.clone(), ctx.address(), self.log.clone());
        let watcher = self.watcher.clone();
        tokio::task::spawn_blocking(move || {
            // Watched before they are read, so that no change in between is missed.
            match &watcher {
                Some(watcher) if changes.all => watcher.follow_all(),
                Some(watcher) => watcher.follow(changes.names.iter()),
                None => {}
            }
            let scanned = if changes.all {
                roots.scan_all().map(|specs| {
                    let specs = specs.into_iter().map(|(name, loaded)| (name, Some(loaded))).collect();
                    (specs, true)
                })
            } else {
                std::fs::read_dir(&roots.registry).map(|_| {
                    let scan = |name: String| {
                        let loaded = roots.scan_one(&name);
                        (name, loaded)
                    };
                    (changes.names.into_iter().map(scan).collect(), false)
                })
            };
            match scanned {
                Ok((specs, complete)) => me.do_send(Scanned { specs, complete, rescans }),
                // Then nothing is known, in particular not that functions were removed.
                Err(error) => {
                    warn!(log, "the registry cannot be read"; "registry" => %roots.registry.display(), "error" => %error);
                    for done in rescans {
                        // The caller may have stopped waiting.
                        let _ = done.send(Err(error.to_string()));
                    }
                }
            }
        });
    }

    /// Answers rescans, unless some finding waits for its confirmation.
    fn answer_rescans(&mut self) {
        if self.rescans.is_empty() || !self.unconfirmed.is_empty() {
            return;
        }
        let invalid = |(name, entry): (&String, &FunctionEntry)| Some((name.clone(), entry.loaded.clone().err()?));
        let invalid = self.functions.iter().filter_map(invalid).collect();
        let rescanned = Rescanned { functions: self.functions.len(), invalid };
        for done in self.rescans.drain(..) {
            // The caller may have stopped waiting.
            let _ = done.send(Ok(rescanned.clone()));
        }
    }

    /// Asks admission to report when nothing is held, once every function has ended.
    ///
    /// Later than that no function can request an instance, so the report is final. It covers instances whose function
    /// has panicked.
    fn await_release(&self, ctx: &mut Context<Self>) {
        if self.functions.is_empty() && self.leaving.is_empty() && !self.draining.is_empty() {
            self.services.admission.do_send(NotifyWhenReleased { listener: ctx.address().recipient() });
        }
    }
}

impl Actor for RegistryActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Thousands of functions may report at once.
        ctx.set_mailbox_capacity(0);
        if self.source == ChangeSource::Watcher {
            let listener = ctx.address().recipient();
            self.watcher = Some(RegistryWatcher::new(&self.roots.registry, listener, self.log.clone()));
        }
        // Finds what changed between the first scan and the start of the watcher.
        self.pending.all = true;
        self.schedule_scan(ctx);
    }
}

impl Handler<FilesChanged> for RegistryActor {
    type Result = ();

    fn handle(&mut self, FilesChanged(changes): FilesChanged, ctx: &mut Self::Context) {
        self.pending.merge(changes);
        self.schedule_scan(ctx);
    }
}

impl Handler<Scanned> for RegistryActor {
    type Result = ();

    fn handle(&mut self, scanned: Scanned, ctx: &mut Self::Context) {
        if self.is_ending {
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
        self.rescans.extend(scanned.rescans);
        self.answer_rescans();
    }
}

impl Handler<Rescan> for RegistryActor {
    type Result = ();

    fn handle(&mut self, Rescan { done }: Rescan, ctx: &mut Self::Context) {
        if !self.is_ending {
            self.pending.all = true;
            self.start_scan(vec![done], ctx);
        }
    }
}

impl Handler<FollowTriggers> for RegistryActor {
    type Result = ();

    fn handle(&mut self, FollowTriggers(listener): FollowTriggers, _: &mut Self::Context) {
        self.triggers = Some(listener);
        let is_some = |spec: &FunctionSpec| !spec.triggers.is_empty() || spec.triggers.shares_work;
        let has_some = |entry: &FunctionEntry| entry.valid.as_deref().is_some_and(is_some);
        let functions: Vec<_> =
            self.functions.iter().filter(|(_, entry)| has_some(entry)).map(|(name, _)| name.clone()).collect();
        functions.into_iter().for_each(|function| self.report_triggers(function));
    }
}

impl Handler<FunctionGone> for RegistryActor {
    type Result = ();

    fn handle(&mut self, gone: FunctionGone, ctx: &mut Self::Context) {
        self.leaving.remove(&gone.key);
        let current = self.functions.get(&gone.name).is_some_and(|entry| entry.key == gone.key);
        if current
            && let Some(entry) = self.functions.remove(&gone.name)
            && !self.is_ending
        {
            if gone.bug {
                self.restart(gone.name, entry, ctx);
            }
            self.publish();
        }
        self.await_release(ctx);
    }
}

impl Handler<AllReleased> for RegistryActor {
    type Result = ();

    fn handle(&mut self, _: AllReleased, _: &mut Self::Context) {
        for done in self.draining.drain(..) {
            // The caller may have stopped waiting.
            let _ = done.send(());
        }
    }
}

impl Handler<DrainAll> for RegistryActor {
    type Result = ();

    fn handle(&mut self, DrainAll { grace, done }: DrainAll, ctx: &mut Self::Context) {
        self.is_ending = true;
        self.draining.push(done);
        self.rescans.clear();
        self.watcher = None;
        let current = self.functions.values().map(|entry| &entry.handle);
        for handle in current.chain(self.leaving.values()) {
            handle.actor().do_send(Drain { grace });
        }
        self.await_release(ctx);
    }
}

impl Handler<EndGuard> for RegistryActor {
    type Result = ();

    fn handle(&mut self, guard: EndGuard, _: &mut Self::Context) {
        self.end_guards.push(guard);
    }
}
