//! Adding to the log, so that systemd can go on in it: the only I/O of this
//! library.
//!
//! The protocol is systemd 257's (src/shared/tpm2-util.c,
//! `tpm2_userspace_log_open` and `tpm2_userspace_log`): lock the file, set its
//! sticky bit, extend the PCR, write the record, sync, clear the bit. A bit that
//! is found set says that a writer was cut off between extending and writing.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{BrokenRecord, Record};

/// Only root may read: who can open it can also lock it.
const MODE: u32 = 0o600;
/// `S_ISVTX`: a record is being written.
const STICKY: u32 = 0o1000;

/// Why a record could not be added.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The file could not be opened, locked, written or synced.
    #[error("cannot {what} the measurement log {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The log.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Not a file, a symbolic link, or exchanged while it was opened.
    #[error("the measurement log {} is no regular file: remove what stands there", .0.display())]
    NotRegular(PathBuf),
    /// A writer was cut off.
    #[error(
        "the measurement log {} lacks a measurement (its sticky bit is set: a writer was cut off); \
         nothing is added to it before the next boot",
        .0.display()
    )]
    Aborted(PathBuf),
    /// The record cannot be written.
    #[error(transparent)]
    Record(#[from] BrokenRecord),
}

/// A log that is locked, and marked as lacking the measurement that comes now.
///
/// Open it, extend the PCR, then [`write`](Pending::write): nobody comes between
/// the measurement and its record. Without a word about what became of the
/// measurement the mark stays, and the log is closed for this boot.
#[derive(Debug)]
#[must_use]
pub struct Pending {
    file: File,
    path: PathBuf,
}

impl Pending {
    /// Makes the log if there is none, waits for its lock, and marks it.
    ///
    /// # Errors
    /// The file cannot be made, is none, or was marked already.
    pub fn open(path: &Path) -> Result<Self, AppendError> {
        let failed = |what| move |source| AppendError::Io { what, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(dir);
            made.map_err(failed("make the directory of"))?;
        }
        // A link is not followed, and a FIFO not waited for.
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            return Err(AppendError::NotRegular(path.to_owned()));
        }
        let opened = OpenOptions::new().append(true).create(true).mode(MODE).open(path);
        let file = opened.map_err(failed("open"))?;
        lock(&file).map_err(failed("lock"))?;
        let ours = file.metadata().map_err(failed("read the mode of"))?;
        let there = path.symlink_metadata().map_err(failed("find"))?;
        if !ours.is_file() || (ours.dev(), ours.ino()) != (there.dev(), there.ino()) {
            return Err(AppendError::NotRegular(path.to_owned()));
        }
        if is_marked(&ours) {
            return Err(AppendError::Aborted(path.to_owned()));
        }
        let pending = Self { file, path: path.to_owned() };
        pending.set_mode(MODE | STICKY)?;
        Ok(pending)
    }

    /// Adds the record of what was measured, and clears the mark once it is on
    /// the disk.
    ///
    /// # Errors
    /// The record cannot be written; the mark stays.
    pub fn write(mut self, record: &Record) -> Result<(), AppendError> {
        let bytes = record.to_bytes()?;
        self.file.write_all(&bytes).map_err(|e| self.failed("write", e))?;
        self.file.sync_all().map_err(|e| self.failed("sync", e))?;
        self.withdraw()
    }

    /// Clears the mark: nothing was measured.
    ///
    /// # Errors
    /// It cannot be cleared.
    pub fn withdraw(self) -> Result<(), AppendError> {
        self.set_mode(MODE)?;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty());
        self.file
            .sync_all()
            .and_then(|()| File::open(dir.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|e| self.failed("sync", e))
    }

    fn set_mode(&self, mode: u32) -> Result<(), AppendError> {
        let set = self.file.set_permissions(Permissions::from_mode(mode));
        set.map_err(|e| self.failed("set the mode of", e))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> AppendError {
        AppendError::Io { what, path: self.path.clone(), source }
    }
}

/// Whether a log of this metadata lacks a measurement: its writer was cut off,
/// or holds the lock.
#[must_use]
pub fn is_marked(log: &Metadata) -> bool {
    log.is_file() && log.mode() & STICKY != 0
}

/// flock(2), as systemd's.
fn lock(file: &File) -> io::Result<()> {
    loop {
        match file.lock() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Adds the record of a measurement that was made already. Who makes it
/// [opens the log](Pending::open) first.
///
/// # Errors
/// Those of [`Pending`].
pub fn append(path: &Path, record: &Record) -> Result<(), AppendError> {
    // A record that cannot be written leaves no mark.
    record.to_bytes()?;
    Pending::open(path)?.write(record)
}

/// This boot, and how long it is old: what systemd writes into each record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's boot ID: 32 hexadecimal digits.
    pub id: String,
    /// `CLOCK_BOOTTIME` in microseconds, as exact as /proc/uptime is (10 ms).
    pub timestamp: u64,
}

impl Boot {
    /// Asks the kernel.
    ///
    /// # Errors
    /// /proc cannot be read, or says something else.
    pub fn now() -> io::Result<Self> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        Self::from_text(&id, &uptime).ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidData, "/proc has no boot ID and uptime as Linux's")
        })
    }

    /// `01234567-89ab-...` and `seconds.hundredths idle`.
    fn from_text(id: &str, uptime: &str) -> Option<Self> {
        let id: String = id.trim().chars().filter(|c| *c != '-').collect();
        let plain = id.len() == 32 && id.chars().all(|c| c.is_ascii_hexdigit());
        let (seconds, hundredths) = uptime.split_whitespace().next()?.split_once('.')?;
        let (seconds, hundredths): (u64, u64) = (seconds.parse().ok()?, hundredths.parse().ok()?);
        let timestamp = seconds.checked_mul(1_000_000)?.checked_add(hundredths * 10_000)?;
        (plain && hundredths < 100).then_some(Self { id, timestamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;
    use crate::pcr::PcrIndex;
    use crate::userlog::{Systemd, UserLog};
    use tempfile::TempDir;

    fn record(words: &str) -> Record {
        let content = Systemd {
            string: Some(words.to_owned()),
            boot_id: "ab".repeat(16),
            timestamp: 1,
            event_type: Some("phase".to_owned()),
        };
        let digest = Sha256Digest::of(words.as_bytes());
        Record::new(PcrIndex::new(11).unwrap(), vec![digest.into()], content)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    fn words(path: &Path) -> Vec<String> {
        let log = UserLog::parse(&std::fs::read(path).unwrap());
        assert_eq!(log.broken, None);
        log.entries.iter().map(|entry| entry.record.description()).collect()
    }

    #[test]
    fn records_stand_one_behind_the_other_in_a_file_of_roots() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log/systemd/tpm2-measure.log");
        append(&path, &record("enter-initrd")).unwrap();
        append(&path, &record("leave-initrd")).unwrap();
        assert_eq!(words(&path), ["enter-initrd", "leave-initrd"]);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_writer_that_was_cut_off_closes_the_log() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        append(&path, &record("a")).unwrap();
        drop(Pending::open(&path).unwrap());
        assert_eq!(mode(&path), 0o1600);
        let error = append(&path, &record("b")).unwrap_err();
        assert!(matches!(&error, AppendError::Aborted(at) if *at == path), "{error}");
        assert_eq!(words(&path), ["a"]);
    }

    #[test]
    fn a_measurement_that_was_not_made_leaves_the_log_open() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        Pending::open(&path).unwrap().withdraw().unwrap();
        // Nor does a record that cannot be written.
        let empty = Record { digests: vec![], ..record("") };
        assert!(matches!(append(&path, &empty), Err(AppendError::Record(_))));
        append(&path, &record("a")).unwrap();
        assert_eq!(words(&path), ["a"]);
    }

    #[test]
    fn writers_wait_for_each_other() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("log");
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    for n in 0..8 {
                        append(path, &record(&format!("{writer}.{n}"))).unwrap();
                    }
                });
            }
        });
        let words = words(&path);
        assert_eq!(words.len(), 64);
        for writer in 0..8 {
            let own: Vec<_> =
                words.iter().filter_map(|w| w.strip_prefix(&format!("{writer}."))).collect();
            assert_eq!(own, ["0", "1", "2", "3", "4", "5", "6", "7"]);
        }
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = TempDir::new().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [dir.path(), &link, Path::new("/dev/null")] {
            let error = append(path, &record("a")).unwrap_err();
            assert!(matches!(error, AppendError::NotRegular(_)), "{error}");
        }
        assert!(!target.exists());
        assert!(matches!(
            append(&dir.path().join("link/log"), &record("a")),
            Err(AppendError::Io { what: "make the directory of", .. })
        ));
    }

    #[test]
    fn a_boot_is_told_from_proc() {
        let id = "9a6ecf5a-338e-4846-8726-76d25d0d251d\n";
        let boot = Boot::from_text(id, "1490.21 2841.06\n").unwrap();
        assert_eq!(boot.id, "9a6ecf5a338e4846872676d25d0d251d");
        assert_eq!(boot.timestamp, 1_490_210_000);
        for (id, uptime) in [("x", "1.00 1"), (id, ""), (id, "1 1"), (id, "-1.0"), (id, "1.100")] {
            assert_eq!(Boot::from_text(id, uptime), None, "{id} {uptime}");
        }
        assert_eq!(Boot::now().unwrap().id.len(), 32);
    }
}
