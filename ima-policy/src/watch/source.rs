//! The files that are watched.
//!
//! Nobody tells when the kernel's list grows: its files have no `poll` of their own, which
//! makes them always ready (Linux, security/integrity/ima/ima_fs.c), and inotify sees writes
//! through the file system alone. So the number of records is asked for
//! (`runtime_measurements_count`, one system call), and the list is read when it has changed.
//!
//! The list's file stays open. A `seq_file` that was read to its end goes on with the record
//! that follows (Linux, fs/seq_file.c, `seq_read_iter`: it keeps the record's number), while a
//! read at any other place would write all records before it once more.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use crate::list::{DEFAULT, kernel_name};

/// The number of records, beside the list.
const COUNT: &str = "runtime_measurements_count";

/// Bytes that are read at once.
const PIECE: usize = 1 << 16;

/// Most bytes of `/proc/modules` that are read. A line has about 60.
const MAX_MODULES: u64 = 4 << 20;

/// The hash of a list's template digests, by its file's name: `..._sha256`.
#[must_use]
pub fn hash_of(list: &Path) -> Algorithm {
    // The name without an ending is a link to the one that has it.
    let path = list.canonicalize().unwrap_or_else(|_| list.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let known = |its: &Algorithm| {
        let its = kernel_name(*its);
        !its.is_empty() && name.ends_with(&format!("_{its}"))
    };
    Algorithm::ALL.into_iter().find(known).unwrap_or(DEFAULT)
}

/// A list that is read as it grows.
#[derive(Debug)]
pub struct ListFile {
    file: File,
    count: Option<File>,
    counted: Option<u64>,
    read: u64,
    piece: Vec<u8>,
}

/// What there is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Nothing.
    None,
    /// Something, perhaps.
    Some,
    /// It is shorter than it was, by its number of records or bytes: it begins anew.
    Shrank {
        /// As many there were.
        was: u64,
        /// As many there are.
        is: u64,
    },
}

impl ListFile {
    /// Opens a list, the kernel's or one that is a plain file.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        let count = File::open(path.with_file_name(COUNT)).ok();
        let file = File::open(path)?;
        Ok(Self { file, count, counted: None, read: 0, piece: vec![0; PIECE] })
    }

    /// Whether it has grown since it was asked last.
    ///
    /// # Errors
    /// The system's.
    pub fn growth(&mut self) -> io::Result<Growth> {
        let Some(count) = &self.count else {
            // A plain file: its length is its own.
            let is = self.file.metadata()?.len();
            return match self.read {
                was if is < was => self.again(was, is),
                was if is == was => Ok(Growth::None),
                _ => Ok(Growth::Some),
            };
        };
        let mut text = [0; 32];
        let length = count.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
        let is = text.trim().parse().map_err(|_| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{COUNT} is no number"))
        })?;
        match self.counted.replace(is) {
            Some(was) if is < was => self.again(was, is),
            Some(was) if is == was => Ok(Growth::None),
            _ => Ok(Growth::Some),
        }
    }

    fn again(&mut self, was: u64, is: u64) -> io::Result<Growth> {
        self.file.rewind()?;
        self.read = 0;
        Ok(Growth::Shrank { was, is })
    }

    /// The next bytes; none at the end, which may move.
    ///
    /// # Errors
    /// The system's.
    pub fn piece(&mut self) -> io::Result<&[u8]> {
        loop {
            match self.file.read(&mut self.piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(length) => {
                    self.read += length as u64;
                    return Ok(self.piece.get(..length).unwrap_or_default());
                }
            }
        }
    }
}

/// The SHA-256 bank as the kernel shows it: `/sys/class/tpm/tpm0/pcr-sha256`. Each value that is
/// read is a command to the TPM.
#[derive(Debug)]
pub struct PcrFiles<'a>(pub &'a Path);

impl PcrFiles<'_> {
    /// The value of a PCR.
    ///
    /// # Errors
    /// The system's; that the file holds something else.
    pub fn value(&self, index: PcrIndex) -> io::Result<Digest> {
        let mut text = String::new();
        File::open(self.0.join(index.get().to_string()))?.take(256).read_to_string(&mut text)?;
        Digest::from_hex(Algorithm::Sha256, text.trim())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
    }

    /// The digest that the first record of this boot has to have: over PCR 0-9
    /// (`ima_calc_boot_aggregate_tfm`).
    ///
    /// # Errors
    /// As [`Self::value`].
    pub fn boot_aggregate(&self) -> io::Result<Digest> {
        let values: io::Result<Vec<Digest>> =
            PcrIndex::all().take(10).map(|index| self.value(index)).collect();
        let values = values?;
        let parts: Vec<&[u8]> = values.iter().map(Digest::as_bytes).collect();
        Algorithm::Sha256
            .hash(&parts)
            .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error.to_string()))
    }
}

/// Reads `/proc/modules`.
///
/// # Errors
/// The system's: a kernel without modules has none.
pub fn modules(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_MODULES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_name_says_the_hash() {
        for (name, want) in [
            ("binary_runtime_measurements", Algorithm::Sha1),
            ("binary_runtime_measurements_sha1", Algorithm::Sha1),
            ("binary_runtime_measurements_sha256", Algorithm::Sha256),
            ("binary_runtime_measurements_sha512", Algorithm::Sha512),
            ("list", DEFAULT),
        ] {
            assert_eq!(hash_of(Path::new(name)), want, "{name}");
        }
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("binary_runtime_measurements");
        fs::write(dir.path().join("binary_runtime_measurements_sha256"), "").unwrap();
        std::os::unix::fs::symlink("binary_runtime_measurements_sha256", &link).unwrap();
        assert_eq!(hash_of(&link), Algorithm::Sha256);
    }

    #[test]
    fn a_file_is_read_on_from_where_its_end_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "one").unwrap();
        let mut list = ListFile::open(&path).unwrap();
        let mut append = File::options().append(true).open(&path).unwrap();
        for more in ["one", "two", "three"] {
            if more != "one" {
                assert_eq!(list.growth().unwrap(), Growth::None);
                append.write_all(more.as_bytes()).unwrap();
            }
            assert_eq!(list.growth().unwrap(), Growth::Some);
            assert_eq!(list.piece().unwrap(), more.as_bytes());
            assert_eq!(list.piece().unwrap(), b"");
        }
        fs::write(&path, "anew").unwrap();
        assert_eq!(list.growth().unwrap(), Growth::Shrank { was: 11, is: 4 });
        assert_eq!(list.piece().unwrap(), b"anew");
    }

    #[test]
    fn the_number_of_records_says_whether_to_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, count) = (dir.path().join("list"), dir.path().join(COUNT));
        fs::write(&path, "one").unwrap();
        fs::write(&count, "1\n").unwrap();
        let mut list = ListFile::open(&path).unwrap();
        let steps = [
            ("1\n", Growth::Some),
            ("1\n", Growth::None),
            ("2\n", Growth::Some),
            ("1\n", Growth::Shrank { was: 2, is: 1 }),
            ("1\n", Growth::None),
        ];
        for (number, want) in steps {
            fs::write(&count, number).unwrap();
            assert_eq!(list.growth().unwrap(), want);
        }
        fs::write(&count, "many\n").unwrap();
        assert!(list.growth().is_err());
    }

    #[test]
    fn pcrs_are_read_as_the_kernel_shows_them() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..10 {
            let text = format!("{}\n", format!("{index:02X}").repeat(32));
            fs::write(dir.path().join(index.to_string()), text).unwrap();
        }
        let pcrs = PcrFiles(dir.path());
        let all: Vec<u8> = (0..10_u8).flat_map(|index| [index; 32]).collect();
        let want = Algorithm::Sha256.hash(&[&all]).unwrap();
        assert_eq!(pcrs.boot_aggregate().unwrap(), want);
        let nine = PcrIndex::new(9).unwrap();
        assert_eq!(pcrs.value(nine).unwrap(), Digest::filled(Algorithm::Sha256, 9));
        fs::write(dir.path().join("9"), "ff\n").unwrap();
        assert!(pcrs.value(nine).is_err());
        assert!(pcrs.value(PcrIndex::new(10).unwrap()).is_err());
    }
}
