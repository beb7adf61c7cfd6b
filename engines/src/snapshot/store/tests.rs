//! The store of snapshots, on a directory of its own.

use std::{io::Write, os::unix::fs::FileExt};

use slog::{Discard, o};

use super::*;

/// What is done to a file, and what is said of it then.
type Damage = (fn(&Path), &'static str);

const BUDGET: SnapshotBudget = SnapshotBudget::Mib(1);

fn open(base: &Path) -> SnapshotStore {
    open_with(base, BUDGET, false)
}

fn open_with(base: &Path, budget: SnapshotBudget, is_shared: bool) -> SnapshotStore {
    open_as("run", base, budget, is_shared)
}

fn open_as(run_id: &str, base: &Path, budget: SnapshotBudget, is_shared: bool) -> SnapshotStore {
    SnapshotStore::open(base, run_id.to_owned(), budget, is_shared, &Logger::root(Discard, o!()))
}

fn key(number: u8) -> SnapshotKey {
    SnapshotKey::parse(&format!("{number:032x}")).unwrap()
}

/// Takes a snapshot with this content.
fn take(store: &SnapshotStore, number: u8, function: &str, content: &[u8]) -> Result<SnapshotInfo, StoreError> {
    let mut new = store.begin(&key(number)).unwrap();
    new.state.write_all(content).unwrap();
    store.keep(new, function, "7.2".to_owned())
}

fn content(store: &SnapshotStore, number: u8) -> Option<Vec<u8>> {
    let mut found = store.find(&key(number)).unwrap()?;
    let mut content = Vec::new();
    io::Read::read_to_end(&mut found.state, &mut content).unwrap();
    Some(content)
}

fn names(base: &Path) -> Vec<String> {
    let entries = fs::read_dir(base.join(DIRECTORY)).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn state_of(base: &Path, number: u8) -> PathBuf {
    base.join(DIRECTORY).join(key(number).to_string()).join("state")
}

#[test]
fn snapshot_survives_the_daemon_and_is_private() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    let info = take(&store, 1, "f", b"machine").unwrap();
    assert_eq!((info.bytes, store.of("f"), store.bytes()), (7, Some(info), 7));
    for store in [store, open(base.path())] {
        assert_eq!(content(&store, 1).unwrap(), b"machine");
        assert_eq!(content(&store, 1).unwrap(), b"machine", "each clone reads from the start");
        assert_eq!(store.find(&key(1)).unwrap().unwrap().monitor, "7.2");
        assert!(store.find(&key(2)).unwrap().is_none());
        assert_eq!((store.list()[0].function.as_str(), store.list()[0].bytes), ("f", 7));
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&base.path().join(DIRECTORY)), mode(&state_of(base.path(), 1))), (0o700, 0o444));
}

#[test]
fn all_parts_are_verified_and_links_do_not_matter() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    let mut new = store.begin(&key(1)).unwrap();
    new.state.write_all(b"machine").unwrap();
    fs::write(new.path(Part::Memory), [&[0; 8192][..], b"memory"].concat()).unwrap();
    let memory = new.path(Part::Memory).with_extension("");
    assert_eq!(store.keep(new, "f", "1.17".to_owned()).unwrap().bytes, 13);
    assert!(!memory.exists(), "it has another name now");
    let found = store.find(&key(1)).unwrap().unwrap();
    let memory = found.path(Part::Memory).unwrap();
    let verified = || store.entries()[&key(1)].verified.clone();
    let before = verified();
    fs::hard_link(&memory, base.path().join("link")).unwrap();
    fs::remove_file(base.path().join("link")).unwrap();
    assert!(store.find(&key(1)).unwrap().unwrap().path(Part::Disk).is_none() && verified() == before);
    fs::set_permissions(&memory, Permissions::from_mode(0o600)).unwrap();
    File::options().write(true).open(&memory).unwrap().write_all_at(b"X", 3).unwrap();
    assert!(store.find(&key(1)).unwrap_err().to_string().contains("checksum"));
}

#[test]
fn incomplete_snapshots_are_removed_at_the_next_start() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    drop(store.begin(&key(1)).unwrap());
    assert_eq!(names(base.path()), [""; 0], "given up in order");
    std::mem::forget(store.begin(&key(1)).unwrap());
    take(&store, 2, "f", b"machine").unwrap();
    fs::create_dir(base.path().join(DIRECTORY).join(key(3).to_string())).unwrap();
    fs::write(base.path().join(DIRECTORY).join("README"), "mine").unwrap();
    open_with(base.path(), BUDGET, true);
    assert_eq!(names(base.path()).len(), 4, "the other daemon may be writing them");
    open(base.path());
    assert_eq!(names(base.path()), [key(2).to_string(), "README".to_owned()]);
}

#[test]
fn what_an_ended_predecessor_was_writing_is_removed() {
    let base = tempfile::tempdir().unwrap();
    let predecessor = open(base.path());
    take(&predecessor, 1, "f", b"machine").unwrap();
    std::mem::forget(predecessor.begin(&key(2)).unwrap());
    std::mem::forget(predecessor.take_out("f"));
    let successor = open_as("other", base.path(), BUDGET, true);
    take(&successor, 3, "g", b"machine").unwrap();
    let new = successor.begin(&key(2)).unwrap();
    assert_eq!(names(base.path()).len(), 4);
    successor.remove_abandoned();
    assert_eq!(names(base.path()), [format!("{}.other.new", key(2)), key(3).to_string()]);
    drop(new);
}

#[test]
fn damaged_snapshots_are_never_used() {
    let base = tempfile::tempdir().unwrap();
    let damages: [Damage; 4] = [
        (|path| File::options().write(true).open(path).unwrap().write_all_at(b"X", 3).unwrap(), "checksum"),
        (|path| File::options().write(true).open(path).unwrap().set_len(5).unwrap(), "5 bytes instead of 7"),
        (|path| fs::remove_file(path).unwrap(), "cannot be read"),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "machinE").unwrap();
            },
            "checksum",
        ),
    ];
    for (damage, why) in damages {
        for restarted in [false, true] {
            let mut store = open(base.path());
            take(&store, 1, "f", b"machine").unwrap();
            content(&store, 1).unwrap();
            fs::set_permissions(state_of(base.path(), 1), Permissions::from_mode(0o600)).unwrap();
            damage(&state_of(base.path(), 1));
            if restarted {
                store = open(base.path());
            }
            let said = store.find(&key(1)).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
            assert!(store.find(&key(1)).unwrap().is_none() && store.of("f").is_none());
            assert_eq!(names(base.path()), [""; 0]);
        }
    }
}

#[test]
fn a_new_snapshot_replaces_that_of_the_function() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    take(&store, 1, "f", b"one").unwrap();
    take(&store, 2, "g", b"other").unwrap();
    take(&store, 3, "f", b"two").unwrap();
    assert_eq!((content(&store, 1), content(&store, 3).unwrap()), (None, b"two".to_vec()));
    take(&store, 3, "f", b"three").unwrap();
    assert_eq!((content(&store, 3).unwrap(), store.bytes()), (b"three".to_vec(), 10));
    store.retain(|function| function == "g");
    assert_eq!((names(base.path()), store.of("f")), (vec![key(2).to_string()], None));
    drop(store.take_out("g"));
    assert_eq!(names(base.path()), [""; 0]);
}

#[test]
fn least_recently_used_snapshots_make_room() {
    let base = tempfile::tempdir().unwrap();
    let store = open(base.path());
    let large = vec![7; 400 << 10];
    for (number, function) in [(1, "f"), (2, "g")] {
        take(&store, number, function, &large).unwrap();
    }
    content(&store, 1).unwrap();
    take(&store, 3, "h", &large).unwrap();
    assert_eq!([1, 2, 3].map(|number| content(&store, number).is_some()), [true, false, true]);
    let said = take(&store, 4, "i", &vec![7; (1 << 20) + 1]).unwrap_err().to_string();
    assert_eq!(said, "the snapshot takes 2 MiB, and all together may take 1 MiB (--snapshot-budget)");
    assert_eq!(names(base.path()).len(), 2);
    let none = open_with(base.path(), SnapshotBudget::Mib(0), false);
    assert!(matches!(none.begin(&key(1)), Err(StoreError::Off)));
}
