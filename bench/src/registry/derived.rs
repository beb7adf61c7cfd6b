//! A registry that a daemon reads: the user's functions with the keys that an experiment needs.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use toml::Table;

use super::source::{FILE, Overrides, Source};
use crate::error::BenchError;

/// A registry that a daemon reads. Dropping it removes it.
#[derive(Debug)]
pub struct DerivedRegistry {
    directory: TempDir,
    copy: PathBuf,
}

impl DerivedRegistry {
    /// Creates an empty registry, readable by every user. `copy` gets the files as well.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(copy: &Path) -> Result<Self, BenchError> {
        let public = fs::Permissions::from_mode(0o755);
        let directory = tempfile::Builder::new().prefix("unifaas-bench-").permissions(public).tempdir();
        let directory = directory.map_err(|error| BenchError::Write(std::env::temp_dir(), error))?;
        Ok(Self { directory, copy: copy.to_owned() })
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Adds a function under a name. Its other files are links to those of the source.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, name: &str, source: &Source, overrides: &Overrides) -> Result<(), BenchError> {
        let place = self.path().join(name);
        self.write(name, &source.derive(overrides)).map_err(|error| BenchError::Write(place.clone(), error))?;
        let link = || -> io::Result<()> {
            for entry in fs::read_dir(&source.directory)? {
                let entry = entry?;
                if entry.file_name() != FILE {
                    symlink(entry.path(), place.join(entry.file_name()))?;
                }
            }
            Ok(())
        };
        link().map_err(|error| BenchError::Write(place.clone(), error))
    }

    /// Adds a function that is no other than this file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_table(&self, name: &str, table: &Table) -> Result<(), BenchError> {
        self.write(name, table).map_err(|error| BenchError::Write(self.path().join(name), error))
    }

    /// Removes a function.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), BenchError> {
        let place = self.path().join(name);
        fs::remove_dir_all(&place).map_err(|error| BenchError::Write(place, error))
    }

    fn write(&self, name: &str, table: &Table) -> io::Result<()> {
        let text = toml::to_string(table).map_err(io::Error::other)?;
        for root in [self.path(), &self.copy] {
            let place = root.join(name);
            fs::create_dir_all(&place)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
            let file = place.join(FILE);
            fs::write(&file, &text)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        }
        Ok(())
    }
}
