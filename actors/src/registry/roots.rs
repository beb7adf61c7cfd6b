//! Where functions are: in the registry, and where published ones are kept. A function of the registry wins.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::scan::{scan_all, scan_one};
use crate::spec::{FunctionSpec, LoadedSpec};

/// The link to the directory of the version that is served, among the versions of a published function.
pub const CURRENT: &str = "current";

/// The directories of functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Each directory in it is a function.
    pub registry: PathBuf,
    /// Each directory in it has the versions of a published function, and [`CURRENT`].
    pub published: Option<PathBuf>,
}

impl From<PathBuf> for Roots {
    fn from(registry: PathBuf) -> Self {
        Self { registry, published: None }
    }
}

impl Roots {
    /// Reads all functions.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub fn scan_all(&self) -> io::Result<BTreeMap<String, LoadedSpec>> {
        Ok(self.with_published(scan_all(&self.registry)?))
    }

    /// Adds the published functions to those of the registry.
    pub fn with_published(&self, mut specs: BTreeMap<String, LoadedSpec>) -> BTreeMap<String, LoadedSpec> {
        for entry in self.published.iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !specs.contains_key(&name)
                && let Some(loaded) = self.scan_published(&name)
            {
                specs.insert(name, loaded);
            }
        }
        specs
    }

    /// Reads one function. `None`: there is none of that name.
    pub fn scan_one(&self, name: &str) -> Option<LoadedSpec> {
        scan_one(&self.registry, name).or_else(|| self.scan_published(name))
    }

    fn scan_published(&self, name: &str) -> Option<LoadedSpec> {
        let versions = self.published.as_ref()?.join(name);
        // The directory of the version itself: instances of another version are not those of this one.
        let version = fs::read_link(versions.join(CURRENT)).ok()?;
        let directory = versions.join(Path::new(version.file_name()?));
        Some(FunctionSpec::load_named(name, &directory).map(Arc::new).map_err(|error| error.to_string().into()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn function_of_the_registry_wins() {
        let (registry, published) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let roots = Roots { registry: registry.path().into(), published: Some(published.path().into()) };
        let good = "[process]\ncommand = [\"/bin/true\"]\n";
        for name in ["both", "published", "without-current"] {
            let version = published.path().join(name).join("v1");
            fs::create_dir_all(&version).unwrap();
            fs::write(version.join("function.toml"), good).unwrap();
        }
        for name in ["both", "published"] {
            symlink("v1", published.path().join(name).join(CURRENT)).unwrap();
        }
        fs::create_dir(registry.path().join("both")).unwrap();
        fs::write(registry.path().join("both/function.toml"), good).unwrap();

        let specs = roots.scan_all().unwrap();
        let found: Vec<_> = specs.iter().map(|(name, spec)| (name.as_str(), spec.as_ref().unwrap())).collect();
        let expected = [("both", registry.path().join("both")), ("published", published.path().join("published/v1"))];
        assert_eq!(found.iter().map(|(name, spec)| (*name, spec.directory.clone())).collect::<Vec<_>>(), expected);
        assert_eq!(roots.scan_one("published").unwrap().unwrap().name, "published");
        assert!(roots.scan_one("without-current").is_none());
        fs::remove_dir_all(registry.path().join("both")).unwrap();
        assert!(roots.scan_one("both").unwrap().unwrap().directory.starts_with(published.path()));
    }
}
