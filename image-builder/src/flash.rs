//! Writing an image to a card: only to a disk that nobody uses, and read back.
//!
//! [`disk`] tells what a device is and whether it may be overwritten, [`write`](mod@write)
//! copies and compares. Whoever calls them asks the user in between.

pub mod disk;
pub mod write;

use std::io;
use std::path::PathBuf;

/// Why a card was not written, or not written well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlashError {
    /// The device may not be overwritten.
    #[error("{device}: {why}", device = device.display())]
    Refused {
        /// The device.
        device: PathBuf,
        /// What it is, and what to do.
        why: disk::Refusal,
    },
    /// Somebody uses the device: the kernel gives it to one at a time.
    #[error(
        "{} is in use: unmount what is mounted from it, and end what has it open",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file or the device failed.
    #[error("{}: cannot {what}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device gives back something else than was written to it.
    #[error(
        "{}: what was read back differs from the image at byte {offset}. The card is worn out, \
         smaller than it says, or the reader is bad: do not use it",
        device.display()
    )]
    Differs {
        /// The device.
        device: PathBuf,
        /// Of the first byte that differs.
        offset: u64,
    },
}

pub(crate) fn failed(
    what: &'static str,
    path: &std::path::Path,
) -> impl Fn(io::Error) -> FlashError + use<> {
    let path = path.to_owned();
    move |source| FlashError::Io { what, path: path.clone(), source }
}
