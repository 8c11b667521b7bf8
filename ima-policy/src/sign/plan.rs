//! Which files of a root are signed: its regular files, each once.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::{Cause, Failure};
use crate::root::{Entry, Root, Walk};

/// A file that is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its path, relative to the root.
    pub path: PathBuf,
    /// Bytes when it was found.
    pub size: u64,
}

/// The files of a root that are to be signed.
#[derive(Debug, Default)]
pub struct Plan {
    /// By path.
    pub files: Vec<Target>,
    /// Other names of those files (hard links).
    pub links: u64,
    /// Directories on which another file system is mounted; nothing below them is signed.
    pub mounts: Vec<PathBuf>,
    /// What could not be looked at.
    pub failed: Vec<Failure>,
}

impl Plan {
    /// All regular files of the root's own file system. No link is followed.
    #[must_use]
    pub fn whole(root: &Root) -> Self {
        let mut search = Search::default();
        search.below(root, Path::new(""));
        search.plan()
    }

    /// The files of these paths in the root, directories with all that is in them. A link in a
    /// path is followed within the root, one below a directory is not.
    #[must_use]
    pub fn of(root: &Root, paths: &[PathBuf]) -> Self {
        let mut search = Search::default();
        for path in paths {
            let (own, metadata) = match root.locate(path) {
                Ok(located) => located,
                Err(error) => {
                    search.fail(path, cause(error));
                    continue;
                }
            };
            let within = own.strip_prefix("/").unwrap_or(&own).to_owned();
            if metadata.is_dir() {
                search.below(root, &within);
            } else if metadata.is_file() {
                let inode = (metadata.dev(), metadata.ino());
                search.found.push(Entry { path: within, inode, size: metadata.len() });
            } else {
                search.fail(path, Cause::NotRegular);
            }
        }
        search.plan()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|target| target.size).sum()
    }
}

/// What an error says about a file that was to be opened.
pub(super) fn cause(error: io::Error) -> Cause {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::XDEV) => Cause::Elsewhere,
        // A link, where a file was before.
        Some(Errno::LOOP) => Cause::NotRegular,
        _ => Cause::Read(error),
    }
}

#[derive(Default)]
struct Search {
    found: Vec<Entry>,
    mounts: Vec<PathBuf>,
    failed: Vec<Failure>,
}

impl Search {
    fn fail(&mut self, path: &Path, cause: Cause) {
        let path = Path::new("/").join(path);
        self.failed.push(Failure { path, cause });
    }

    /// All files below a directory, by its path without links.
    fn below(&mut self, root: &Root, from: &Path) {
        let Walk { files, mounts, failed } = root.walk(from, &BTreeSet::new());
        self.found.extend(files);
        self.mounts.extend(mounts);
        for (path, error) in failed {
            self.fail(&path, cause(error));
        }
    }

    /// Each file once, by its first name.
    fn plan(mut self) -> Plan {
        self.found.sort();
        self.found.dedup();
        let mut plan = Plan { mounts: self.mounts, failed: self.failed, ..Plan::default() };
        let mut seen = HashSet::new();
        for Entry { path, inode, size } in self.found {
            if seen.insert(inode) {
                plan.files.push(Target { path, size });
            } else {
                plan.links += 1;
            }
        }
        plan.mounts.sort();
        plan.mounts.dedup();
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn paths(plan: &Plan) -> Vec<&str> {
        plan.files.iter().map(|target| target.path.to_str().unwrap()).collect()
    }

    #[test]
    fn every_file_is_found_once_and_no_link_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "outside").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b/c")).unwrap();
        std::fs::write(at("a/b/c/deep"), "deep").unwrap();
        std::fs::write(at("z"), "").unwrap();
        std::fs::hard_link(at("a/b/c/deep"), at("deep-too")).unwrap();
        symlink("z", at("link")).unwrap();
        symlink(outside.path(), at("out")).unwrap();
        symlink("/a", at("in")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let plan = Plan::whole(&root);
        assert_eq!(paths(&plan), ["a/b/c/deep", "z"]);
        assert_eq!((plan.links, plan.bytes(), plan.failed.len()), (1, 4, 0));

        let of =
            |names: &[&str]| Plan::of(&root, &names.iter().map(PathBuf::from).collect::<Vec<_>>());
        // What is named is what a process would open whose root it is.
        assert_eq!(paths(&of(&["/in/b", "link", "/z"])), ["a/b/c/deep", "z"]);
        assert_eq!(of(&["/z", "z", "link"]).links, 0);
        assert_eq!(of(&["/deep-too", "/a"]).links, 1);
        assert_eq!(paths(&of(&["/"])), paths(&plan));
        let plan = of(&["/none", "/socket", "/out/secret", "/z"]);
        assert_eq!(paths(&plan), ["z"]);
        let failed: Vec<_> = plan.failed.iter().map(|failure| failure.path.as_path()).collect();
        assert_eq!(failed, ["/none", "/socket", "/out/secret"].map(Path::new));
        assert!(matches!(plan.failed[1].cause, Cause::NotRegular));
    }

    #[test]
    fn another_file_system_is_not_entered() {
        let root = Root::open(Path::new("/")).unwrap();
        // The files of /proc are more than there are bytes in it.
        let plan = Plan::of(&root, &[PathBuf::from("/proc/version")]);
        assert!(matches!(plan.failed[0].cause, Cause::Elsewhere), "{plan:?}");
        assert!(std::fs::read("/proc/version").is_ok(), "premise: it is there");
        let mut search = Search::default();
        search.below(&root, Path::new("proc"));
        assert_eq!(search.mounts, [Path::new("/proc")]);
    }
}
