//! The boot partition: FAT32, as the VideoCore firmware reads it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fscommon::{BufStream, StreamSlice};

use super::mbr::{Partition, SECTOR};

/// The volume's label.
pub const LABEL: &str = "MSEC-BOOT";

/// One sector per cluster: FAT32 needs 65525 clusters, and a boot partition of
/// some 40 MiB has only just as many sectors.
const CLUSTER: u32 = 512;

/// The largest file that is read into memory whatever the directory claims.
const MAX_FILE: u64 = 64 << 20;

/// Why the boot partition could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FatError {
    /// It is no FAT file system, or a damaged one.
    #[error("the boot partition holds no readable FAT file system: {0}")]
    NoFat(io::Error),
    /// A file is missing.
    #[error("the boot partition has no file `{0}`")]
    Missing(String),
    /// A file could not be read.
    #[error("cannot read `{name}` from the boot partition: {source}")]
    Read {
        /// The file.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write `{name}` to the boot partition: {source}")]
    Write {
        /// The file.
        name: String,
        /// What went wrong.
        source: io::Error,
    },
    /// The files are larger than the partition.
    #[error(
        "the boot partition has {size} bytes, its files need about {needed}: raise boot_mib in the \
         recipe"
    )]
    TooSmall {
        /// The partition's size in bytes.
        size: u64,
        /// What the files need in bytes.
        needed: u64,
    },
}

type Disk<'f> = BufStream<StreamSlice<&'f File>>;

/// A clock that stands still: 2026-01-01, as [`super::tool::SOURCE_DATE_EPOCH`].
#[derive(Debug)]
struct FixedTime;

const DATE: fatfs::Date = fatfs::Date { year: 2026, month: 1, day: 1 };

impl fatfs::TimeProvider for FixedTime {
    fn get_current_date(&self) -> fatfs::Date {
        DATE
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        fatfs::DateTime { date: DATE, time: fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

fn slice(file: &File, at: Partition) -> io::Result<Disk<'_>> {
    let slice = StreamSlice::new(file, at.start, at.start + at.size)?;
    Ok(BufStream::new(slice))
}

/// fatfs checks what it reads, but where a damaged table still makes it panic,
/// that is an error like any other and not the end of the program.
fn guarded<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(io::Error::other("its tables are damaged")))
}

fn open(file: &File, at: Partition) -> io::Result<fatfs::FileSystem<Disk<'_>>> {
    let options = fatfs::FsOptions::new().time_provider(&FixedTime);
    fatfs::FileSystem::new(slice(file, at)?, options)
}

/// Makes an empty file system. `volume_id` is its serial number.
///
/// # Errors
/// If the partition cannot be written.
pub fn format(file: &File, at: Partition, volume_id: u32) -> Result<(), FatError> {
    let mut label = [b' '; 11];
    for (to, from) in label.iter_mut().zip(LABEL.bytes()) {
        *to = from;
    }
    let options = fatfs::FormatVolumeOptions::new()
        .fat_type(fatfs::FatType::Fat32)
        .bytes_per_cluster(CLUSTER)
        .volume_id(volume_id)
        .volume_label(label);
    slice(file, at)
        .and_then(|mut disk| {
            fatfs::format_volume(&mut disk, options)?;
            disk.flush()?;
            hide_sectors(file, at)
        })
        .map_err(|source| FatError::Write { name: "/".to_owned(), source })
}

/// Tells boot sector and its copy how many sectors lie before the partition
/// (`BPB_HiddSec`, `BPB_BkBootSec`; Microsoft FAT specification, 3.1 and 3.3),
/// which formatting a part of a file cannot know.
fn hide_sectors(file: &File, at: Partition) -> io::Result<()> {
    const HIDDEN: u64 = 0x1c;
    const COPY: u64 = 6 * SECTOR;
    let hidden = u32::try_from(at.start / SECTOR).map_err(io::Error::other)?;
    for sector in [0, COPY] {
        file.write_all_at(&hidden.to_le_bytes(), at.start + sector + HIDDEN)?;
    }
    Ok(())
}

/// Refuses files that the partition cannot hold, before anything is written.
///
/// # Errors
/// [`FatError::TooSmall`].
pub fn check_room(at: Partition, sizes: impl IntoIterator<Item = u64>) -> Result<(), FatError> {
    // Both tables take four bytes per cluster each; directories and reserved
    // sectors are far below a mebibyte.
    let data: u64 = sizes.into_iter().map(|size| size.next_multiple_of(u64::from(CLUSTER))).sum();
    let tables = at.size / u64::from(CLUSTER) * 8;
    let needed = data + tables + (1 << 20);
    if needed > at.size {
        return Err(FatError::TooSmall { size: at.size, needed });
    }
    Ok(())
}

/// Writes files into the root directory, in the given order; a file that is
/// there already is replaced.
///
/// # Errors
/// If the file system cannot be read or written.
pub fn write<'a>(
    file: &File,
    at: Partition,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), FatError> {
    let fs = guarded(|| open(file, at)).map_err(FatError::NoFat)?;
    for (name, content) in files {
        guarded(|| {
            let root = fs.root_dir();
            match root.remove(name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut out = root.create_file(name)?;
            out.write_all(content)?;
            out.flush()
        })
        .map_err(|source| FatError::Write { name: name.to_owned(), source })?;
    }
    // Counting the free clusters makes the count part of what is written back.
    guarded(|| {
        fs.stats()?;
        fs.unmount()
    })
    .map_err(|source| FatError::Write { name: "/".to_owned(), source })
}

/// Reads one file from the root directory.
///
/// # Errors
/// If there is no FAT, no such file, or it is larger than 64 MiB.
pub fn read(file: &File, at: Partition, name: &str) -> Result<Vec<u8>, FatError> {
    let read_error = |source| FatError::Read { name: name.to_owned(), source };
    let fs = guarded(|| open(file, at)).map_err(FatError::NoFat)?;
    let mut content = Vec::new();
    let result = guarded(|| {
        let found = fs.root_dir().open_file(name)?;
        // One byte more than allowed shows that there is more.
        found.take(MAX_FILE + 1).read_to_end(&mut content)
    });
    match result {
        Ok(size) if size as u64 > MAX_FILE => {
            Err(read_error(io::Error::other("it is larger than 64 MiB, which no file of ours is")))
        }
        Ok(_) => Ok(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(FatError::Missing(name.to_owned()))
        }
        Err(error) => Err(read_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::mbr::Table;
    use crate::recipe::Disk;

    fn card() -> (File, Partition) {
        let disk = Disk::default();
        let file = tempfile::tempfile().unwrap();
        file.set_len(disk.size()).unwrap();
        (file, Table::from(&disk).boot)
    }

    fn formatted() -> (File, Partition) {
        let (file, at) = card();
        format(&file, at, 0xcafe_f00d).unwrap();
        (file, at)
    }

    #[test]
    fn files_are_written_read_and_replaced() {
        let (file, at) = formatted();
        let long = vec![7; 3_000_001];
        write(&file, at, [("boot.itb", &b"first"[..]), ("bcm2710-rpi-3-b.dtb", &long)]).unwrap();
        assert_eq!(read(&file, at, "boot.itb").unwrap(), b"first");
        write(&file, at, [("boot.itb", &b"2nd"[..])]).unwrap();
        assert_eq!(read(&file, at, "boot.itb").unwrap(), b"2nd");
        assert_eq!(read(&file, at, "bcm2710-rpi-3-b.dtb").unwrap(), long);
        let error = read(&file, at, "manifest.json").unwrap_err();
        assert!(matches!(error, FatError::Missing(_)), "{error}");
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let make = || {
            let (file, at) = formatted();
            write(&file, at, [("a", &b"A"[..]), ("Long name.txt", b"B")]).unwrap();
            let mut bytes = vec![0; usize::try_from(at.size).unwrap()];
            file.read_exact_at(&mut bytes, at.start).unwrap();
            bytes
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn nothing_is_written_outside_the_partition() {
        let (file, at) = formatted();
        write(&file, at, [("boot.itb", &[1; 5_000_000][..])]).unwrap();
        for (start, size) in [(0, at.start), (at.start + at.size, 1 << 20)] {
            let mut bytes = vec![0; usize::try_from(size).unwrap()];
            file.read_exact_at(&mut bytes, start).unwrap();
            assert!(bytes.iter().all(|b| *b == 0), "at {start}");
        }
    }

    #[test]
    fn what_is_no_fat_is_refused() {
        let (file, at) = card();
        assert!(matches!(read(&file, at, "a"), Err(FatError::NoFat(_))));
    }

    #[test]
    fn a_damaged_file_system_never_panics_and_never_hangs() {
        let (file, at) = formatted();
        write(&file, at, [("boot.itb", &[1; 100_000][..])]).unwrap();
        // The boot sector, byte by byte.
        for offset in 0..90 {
            for value in [0, 0xff] {
                let mut old = [0];
                file.read_exact_at(&mut old, at.start + offset).unwrap();
                file.write_all_at(&[value], at.start + offset).unwrap();
                let _ = read(&file, at, "boot.itb");
                file.write_all_at(&old, at.start + offset).unwrap();
            }
        }
        assert!(read(&file, at, "boot.itb").is_ok());
        // Every entry of the first table (sector 8) points at the file's first
        // cluster: a chain without end.
        for entry in 3..200_u64 {
            file.write_all_at(&3_u32.to_le_bytes(), at.start + 8 * SECTOR + entry * 4).unwrap();
        }
        let content = read(&file, at, "boot.itb").unwrap_or_default();
        assert!(content.len() <= 100_000);
    }

    #[test]
    fn too_many_bytes_are_refused_beforehand() {
        let (_, at) = card();
        assert!(check_room(at, [5 << 20, 6 << 20]).is_ok());
        let error = check_room(at, [30 << 20, 20 << 20]).unwrap_err();
        assert!(error.to_string().contains("raise boot_mib"), "{error}");
    }
}
