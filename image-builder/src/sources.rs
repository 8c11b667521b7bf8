//! Pinned sources: the lock file, fetching, verification.
//!
//! A source is a Debian source package, or a binary package whose contents are
//! sources or firmware. The lock file names its version and the SHA-256 of each
//! of its files. Trust comes from there: which mirror a file came from, and
//! whether that mirror's signature has expired, makes no difference.

pub mod apt;
pub mod fetch;
pub mod lock;
pub mod newer;
pub mod store;

use std::path::PathBuf;

use crate::cache::CacheError;

/// A source that cannot be had, or is not what the lock file says.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The lock file cannot be read as one.
    #[error("{}: {reason}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A component asks for a source that the lock file has not.
    #[error(
        "source {name} is not in the lock file; add it there, then run `image-builder sources lock {name}`"
    )]
    NotLocked {
        /// The source's name.
        name: String,
    },
    /// apt could not bring its lists up to date.
    #[error(
        "cannot update the package lists, so missing sources cannot be fetched ({missing}):\n{output}\n\
         Is there a network, and does `apt-get update` succeed on this machine?"
    )]
    Update {
        /// The sources that are missing.
        missing: String,
        /// apt's last words.
        output: String,
    },
    /// The mirror no longer has the locked version.
    #[error(
        "source {name}: the mirror has version {version} no longer; it has {available}.\n\
         Take the version that the suite {suite} has now:  image-builder sources lock {name}\n\
         Or let this build take it:  --take-newer\n\
         Or put these files into {files}"
    )]
    Gone {
        /// The source's name.
        name: String,
        /// The locked version.
        version: String,
        /// The locked suite.
        suite: String,
        /// What the mirror has instead.
        available: String,
        /// The directory where files brought from elsewhere are looked for, then
        /// their hashes and names, one a line.
        files: String,
    },
    /// A file is not what the lock file says.
    #[error(
        "{name}: expected {size} bytes with SHA-256 {sha256}, got {found}. \
         The mirror serves another file under this name: do not use it"
    )]
    Mismatch {
        /// The file's name.
        name: String,
        /// The locked size in bytes.
        size: u64,
        /// The locked hash.
        sha256: String,
        /// Size and hash of what came.
        found: String,
    },
    /// apt failed at something else.
    #[error("{command} failed:\n{output}")]
    Apt {
        /// The command.
        command: String,
        /// Its last words.
        output: String,
    },
    /// apt's answer was not understood.
    #[error("source {name}: cannot read apt's answer: {reason}")]
    Answer {
        /// The source's name.
        name: String,
        /// What is missing in it.
        reason: String,
    },
    /// The cache refused something.
    #[error(transparent)]
    Cache(#[from] CacheError),
}
