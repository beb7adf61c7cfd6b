//! A version that is published here: its manifest, and behind it the content of its blobs in their order, in one stream.

use std::sync::Arc;

use unifaas_actors::{
    cluster::{BlobId, MAX_MANIFEST, Manifest, ManifestError},
    spec::FunctionSpec,
};

use super::{
    error::{PublishError, StoreError},
    staging::{BlobFile, Staging},
    store::FunctionStore,
};

/// A stream that is being read.
#[derive(Debug)]
pub struct Upload {
    staging: Staging,
    function: String,
    /// The length of the encoded manifest.
    length: usize,
    encoded: Vec<u8>,
    manifest: Option<Manifest>,
    /// What has not come yet, the next one last.
    rest: Vec<(BlobId, u64)>,
    file: Option<BlobFile>,
}

/// A version that has come as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded {
    pub version: BlobId,
    pub bytes: u64,
}

impl Upload {
    /// Begins to read. `length`: that of the manifest.
    ///
    /// # Errors
    /// It is too long, or nothing can be written.
    pub fn begin(store: &Arc<FunctionStore>, function: &str, length: usize) -> Result<Self, StoreError> {
        if length > MAX_MANIFEST {
            return Err(ManifestError::TooMany.into());
        }
        let staging = Staging::begin(store, function)?;
        let (encoded, manifest, rest, file) = Default::default();
        Ok(Self { staging, function: function.to_owned(), length, encoded, manifest, rest, file })
    }

    /// Reads a piece.
    ///
    /// # Errors
    /// It is not what the manifest says, or cannot be written.
    pub fn write(&mut self, mut piece: &[u8]) -> Result<(), StoreError> {
        if self.manifest.is_none() {
            let (head, behind) = piece.split_at(piece.len().min(self.length - self.encoded.len()));
            self.encoded.extend_from_slice(head);
            if self.encoded.len() < self.length {
                return Ok(());
            }
            let manifest = Manifest::decode(&self.encoded)?;
            self.rest = manifest.blobs().into_iter().rev().collect();
            self.manifest = Some(manifest);
            piece = behind;
            self.next_file()?;
        }
        while let Some(file) = &mut self.file {
            let (content, behind) =
                piece.split_at(usize::try_from(file.rest()).map_or(piece.len(), |it| it.min(piece.len())));
            file.write(content)?;
            if file.rest() > 0 {
                return Ok(());
            }
            file.finish()?;
            piece = behind;
            self.next_file()?;
        }
        if piece.is_empty() { Ok(()) } else { Err(StoreError::TooLong) }
    }

    fn next_file(&mut self) -> Result<(), StoreError> {
        let next = self.rest.pop();
        self.file = next.map(|(blob, size)| self.staging.create(blob, size)).transpose()?;
        Ok(())
    }

    /// Keeps the version, if all of it has come and this node could serve it.
    ///
    /// # Errors
    /// Something is missing, or its function is misconfigured.
    pub fn finish(self, store: &FunctionStore) -> Result<Uploaded, PublishError> {
        let Some(manifest) = self.manifest.filter(|_| self.file.is_none()) else {
            return Err(StoreError::TooShort.into());
        };
        let bytes = manifest.bytes();
        let version = self.staging.finish(manifest)?;
        if let Err(error) = FunctionSpec::load_named(&self.function, &store.directory(&self.function, version)) {
            store.remove(&self.function, version);
            return Err(PublishError::Refused(error.to_string()));
        }
        Ok(Uploaded { version, bytes })
    }
}
