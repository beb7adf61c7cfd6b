use super::*;
use crate::cluster::functions::staging::Staging;

/// Puts a version together whose file has that content.
fn put(store: &Arc<FunctionStore>, content: &[u8]) -> BlobId {
    let file = |content: &[u8]| Content::File { mode: 0o640, size: content.len() as u64, hash: BlobId::of(content) };
    let files = [("function.toml", b"x".as_slice()), ("a/b", content)];
    let manifest = files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect();
    let (manifest, staging) = (Manifest::new(manifest).unwrap(), Staging::begin(store, "f").unwrap());
    for blob in staging.missing(&manifest).unwrap().into_keys() {
        let content = files.iter().find(|(_, content)| BlobId::of(content) == blob).unwrap().1;
        let mut file = staging.create(blob, 100).unwrap();
        file.write(content).unwrap();
        file.finish().unwrap();
    }
    staging.finish(manifest).unwrap()
}

#[test]
fn versions_are_served_found_again_and_removed() {
    let base = tempfile::tempdir().unwrap();
    let store = Arc::new(FunctionStore::open(base.path()).unwrap());
    let [first, second] = [b"1", b"2"].map(|content| put(&store, content));
    store.switch("f", first).unwrap();
    store.switch("f", second).unwrap();
    let failed = FailedVersion { revision: 7, why: "no".to_owned() };
    store.note_failed("f", first, failed.clone());
    let content = store.find_blob(BlobId::of(b"1")).unwrap();
    assert_eq!(fs::read(content).unwrap(), b"1");

    let again = FunctionStore::open(base.path()).unwrap();
    let local = again.local("f");
    assert_eq!(local, store.local("f"));
    assert_eq!((local.current, local.before, &local.failed[&first]), (Some(second), Some(first), &failed));
    again.retain_failed("f", 8);
    again.remove("f", first);
    assert_eq!(again.local("f").held.into_iter().collect::<Vec<_>>(), [second]);
    assert!(again.find_blob(first).is_none() && !again.directory("f", first).exists());
}

#[test]
fn what_is_half_done_is_removed() {
    let base = tempfile::tempdir().unwrap();
    let store = Arc::new(FunctionStore::open(base.path()).unwrap());
    let version = put(&store, b"1");
    let staging = Staging::begin(&store, "f").unwrap();
    // As a daemon leaves it that is killed between its steps.
    std::mem::forget(staging);
    let orphan = store.directory("f", BlobId::of(b"orphan"));
    fs::create_dir(&orphan).unwrap();
    fs::write(manifest_file(&store.directory("f", BlobId::of(b"other"))), "{}").unwrap();
    let again = FunctionStore::open(base.path()).unwrap();
    again.take_over().unwrap();
    let left: Vec<_> = fs::read_dir(base.path().join("functions/f")).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(again.directory("f", version).is_dir() && !again.staging().exists());
}

#[test]
fn content_is_checked() {
    let base = tempfile::tempdir().unwrap();
    let store = Arc::new(FunctionStore::open(base.path()).unwrap());
    let staging = Staging::begin(&store, "f").unwrap();
    let mut file = staging.create(BlobId::of(b"abc"), 3).unwrap();
    file.write(b"abd").unwrap();
    assert!(matches!(file.write(b"e"), Err(StoreError::TooLong)));
    assert!(matches!(file.finish(), Err(StoreError::Damaged { .. })));
    file.restart().unwrap();
    file.write(b"abc").unwrap();
    file.finish().unwrap();
}
