//! Block devices: waiting for them, looking at them, growing the root
//! partition into its reserve.

use crate::disk_state::{self, LOOK, Seen};
use crate::mbr::{self, MbrError, SECTOR};
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a device that is not there yet is looked for.
const POLL: Duration = Duration::from_millis(10);

/// What went wrong with a block device.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// It did not appear in time.
    #[error("{path} did not appear within {seconds} s: {hint}")]
    Missing {
        /// The device.
        path: String,
        /// How long was waited.
        seconds: u64,
        /// What to do.
        hint: &'static str,
    },
    /// It cannot be read or written.
    #[error("{what} {path}: {cause}; the card may be worn out or badly seated")]
    Io {
        /// What was to be done.
        what: &'static str,
        /// The device.
        path: String,
        /// The system's words.
        cause: io::Error,
    },
    /// The partition table does not allow it.
    #[error(transparent)]
    Table(#[from] MbrError),
}

/// Waits until `path` is there, for at most `patience`.
///
/// # Errors
/// [`BlockError::Missing`] with `hint`.
pub fn wait_for(path: &Path, patience: Duration, hint: &'static str) -> Result<(), BlockError> {
    let deadline = Instant::now() + patience;
    loop {
        let there = std::fs::metadata(path).is_ok_and(|m| {
            let kind = m.file_type();
            kind.is_block_device() || kind.is_char_device()
        });
        if there {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let path = path.display().to_string();
            return Err(BlockError::Missing { path, seconds: patience.as_secs(), hint });
        }
        std::thread::sleep(POLL);
    }
}

/// How many bytes a whole disk writes at once, so that a power cut leaves all of them or
/// none: its physical block size, as the kernel has it. 512 where that is not known.
#[must_use]
pub fn atomic_size(disk: &Path) -> u32 {
    let name = disk.file_name().unwrap_or_default();
    let size = Path::new("/sys/class/block").join(name).join("queue/physical_block_size");
    std::fs::read_to_string(size).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(512)
}

/// Looks at the start of the root partition and behind the reserve.
///
/// # Errors
/// When the device cannot be read.
pub fn look(path: &Path, reserve: u64) -> Result<Seen, BlockError> {
    let device = File::open(path).map_err(|e| failed("opening", path, e))?;
    let read = |offset| {
        let mut bytes = vec![0; LOOK];
        match device.read_exact_at(&mut bytes, offset) {
            Ok(()) => Ok(bytes),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            Err(e) => Err(failed("reading", path, e)),
        }
    };
    Ok(disk_state::look(&read(0)?, &read(reserve)?))
}

/// Grows partition `number` of `disk` down by `reserve` bytes: one sector is
/// written, then the kernel reads the table again. Cut before the write,
/// nothing has happened; cut after it, the next boot finds the grown partition.
///
/// # Errors
/// [`BlockError`].
pub fn grow_down(disk: &Path, number: u8, reserve: u64) -> Result<(), BlockError> {
    let device = OpenOptions::new().read(true).write(true).open(disk);
    let device = device.map_err(|e| failed("opening", disk, e))?;
    let mut sector = [0; SECTOR];
    device.read_exact_at(&mut sector, 0).map_err(|e| failed("reading", disk, e))?;
    let sectors = u32::try_from(reserve / SECTOR as u64).unwrap_or(u32::MAX);
    let table = mbr::grow_down(&sector, number, sectors)?;
    device
        .write_all_at(&table, 0)
        .map_err(|e| failed("writing the partition table of", disk, e))?;
    device.sync_all().map_err(|e| failed("writing the partition table of", disk, e))?;
    sys::reread_partitions(&device).map_err(|e| failed("reading the partition table of", disk, e))
}

fn failed(what: &'static str, path: &Path, cause: io::Error) -> BlockError {
    BlockError::Io { what, path: path.display().to_string(), cause }
}
