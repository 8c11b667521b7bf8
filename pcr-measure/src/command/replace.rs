//! Files that are written: whole or not at all.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

/// Replaces a file, or makes it: the bytes go to a new file beside it, to the
/// disk, and then take its name. A power cut leaves the old file or the new one.
///
/// # Errors
/// The system's; that it is no regular file.
pub fn file(path: &Path, bytes: &[u8]) -> Result<()> {
    files(&[(path, bytes)])
}

/// As [`file`], of what `write` writes: as much as a disk holds, and not in memory.
///
/// # Errors
/// As of [`file`]; those of `write`.
pub fn written(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let (mut file, path) = begun(path)?;
    write(file.as_file_mut())?;
    file.as_file().sync_all().with_context(|| cannot(&path))?;
    keep(file, &path).with_context(|| cannot(&path))
}

/// Replaces several files. None gets its name before all are on the disk, so that
/// an error leaves every one of them as it was.
///
/// # Errors
/// As of [`file`]; that two of them are one.
pub fn files(files: &[(&Path, &[u8])]) -> Result<()> {
    let staged: Result<Vec<_>> = files.iter().map(|(path, bytes)| staged(path, bytes)).collect();
    let staged = staged?;
    for (n, (_, path)) in staged.iter().enumerate() {
        if staged.iter().take(n).any(|(_, other)| other == path) {
            bail!("{} is named for two outputs: name a file for each", path.display());
        }
    }
    for (file, path) in staged {
        keep(file, &path).with_context(|| cannot(&path))?;
    }
    Ok(())
}

/// The new file, complete on the disk, and the name it is to take.
fn staged(path: &Path, bytes: &[u8]) -> Result<(NamedTempFile, PathBuf)> {
    let (mut file, path) = begun(path)?;
    let written = file.write_all(bytes).and_then(|()| file.as_file().sync_all());
    written.with_context(|| cannot(&path))?;
    Ok((file, path))
}

/// The new file, empty, and the name it is to take.
fn begun(path: &Path) -> Result<(NamedTempFile, PathBuf)> {
    // A link stays a link: what it points to is replaced.
    let path = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let dir = directory(path).canonicalize().with_context(|| cannot(path))?;
            path.file_name().map_or(dir.clone(), |name| dir.join(name))
        }
        Err(error) => return Err(error).with_context(|| cannot(path)),
    };
    if path.is_symlink() || path.exists() && !path.is_file() {
        bail!("{} is no regular file: name another", path.display());
    }
    let file = beside(&path).with_context(|| cannot(&path))?;
    Ok((file, path))
}

/// Refuses an output that is also an input: whoever reads and replaces one file in
/// one breath did not mean to (a private key would be gone).
///
/// # Errors
/// That it is one.
pub fn apart<'a>(output: &Path, inputs: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    let file = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let there = file(output);
    match inputs.into_iter().find(|input| there.is_some() && file(input) == there) {
        Some(input) => bail!("{} is read here: name another file for --output", input.display()),
        None => Ok(()),
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn beside(path: &Path) -> io::Result<NamedTempFile> {
    // What is written is public; the umask takes from this what it takes.
    let mode = match path.metadata() {
        Ok(old) => old.permissions(),
        Err(_) => Permissions::from_mode(0o666),
    };
    tempfile::Builder::new().prefix(".new-").permissions(mode).tempfile_in(directory(path))
}

fn keep(file: NamedTempFile, path: &Path) -> io::Result<()> {
    file.persist(path)?;
    File::open(directory(path))?.sync_all()
}

fn cannot(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_or_replaced_and_nothing_is_left_beside_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("file");
        for bytes in [b"one".as_slice(), b"two"] {
            file(&path, bytes).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        file(&path, b"three").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_file_that_cannot_be_written_leaves_the_others_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let (good, bad) = (dir.path().join("a"), dir.path().join("no/such/b"));
        std::fs::write(&good, b"old").unwrap();
        assert!(files(&[(&good, b"new"), (&bad, b"new")]).is_err());
        assert_eq!(std::fs::read(&good).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_link_stays_and_its_target_is_replaced() {
        let dir = tempfile::TempDir::new().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, b"old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        file(&link, b"new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn two_outputs_of_one_name_are_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, again) = (dir.path().join("a"), dir.path().join("./a"));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("a", &link).unwrap();
        for there in [false, true] {
            if there {
                std::fs::write(&path, b"old").unwrap();
            }
            for other in [&path, &again, &link] {
                assert!(files(&[(&path, b"1"), (other, b"2")]).is_err(), "{}", other.display());
            }
            assert_eq!(std::fs::read(&path).ok(), there.then(|| b"old".to_vec()));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn devices_and_directories_are_not_replaced() {
        let dir = tempfile::TempDir::new().unwrap();
        for path in [Path::new("/dev/null"), dir.path()] {
            let error = file(path, b"x").unwrap_err().to_string();
            assert!(error.contains("no regular file"), "{error}");
        }
        let nowhere = dir.path().join("no/file");
        let error = file(&nowhere, b"x").unwrap_err().to_string();
        assert!(error.contains("cannot write"), "{error}");
    }
}
