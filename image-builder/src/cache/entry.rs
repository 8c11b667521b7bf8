//! One directory of the cache: locked while it is made, named when complete.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::{Cache, CacheError, IoContext, key::Key};

/// The file in a finished directory that says which inputs it was made from.
const DESCRIPTION: &str = ".inputs";

/// A component's place in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    dir: PathBuf,
    lock: PathBuf,
    work: PathBuf,
    log: PathBuf,
}

/// The right to make an entry; another process waits until it is dropped.
#[derive(Debug)]
pub struct Claim {
    // Closing the file releases the lock.
    _lock: File,
}

impl Entry {
    /// The place of the component `name` made from the inputs with this key.
    pub fn new(cache: &Cache, name: &str, key: &Key) -> Self {
        let id = format!("{name}-{}", key.short());
        Self {
            dir: cache.components().join(&id),
            lock: cache.components().join(format!("{name}.lock")),
            work: cache.build().join(name),
            log: cache.logs().join(format!("{id}.log")),
        }
    }

    /// The finished directory's path, whether it exists or not.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where sources are unpacked and built: always the same path for a
    /// component, because compilers write it into what they make.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The log of the build.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// True when the directory is there. It gets its name when it is complete,
    /// so it is never half-written.
    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    fn partial(&self) -> PathBuf {
        self.dir.with_extension("partial")
    }

    /// Claims the right to build this component. Calls `waiting` once if another
    /// process has it, and waits until that one is done or dead.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn claim(&self, waiting: impl FnOnce()) -> Result<Claim, CacheError> {
        let path = &self.lock;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).on("cannot create", parent)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .on("cannot open", path)?;
        if lock.try_lock().is_err() {
            waiting();
            lock.lock().on("cannot lock", path)?;
        }
        Ok(Claim { _lock: lock })
    }

    /// Prepares empty directories for the work and for what it will deliver, and
    /// returns the latter. Leftovers of an interrupted build go.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn begin(&self, _claim: &Claim) -> Result<PathBuf, CacheError> {
        let partial = self.partial();
        self.remove_leftovers()?;
        for dir in [&self.work, &partial] {
            fs::create_dir_all(dir).on("cannot create", dir)?;
        }
        if let Some(logs) = self.log.parent() {
            fs::create_dir_all(logs).on("cannot create", logs)?;
        }
        fs::write(&self.log, "").on("cannot write", &self.log)?;
        Ok(partial)
    }

    /// Nobody else builds this component now, so whatever is half done is left over,
    /// for other inputs too.
    fn remove_leftovers(&self) -> Result<(), CacheError> {
        remove_tree(&self.work)?;
        let (Some(components), Some(name)) = (self.dir.parent(), self.lock.file_stem()) else {
            return Ok(());
        };
        let beginning = format!("{}-", name.to_string_lossy());
        for entry in fs::read_dir(components).on("cannot read", components)? {
            let path = entry.on("cannot read", components)?.path();
            let ours = path.file_stem().is_some_and(|stem| {
                // The key follows: 16 digits, so that `tss-` is not `tss-other-`.
                stem.to_string_lossy().strip_prefix(&beginning).is_some_and(|key| key.len() == 16)
            });
            if ours && path.extension().is_some_and(|ending| ending == "partial") {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Names what [`Entry::begin`] prepared: from now on it exists. `inputs` is
    /// kept beside it, to explain later why something was built again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(&self, _claim: Claim, inputs: &str) -> Result<(), CacheError> {
        let partial = self.partial();
        let description = partial.join(DESCRIPTION);
        fs::write(&description, inputs).on("cannot write", &description)?;
        fs::rename(&partial, &self.dir).on("cannot rename to", &self.dir)?;
        remove_tree(&self.work)
    }

    /// Bytes that the finished directory takes, 0 when it is not there.
    pub fn size(&self) -> u64 {
        tree_size(&self.dir)
    }
}

fn remove_tree(dir: &Path) -> Result<(), CacheError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).on("cannot remove", dir)
        }
        _ => Ok(()),
    }
}

fn tree_size(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => tree_size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::Description;

    fn entry(cache: &Cache) -> Entry {
        Entry::new(cache, "tss", &Description::new("tss").key())
    }

    #[test]
    fn an_entry_exists_only_when_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&Cache::at(dir.path()));
        let claim = entry.claim(|| panic!("nobody else")).unwrap();
        let out = entry.begin(&claim).unwrap();
        fs::write(out.join("a"), "12345").unwrap();
        assert!(!entry.exists());
        entry.finish(claim, "why").unwrap();
        assert!(entry.exists() && !entry.work().exists() && !out.exists());
        assert_eq!(fs::read_to_string(entry.dir().join("a")).unwrap(), "12345");
        assert_eq!(entry.size(), 5 + 3);
    }

    #[test]
    fn leftovers_of_an_interrupted_build_do_not_survive() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&Cache::at(dir.path()));
        let claim = entry.claim(|| ()).unwrap();
        fs::write(entry.begin(&claim).unwrap().join("half"), "").unwrap();
        fs::write(entry.work().join("tree"), "").unwrap();
        let out = entry.begin(&claim).unwrap();
        assert_eq!(fs::read_dir(out).unwrap().count(), 0);
        // The same component with other inputs, and another component.
        let other = Entry::new(&Cache::at(dir.path()), "tss", &Description::new("x").key());
        let neighbour = dir.path().join("components/tss-key-0123456789abcdef.partial");
        fs::create_dir(&neighbour).unwrap();
        drop(claim);
        other.begin(&other.claim(|| ()).unwrap()).unwrap();
        assert!(!entry.partial().exists() && neighbour.exists());
        assert_eq!(fs::read_dir(entry.work()).unwrap().count(), 0);
    }

    #[test]
    fn a_second_builder_waits_for_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(&Cache::at(dir.path()));
        let claim = entry.claim(|| ()).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| entry.claim(move || waits.send(()).unwrap()).unwrap());
            waiting.recv().unwrap();
            assert!(!other.is_finished());
            drop(claim);
            other.join().unwrap();
        });
    }
}
