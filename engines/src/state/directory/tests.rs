use super::{
    super::{
        journal::JournalEntry,
        legacy_journal::tests as legacy,
        recovery::{LEGACY_JOURNAL, RESOURCES, recorded},
        resource::{ProcessTree, Resource},
    },
    *,
};

fn container(name: &str) -> Resource {
    Resource::Container { engine: "e".to_owned(), name: name.to_owned() }
}

fn tree(instance: &str) -> Resource {
    Resource::Process(ProcessTree { instance: instance.to_owned(), leader: None })
}

fn resources(recovered: Recovered) -> Vec<Resource> {
    recovered.resources.into_iter().map(|(_, resource)| resource).collect()
}

#[test]
fn next_daemon_has_the_same_identity_and_recovers_what_was_left() {
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
    assert_eq!(left.directories, [second.instances().join("i")]);
    assert_eq!((left.lost, left.damages.len(), left.foreign.len()), (0, 0, 0));
    let mine = second.journal.record_blocking(container("of the second")).unwrap();
    assert_eq!(resources(left), [container("c"), tree("i")]);
    mine.remove();
    drop(second);

    // The second daemon did not remove them; the third one does.
    let (third, left) = State::open(&path).unwrap();
    assert_eq!(left.resources.len(), 2);
    left.resources.into_iter().for_each(|(entry, _)| entry.remove());
    drop(third);
    assert!(State::open(&path).unwrap().1.resources.is_empty());
}

#[test]
fn each_state_directory_has_an_identity_of_its_own() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, other) = (State::open(one.path()).unwrap().0, State::open(other.path()).unwrap().0);
    assert_ne!(one.identity(), other.identity());
}

#[test]
fn after_a_reboot_only_containers_are_left() {
    let home = tempfile::tempdir().unwrap();
    let (first, _) = State::open(home.path()).unwrap();
    first.journal.record_blocking(tree("i")).unwrap();
    first.journal.record_blocking(container("c")).unwrap();
    drop(first);
    let boot = Origin::here().unwrap().boot;
    for path in entries_of(&home.path().join(RESOURCES)).unwrap() {
        fs::write(&path, fs::read_to_string(&path).unwrap().replace(&boot, "another")).unwrap();
    }
    for lost in [1, 0] {
        let (_state, left) = State::open(home.path()).unwrap();
        assert_eq!(left.lost, lost);
        assert_eq!(resources(left), [container("c")]);
    }
}

#[test]
fn converts_journal_of_earlier_version_once() {
    let home = tempfile::tempdir().unwrap();
    let journal = home.path().join(LEGACY_JOURNAL);
    // From this boot and these namespaces, so that the records are valid.
    let here = Origin::here().unwrap();
    let text = legacy::SAMPLE
        .replace("5b0c8f3e-21d4-4c39-9a70-0d6e6f1c2b84", &here.boot)
        .replace("4026531836", &here.pids.to_string())
        .replace("4026531833", &here.network.to_string());
    let expected: Vec<Resource> = legacy::expected().into_iter().map(|record| record.resource).collect();
    fs::write(home.path().join(IDENTITY), "e5ff7295785e1dfc\n").unwrap();
    fs::write(&journal, &text).unwrap();
    let (state, left) = State::open(home.path()).unwrap();
    assert_eq!((state.identity().as_str(), left.lost, left.damages.len()), ("e5ff7295785e1dfc", 0, 0));
    assert_eq!(resources(left), expected);
    assert!(!journal.exists());
    assert_eq!(recorded(home.path()), expected);
    drop(state);

    // A conversion that was interrupted before the log was removed, with more in it, and a torn line.
    let more = "{\"enter\":{\"number\":9,\"thing\":{\"container\":{\"engine\":\"e\",\"name\":\"c\"}}}}\n";
    fs::write(&journal, [&text, more, "{\"strike\":{\"num"].concat()).unwrap();
    let (state, left) = State::open(home.path()).unwrap();
    assert_eq!(left.damages.len(), 0);
    let all = [expected.as_slice(), &[container("c")]].concat();
    assert_eq!(resources(left), all);
    assert!(!journal.exists());
    drop(state);

    fs::write(&journal, "nonsense\n").unwrap();
    let (_state, left) = State::open(home.path()).unwrap();
    let [damage] = &left.damages[..] else { panic!("{left:?}") };
    assert!(damage.reason.contains(&*journal.canonicalize().unwrap_or(journal).to_string_lossy()), "{damage:?}");
    assert_eq!(resources(left), all);
}

#[test]
fn records_of_another_boot_in_an_earlier_journal_are_lost_but_for_containers() {
    let home = tempfile::tempdir().unwrap();
    let more = "{\"enter\":{\"number\":9,\"thing\":{\"container\":{\"engine\":\"e\",\"name\":\"c\"}}}}\n";
    fs::write(home.path().join(LEGACY_JOURNAL), [legacy::SAMPLE, more].concat()).unwrap();
    let (_state, left) = State::open(home.path()).unwrap();
    assert_eq!(left.lost, 3);
    assert_eq!(resources(left), [container("c")]);
}

#[test]
fn damaged_files_are_reported_and_cost_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let (first, _) = State::open(home.path()).unwrap();
    first.journal.record_blocking(container("c")).unwrap();
    drop(first);
    let records = home.path().join(RESOURCES);
    fs::write(records.join("77.json"), b"\0\xff nonsense\n").unwrap();
    fs::write(records.join("78.json"), b"").unwrap();
    fs::write(records.join("notes.txt"), b"").unwrap();
    fs::write(home.path().join(IDENTITY), "nonsense").unwrap();
    let (second, left) = State::open(home.path()).unwrap();
    assert_eq!((left.resources.len(), left.foreign.len()), (1, 1));
    let reasons: Vec<&str> = left.damages.iter().map(|damage| damage.reason.as_str()).collect();
    assert!(reasons.len() == 2 && reasons.iter().any(|reason| reason.contains("77.json")), "{reasons:?}");
    // Numbers are not given again while the file is there.
    let entry = second.journal.record_blocking(container("new")).unwrap();
    assert!(records.join("79.json").exists());
    entry.remove();
    let identity = second.identity();
    left.damages.into_iter().filter_map(|damage| damage.entry).for_each(JournalEntry::remove);
    drop(second);
    let (third, left) = State::open(home.path()).unwrap();
    assert_eq!((third.identity(), left.damages.len(), left.resources.len()), (identity, 0, 1));
}

#[test]
fn removed_records_are_a_damage() {
    let home = tempfile::tempdir().unwrap();
    assert!(State::open(home.path()).unwrap().1.damages.is_empty());
    fs::remove_dir_all(home.path().join(RESOURCES)).unwrap();
    let (_state, left) = State::open(home.path()).unwrap();
    assert!(left.damages[0].reason.contains(RESOURCES), "{left:?}");
}

#[test]
fn refuses_directory_that_other_users_can_write_to() {
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
fn refuses_directory_of_another_user() {
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
fn refuses_what_is_no_regular_file() {
    for name in [LOCK, IDENTITY, LEGACY_JOURNAL] {
        let home = tempfile::tempdir().unwrap();
        drop(State::open(home.path()).unwrap());
        let path = home.path().join(name);
        let refused = || {
            let refused = State::open(home.path()).unwrap_err().to_string();
            assert!(refused.contains(&*path.to_string_lossy()) && refused.contains("no regular file"), "{refused}");
            fs::remove_file(&path).unwrap();
        };
        let _ = fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refused();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
        State::open(home.path()).unwrap();
    }
}

#[test]
fn refuses_directory_whose_records_cannot_be_written() {
    let home = tempfile::tempdir().unwrap();
    drop(State::open(home.path()).unwrap());
    let records = home.path().join(RESOURCES);
    fs::create_dir(records.join("0.json")).unwrap();
    let refused = State::open(home.path()).unwrap_err().to_string();
    assert!(refused.contains("0.json") && refused.contains("no regular file"), "{refused}");
    fs::remove_dir_all(&records).unwrap();
    fs::write(&records, "").unwrap();
    let refused = State::open(home.path()).unwrap_err().to_string();
    assert!(refused.contains(RESOURCES) && refused.contains("no directory"), "{refused}");
}
