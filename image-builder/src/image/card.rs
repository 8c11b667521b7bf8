//! An SD card image as a file: made whole, read, and changed in its boot
//! partition.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::arm_image::ArmImage;
use super::fat::{self, FatError};
use super::mbr::{self, MbrError, Table};
use super::slots::TooLarge;

/// Bytes copied at a time; runs of zeros this long stay holes.
const CHUNK: usize = 64 << 10;

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No card of ours.
    #[error("{path} is no SD card image of msec-boot: {source}")]
    NoCard {
        /// The file.
        path: PathBuf,
        /// What is wrong with its first sector.
        source: MbrError,
    },
    /// The boot partition.
    #[error("{path}: {source}")]
    Boot {
        /// The file.
        path: PathBuf,
        /// What is wrong with its boot partition.
        source: FatError,
    },
    /// Nothing for the ARM cores.
    #[error(
        "{0}: the boot partition has none of `{tf_a}` (TF-A), `{u_boot}` (U-Boot alone) and \
         `{flash}` (the flash of `virt`)",
        tf_a = ArmImage::Armstub.file_name(),
        u_boot = ArmImage::Kernel.file_name(),
        flash = ArmImage::Flash.file_name()
    )]
    NoArmImage(PathBuf),
    /// Nothing that could be booted.
    #[error("{path}: `{name}` holds no FIT")]
    NoFit {
        /// The image.
        path: PathBuf,
        /// The file of the slot.
        name: &'static str,
    },
    /// More than a slot holds.
    #[error("{path}: {source}")]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// What does not fit.
        source: TooLarge,
    },
    /// Two images for the ARM cores.
    #[error("{path}: the boot partition has both `{one}` and `{other}`: no image of ours has")]
    TwoArmImages {
        /// The image.
        path: PathBuf,
        /// One of them.
        one: &'static str,
        /// Another one.
        other: &'static str,
    },
}

impl CardError {
    /// True if the file could be read and is just not what it should be.
    pub fn is_verdict(&self) -> bool {
        match self {
            Self::File { .. } | Self::TooLarge { .. } => false,
            Self::NoCard { .. }
            | Self::NoArmImage(_)
            | Self::NoFit { .. }
            | Self::TwoArmImages { .. } => true,
            Self::Boot { source, .. } => !matches!(source, FatError::Write { .. }),
        }
    }

    /// True if the boot partition is one, and has no such file.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Boot { source: FatError::Missing(_), .. })
    }
}

pub(super) fn file_error(path: &Path) -> impl Fn(io::Error) -> CardError + use<> {
    let path = path.to_owned();
    move |source| CardError::File { path: path.clone(), source }
}

/// An image, or a card in a reader, opened for reading.
#[derive(Debug)]
pub struct Card {
    path: PathBuf,
    file: File,
    /// Its partitions.
    pub table: Table,
    /// Its size in bytes.
    pub size: u64,
}

impl Card {
    /// Opens an image and reads its partition table.
    ///
    /// # Errors
    /// If it cannot be read, or is no card of ours.
    pub fn open(path: &Path) -> Result<Self, CardError> {
        let file = File::open(path).map_err(file_error(path))?;
        Self::of(file, path)
    }

    fn of(mut file: File, path: &Path) -> Result<Self, CardError> {
        // Seeking tells the size of block devices too; metadata does not.
        let size = io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(file_error(path))?;
        let mut sector = [0; mbr::SIZE];
        let table = match file.read_exact_at(&mut sector, 0) {
            Ok(()) => Table::decode(&sector, size),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(MbrError::NoTable),
            Err(error) => return Err(file_error(path)(error)),
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            table: table.map_err(|source| CardError::NoCard { path: path.to_owned(), source })?,
            size,
        })
    }

    /// The image's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file itself.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads a file of the boot partition. Nothing is verified.
    ///
    /// # Errors
    /// If it is not there or cannot be read.
    pub fn boot_file(&self, name: &str) -> Result<Vec<u8>, CardError> {
        fat::read(&self.file, self.table.boot, name)
            .map_err(|source| CardError::Boot { path: self.path.clone(), source })
    }

    /// Writes a copy of this card with other files on its boot partition to
    /// `out`, which may be the card's own file: it is replaced only when the
    /// copy is complete.
    ///
    /// # Errors
    /// If the copy cannot be made.
    pub fn with_boot_files(&self, files: &[(&str, &[u8])], out: &Path) -> Result<(), CardError> {
        let draft = Draft::new(out, self.size)?;
        draft.copy(&self.file, 0, self.size)?;
        draft.boot_files(self.table, files.iter().copied())?;
        draft.finish()
    }
}

/// An image in the making: it gets its name when it is complete.
#[derive(Debug)]
pub struct Draft {
    file: NamedTempFile,
    out: PathBuf,
}

impl Draft {
    /// How the name begins that it has until then.
    pub(super) const PREFIX: &str = ".image-";

    /// Begins an image of `size` bytes, all zeros and no blocks.
    ///
    /// # Errors
    /// If the directory of `out` cannot be written to.
    pub fn new(out: &Path, size: u64) -> Result<Self, CardError> {
        let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty());
        let file = tempfile::Builder::new()
            .prefix(Self::PREFIX)
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(dir.unwrap_or(Path::new(".")))
            .map_err(file_error(out))?;
        file.as_file().set_len(size).map_err(file_error(out))?;
        Ok(Self { file, out: out.to_owned() })
    }

    /// The file, to make file systems in.
    pub fn file(&self) -> &File {
        self.file.as_file()
    }

    /// Writes the first sector.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn sector(&self, sector: &[u8; mbr::SIZE]) -> Result<(), CardError> {
        self.file().write_all_at(sector, 0).map_err(file_error(&self.out))
    }

    /// Copies `size` bytes of another file to `offset`; zeros stay holes.
    ///
    /// # Errors
    /// If either file fails.
    pub fn copy(&self, from: &File, offset: u64, size: u64) -> Result<(), CardError> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < size {
            let rest = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..rest).unwrap_or_default();
            from.read_exact_at(chunk, done)
                .and_then(|()| {
                    if chunk.iter().all(|byte| *byte == 0) {
                        return Ok(());
                    }
                    self.file().write_all_at(chunk, offset + done)
                })
                .map_err(file_error(&self.out))?;
            done += rest as u64;
        }
        Ok(())
    }

    /// Writes files into the boot partition's file system.
    ///
    /// # Errors
    /// If there is none, or it is full.
    pub fn boot_files<'a>(
        &self,
        table: Table,
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), CardError> {
        fat::write(self.file(), table.boot, files)
            .map_err(|source| CardError::Boot { path: self.out.clone(), source })
    }

    /// Gives the image its name.
    ///
    /// # Errors
    /// If the disk is full or the directory refuses.
    pub fn finish(self) -> Result<(), CardError> {
        self.file.as_file().sync_all().map_err(file_error(&self.out))?;
        self.file.persist(&self.out).map_err(|error| file_error(&self.out)(error.error))?;
        Ok(())
    }
}

/// Writes a whole file under a temporary name and renames it.
///
/// # Errors
/// If the directory cannot be written to.
pub fn write_whole(out: &Path, bytes: &[u8]) -> Result<(), CardError> {
    let draft = Draft::new(out, bytes.len() as u64)?;
    draft.file().write_all_at(bytes, 0).map_err(file_error(out))?;
    draft.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::Disk;

    fn image(dir: &Path) -> PathBuf {
        let path = dir.join("card.img");
        let disk = Disk::default();
        let table = Table::from(&disk);
        let draft = Draft::new(&path, disk.size()).unwrap();
        draft.sector(&table.encode(1).unwrap()).unwrap();
        fat::format(draft.file(), table.boot, 1).unwrap();
        draft.boot_files(table, [("a.txt", &b"fit"[..])]).unwrap();
        draft.file().write_all_at(b"root", disk.root_start()).unwrap();
        draft.finish().unwrap();
        path
    }

    #[test]
    fn a_card_is_changed_in_its_boot_partition_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path());
        let card = Card::open(&path).unwrap();
        assert_eq!(card.boot_file("a.txt").unwrap(), b"fit");
        card.with_boot_files(&[("a.txt", b"another")], &path).unwrap();
        // The open card still is the old file: it was replaced, not changed.
        assert_eq!(card.boot_file("a.txt").unwrap(), b"fit");
        let card = Card::open(&path).unwrap();
        assert_eq!(card.boot_file("a.txt").unwrap(), b"another");
        let mut root = [0; 4];
        card.file().read_exact_at(&mut root, card.table.root.start).unwrap();
        assert_eq!(&root, b"root");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unfinished_image_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let draft = Draft::new(&dir.path().join("x.img"), 1 << 20).unwrap();
        drop(draft);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("letter.txt");
        for content in [&b""[..], b"Dear Sir or Madam", &[0; 4096]] {
            std::fs::write(&path, content).unwrap();
            let error = Card::open(&path).unwrap_err();
            assert!(error.is_verdict());
            let error = error.to_string();
            assert!(error.contains("letter.txt is no SD card image"), "{error}");
        }
        let error = Card::open(&dir.path().join("none.img")).unwrap_err();
        assert!(!error.is_verdict(), "{error}");
    }
}
