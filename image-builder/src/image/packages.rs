//! The packages of the userland: which ones, pinned, fetched, opened.
//!
//! A recipe names a few packages; their closure with versions and hashes stands
//! in a lock file beside the recipe (`rpi3.toml`, `rpi3.lock`), in the form of
//! the sources' lock file. A build takes what is locked and asks nobody.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::card::{CardError, write_whole};
use super::tool::{Tool, ToolError};
use super::tree::{Tree, TreeError};
use crate::progress::Progress;
use crate::recipe::{PackageName, Recipe};
use crate::sources::lock::{Kind, Lock, Source};
use crate::sources::newer::{self, WhenGone};
use crate::sources::store::Store;
use crate::sources::{SourceError, apt, fetch};

/// The architecture of every board so far.
const ARCHITECTURE: &str = "arm64";

/// Why the packages cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// Lock file, mirror or store.
    #[error(
        "the packages of the userland: {0}\n(To take the versions that the mirror has now, for all \
         of them: image-builder recipe lock {recipe})", recipe = .1.display()
    )]
    Source(Box<SourceError>, PathBuf),
    /// The recipe names what the lock file does not have.
    #[error(
        "the recipe asks for the package {package}, which {lock} does not have: run \
         `image-builder recipe lock {recipe}`"
    )]
    NotLocked {
        /// The package.
        package: String,
        /// The lock file.
        lock: PathBuf,
        /// The recipe.
        recipe: PathBuf,
    },
    /// apt's answer could not be used.
    #[error("cannot find the dependencies of the userland's packages: {0}")]
    Resolve(String),
    /// apt or dpkg failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A package's files cannot be used.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The lock file could not be written.
    #[error("cannot write the lock file: {0}")]
    Write(#[from] CardError),
}

/// A package whose bytes are those of the lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The `.deb`.
    pub deb: PathBuf,
}

/// The lock file of a recipe: the same name, ending in `.lock`.
pub fn lock_path(recipe: &Path) -> PathBuf {
    recipe.with_extension("lock")
}

/// Fetches what is missing and compares every package with the lock file.
/// Needs no network if nothing is missing.
///
/// # Errors
/// If the lock file does not fit the recipe, or a package cannot be had.
pub fn obtain(
    recipe: &Recipe,
    recipe_path: &Path,
    store: &Store,
    when_gone: WhenGone,
    progress: &Progress,
) -> Result<Vec<Package>, PackageError> {
    let source_error = |error| PackageError::Source(Box::new(error), recipe_path.to_owned());
    let path = lock_path(recipe_path);
    let lock = newer::settle(&path, store, when_gone, progress).map_err(source_error)?;
    let names: Vec<&str> = lock.sources().iter().map(|s| s.name.as_str()).collect();
    if let Some(package) =
        recipe.wanted_packages().iter().find(|package| !names.contains(&package.as_str()))
    {
        return Err(PackageError::NotLocked {
            package: package.to_string(),
            lock: path,
            recipe: recipe_path.to_owned(),
        });
    }
    fetch_at_once(&lock, store, progress).map_err(|error| source_error(*error))?;
    // What is missing now has a story of its own, and fetch tells it.
    fetch::fetch(&lock, &names, store, progress).map_err(source_error)?;
    lock.sources()
        .iter()
        .map(|source| {
            let file = source.main_file().ok_or_else(|| {
                source_error(SourceError::NotLocked { name: source.name.clone() })
            })?;
            Ok(Package {
                name: source.name.clone(),
                version: source.version.clone(),
                deb: store.verified(file).map_err(source_error)?,
            })
        })
        .collect()
}

/// Fetches everything that is missing by one call of apt: one for each of some
/// fifty packages takes minutes. Whatever does not come is left out here.
fn fetch_at_once(lock: &Lock, store: &Store, progress: &Progress) -> Result<(), Box<SourceError>> {
    let missing: Vec<&Source> = lock
        .sources()
        .iter()
        .filter(|source| !source.files.iter().all(|file| store.has(file)))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let task = progress.task("packages");
    task.step("updating the package lists");
    // fetch reports a failure of the next call, and of this one.
    if apt::update().is_err() {
        return Ok(());
    }
    let dir = store.scratch()?;
    task.step(&format!("fetching {} packages", missing.len()));
    let fetched = Tool::new("apt-get", "fetch the packages of the userland")
        .in_dir(dir.path())
        .args(["--quiet=2", "--option=APT::Sandbox::User=root"])
        .args(["--option=Acquire::Retries=3", "download"])
        .args(missing.iter().map(|source| apt_version(source)))
        .run();
    if fetched.is_ok() {
        for file in missing.iter().flat_map(|source| &source.files) {
            store.take(&dir.path().join(&file.name), file)?;
        }
    }
    task.finish();
    Ok(())
}

/// A package in a certain version, as apt's command line names it.
fn apt_version(source: &Source) -> String {
    match source.arch.as_deref() {
        None | Some("all") => format!("{}={}", source.name, source.version),
        Some(arch) => format!("{}:{arch}={}", source.name, source.version),
    }
}

/// Opens packages into one tree. No maintainer script runs.
///
/// # Errors
/// If a package is damaged, or two disagree, or a library is missing.
pub fn open(packages: &[Package]) -> Result<Tree, PackageError> {
    let mut tree = Tree::default();
    for package in packages {
        let data = Tool::new("dpkg-deb", format!("open {}", package.deb.display()))
            .arg("--fsys-tarfile")
            .arg(&package.deb)
            .run()?;
        tree.add_package(&package.name, data.as_slice())?;
    }
    tree.check_libraries()?;
    Ok(tree)
}

/// Finds the closure of the recipe's packages in the versions that the mirror
/// has now, and writes the lock file. Returns its path and how many there are.
///
/// # Errors
/// If apt cannot be asked or has no answer.
pub fn relock(recipe: &Recipe, recipe_path: &Path) -> Result<(PathBuf, usize), PackageError> {
    let source_error = |error| PackageError::Source(Box::new(error), recipe_path.to_owned());
    apt::update().map_err(|output| {
        source_error(SourceError::Update { missing: "versions of today".to_owned(), output })
    })?;
    let mut sources = Vec::new();
    for (name, chosen) in resolve(recipe)? {
        let mut source = Source {
            name,
            kind: Kind::Deb,
            suite: String::new(),
            version: chosen.version,
            arch: Some(chosen.architecture),
            files: Vec::new(),
        };
        source.suite = apt::offers_of(&source)
            .map_err(source_error)?
            .into_iter()
            .find(|offer| offer.version == source.version)
            .map(|offer| offer.suite)
            .ok_or_else(|| PackageError::Resolve(format!("{} has no suite", source.name)))?;
        source.files = apt::files(&source, &source.version).map_err(source_error)?;
        sources.push(source);
    }
    let count = sources.len();
    let path = lock_path(recipe_path);
    let text = lock_text(sources)?;
    Lock::parse(&text, &path).map_err(source_error)?;
    write_whole(&path, text.as_bytes())?;
    Ok((path, count))
}

fn lock_text(sources: Vec<Source>) -> Result<String, PackageError> {
    #[derive(Serialize)]
    struct File {
        schema: &'static str,
        source: Vec<Source>,
    }
    let file = File { schema: "msec-boot/sources-lock/1", source: sources };
    let body = toml::to_string(&file).map_err(|e| PackageError::Resolve(e.to_string()))?;
    Ok(format!(
        "# The packages of the root file system, pinned by SHA-256: what the recipe names and what\n\
         # that depends on. `image-builder recipe lock RECIPE` takes the versions of today.\n\n{body}"
    ))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Chosen {
    version: String,
    architecture: String,
}

/// What every Debian has, in apt's words: its essential packages, and not apt itself, which
/// calls itself one of them.
const ESSENTIAL: [&str; 2] = ["--option=pkgCacheGen::ForceEssential=,", "?essential"];

/// Asks apt what it would install on an empty system.
fn resolve(recipe: &Recipe) -> Result<BTreeMap<String, Chosen>, PackageError> {
    let mut status = tempfile::NamedTempFile::new()
        .map_err(|e| PackageError::Resolve(format!("no temporary file: {e}")))?;
    status
        .write_all(assumed_status(&recipe.root.busybox().assume).as_bytes())
        .map_err(|e| PackageError::Resolve(format!("no temporary file: {e}")))?;
    let answer = Tool::new("apt-get", "find the dependencies of the userland's packages")
        .arg(format!("--option=Dir::State::status={}", status.path().display()))
        .arg(format!("--option=APT::Architecture={ARCHITECTURE}"))
        .arg(format!("--option=APT::Architectures={ARCHITECTURE}"))
        .args(["--simulate", "--quiet=2", "--no-install-recommends", "install"])
        .args(recipe.wanted_packages().iter().map(|package| package.as_str()))
        .args(recipe.root.is_debian().then_some(ESSENTIAL).into_iter().flatten())
        .run()?;
    let chosen = parse_simulation(&String::from_utf8_lossy(&answer))?;
    if chosen.is_empty() {
        return Err(PackageError::Resolve("apt names none".to_owned()));
    }
    Ok(chosen)
}

/// A dpkg status file in which the assumed packages are installed, in a version
/// that satisfies everybody.
fn assumed_status(assume: &[PackageName]) -> String {
    assume
        .iter()
        .map(|name| {
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: all\n\
                 Multi-Arch: foreign\nVersion: 999\nMaintainer: none\nDescription: assumed\n\n"
            )
        })
        .collect()
}

/// Reads `apt-get --simulate`: `Inst NAME (VERSION SUITE... [ARCHITECTURE])`.
fn parse_simulation(answer: &str) -> Result<BTreeMap<String, Chosen>, PackageError> {
    answer
        .lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .map(|line| {
            let parsed = line.split_once(' ').and_then(|(name, rest)| {
                let inner = rest.trim().strip_prefix('(')?.split(')').next()?;
                let (version, _) = inner.split_once(' ')?;
                let architecture = inner.rsplit_once('[')?.1.strip_suffix(']')?;
                let name = name.split(':').next()?;
                let chosen =
                    Chosen { version: version.to_owned(), architecture: architecture.to_owned() };
                Some((name.to_owned(), chosen))
            });
            parsed.ok_or_else(|| PackageError::Resolve(format!("apt says `{line}`")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Root;

    #[test]
    fn simulations_are_read() {
        let answer = "Inst gcc-14-base (14.2.0-19 Debian:13.7/stable [arm64])\n\
                      Inst libgcc-s1 (14.2.0-19 Debian:13.7/stable [arm64]) []\n\
                      Inst netbase (6.5 Debian:13.7/stable, Debian-Security:13/x [all])\n\
                      Conf netbase (6.5 Debian:13.7/stable [all])\n";
        let chosen = parse_simulation(answer).unwrap();
        let names: Vec<&str> = chosen.keys().map(String::as_str).collect();
        assert_eq!(names, ["gcc-14-base", "libgcc-s1", "netbase"]);
        assert_eq!(
            chosen["netbase"],
            Chosen { version: "6.5".to_owned(), architecture: "all".to_owned() }
        );
        assert!(parse_simulation("Inst broken\n").is_err());
    }

    #[test]
    fn what_is_assumed_counts_as_installed() {
        let status = assumed_status(&Root::default().busybox().assume);
        assert!(status.starts_with("Package: awk\nStatus: install ok installed\n"));
        assert!(status.contains("\n\nPackage: tpm-udev\n"));
        assert!(status.ends_with("\n\n"));
    }

    #[test]
    fn the_lock_file_stands_beside_the_recipe() {
        assert_eq!(lock_path(Path::new("a/rpi3.toml")), Path::new("a/rpi3.lock"));
    }

    #[test]
    fn a_written_lock_is_a_lock() {
        let text = lock_text(vec![]).unwrap();
        assert!(Lock::parse(&text, Path::new("x.lock")).is_ok(), "{text}");
    }

    #[test]
    fn the_shipped_locks_have_what_the_shipped_recipes_name() {
        for (recipe, lock) in [
            (include_str!("../../recipes/rpi3.toml"), include_str!("../../recipes/rpi3.lock")),
            (
                include_str!("../../recipes/rpi3-tiny.toml"),
                include_str!("../../recipes/rpi3-tiny.lock"),
            ),
        ] {
            let recipe = Recipe::parse(recipe, "recipe").unwrap();
            let lock = Lock::parse(lock, Path::new("lock")).unwrap();
            for package in &recipe.wanted_packages() {
                assert!(lock.source(package.as_str()).is_ok(), "{package}");
            }
        }
    }
}
