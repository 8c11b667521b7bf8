//! Files that a command writes: whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes all of these files. Each is complete on disk under another name before
/// any of them gets its own, so that an error leaves every older file as it was.
pub(super) fn write_all(files: &[(&Path, &[u8])]) -> Result<()> {
    let staged: Result<Vec<_>> = files.iter().map(|(path, bytes)| stage(path, bytes)).collect();
    for ((path, _), new) in files.iter().zip(staged?) {
        new.keep(path)?;
    }
    Ok(())
}

/// A file under its temporary name; gone again unless it is kept.
struct Staged(PathBuf);

impl Staged {
    fn keep(self, path: &Path) -> Result<()> {
        fs::rename(&self.0, path).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing under this name.
        let _ = fs::remove_file(&self.0);
    }
}

fn stage(path: &Path, bytes: &[u8]) -> Result<Staged> {
    let mut name = path.file_name().context("an output file needs a name")?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let write = || -> std::io::Result<Staged> {
        let mut file = File::create_new(&new)?;
        let staged = Staged(new.clone());
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(staged)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_that_cannot_be_written_leaves_the_others_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("a"), dir.path().join("no/such/b"));
        fs::write(&good, b"old").unwrap();
        assert!(write_all(&[(&good, b"new"), (&bad, b"new")]).is_err());
        assert_eq!(fs::read(&good).unwrap(), b"old");
        write_all(&[(&good, b"new")]).unwrap();
        assert_eq!(fs::read(&good).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }
}
