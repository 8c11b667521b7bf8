//! Everything that lies below a directory of a root, on its own file system.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, statat};
use rustix::io::Errno;

use super::Root;

/// Nothing leads out of the root, and no link is followed.
pub(crate) const WITHIN: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its path in the root, without `/` in front.
    pub path: PathBuf,
    /// File system and inode: the same for other names of the same file.
    pub inode: (u64, u64),
    /// Bytes when it was found.
    pub size: u64,
}

/// What lies below a directory.
#[derive(Debug, Default)]
pub struct Walk {
    /// Regular files, in no order. No link is followed.
    pub files: Vec<Entry>,
    /// Directories on which another file system is mounted, by their paths in the root with
    /// `/` in front; nothing below them was looked at.
    pub mounts: Vec<PathBuf>,
    /// What could not be looked at, likewise, and why.
    pub failed: Vec<(PathBuf, io::Error)>,
}

impl Walk {
    /// The same if everything was looked at.
    ///
    /// # Errors
    /// The first that was not, and why.
    pub fn whole(mut self) -> Result<Self, (PathBuf, io::Error)> {
        if self.failed.is_empty() { Ok(self) } else { Err(self.failed.swap_remove(0)) }
    }

    fn fail(&mut self, path: &Path, error: Errno) {
        self.failed.push((Path::new("/").join(path), error.into()));
    }

    /// Takes the files of a directory; its directories.
    fn directory(&mut self, root: &Root, path: &Path) -> rustix::io::Result<Vec<PathBuf>> {
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat2(root.dir(), name, flags, Mode::empty(), WITHIN)?;
        let mut directories = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let at = path.join(OsStr::from_bytes(name.to_bytes()));
            match entry.file_type() {
                FileType::Directory => directories.push(at),
                // Not every file system tells what it is.
                FileType::RegularFile | FileType::Unknown => {
                    match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                            FileType::Directory => directories.push(at),
                            FileType::RegularFile => self.files.push(Entry {
                                path: at,
                                inode: (stat.st_dev, stat.st_ino),
                                size: u64::try_from(stat.st_size).unwrap_or(0),
                            }),
                            _ => {}
                        },
                        // Gone meanwhile.
                        Err(Errno::NOENT) => {}
                        Err(error) => self.fail(&at, error),
                    }
                }
                _ => {}
            }
        }
        Ok(directories)
    }
}

impl Root {
    /// All that lies below a directory of the root, by its path without links and without `/`
    /// in front (empty: the root itself), but for the directories in `skip`, which are written
    /// likewise.
    #[must_use]
    pub fn walk(&self, from: &Path, skip: &BTreeSet<PathBuf>) -> Walk {
        let mut walk = Walk::default();
        let mut open = vec![from.to_owned()];
        while let Some(dir) = open.pop() {
            if skip.contains(&dir) {
                continue;
            }
            match walk.directory(self, &dir) {
                Ok(more) => open.extend(more),
                Err(Errno::XDEV) => walk.mounts.push(Path::new("/").join(&dir)),
                Err(error) => walk.fail(&dir, error),
            }
        }
        walk.mounts.sort();
        walk
    }
}
