//! Files of a root file system, in memory: what packages bring and what the image adds.
//! Everything belongs to root that is not given to somebody.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

/// Directories that are links into `/usr` (merged `/usr`, as Debian 13 has it).
const ALIASES: [&str; 3] = ["bin", "lib", "sbin"];

/// What a userland without a package manager, a manual or a second language
/// does not need. Licence texts (`usr/share/doc/*/copyright`) stay.
const TRIMMED: [&str; 12] = [
    "usr/share/man/",
    "usr/share/info/",
    "usr/share/locale/",
    "usr/share/lintian/",
    "usr/share/bug/",
    "usr/share/doc-base/",
    "usr/share/bash-completion/",
    "usr/share/initramfs-tools/",
    "usr/share/gcc/",
    "usr/lib/systemd/",
    "usr/lib/tmpfiles.d/",
    "usr/lib/sysusers.d/",
];

/// Why a tree could not be made or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A package's archive is damaged.
    #[error("cannot read the files of {package}: {source}")]
    Archive {
        /// The package.
        package: String,
        /// What is wrong.
        source: io::Error,
    },
    /// A file of a kind that does not belong into a package.
    #[error("{package} holds `{path}`, which is neither file, directory nor link")]
    Kind {
        /// The package.
        package: String,
        /// The file.
        path: String,
    },
    /// Two packages bring the same path with different content.
    #[error("`{path}` comes twice, with different content; the second time from {package}")]
    Conflict {
        /// The second package.
        package: String,
        /// The file.
        path: String,
    },
    /// A path that leaves the tree.
    #[error("{package} holds the path `{path}`, which leaves the root file system")]
    Path {
        /// The package.
        package: String,
        /// The path.
        path: String,
    },
    /// A program lacks a shared library.
    #[error(
        "`{program}` needs {library}, which no package of the recipe brings: add the package to \
         `packages` in [root], or take it out of `assume`"
    )]
    Library {
        /// Who needs it.
        program: String,
        /// What it needs.
        library: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory with these permissions.
    Directory(u32),
    /// A file with these permissions.
    File(u32, Vec<u8>),
    /// A symbolic link.
    Symlink(String),
}

/// Whom a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The group's number.
    pub group: u32,
}

impl Owner {
    /// root.
    pub const ROOT: Self = Self { user: 0, group: 0 };
}

/// Files by path, relative to the root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    /// Those that do not belong to root.
    owners: BTreeMap<String, Owner>,
}

/// A path without `.`, with `/bin` and its like resolved. `None` if it leaves
/// the tree; empty for the root itself.
fn normal(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    let alias = parts.len() > 1 && parts.first().is_some_and(|p| ALIASES.contains(p));
    let path = parts.join("/");
    Some(if alias { format!("usr/{path}") } else { path })
}

impl Tree {
    /// Puts a node at a path, over whatever is there, and directories (0755)
    /// above it where there are none.
    pub fn put(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..end) {
                self.nodes.entry(parent.to_owned()).or_insert(Node::Directory(0o755));
            }
        }
        self.nodes.insert(path.to_owned(), node);
    }

    /// Gives what stands at a path to somebody.
    pub fn give(&mut self, path: &str, owner: Owner) {
        self.owners.insert(path.to_owned(), owner);
    }

    /// Whom what stands at a path belongs to.
    pub fn owner(&self, path: &str) -> Owner {
        self.owners.get(path).copied().unwrap_or(Owner::ROOT)
    }

    /// What stands at a path.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// Every path with its node, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Adds the files of one package, from its `data.tar`, less what is
    /// trimmed.
    ///
    /// # Errors
    /// If the archive is damaged, leaves the tree, or disagrees with a package
    /// that came before.
    pub fn add_package(&mut self, package: &str, data: impl Read) -> Result<(), TreeError> {
        let archive_error = |source| TreeError::Archive { package: package.to_owned(), source };
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries().map_err(archive_error)? {
            let mut entry = entry.map_err(archive_error)?;
            let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let outside = || TreeError::Path { package: package.to_owned(), path: raw.clone() };
            let path = normal(&raw).ok_or_else(outside)?;
            if path.is_empty() || ALIASES.contains(&path.as_str()) || is_trimmed(&path) {
                continue;
            }
            let mode = entry.header().mode().map_err(archive_error)? & 0o7777;
            let link = entry
                .link_name_bytes()
                .map(|name| String::from_utf8_lossy(&name).into_owned())
                .unwrap_or_default();
            let node = match entry.header().entry_type() {
                tar::EntryType::Directory => Node::Directory(mode),
                tar::EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map_err(archive_error)?;
                    Node::File(mode, content)
                }
                tar::EntryType::Symlink => Node::Symlink(link),
                tar::EntryType::Link => {
                    let target = normal(&link).ok_or_else(outside)?;
                    self.get(&target).cloned().ok_or_else(outside)?
                }
                _ => {
                    return Err(TreeError::Kind { package: package.to_owned(), path });
                }
            };
            match (self.get(&path), &node) {
                (None | Some(Node::Directory(_)), Node::Directory(_)) | (None, _) => {
                    self.put(&path, node);
                }
                (Some(old), new) if old == new => {}
                _ => {
                    return Err(TreeError::Conflict { package: package.to_owned(), path });
                }
            }
        }
        Ok(())
    }

    /// Checks that every shared library that a program or library names is
    /// there.
    ///
    /// # Errors
    /// [`TreeError::Library`] for the first one missing.
    pub fn check_libraries(&self) -> Result<(), TreeError> {
        let here = |library: &str| {
            ["usr/lib", "usr/lib/aarch64-linux-gnu"]
                .iter()
                .any(|dir| self.nodes.contains_key(&format!("{dir}/{library}")))
        };
        for (path, node) in &self.nodes {
            let Node::File(_, content) = node else {
                continue;
            };
            if !content.starts_with(b"\x7fELF") {
                continue;
            }
            let Ok(elf) = goblin::elf::Elf::parse(content) else {
                continue;
            };
            if let Some(library) = elf.libraries.iter().find(|library| !here(library)) {
                return Err(TreeError::Library {
                    program: path.clone(),
                    library: (*library).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Writes the tree below a directory that must be there. A directory that is there
    /// already stays as it is; anything else is replaced. What is given to nobody belongs
    /// to whoever runs this.
    ///
    /// # Errors
    /// If anything cannot be written.
    pub fn write_to(&self, root: &Path) -> Result<(), TreeError> {
        for (path, node) in &self.nodes {
            let owner = self.owners.get(path);
            let path = root.join(path);
            write(&path, node, owner).map_err(|source| TreeError::Write { path, source })?;
        }
        Ok(())
    }
}

fn write(path: &Path, node: &Node, owner: Option<&Owner>) -> io::Result<()> {
    match node {
        Node::Directory(_) => match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_directory(path) => {
                return Ok(());
            }
            other => other?,
        },
        Node::File(_, content) => {
            remove(path)?;
            fs::write(path, content)?;
        }
        Node::Symlink(target) => {
            remove(path)?;
            symlink(target, path)?;
        }
    }
    if let Some(Owner { user, group }) = owner {
        lchown(path, Some(*user), Some(*group))?;
    }
    // After the owner: a change of that takes set-user-ID away.
    match node {
        Node::Directory(mode) | Node::File(mode, _) => {
            fs::set_permissions(path, fs::Permissions::from_mode(*mode))
        }
        Node::Symlink(_) => Ok(()),
    }
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Removes a file or a link, not what the link leads to.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_trimmed(path: &str) -> bool {
    let below = |dir: &str| path.starts_with(dir) || path == dir.trim_end_matches('/');
    let documentation = path.starts_with("usr/share/doc/")
        && !path.ends_with("/copyright")
        && path.matches('/').count() > 3;
    let conversion = path.starts_with("usr/lib/") && path.contains("/gconv");
    TRIMMED.iter().any(|dir| below(dir)) || documentation || conversion
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            // Not set_path: it refuses what this test must be able to say.
            let name = header.as_gnu_mut().unwrap();
            name.name[..path.len()].copy_from_slice(path.as_bytes());
            let link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
            if link {
                header.set_link_name_literal(content).unwrap();
            }
            let content = if link { "" } else { content };
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    fn tree(entries: &[(&str, tar::EntryType, &str)]) -> Result<Tree, TreeError> {
        let mut tree = Tree::default();
        tree.add_package("p", package(entries).as_slice())?;
        Ok(tree)
    }

    #[test]
    fn packages_are_merged_and_trimmed() {
        let tree = tree(&[
            ("./", tar::EntryType::Directory, ""),
            ("./lib", tar::EntryType::Symlink, "usr/lib"),
            ("./lib/x/libc.so.6", FILE, "c"),
            ("./usr/bin/a", FILE, "a"),
            ("./usr/bin/b", tar::EntryType::Link, "./usr/bin/a"),
            ("./usr/share/man/man1/a.1.gz", FILE, "m"),
            ("./usr/share/doc/p/copyright", FILE, "c"),
            ("./usr/share/doc/p/changelog.gz", FILE, "c"),
            ("./usr/lib/aarch64-linux-gnu/gconv/X.so", FILE, "g"),
        ])
        .unwrap();
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(
            paths,
            [
                "usr",
                "usr/bin",
                "usr/bin/a",
                "usr/bin/b",
                "usr/lib",
                "usr/lib/x",
                "usr/lib/x/libc.so.6",
                "usr/share",
                "usr/share/doc",
                "usr/share/doc/p",
                "usr/share/doc/p/copyright"
            ]
        );
        assert_eq!(tree.get("usr/bin/a"), tree.get("usr/bin/b"));
    }

    #[test]
    fn bad_packages_are_refused() {
        let conflict = tree(&[("a", FILE, "1"), ("a", FILE, "2")]);
        assert!(matches!(conflict, Err(TreeError::Conflict { .. })));
        let outside = tree(&[("../etc/passwd", FILE, "1")]);
        assert!(matches!(outside, Err(TreeError::Path { .. })));
        let kind = tree(&[("dev/x", tar::EntryType::Char, "")]);
        assert!(matches!(kind, Err(TreeError::Kind { .. })));
        let link = tree(&[("b", tar::EntryType::Link, "a")]);
        assert!(matches!(link, Err(TreeError::Path { .. })));
        let mut cut = package(&[("a", FILE, "content")]);
        cut.truncate(600);
        let cut = Tree::default().add_package("p", cut.as_slice());
        assert!(matches!(cut, Err(TreeError::Archive { .. })));
        assert!(tree(&[("a", FILE, "1"), ("a", FILE, "1")]).is_ok());
    }

    #[test]
    fn a_missing_library_is_named() {
        // This test program itself is linked against the C library.
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut tree = Tree::default();
        tree.put("usr/bin/t", Node::File(0o755, program));
        let error = tree.check_libraries().unwrap_err().to_string();
        assert!(error.starts_with("`usr/bin/t` needs lib"), "{error}");
    }

    #[test]
    fn a_tree_is_written_as_it_is() {
        let mut tree = Tree::default();
        tree.put("a/b", Node::File(0o4755, b"x".to_vec()));
        tree.put("a", Node::Directory(0o1777));
        tree.put("l", Node::Symlink("a/b".to_owned()));
        let dir = tempfile::tempdir().unwrap();
        tree.write_to(dir.path()).unwrap();
        let mode = |path| fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode("a") & 0o7777, 0o1777);
        assert_eq!(mode("a/b") & 0o7777, 0o4755);
        assert_eq!(fs::read(dir.path().join("l")).unwrap(), b"x");
    }

    #[test]
    fn a_tree_is_written_over_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir(at("a")).unwrap();
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(at("elsewhere"), b"untouched").unwrap();
        symlink("../elsewhere", at("a/f")).unwrap();
        fs::write(at("a/l"), b"old").unwrap();
        let mut tree = Tree::default();
        tree.put("a/f", Node::File(0o600, b"new".to_vec()));
        tree.put("a/l", Node::Symlink("f".to_owned()));
        tree.write_to(dir.path()).unwrap();
        assert_eq!(fs::metadata(at("a")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::read(at("elsewhere")).unwrap(), b"untouched");
        assert_eq!(fs::symlink_metadata(at("a/f")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_link(at("a/l")).unwrap(), Path::new("f"));
        // A directory does not make way for a file, nor a link for a directory.
        tree.put("a", Node::File(0o600, vec![]));
        assert!(tree.write_to(dir.path()).is_err());
    }

    #[test]
    fn files_are_given_to_somebody() {
        let mut tree = Tree::default();
        tree.put("a", Node::File(0o4755, vec![]));
        assert_eq!(tree.owner("a"), Owner::ROOT);
        let owner = Owner { user: 1000, group: 42 };
        tree.give("a", owner);
        assert_eq!(tree.owner("a"), owner);
        if nix::unistd::geteuid().is_root() {
            use std::os::unix::fs::MetadataExt as _;
            let dir = tempfile::tempdir().unwrap();
            tree.write_to(dir.path()).unwrap();
            let meta = fs::metadata(dir.path().join("a")).unwrap();
            assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1000, 42, 0o4755));
        }
    }
}
