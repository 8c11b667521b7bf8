//! Fetching what is missing, and taking newer versions into the lock.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use super::lock::{Lock, Source};
use super::{SourceError, apt, store::Store};
use crate::cache::IoContext;
use crate::progress::{Progress, Task};

/// How often the size of what has been downloaded is looked at.
const TICK: Duration = Duration::from_millis(250);

/// Fetches those of the named sources that the store has not. Asks the mirror
/// for nothing when it has them all.
///
/// # Errors
/// [`SourceError`]: each kind says what to do. What was fetched before stays.
pub fn fetch(
    lock: &Lock,
    names: &[&str],
    store: &Store,
    progress: &Progress,
) -> Result<(), SourceError> {
    let mut missing = Vec::new();
    for name in names {
        let source = lock.source(name)?;
        import(source, store)?;
        if !source.files.iter().all(|file| store.has(file)) {
            missing.push(source);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let total = missing.iter().flat_map(|source| &source.files).map(|file| file.size).sum();
    let task = progress.download("sources", total);
    let list = missing.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    task.step("updating the package lists");
    apt::update().map_err(|output| SourceError::Update { missing: list, output })?;
    let mut done = 0;
    for source in missing {
        task.step(&format!("{} {}", source.name, source.version));
        fetch_one(source, store, &task, done)?;
        done += source.files.iter().map(|file| file.size).sum::<u64>();
        task.position(done);
    }
    task.finish();
    Ok(())
}

/// Takes in files that a user has put into the import directory.
fn import(source: &Source, store: &Store) -> Result<(), SourceError> {
    for file in source.files.iter().filter(|file| !store.has(file)) {
        let path = store.import_dir().join(&file.name);
        if path.is_file() {
            store.take(&path, file)?;
        }
    }
    Ok(())
}

fn fetch_one(source: &Source, store: &Store, task: &Task, done: u64) -> Result<(), SourceError> {
    let offers = apt::offers_of(source)?;
    if !offers.iter().any(|offer| offer.version == source.version) {
        return Err(gone(source, store, &offers));
    }
    let dir = store.scratch()?;
    let mut child = apt::start_download(source, dir.path())?;
    let status = loop {
        if let Some(status) = child.try_wait().on("cannot wait for apt-get in", dir.path())? {
            break status;
        }
        task.position(done + size_below(dir.path()));
        std::thread::sleep(TICK);
    };
    if !status.success() {
        return Err(SourceError::Apt {
            command: format!("fetching {} {}", source.name, source.version),
            output: apt::last_lines(&words(&mut child), 6),
        });
    }
    for file in &source.files {
        store.take(&dir.path().join(&file.name), file)?;
    }
    Ok(())
}

fn words(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        // What cannot be read cannot be shown; the failure itself is reported.
        let _ = stderr.take(1 << 16).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn size_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

fn gone(source: &Source, store: &Store, offers: &[apt::Offer]) -> SourceError {
    let available = offers
        .iter()
        .map(|offer| format!("{} ({})", offer.version, offer.suite))
        .collect::<Vec<_>>()
        .join(", ");
    let files: String =
        source.files.iter().map(|file| format!("\n  {}  {}", file.sha256, file.name)).collect();
    SourceError::Gone {
        name: source.name.clone(),
        version: source.version.clone(),
        suite: source.suite.clone(),
        available: if available.is_empty() { "none".into() } else { available },
        files: format!("{}:{files}", store.import_dir().display()),
    }
}

/// A source whose locked version was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// The source.
    pub name: String,
    /// The version that was locked.
    pub from: String,
    /// The version that is locked now.
    pub to: String,
}

/// Takes the versions that the suites have now, for the named sources or for
/// all, and writes the lock file, complete or not at all.
///
/// # Errors
/// [`SourceError`]; the lock file is then as it was.
pub fn relock(path: &Path, names: &[String]) -> Result<Vec<Update>, SourceError> {
    let mut lock = Lock::read(path)?;
    if let Some(name) = names.iter().find(|name| lock.sources().iter().all(|s| s.name != **name)) {
        return Err(SourceError::NotLocked { name: name.clone() });
    }
    apt::update().map_err(|output| SourceError::Update {
        missing: "asked for the newest versions".into(),
        output,
    })?;
    let mut updates = Vec::new();
    for source in lock.sources_mut() {
        if !names.is_empty() && !names.contains(&source.name) {
            continue;
        }
        updates.extend(advance(source)?);
    }
    lock.write(path)?;
    Ok(updates)
}

/// Locks the version that the source's suite has now; `None` if it is the one that
/// was locked already.
pub(super) fn advance(source: &mut Source) -> Result<Option<Update>, SourceError> {
    let version = apt::newest(source)?.ok_or_else(|| SourceError::Answer {
        name: source.name.clone(),
        reason: format!("the suite {} has no version of it", source.suite),
    })?;
    source.files = apt::files(source, &version)?;
    let from = std::mem::replace(&mut source.version, version.clone());
    let update = Update { name: source.name.clone(), from, to: version };
    Ok((update.from != update.to).then_some(update))
}
