//! The store of pinned files: `sources/<sha256>/<name>` in the cache.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{SourceError, lock::PinnedFile};
use crate::cache::{Cache, IoContext};

/// Keeps files by the hash of their contents, so that a version which a mirror
/// drops stays usable where it was fetched once.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store of this cache.
    pub fn new(cache: &Cache) -> Self {
        Self { dir: cache.sources() }
    }

    /// Where a user puts files that the mirror has no longer.
    pub fn import_dir(&self) -> PathBuf {
        self.dir.join("import")
    }

    /// Where lock files of newer versions stand ([`super::newer`]).
    pub(super) fn newer_dir(&self) -> PathBuf {
        self.dir.join("newer")
    }

    /// The path that a pinned file has in the store.
    pub fn path(&self, file: &PinnedFile) -> PathBuf {
        self.dir.join(file.sha256.as_str()).join(&file.name)
    }

    /// True when the store has the file, by name and size; its contents are
    /// verified by [`Store::verified`], when it is used.
    pub fn has(&self, file: &PinnedFile) -> bool {
        fs::metadata(self.path(file)).is_ok_and(|meta| meta.is_file() && meta.len() == file.size)
    }

    /// The path of a file whose contents were compared with the lock just now.
    ///
    /// # Errors
    /// [`SourceError::Mismatch`] when they differ, an I/O error when it is not there.
    pub fn verified(&self, file: &PinnedFile) -> Result<PathBuf, SourceError> {
        let path = self.path(file);
        verify(&path, file)?;
        Ok(path)
    }

    /// A new directory in the store to download into; it goes when dropped.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn scratch(&self) -> Result<tempfile::TempDir, SourceError> {
        fs::create_dir_all(&self.dir).on("cannot create", &self.dir)?;
        let dir = tempfile::Builder::new().prefix("incoming-").tempdir_in(&self.dir);
        Ok(dir.on("cannot create a directory in", &self.dir)?)
    }

    /// Takes a file in, if its contents are the locked ones: moves it when it
    /// lies in the same file system.
    ///
    /// # Errors
    /// [`SourceError::Mismatch`] when they are not; the file stays where it is.
    pub fn take(&self, path: &Path, file: &PinnedFile) -> Result<(), SourceError> {
        verify(path, file)?;
        let target = self.path(file);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).on("cannot create", parent)?;
        }
        Ok(fs::rename(path, &target).on("cannot move a source to", &target)?)
    }
}

/// Compares size and SHA-256 of the file at `path` with the lock's.
fn verify(path: &Path, expected: &PinnedFile) -> Result<(), SourceError> {
    let (size, sha256) = File::open(path)
        .and_then(|file| digest(file, expected.size))
        .on("cannot read the source", path)?;
    if size == expected.size && sha256 == expected.sha256.as_str() {
        return Ok(());
    }
    Err(SourceError::Mismatch {
        name: path.display().to_string(),
        size: expected.size,
        sha256: expected.sha256.to_string(),
        found: if size > expected.size {
            "more bytes".into()
        } else {
            format!("{size} bytes with {sha256}")
        },
    })
}

/// Size and SHA-256; reads at most one byte more than `limit`.
fn digest(file: impl Read, limit: u64) -> io::Result<(u64, String)> {
    let mut hasher = Sha256::new();
    let mut file = file.take(limit.saturating_add(1));
    let mut buffer = vec![0; 1 << 16];
    let mut size = 0;
    loop {
        let n = file.read(&mut buffer)?;
        let Some(chunk) = buffer.get(..n).filter(|chunk| !chunk.is_empty()) else {
            return Ok((size, hex::encode(hasher.finalize())));
        };
        hasher.update(chunk);
        size += n as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned(contents: &[u8]) -> PinnedFile {
        PinnedFile {
            name: "a_1.dsc".into(),
            size: contents.len() as u64,
            sha256: hex::encode(Sha256::digest(contents)).try_into().unwrap(),
        }
    }

    #[test]
    fn only_the_locked_contents_come_in() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&Cache::at(dir.path()));
        let file = pinned(b"good");
        let scratch = store.scratch().unwrap();
        let path = scratch.path().join("a_1.dsc");
        for bad in [&b"evil"[..], b"", b"goo", b"goods", b"good and more"] {
            fs::write(&path, bad).unwrap();
            let error = store.take(&path, &file).unwrap_err();
            assert!(matches!(error, SourceError::Mismatch { .. }), "{error}");
            assert!(!store.has(&file));
        }
        fs::write(&path, b"good").unwrap();
        store.take(&path, &file).unwrap();
        assert!(store.has(&file));
        assert_eq!(store.verified(&file).unwrap(), store.path(&file));
    }

    #[test]
    fn a_file_that_rots_in_the_store_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&Cache::at(dir.path()));
        let file = pinned(b"good");
        let path = dir.path().join("x");
        fs::write(&path, b"good").unwrap();
        store.take(&path, &file).unwrap();
        fs::write(store.path(&file), b"rots").unwrap();
        assert!(matches!(store.verified(&file), Err(SourceError::Mismatch { .. })));
    }
}
