//! The state directory: whose it is, what a daemon has made outside of itself, and what an earlier one has left.
//!
//! ```text
//!   lock        held as long as a daemon lives; a second one on the same directory refuses to start
//!   identity    a random number: the mark on everything that can carry one (labels of containers, groups of taps, names)
//!   journal     everything else, written down before it is made: `record.rs` has its lines, `book.rs` the file, `journal.rs`
//!               the thread that writes
//!   instances/  the files of instances, a directory each, which is its own record
//! ```
//!
//! What was made and by whom is known here and nowhere else. Each engine writes its resources down before it makes them and
//! strikes them out when it has given them back. After a daemon that could not, the next one finds them all in
//! [`Recovered`]; `sandbox/reclaim.rs` removes them. Processes are recognised by `process_tree.rs`, from a look into `/proc`
//! (`processes.rs`): by number and time of start, never by name.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod journal;
mod journal_file;
mod lock;
mod origin;
mod process_tree;
mod processes;
mod record;

use std::{
    env,
    fs::{self, DirBuilder, Permissions},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    libc,
    unistd::{Uid, geteuid},
};

pub use journal::{Journal, JournalEntry, JournalError, is_full};
use lock::{Lock, Refusal};
pub use process_tree::MARK;
pub use processes::{boot_clock, is_stopped, kill_process_trees};
pub use record::{ProcessTree, Replay, Resource, SessionLeader};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const JOURNAL: &str = "journal";
const INSTANCES: &str = "instances";
/// Most that is read of a journal, in bytes. One of ten thousand instances is a thirtieth of that.
const MOST_JOURNAL: u64 = 64 << 20;
/// Others may pass through to what is theirs, as machine monitors of another user do.
const MODE: u32 = 0o755;
/// What of a file's mode are permissions, and which one nobody else may have.
const PERMISSIONS: u32 = 0o7777;
const WRITABLE_BY_ALL: u32 = 0o002;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the state directory {} is in use by another daemon{}", path.display(), pid(*.holder))]
    InUse { path: PathBuf, holder: Option<i32> },
    #[error("the state directory {path} belongs to user {owner}, and the daemon runs as user {own}: whoever owns it could \
        say in there what the daemon has to end. Give it to the daemon (chown {own} {path}), or name another one with \
        --state-dir", path = path.display())]
    Foreign { path: PathBuf, owner: Uid, own: Uid },
    #[error("every user may write to the state directory {path} (mode {mode:04o}), and could say in there what the daemon \
        has to end. Name one that is the daemon's alone with --state-dir, or forbid it if nobody else needs this one \
        (chmod o-w {path})", path = path.display())]
    Public { path: PathBuf, mode: u32 },
    #[error("cannot use the state directory: {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn pid(holder: Option<i32>) -> String {
    holder.map_or_else(String::new, |pid| format!(", process {pid}"))
}

/// The state directory of this daemon.
#[derive(Debug)]
pub struct State {
    directory: PathBuf,
    identity: u64,
    run_id: u32,
    pub journal: Journal,
    _lock: Lock,
}

/// What earlier daemons of the same state directory have left.
#[derive(Debug)]
pub struct Recovered {
    /// What was not struck out, each still written down.
    pub resources: Vec<(JournalEntry, Resource)>,
    /// Directories of instances.
    pub directories: Vec<PathBuf>,
    /// How many resources are no more because the host was started anew, or not to be found from here.
    pub lost: usize,
    /// Lines of the journal that were not understood, or 1 if it is missing as a whole: there may be more.
    pub damaged: usize,
}

impl State {
    /// Takes the directory, and makes it if it is not there. Nothing of the leftovers has been touched, unless the files of
    /// instances had to make room on a full disk.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), StateError> {
        let error = |source| StateError::Io { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(MODE).create(directory).map_err(error)?;
        let directory = directory.canonicalize().map_err(error)?;
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let metadata = directory.metadata().map_err(error(&directory))?;
        let (owner, own, mode) = (Uid::from_raw(metadata.uid()), geteuid(), metadata.mode() & PERMISSIONS);
        if owner != own {
            return Err(StateError::Foreign { path: directory, owner, own });
        }
        if mode & WRITABLE_BY_ALL != 0 {
            return Err(StateError::Public { path: directory, mode });
        }
        let lock = Lock::take(&directory.join(LOCK)).map_err(|refusal| match refusal {
            Refusal::Held(holder) => StateError::InUse { path: directory.clone(), holder },
            Refusal::Failed(source) => error(&directory.join(LOCK))(source),
        })?;

        let is_new = !directory.join(IDENTITY).exists();
        let identity = identity(&directory.join(IDENTITY)).map_err(error(&directory.join(IDENTITY)))?;
        let instances = directory.join(INSTANCES);
        DirBuilder::new().recursive(true).mode(MODE).create(&instances).map_err(error(&instances))?;
        // Whatever the umask: monitors of virtual machines pass through.
        fs::set_permissions(&instances, Permissions::from_mode(MODE)).map_err(error(&instances))?;
        let directories = entries_of(&instances).map_err(error(&instances))?;

        let path = directory.join(JOURNAL);
        let Replay { resources, damaged } = match read(&path).map_err(error(&path))? {
            Some(replay) => replay,
            // Somebody has removed it.
            None => Replay { damaged: usize::from(!is_new), ..Replay::default() },
        };
        let here = origin::here().map_err(error(Path::new("/proc/self")))?;
        let all = resources.len();
        let found = |(origin, resource): (Option<record::Origin>, Resource)| {
            origin.is_some_and(|origin| origin.reaches(&here, &resource)).then_some(resource)
        };
        let resources: Vec<Resource> = resources.into_values().filter_map(found).collect();
        let lost = all - resources.len();
        let begin = || Journal::begin(path.clone(), here.clone(), resources.clone());
        let begun = match begin() {
            // It may well be the copies of disks that leave no space.
            Err(full) if is_full(&full) && !directories.is_empty() => {
                directories.iter().for_each(|directory| drop(fs::remove_dir_all(directory)));
                begin()
            }
            begun => begun,
        };
        let (journal, resources) = begun.map_err(error(&path))?;
        let run_id = rand::random();
        let state = Self { directory, identity, run_id, journal, _lock: lock };
        Ok((state, Recovered { resources, directories, lost, damaged }))
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// On everything of this state directory: the same for all daemons of it, and for no others.
    pub fn identity(&self) -> String {
        format!("{:016x}", self.identity)
    }

    /// As [`identity`](Self::identity), in as few bits as the network has for it.
    pub fn mark(&self) -> u32 {
        self.identity as u32
    }

    /// On everything of this daemon that a later one must tell from its own.
    pub fn run_id(&self) -> String {
        format!("{:08x}", self.run_id)
    }

    /// Where the files of instances are.
    pub fn instances(&self) -> PathBuf {
        self.directory.join(INSTANCES)
    }
}

impl Drop for State {
    /// Whatever was struck out until now is not looked for by the next daemon.
    fn drop(&mut self) {
        self.journal.flush();
    }
}

/// Where the state directory is unless somebody says otherwise: on a disk, as containers and copies of disks outlive a
/// start of the host, and where no other user can be first to make it.
pub fn default_directory() -> PathBuf {
    let below = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    if geteuid().is_root() {
        return PathBuf::from("/var/lib/unifaas");
    }
    let home = || below("HOME").map(|home| home.join(".local/state"));
    match below("XDG_STATE_HOME").or_else(home) {
        Some(state) => state.join("unifaas"),
        None => env::temp_dir().join(format!("unifaas-{}", geteuid())),
    }
}

/// `None`: there is none.
fn read(journal: &Path) -> io::Result<Option<Replay>> {
    let file = match open(journal, fs::OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut text = Vec::new();
    file.take(MOST_JOURNAL).read_to_end(&mut text)?;
    let mut replay = Replay::of(&text);
    replay.damaged += usize::from(text.len() as u64 == MOST_JOURNAL);
    Ok(Some(replay))
}

/// Opens a file of the directory, and nothing else that somebody has put in its place: a named pipe would be waited for, a
/// link can lead to what has no end.
fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<fs::File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let irregular = || io::Error::other("it is no regular file");
    match options.custom_flags(flags.bits()).open(path) {
        Ok(file) => file.metadata()?.is_file().then_some(file).ok_or_else(irregular),
        // What a link and a named pipe say to that.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Err(irregular()),
        Err(error) => Err(error),
    }
}

/// Reads the number, or chooses it.
fn identity(path: &Path) -> io::Result<u64> {
    let mut text = String::new();
    match open(path, fs::OpenOptions::new().read(true)) {
        // What is not understood counts as none.
        Ok(file) => drop(file.take(64).read_to_string(&mut text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Ok(known) = u64::from_str_radix(text.trim(), 16) {
        return Ok(known);
    }
    let (chosen, beside) = (rand::random(), path.with_extension("new"));
    let mut file = open(&beside, fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600))?;
    io::Write::write_all(&mut file, format!("{chosen:016x}\n").as_bytes())?;
    fs::rename(&beside, path)?;
    Ok(chosen)
}

fn entries_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    fn container(name: &str) -> Resource {
        Resource::Container { engine: "e".to_owned(), name: name.to_owned() }
    }

    fn tree(instance: &str) -> Resource {
        Resource::Process(ProcessTree { instance: instance.to_owned(), leader: None })
    }

    #[test]
    fn the_next_daemon_has_the_same_identity_and_finds_what_was_left() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/state");
        let (first, left) = State::open(&path).unwrap();
        assert!(left.resources.is_empty() && left.directories.is_empty());
        first.journal.record_blocking(container("c")).unwrap();
        first.journal.record_blocking(container("gone")).unwrap().remove();
        first.journal.record_blocking(tree("i")).unwrap();
        fs::create_dir(first.instances().join("i")).unwrap();
        let (identity, mark, run_id) = (first.identity(), first.mark(), first.run_id());
        drop(first);

        let (second, left) = State::open(&path).unwrap();
        assert_eq!((second.identity(), second.mark()), (identity, mark));
        assert_ne!(second.run_id(), run_id);
        let (entries, resources): (Vec<_>, Vec<_>) = left.resources.into_iter().unzip();
        assert_eq!(resources, [container("c"), tree("i")]);
        assert_eq!(left.directories, [second.instances().join("i")]);
        assert_eq!((left.lost, left.damaged), (0, 0));
        drop(second);

        // It did not come to remove them; the third one does.
        let (third, left) = State::open(&path).unwrap();
        assert_eq!(left.resources.len(), 2);
        left.resources.into_iter().for_each(|(entry, _)| entry.remove());
        drop((entries, third));
        assert!(State::open(&path).unwrap().1.resources.is_empty());
    }

    #[test]
    fn two_state_directories_have_nothing_in_common() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) = (State::open(one.path()).unwrap().0, State::open(other.path()).unwrap().0);
        assert_ne!(one.identity(), other.identity());
    }

    #[test]
    fn of_a_host_that_was_started_anew_only_containers_are_left() {
        let home = tempfile::tempdir().unwrap();
        let (first, _) = State::open(home.path()).unwrap();
        first.journal.record_blocking(tree("i")).unwrap();
        first.journal.record_blocking(container("c")).unwrap();
        drop(first);
        let journal = home.path().join(JOURNAL);
        let boot = origin::here().unwrap().boot;
        fs::write(&journal, fs::read_to_string(&journal).unwrap().replace(&boot, "another")).unwrap();
        let (_second, left) = State::open(home.path()).unwrap();
        assert_eq!(left.resources.into_iter().map(|(_, resource)| resource).collect::<Vec<_>>(), [container("c")]);
        assert_eq!(left.lost, 1);
    }

    #[test]
    fn garbage_in_the_directory_is_told_and_survived() {
        let home = tempfile::tempdir().unwrap();
        let (first, _) = State::open(home.path()).unwrap();
        first.journal.record_blocking(container("c")).unwrap();
        drop(first);
        let journal = home.path().join(JOURNAL);
        let text = fs::read(&journal).unwrap();
        fs::write(&journal, [b"\0\xff nonsense\n", text.as_slice(), b"{\"enter\":{\"numb"].concat()).unwrap();
        fs::write(home.path().join(IDENTITY), "nonsense").unwrap();
        let (second, left) = State::open(home.path()).unwrap();
        assert_eq!((left.resources.len(), left.damaged), (1, 1));
        let identity = second.identity();
        drop(second);
        assert_eq!(State::open(home.path()).unwrap().0.identity(), identity);
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().display().to_string();
        for mode in [0o777, 0o1777, 0o757] {
            fs::set_permissions(home.path(), Permissions::from_mode(mode)).unwrap();
            let refused = State::open(home.path()).unwrap_err().to_string();
            let says = [&format!("{path} (mode {mode:04o})"), "--state-dir", &format!("chmod o-w {path}")];
            assert!(says.iter().all(|words| refused.contains(*words)), "{refused}");
        }
        fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
        State::open(home.path()).unwrap();
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_believed() {
        if !geteuid().is_root() {
            return;
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().canonicalize().unwrap().display().to_string();
        nix::unistd::chown(home.path(), Some(Uid::from_raw(12_345)), None).unwrap();
        let refused = State::open(home.path()).unwrap_err().to_string();
        let says = [&format!("{path} belongs to user 12345"), "as user 0", "--state-dir", &format!("chown 0 {path}")];
        assert!(says.iter().all(|words| refused.contains(*words)), "{refused}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_not_waited_for() {
        for name in [LOCK, IDENTITY, JOURNAL] {
            let home = tempfile::tempdir().unwrap();
            drop(State::open(home.path()).unwrap());
            let path = home.path().join(name);
            let refused = || {
                let refused = State::open(home.path()).unwrap_err().to_string();
                assert!(refused.contains(&*path.to_string_lossy()) && refused.contains("no regular file"), "{refused}");
                fs::remove_file(&path).unwrap();
            };
            fs::remove_file(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            refused();
            std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
            refused();
            State::open(home.path()).unwrap();
        }
    }
}
