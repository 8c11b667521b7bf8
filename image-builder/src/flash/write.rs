//! Copying an image to a device, and reading it back.
//!
//! The first sector, which has the partition table, goes away first and comes back last:
//! a card whose writing was interrupted boots nothing, instead of half of something.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::unistd::{Whence, lseek64};

use super::{FlashError, failed};

/// Bytes written or read at a time. Cards erase in blocks of 4 MiB or less
/// (SD Physical Layer Simplified Specification 9.10, 4.13.1.8, AU_SIZE).
pub const BLOCK: usize = 4 << 20;

/// What memory and offsets of direct transfers are aligned to: the largest sector of a
/// disk that there is.
const ALIGN: usize = 4096;

/// Bytes that come last.
const HEAD: usize = ALIGN;

/// A device, or a file in its place.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    file: File,
    /// A device that can be told to zero a range.
    zeroes: bool,
}

/// Opens a device for exclusive use and for transfers past the page cache, so that what is
/// read back comes from the card.
///
/// # Errors
/// [`FlashError::InUse`] while anything on the disk is mounted or held; a failure to open.
pub fn open(path: &Path) -> Result<Target, FlashError> {
    let is_device =
        std::fs::metadata(path).map_err(failed("look at it", path))?.file_type().is_block_device();
    let direct = |flags: OFlag| {
        OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
    };
    // On a block device O_EXCL claims it (open(2)); on a file it would mean something else.
    let exclusive = if is_device { OFlag::O_EXCL } else { OFlag::empty() };
    let file = match direct(exclusive | OFlag::O_DIRECT) {
        // A file system in memory knows no direct transfers.
        Err(error) if error.kind() == ErrorKind::InvalidInput && !is_device => direct(exclusive),
        other => other,
    };
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => FlashError::InUse(path.to_owned()),
        _ => failed("open it", path)(error),
    })?;
    Ok(Target { path: path.to_owned(), file, zeroes: true })
}

/// A buffer that direct transfers take.
struct Block {
    bytes: Vec<u8>,
    start: usize,
}

impl Block {
    fn new() -> Self {
        let bytes = vec![0; BLOCK + ALIGN];
        let start = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, start }
    }

    fn get(&mut self, length: usize) -> &mut [u8] {
        let from = self.start.min(ALIGN);
        self.bytes.get_mut(from..from + length.min(BLOCK)).unwrap_or_default()
    }
}

/// A stretch of the image: up to [`BLOCK`] bytes of data, or any number of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    at: u64,
    length: u64,
    is_hole: bool,
}

/// The stretch of an image that begins here. What the file system has no blocks for reads
/// as zeros and need not be read.
fn stretch(image: &File, at: u64, size: u64) -> io::Result<Stretch> {
    let offset = |offset: u64| i64::try_from(offset).map_err(io::Error::other);
    let data = match lseek64(image, offset(at)?, Whence::SeekData) {
        Ok(data) => u64::try_from(data).unwrap_or(at),
        // Nothing but a hole up to the end; or that end came too early, and reading says so.
        Err(Errno::ENXIO) if image.metadata()?.len() >= size => size,
        // A file system that does not tell.
        Err(_) => at,
    };
    // Whole units of what direct transfers are aligned to.
    let data = data.min(size) / ALIGN as u64 * ALIGN as u64;
    if data > at {
        return Ok(Stretch { at, length: data - at, is_hole: true });
    }
    Ok(Stretch { at, length: (size - at).min(BLOCK as u64), is_hole: false })
}

impl Target {
    /// Writes an image of `size` bytes and waits until the device has it. `moved` is told
    /// how many bytes are done.
    ///
    /// # Errors
    /// If the image cannot be read or the device not written. The device then boots nothing.
    pub fn write(
        &mut self,
        image: &File,
        name: &Path,
        size: u64,
        mut moved: impl FnMut(u64),
    ) -> Result<(), FlashError> {
        let read = failed("read it", name);
        let mut block = Block::new();
        let head = usize::try_from(size).unwrap_or(HEAD).min(HEAD);
        block.get(head).fill(0);
        self.put(block.get(head), 0)?;
        self.settle()?;
        let mut at = head as u64;
        while at < size {
            let stretch = stretch(image, at, size).map_err(&read)?;
            let end = at + stretch.length;
            if !(stretch.is_hole && self.zero(at, stretch.length)?) {
                // Zeros that the device cannot make by itself are written like data.
                while at < end {
                    let length = (end - at).min(BLOCK as u64) as usize;
                    let bytes = block.get(length);
                    if stretch.is_hole {
                        bytes.fill(0);
                    } else {
                        image.read_exact_at(bytes, at).map_err(&read)?;
                    }
                    self.put(bytes, at)?;
                    at += length as u64;
                    moved(at);
                }
            }
            at = end;
            moved(at);
        }
        self.settle()?;
        image.read_exact_at(block.get(head), 0).map_err(&read)?;
        self.put(block.get(head), 0)?;
        self.settle()
    }

    /// Reads everything back and compares it with the image.
    ///
    /// # Errors
    /// [`FlashError::Differs`]; a failure to read either.
    pub fn compare(
        &self,
        image: &File,
        name: &Path,
        size: u64,
        mut moved: impl FnMut(u64),
    ) -> Result<(), FlashError> {
        let (mut there, mut here) = (Block::new(), Block::new());
        let mut at = 0;
        while at < size {
            let length = (size - at).min(BLOCK as u64) as usize;
            let (there, here) = (there.get(length), here.get(length));
            image.read_exact_at(here, at).map_err(failed("read it", name))?;
            self.file.read_exact_at(there, at).map_err(failed("read it back", &self.path))?;
            if let Some(differs) = there.iter().zip(here.iter()).position(|(a, b)| a != b) {
                return Err(FlashError::Differs {
                    device: self.path.clone(),
                    offset: at + differs as u64,
                });
            }
            at += length as u64;
            moved(at);
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<(), FlashError> {
        self.file.write_all_at(bytes, at).map_err(failed("write it", &self.path))
    }

    fn settle(&self) -> Result<(), FlashError> {
        self.file.sync_all().map_err(failed("write it", &self.path))
    }

    /// Lets the device make zeros; false where it cannot.
    fn zero(&mut self, at: u64, length: u64) -> Result<bool, FlashError> {
        let offset = |value: u64| i64::try_from(value).map_err(io::Error::other);
        let range = offset(at).and_then(|at| Ok((at, offset(length)?)));
        let (at, length) = range.map_err(failed("write it", &self.path))?;
        let how = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if self.zeroes {
            self.zeroes = fallocate(&self.file, how, at, length).is_ok();
        }
        Ok(self.zeroes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// An image of 9 MiB and a bit: data, a hole of 5 MiB, data.
    fn image(dir: &Path) -> (PathBuf, File, u64) {
        let path = dir.join("image");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let size = (9 << 20) + 8192;
        file.set_len(size).unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        file.write_all_at(&data, 0).unwrap();
        file.write_all_at(&data[..1000], (8 << 20) + 17).unwrap();
        (path, file, size)
    }

    fn target(dir: &Path, size: u64) -> PathBuf {
        let path = dir.join("card");
        fs::write(&path, vec![0xee; usize::try_from(size).unwrap()]).unwrap();
        path
    }

    #[test]
    fn the_card_has_the_image_and_its_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let (name, image, size) = image(dir.path());
        for zeroes in [true, false] {
            let path = target(dir.path(), size + 4096);
            let mut card = open(&path).unwrap();
            card.zeroes = zeroes;
            let mut moved = Vec::new();
            card.write(&image, &name, size, |at| moved.push(at)).unwrap();
            assert!(moved.is_sorted() && moved.last() == Some(&size), "{moved:?}");
            card.compare(&image, &name, size, |_| ()).unwrap();
            let there = fs::read(&path).unwrap();
            let (image, behind) = there.split_at(usize::try_from(size).unwrap());
            assert!(image == fs::read(&name).unwrap());
            assert_eq!(behind, [0xee; 4096], "what is behind the image is not touched");
        }
    }

    #[test]
    fn one_bit_that_the_card_lost_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (name, image, size) = image(dir.path());
        let path = target(dir.path(), size);
        let mut card = open(&path).unwrap();
        card.write(&image, &name, size, |_| ()).unwrap();
        // In a hole, and in the last byte.
        for offset in [6 << 20, size - 1] {
            let raw = File::options().write(true).open(&path).unwrap();
            raw.write_all_at(&[1], offset).unwrap();
            raw.sync_all().unwrap();
            let error = card.compare(&image, &name, size, |_| ()).unwrap_err();
            assert!(
                matches!(error, FlashError::Differs { offset: found, .. } if found == offset),
                "{error}"
            );
            raw.write_all_at(&[0], offset).unwrap();
            raw.sync_all().unwrap();
        }
        card.compare(&image, &name, size, |_| ()).unwrap();
    }

    #[test]
    fn an_interrupted_card_has_no_partition_table() {
        let dir = tempfile::tempdir().unwrap();
        let (name, image, size) = image(dir.path());
        let path = target(dir.path(), size);
        // The image ends too early: the copy stops in the middle.
        image.set_len(5 << 20).unwrap();
        open(&path).unwrap().write(&image, &name, size, |_| ()).unwrap_err();
        assert_eq!(fs::read(&path).unwrap()[..512], [0; 512]);
    }
}
