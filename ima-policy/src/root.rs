//! A root file system that lies in a directory: its paths are looked up as a process whose
//! root it is would look them up, so that no link leads out of it.

mod walk;

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
#[cfg(feature = "signature")]
pub(crate) use walk::WITHIN;
pub use walk::{Entry, Walk};

/// Largest file that is read into memory, in bytes: programs, not data.
const MAX_FILE: u64 = 1 << 30;

/// A root file system.
#[derive(Debug)]
pub struct Root {
    dir: File,
    /// Where it lies, without links.
    path: PathBuf,
}

/// A file of a root.
#[derive(Debug)]
pub struct Found {
    /// Its path in the root, without links: the file's own.
    pub path: PathBuf,
    /// The file, opened for reading.
    pub file: File,
}

impl Root {
    /// Opens a directory as a root.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let dir = File::open(&path)?;
        if !dir.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { dir, path })
    }

    fn how() -> OpenHow {
        OpenHow::new()
            // A pipe must not be waited for.
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    /// Where a path of the root leads, links followed within it, if that is on the root's own
    /// file system: the path without links, and what is there.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::CrossesDevices`] for what lies on another one.
    pub fn locate(&self, path: &Path) -> io::Result<(PathBuf, Metadata)> {
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_IN_ROOT
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        let file = File::from(openat2(&self.dir, path, how)?);
        Ok((self.own_path(&file)?, file.metadata()?))
    }

    /// The directory itself.
    pub(crate) const fn dir(&self) -> &File {
        &self.dir
    }

    /// The path in the root of a file that was opened by it.
    fn own_path(&self, file: &File) -> io::Result<PathBuf> {
        let own = std::fs::read_link(held(file))?;
        let within = own.strip_prefix(&self.path).map_err(io::Error::other)?;
        Ok(Path::new("/").join(within))
    }

    /// The names in a directory of the root, as they come.
    ///
    /// # Errors
    /// The system's.
    pub fn names(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        let dir = File::from(openat2(&self.dir, dir, Self::how())?);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(held(&dir))? {
            names.push(entry?.file_name());
        }
        Ok(names)
    }

    /// Opens a file that a [`Walk`] has found. `None`: it has gone since, is none any more, or another
    /// mount lies on it.
    ///
    /// # Errors
    /// The system's.
    pub fn open_file(&self, path: &Path) -> io::Result<Option<File>> {
        let Some(file) = self.beneath(path)? else { return Ok(None) };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Opens a path that has no links and stays on this mount.
    fn beneath(&self, path: &Path) -> io::Result<Option<File>> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        match openat2(&self.dir, path, Self::how().resolve(resolve)) {
            Ok(file) => Ok(Some(file.into())),
            Err(nix::Error::EXDEV | nix::Error::ENOENT | nix::Error::ELOOP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a regular file by its path in the root; links are followed within it.
    ///
    /// # Errors
    /// The system's; that it is no regular file.
    pub fn find(&self, path: &Path) -> io::Result<Found> {
        let file = File::from(openat2(&self.dir, path, Self::how())?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(Found { path: self.own_path(&file)?, file })
    }
}

/// The path of a file that this process has open.
fn held(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

impl Found {
    /// Reads all of it.
    ///
    /// # Errors
    /// The system's; that it is larger than 1 GiB.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        (&mut self.file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_within_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("usr/bin")).unwrap();
        std::fs::write(at("usr/bin/sh"), "inside").unwrap();
        symlink("usr/bin", at("bin")).unwrap();
        symlink("/usr/bin/sh", at("absolute")).unwrap();
        symlink("../../../../usr/bin/sh", at("upwards")).unwrap();
        symlink(outside.path().join("secret"), at("out")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in ["/bin/sh", "bin/sh", "/absolute", "/upwards", "/../bin/sh"] {
            let mut found = root.find(Path::new(path)).unwrap();
            assert_eq!(found.path, Path::new("/usr/bin/sh"), "{path}");
            assert_eq!(found.read().unwrap(), b"inside");
        }
        for path in ["/out", "/loop", "/usr", "/none", ""] {
            assert!(root.find(Path::new(path)).is_err(), "{path}");
        }
        assert!(std::fs::read(at("out")).is_ok(), "premise: the link leads out");
        assert!(Root::open(&at("usr/bin/sh")).is_err());
    }
}
