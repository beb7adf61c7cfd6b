//! Does what the catalogue asks for: fetches versions, serves them, goes back from those that fail, and removes old ones. It has a
//! thread and a runtime of its own, where it may block.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    convert::Infallible,
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use actix::Recipient;
use slog::{Logger, info, warn};
use tokio::{
    sync::mpsc,
    time::{Instant, interval},
};
use unifaas_actors::{
    Changes, Directory, FilesChanged,
    cluster::{BlobId, ClusterHandle, Listed, MAX_NODE_VERSIONS, NodeVersions, Publication, VersionsChanged},
    spec::FunctionSpec,
};

use super::{
    Change, Changed, Functions, PublishError,
    catalogue_bucket::{self, News},
    error::{FetchError, StoreError},
    lock,
    store::FunctionStore,
};
use crate::{
    cluster::{NatsClient, PeerTls},
    worker::{Requests, Worker},
};

/// Between two looks at functions that may fail, and at what could not be fetched.
const TICK: Duration = Duration::from_millis(500);
/// Until a version is fetched again that no node has given, or that could not be written.
const RETRY: Duration = Duration::from_secs(1);
const DISK_RETRY: Duration = Duration::from_secs(10);
/// Steps that are done at once for a function.
const STEPS: usize = 4;
/// News that may wait.
const NEWS: usize = 256;

/// What the reconciler acts on.
pub struct Surroundings {
    pub functions: Arc<Functions>,
    pub cluster: Arc<ClusterHandle>,
    pub directory: Arc<Directory>,
    /// Gets the names of functions whose version has changed.
    pub registry: Recipient<FilesChanged>,
    pub nats: NatsClient,
    pub tls: Option<PeerTls>,
    pub labels: BTreeMap<String, String>,
    pub log: Logger,
}

/// The thread. It ends when this is dropped.
pub struct Reconciler(#[allow(dead_code, reason = "its drop ends the thread")] Worker<Infallible>);

impl Reconciler {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the host has no more threads or open files.
    pub fn start(surroundings: Surroundings) -> io::Result<Self> {
        let worker = Worker::on_runtime("functions", async move |stop: Requests<Infallible>| {
            let Some(changes) = lock(&surroundings.functions.receiver).take() else { return };
            if let Err(error) = surroundings.functions.store.take_over() {
                warn!(surroundings.log, "published functions are not kept up to date"; "error" => %error);
                *lock(&surroundings.functions.trouble) = Some(error.to_string());
                return;
            }
            surroundings.registry.do_send(FilesChanged(Changes::anything()));
            let (fetched, ended) = mpsc::unbounded_channel();
            let switched = switched_lately(&surroundings.functions.store);
            let (fetching, retries, used, told, reported) = Default::default();
            let running = Running { around: surroundings, fetched, switched, fetching, retries, used, told, reported };
            tokio::select! {
                () = running.run(changes, ended) => {}
                // It is never sent, but closed.
                _ = stop.recv() => {}
            }
        })?;
        Ok(Self(worker))
    }
}

/// Returns the functions that a daemon before has switched to another version a short while ago, and when.
fn switched_lately(store: &FunctionStore) -> HashMap<Arc<str>, (Instant, u32)> {
    let since = |function: &String| Instant::now().checked_sub(store.switched_before(function)?);
    let functions = store.functions().into_iter();
    functions.filter_map(|function| Some((Arc::from(function.as_str()), (since(&function)?, 0)))).collect()
}

/// What a task reports.
pub(super) enum Done {
    Fetched { function: Arc<str>, version: BlobId, result: Result<(), FetchError> },
    Changed { function: Arc<str>, listed: Listed },
}

pub(super) struct Running {
    pub(super) around: Surroundings,
    pub(super) fetched: mpsc::UnboundedSender<Done>,
    /// When functions were switched to the version that they serve, and how often that was seen failing.
    pub(super) switched: HashMap<Arc<str>, (Instant, u32)>,
    pub(super) fetching: HashSet<Arc<str>>,
    pub(super) retries: HashMap<Arc<str>, Instant>,
    /// Specs that instances may have, by their version.
    pub(super) used: HashMap<(Arc<str>, BlobId), Vec<Weak<FunctionSpec>>>,
    told: VersionsChanged,
    /// Problems that the log has.
    reported: HashMap<Arc<str>, String>,
}

impl Running {
    async fn run(mut self, mut changes: mpsc::Receiver<Change>, mut ended: mpsc::UnboundedReceiver<Done>) {
        let (sender, mut news) = mpsc::channel(NEWS);
        tokio::spawn(catalogue_bucket::follow(self.around.nats.clone(), sender));
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                Some(news) = news.recv() => self.hear(news),
                Some(change) = changes.recv() => self.change(change),
                Some(done) = ended.recv() => self.finish(done),
                _ = tick.tick() => {
                    self.note_used();
                    self.judge();
                }
            }
            self.reconcile();
        }
    }

    fn hear(&self, news: News) {
        let trouble = match news {
            News::Following => None,
            News::Lost(why) => Some(why),
            News::Read { function, listed, begun_anew } => return self.note(function, listed, begun_anew),
        };
        *lock(&self.around.functions.trouble) = trouble;
    }

    fn note(&self, function: Arc<str>, listed: Listed, begun_anew: bool) {
        let functions = &self.around.functions;
        let mut catalogue = functions.catalogue.load().as_ref().clone();
        catalogue.note(function, listed, begun_anew);
        functions.catalogue.store(Arc::new(catalogue));
    }

    /// Writes a change to the catalogue, beside everything else.
    fn change(&self, Change { function, what, revision, reply }: Change) {
        let known = self.around.functions.catalogue.load().get(&function).cloned();
        if known.as_ref().map_or(0, |listed| listed.revision) != revision {
            // The client may have left.
            let _ = reply.send(Err(PublishError::Conflict(function)));
            return;
        }
        let (nats, done) = (self.around.nats.clone(), self.fetched.clone());
        tokio::spawn(async move {
            let changed = catalogue_bucket::change(&nats, &function, what, known).await;
            let answer: Result<Changed, _> = changed.map(|(changed, listed)| {
                // The reconciler may have ended.
                let _ = done.send(Done::Changed { function: function.into(), listed });
                changed
            });
            // The client may have left.
            let _ = reply.send(answer);
        });
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Changed { function, listed } => self.note(function, listed, false),
            Done::Fetched { function, version, result } => {
                self.fetching.remove(&function);
                match result {
                    Ok(()) => {
                        info!(self.around.log, "version was fetched"; "function" => &*function, "version" => %version);
                        self.set_problem(&function, None);
                    }
                    Err(error) => {
                        let is_disk = matches!(error, FetchError::Store(StoreError::Disk { .. }));
                        let delay = if is_disk { DISK_RETRY } else { RETRY };
                        self.retries.insert(function.clone(), Instant::now() + delay);
                        self.set_problem(
                            &function,
                            Some(format!("version {} was not fetched: {error}", version.short())),
                        );
                    }
                }
            }
        }
    }

    pub(super) fn set_problem(&mut self, function: &Arc<str>, problem: Option<String>) {
        let mut problems = lock(&self.around.functions.problems);
        match problem {
            Some(problem) => {
                if self.reported.get(function) != Some(&problem) {
                    warn!(self.around.log, "function is not as it was published"; "function" => &**function,
                        "problem" => &problem);
                    self.reported.insert(function.clone(), problem.clone());
                }
                problems.insert(function.clone(), problem);
            }
            None => {
                problems.remove(function);
                self.reported.remove(function);
            }
        }
    }

    /// Does what is to be done for each function, and tells the other nodes.
    fn reconcile(&mut self) {
        let functions = self.around.functions.clone();
        let catalogue = functions.catalogue.load_full();
        for (function, listed) in catalogue.iter() {
            functions.store.retain_failed(function, listed.revision);
            for _ in 0..STEPS {
                if !self.step(function, listed) {
                    break;
                }
            }
            self.remove_outdated(function, listed.publication.as_ref());
        }
        let mut newest: Vec<_> = catalogue.iter().collect();
        newest.sort_by_key(|(_, listed)| std::cmp::Reverse(listed.revision));
        let mut versions = newest.into_iter().filter_map(|(function, listed)| {
            let publication = listed.publication.as_ref()?;
            Some((function.clone(), self.node_versions(function, publication)))
        });
        let told = versions.by_ref().take(MAX_NODE_VERSIONS).collect();
        let versions = VersionsChanged { told, untold: versions.collect() };
        if versions != self.told {
            self.told = versions.clone();
            self.around.cluster.actor().do_send(versions);
        }
    }

    fn node_versions(&self, function: &str, publication: &Publication) -> NodeVersions {
        let functions = &self.around.functions;
        let local = functions.store.local(function);
        let wanted = [Some(publication.wanted), publication.trial.map(|trial| trial.version), publication.before];
        let among = |is_so: &dyn Fn(&BlobId) -> bool| {
            wanted.into_iter().flatten().filter(|version| is_so(version)).map(|version| version.short()).collect()
        };
        NodeVersions {
            serves: local.current.map(|version| version.short()),
            holds: among(&|version| local.held.contains(version)),
            failed: among(&|version| local.failed.contains_key(version)),
            is_shadowed: functions.is_shadowed(function),
        }
    }
}
