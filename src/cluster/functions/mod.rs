//! Published functions: which there are, and what this node has of them.
//!
//! The catalogue is in a bucket of the NATS server; files come from other nodes. What a node has, it serves, with or without
//! both of them.
//!
//! | file | content |
//! | --- | --- |
//! | `store.rs`, `staging.rs` | the versions on disk, and how one is put together |
//! | `upload.rs` | a version that is published here |
//! | `fetch.rs` | a version that comes from other nodes |
//! | `catalogue_bucket.rs` | the catalogue: reading, following and changing it |
//! | `reconciler.rs`, `steps.rs` | does what the catalogue asks for |
//! | `report.rs` | what is shown of all that |
//! | `error.rs` | why something fails |

#[cfg(feature = "cluster")]
mod catalogue_bucket;
mod error;
#[cfg(feature = "cluster")]
mod fetch;
#[cfg(feature = "cluster")]
mod reconciler;
mod report;
mod staging;
#[cfg(feature = "cluster")]
mod steps;
mod store;
mod upload;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use unifaas_actors::{
    Roots,
    cluster::{BlobId, Catalogue, NodeId, PublishedVersion},
    spec::{FunctionSpec, SPEC_FILE},
};

pub use error::{PublishError, StoreError};
#[cfg(feature = "cluster")]
pub use reconciler::{Reconciler, Surroundings};
pub use report::{FunctionVersions, FunctionsReport, VersionState};
pub use store::DIRECTORY;
use store::FunctionStore;
pub use upload::{Upload, Uploaded};

/// Changes that may wait.
const CHANGES: usize = 64;

/// The published functions, as all threads see them.
#[derive(Debug)]
pub struct Functions {
    pub store: Arc<FunctionStore>,
    pub counters: Counters,
    node: NodeId,
    roots: Roots,
    catalogue: ArcSwap<Catalogue>,
    /// Why the catalogue is not followed. `None`: it is.
    trouble: Mutex<Option<String>>,
    /// Why a function is not as the catalogue says.
    problems: Mutex<BTreeMap<Arc<str>, String>>,
    /// Functions that are being published here, with how often.
    publishing: Mutex<BTreeMap<String, usize>>,
    changes: mpsc::Sender<Change>,
    /// Until the reconciler takes it.
    #[cfg_attr(not(feature = "cluster"), allow(dead_code, reason = "there is no reconciler"))]
    receiver: Mutex<Option<mpsc::Receiver<Change>>>,
}

/// How much was fetched and served.
#[derive(Debug, Default)]
pub struct Counters {
    fetched: AtomicU64,
    served: AtomicU64,
    damaged: AtomicU64,
}

/// A change of the catalogue.
#[derive(Debug)]
pub struct Change {
    pub function: String,
    pub what: ChangeKind,
    /// The revision that was known when the change was asked for. Another change in between is a conflict.
    pub revision: u64,
    pub reply: oneshot::Sender<Result<Changed, PublishError>>,
}

/// What is changed.
#[derive(Debug)]
pub enum ChangeKind {
    Publish { version: PublishedVersion, percent: u8 },
    RollOut { version: String, percent: u8 },
    RollBack,
    Remove,
}

/// What was changed.
#[derive(Debug, Clone, Copy)]
pub struct Changed {
    pub revision: u64,
    /// The version that is served now. `None`: none.
    pub version: Option<BlobId>,
}

/// Keeps the files of a version until the catalogue lists it.
pub struct PublishGuard<'a>(&'a Functions, &'a str);

impl Functions {
    /// Reads what the node has.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(base: &Path, node: NodeId, roots: Roots) -> Result<Self, StoreError> {
        let store = Arc::new(FunctionStore::open(base)?);
        let (changes, receiver) = mpsc::channel(CHANGES);
        let (counters, catalogue, problems, publishing) = Default::default();
        let trouble = Mutex::new(Some("the node has not joined yet".to_owned()));
        let receiver = Mutex::new(Some(receiver));
        Ok(Self { store, counters, node, roots, catalogue, trouble, problems, publishing, changes, receiver })
    }

    /// Returns the revision of a function, which its next change has to name.
    pub fn revision(&self, function: &str) -> u64 {
        self.catalogue.load().revision(function)
    }

    /// Whether the registry has a function of that name, which is served instead of a published one.
    pub fn is_shadowed(&self, function: &str) -> bool {
        self.roots.registry.join(function).join(SPEC_FILE).symlink_metadata().is_ok()
    }

    /// Returns the first digits of the version that a spec is of. `None`: it is not of a published function.
    pub fn version_of(&self, spec: &FunctionSpec) -> Option<String> {
        let version = spec.directory.strip_prefix(&self.store.root).ok()?.file_name()?;
        version.to_str()?.parse::<BlobId>().ok().map(|version| version.short())
    }

    /// Publishes nothing any more.
    pub fn leave(&self) {
        let why = "the daemon was upgraded meanwhile: repeat the command";
        *lock(&self.trouble) = Some(why.to_owned());
    }

    /// Keeps files of a function that is not listed yet.
    pub fn begin_publishing<'a>(&'a self, function: &'a str) -> PublishGuard<'a> {
        *lock(&self.publishing).entry(function.to_owned()).or_default() += 1;
        PublishGuard(self, function)
    }

    /// Checks that the catalogue can be changed at the moment.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check_available(&self) -> Result<(), PublishError> {
        lock(&self.trouble).clone().map_or(Ok(()), |why| Err(PublishError::Unavailable(why)))
    }

    /// Changes the catalogue.
    ///
    /// # Errors
    /// It cannot be changed, or was changed meanwhile.
    pub async fn change(&self, function: &str, what: ChangeKind, revision: u64) -> Result<Changed, PublishError> {
        self.check_available()?;
        let (reply, answer) = oneshot::channel();
        let change = Change { function: function.to_owned(), what, revision, reply };
        let ended =
            || PublishError::Unavailable("the daemon is ending, or was upgraded: repeat the command".to_owned());
        self.changes.send(change).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for PublishGuard<'_> {
    fn drop(&mut self) {
        let Self(functions, function) = self;
        let mut publishing = lock(&functions.publishing);
        if let Some(count) = publishing.get_mut(*function) {
            *count -= 1;
            if *count == 0 {
                publishing.remove(*function);
            }
        }
    }
}

impl Counters {
    pub fn count_served(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Relaxed);
    }

    #[cfg(feature = "cluster")]
    fn count_fetched(&self, bytes: usize) {
        self.fetched.fetch_add(bytes as u64, Relaxed);
    }

    #[cfg(feature = "cluster")]
    fn count_damaged(&self) {
        self.damaged.fetch_add(1, Relaxed);
    }
}

/// Locks what every holder leaves consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
