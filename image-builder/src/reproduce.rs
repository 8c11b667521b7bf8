//! Two builds compared: the same names, the same bytes.
//!
//! A build that anybody can repeat is what makes a published image's digest worth
//! something: whoever doubts it builds it again. [`compare`] looks at two directories;
//! what is built twice, and where, is the command's business.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{CacheError, IoContext};

/// What two directories have in common, and what not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Files that were read on both sides and are the same.
    pub files: u64,
    /// Their bytes, of one side.
    pub bytes: u64,
    /// What differs, by its path below the directory.
    pub differences: BTreeMap<PathBuf, Difference>,
}

impl Comparison {
    /// True when nothing differs, and something was compared.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty() && self.files > 0
    }
}

/// How a file differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// Only the first build made it.
    OnlyFirst,
    /// Only the second build made it.
    OnlySecond,
    /// One is a file, the other one a link or a directory; links lead elsewhere; or only
    /// one may be executed.
    Kind,
    /// The bytes differ, from this offset on.
    Content {
        /// Of the first byte that differs, or the length of the shorter file.
        offset: u64,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnlyFirst => f.write_str("only the first build made it"),
            Self::OnlySecond => f.write_str("only the second build made it"),
            Self::Kind => f.write_str("another kind of file, link or mode"),
            Self::Content { offset } => write!(f, "other bytes from offset {offset} on"),
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    Directory,
    File { executable: bool },
    Link(PathBuf),
    Other,
}

/// Compares everything below two directories: names, kinds, contents, link targets, and
/// whether a file may be executed. Other mode bits, owners and times are the builder's.
///
/// # Errors
/// When something cannot be read.
pub fn compare(first: &Path, second: &Path) -> Result<Comparison, CacheError> {
    let (one, mut other) = (list(first)?, list(second)?);
    let mut comparison = Comparison::default();
    for (path, found) in one {
        let difference = match other.remove(&path) {
            None => Some(Difference::OnlyFirst),
            Some(there) if there != found => Some(Difference::Kind),
            Some(Found::File { .. }) => {
                let (one, other) = (first.join(&path), second.join(&path));
                let (length, offset) = contents(&one, &other)?;
                if offset.is_none() {
                    comparison.files += 1;
                    comparison.bytes += length;
                }
                offset.map(|offset| Difference::Content { offset })
            }
            Some(_) => None,
        };
        comparison.differences.extend(difference.map(|difference| (path, difference)));
    }
    comparison.differences.extend(other.into_keys().map(|path| (path, Difference::OnlySecond)));
    Ok(comparison)
}

/// Everything below a directory, by its path from there.
fn list(root: &Path) -> Result<BTreeMap<PathBuf, Found>, CacheError> {
    let mut all = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(dir) = waiting.pop() {
        let full = root.join(&dir);
        for entry in fs::read_dir(&full).on("cannot read", &full)? {
            let entry = entry.on("cannot read", &full)?;
            let path = dir.join(entry.file_name());
            let meta = entry.metadata().on("cannot read", &entry.path())?;
            let found = if meta.is_dir() {
                waiting.push(path.clone());
                Found::Directory
            } else if meta.is_file() {
                Found::File { executable: meta.permissions().mode() & 0o111 != 0 }
            } else if meta.is_symlink() {
                Found::Link(fs::read_link(entry.path()).on("cannot read", &entry.path())?)
            } else {
                Found::Other
            };
            all.insert(path, found);
        }
    }
    Ok(all)
}

/// The length of the first file, and where the second one begins to differ.
fn contents(one: &Path, other: &Path) -> Result<(u64, Option<u64>), CacheError> {
    let open = |path: &Path| File::open(path).map(BufReader::new).on("cannot read", path);
    let (mut first, mut second) = (open(one)?, open(other)?);
    let mut blocks = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut length = 0;
    loop {
        let count = fill(&mut first, &mut blocks.0).on("cannot read", one)?;
        let there = fill(&mut second, &mut blocks.1).on("cannot read", other)?;
        let same =
            blocks.0.iter().zip(&blocks.1).take(count.min(there)).take_while(|(a, b)| a == b);
        let same = same.count();
        if same < count || same < there {
            return Ok((length, Some(length + same as u64)));
        }
        length += count as u64;
        if count == 0 {
            return Ok((length, None));
        }
    }
}

/// Reads until the block is full or the file ends; says how much there was.
fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = block.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two directories with the same file, and what was changed in the second one.
    fn changed_by(change: impl FnOnce(&Path)) -> Comparison {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for dir in &dirs {
            fs::create_dir(dir.path().join("sub")).unwrap();
            fs::write(dir.path().join("sub/file"), [7; 100_000]).unwrap();
            std::os::unix::fs::symlink("file", dir.path().join("sub/link")).unwrap();
        }
        change(&dirs[1].path().join("sub"));
        compare(dirs[0].path(), dirs[1].path()).unwrap()
    }

    #[test]
    fn the_same_twice_is_the_same() {
        let comparison = changed_by(|_| ());
        assert!(comparison.is_same());
        assert_eq!((comparison.files, comparison.bytes), (1, 100_000));
        let mode = |dir: &Path| {
            fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        };
        assert!(changed_by(mode).is_same(), "who may read it is the builder's business");
    }

    #[test]
    fn nothing_is_not_the_same_as_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!compare(dir.path(), dir.path()).unwrap().is_same());
    }

    #[test]
    fn every_difference_is_told() {
        type Change = fn(&Path);
        let cases: [(&str, Difference, Change); 7] = [
            ("sub/file", Difference::Content { offset: 70_000 }, |dir| {
                let mut bytes = vec![7; 100_000];
                bytes[70_000] = 8;
                fs::write(dir.join("file"), bytes).unwrap();
            }),
            ("sub/file", Difference::Content { offset: 65_536 }, |dir| {
                fs::write(dir.join("file"), [7; 65_536]).unwrap();
            }),
            ("sub/file", Difference::Content { offset: 100_000 }, |dir| {
                fs::write(dir.join("file"), [7; 100_001]).unwrap();
            }),
            ("sub/file", Difference::OnlyFirst, |dir| fs::remove_file(dir.join("file")).unwrap()),
            ("sub/more", Difference::OnlySecond, |dir| fs::write(dir.join("more"), "").unwrap()),
            ("sub/file", Difference::Kind, |dir| {
                fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o755)).unwrap();
            }),
            ("sub/link", Difference::Kind, |dir| {
                fs::remove_file(dir.join("link")).unwrap();
                std::os::unix::fs::symlink("elsewhere", dir.join("link")).unwrap();
            }),
        ];
        for (path, difference, change) in cases {
            let comparison = changed_by(change);
            assert!(!comparison.is_same(), "{path}: {difference}");
            let expected = BTreeMap::from([(PathBuf::from(path), difference)]);
            assert_eq!(comparison.differences, expected);
        }
    }
}
