//! Reads the registry's directory: which functions exist, and what their files contain.
//!
//! Blocking: the RegistryActor runs it on a thread of its own.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use crate::spec::{FunctionSpec, LoadedSpec, SPEC_FILE, SpecError};

/// Reads every function of the registry.
///
/// # Errors
/// The registry itself cannot be read. A function that cannot be read is an `Err` among the functions.
pub fn scan_all(root: &Path) -> io::Result<BTreeMap<String, LoadedSpec>> {
    read_all(root, FunctionSpec::load)
}

/// Does the same, and checks each function against this host.
///
/// # Errors
/// Those of [`scan_all`].
pub fn check_all(root: &Path) -> io::Result<BTreeMap<String, LoadedSpec>> {
    read_all(root, FunctionSpec::check)
}

/// Reads one function of the registry. `None`: there is no such directory, or it contains no function.
pub fn scan_one(root: &Path, name: &str) -> Option<LoadedSpec> {
    read_one(root, name, FunctionSpec::load)
}

/// Reads a function's directory.
type Load = fn(&Path) -> Result<FunctionSpec, SpecError>;

fn read_all(root: &Path, load: Load) -> io::Result<BTreeMap<String, LoadedSpec>> {
    let mut specs = BTreeMap::new();
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(loaded) = read_one(root, &name, load) {
            specs.insert(name, loaded);
        }
    }
    Ok(specs)
}

fn read_one(root: &Path, name: &str, load: Load) -> Option<LoadedSpec> {
    // Editors and version control use hidden directories.
    if name.starts_with('.') {
        return None;
    }
    let directory = root.join(name);
    // A dangling link or an unreadable file is a misconfigured function.
    match directory.metadata() {
        Ok(metadata) if !metadata.is_dir() => return None,
        Err(error) if is_absence(&error) => return None,
        _ => {}
    }
    if directory.join(SPEC_FILE).symlink_metadata().is_err_and(|error| is_absence(&error)) {
        return None;
    }
    Some(load(&directory).map(Arc::new).map_err(|error| error.to_string().into()))
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn finds_every_directory_with_a_function_file() {
        let root = tempfile::tempdir().unwrap();
        for name in ["good", "bad", "empty", ".hidden"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        let good = "[process]\ncommand = [\"/bin/true\"]\n";
        fs::write(root.path().join("good/function.toml"), good).unwrap();
        fs::write(root.path().join("bad/function.toml"), "keepalive = \"long\"").unwrap();
        fs::write(root.path().join(".hidden/function.toml"), good).unwrap();
        fs::write(root.path().join("function.toml"), good).unwrap();

        let specs = scan_all(root.path()).unwrap();
        assert_eq!(specs.keys().collect::<Vec<_>>(), ["bad", "good"]);
        assert_eq!(specs["good"].as_ref().unwrap().name, "good");
        assert!(specs["bad"].as_ref().unwrap_err().contains("keepalive"));
    }

    #[test]
    fn check_covers_what_starts_report() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("f")).unwrap();
        fs::write(root.path().join("f/function.toml"), "[process]\ncommand = [\"no-such-program\"]\n").unwrap();
        assert!(scan_all(root.path()).unwrap()["f"].is_ok(), "it may be installed later");
        assert!(check_all(root.path()).unwrap()["f"].as_ref().unwrap_err().contains("no-such-program"));
    }

    #[test]
    fn an_inaccessible_function_is_not_taken_for_removed() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("loop", root.path().join("loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", root.path().join("dangling")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        let specs = scan_all(root.path()).unwrap();
        assert_eq!(specs.keys().collect::<Vec<_>>(), ["loop"]);
        assert!(specs["loop"].as_ref().unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_missing_registry_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(scan_all(&root.path().join("nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(scan_one(root.path(), "nobody").is_none());
    }
}
