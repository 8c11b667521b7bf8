//! Newer versions in place of locked ones that the mirror has dropped.
//!
//! A mirror keeps a version until the suite has a newer one. Whoever builds an
//! image to ship wants the locked version or an error; whoever tries this project
//! months later wants it to work. The latter asks for newer versions, is told
//! which ones were taken, and gets them again with the next build: they are locked
//! too, in the cache. That they are Debian's, apt vouches for with the archive's
//! signature, until their hashes are locked.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::lock::{Lock, Source};
use super::{SourceError, apt, fetch, store::Store};
use crate::cache::IoContext;
use crate::progress::Progress;

/// The variable that asks for newer versions, as `--take-newer` does.
const VARIABLE: &str = "MSEC_TAKE_NEWER";

/// What to do about a locked version that the mirror has no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenGone {
    /// Say so and stop.
    Refuse,
    /// Take the version that its suite has now.
    TakeNewer,
}

impl WhenGone {
    /// What the environment asks for: `MSEC_TAKE_NEWER=1` for newer versions.
    pub fn from_env() -> Self {
        match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("" | "0") => Self::Refuse,
            Ok(_) => Self::TakeNewer,
        }
    }
}

/// The lock that holds: the file at `path`, or what [`settle`] took in its place
/// earlier. Asks no mirror.
///
/// # Errors
/// [`SourceError::Lock`].
pub fn in_force(path: &Path, store: &Store, when: WhenGone) -> Result<Lock, SourceError> {
    Ok(locate(path, store, when)?.0)
}

/// The lock that holds and where it stands; beside it the place for a newer one.
fn locate(
    path: &Path,
    store: &Store,
    when: WhenGone,
) -> Result<(Lock, PathBuf, PathBuf), SourceError> {
    let lock = Lock::read(path)?;
    let text = fs::read(path).on("cannot read", path)?;
    let name = format!("{}.lock", hex::encode(Sha256::digest(text)));
    let newer = store.newer_dir().join(name);
    if when == WhenGone::TakeNewer && newer.is_file() {
        return Ok((Lock::read(&newer)?, newer.clone(), newer));
    }
    Ok((lock, path.to_owned(), newer))
}

/// The lock that a build goes by. With [`WhenGone::TakeNewer`], versions that are
/// neither in the store nor on the mirror are replaced by those that their suites
/// have now, which is said and written down for [`in_force`].
///
/// # Errors
/// [`SourceError`] when apt cannot be asked or a suite has no version at all.
pub fn settle(
    path: &Path,
    store: &Store,
    when: WhenGone,
    progress: &Progress,
) -> Result<Lock, SourceError> {
    let (mut lock, at, newer) = locate(path, store, when)?;
    let is_missing = |source: &Source| !source.files.iter().all(|file| store.has(file));
    if when == WhenGone::Refuse || !lock.sources().iter().any(is_missing) {
        return Ok(lock);
    }
    let missing: Vec<_> =
        lock.sources().iter().filter(|source| is_missing(source)).cloned().collect();
    let list = missing.iter().map(|source| source.name.as_str()).collect::<Vec<_>>().join(", ");
    apt::update().map_err(|output| SourceError::Update { missing: list, output })?;
    let offers = apt::offers(&missing)?;
    let gone: Vec<&str> = missing
        .iter()
        .zip(&offers)
        .filter(|(source, offers)| offers.iter().all(|offer| offer.version != source.version))
        .map(|(source, _)| source.name.as_str())
        .collect();
    let mut updates = Vec::new();
    for source in lock.sources_mut() {
        if gone.contains(&source.name.as_str()) {
            updates.extend(fetch::advance(source)?);
        }
    }
    if updates.is_empty() {
        return Ok(lock);
    }
    for update in &updates {
        progress.say(&format!(
            "{}: version {} has gone from the mirror, taking {}",
            update.name, update.from, update.to
        ));
    }
    let parent = store.newer_dir();
    fs::create_dir_all(&parent).on("cannot create", &parent)?;
    lock.write(&newer)?;
    progress.say(&format!(
        "not as in {}: what was taken stands in {}",
        at.display(),
        newer.display()
    ));
    Ok(lock)
}
