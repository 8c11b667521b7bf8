//! The boot partition, mounted for the moment that something is read from it or
//! written to it.
//!
//! It is FAT, and so is the firmware's only source: the board does not start any
//! more when its tables are torn. What is written here is written in an order that
//! FAT survives, see [`BootPartition::write`].

use nix::mount::{MsFlags, mount, umount};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Where it is mounted.
pub(crate) const MOUNT: &str = "/run/boot";

/// What nothing on it may be.
const NO: MsFlags = MsFlags::MS_NODEV.union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOEXEC);

/// The mounted partition. Unmounted when dropped.
#[derive(Debug)]
pub struct BootPartition {
    mount: PathBuf,
    /// Somebody else has it mounted too, for reading alone.
    is_shared: bool,
}

impl BootPartition {
    /// Mounts `device` for reading alone.
    ///
    /// # Errors
    /// The system's.
    pub fn for_reading(device: &Path) -> io::Result<Self> {
        match Self::mount(device, MsFlags::MS_RDONLY) {
            // In the running system it may be mounted for writing elsewhere; the kernel
            // has it both ways or not at all.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                Self::mount(device, MsFlags::empty())
            }
            other => other,
        }
    }

    /// Mounts `device` for writing. Every change goes to the card before the call
    /// that makes it returns.
    ///
    /// # Errors
    /// The system's.
    pub fn for_writing(device: &Path) -> io::Result<Self> {
        let flags = MsFlags::MS_SYNCHRONOUS | MsFlags::MS_DIRSYNC;
        match Self::mount(device, flags) {
            // Mounted for reading alone elsewhere, as a running system should have it: that
            // mount stays so, the file system under both is opened for writing.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                let mut partition = Self::mount(device, MsFlags::MS_RDONLY)?;
                remount(MOUNT.as_ref(), flags)?;
                partition.is_shared = true;
                Ok(partition)
            }
            other => other,
        }
    }

    fn mount(device: &Path, flags: MsFlags) -> io::Result<Self> {
        std::fs::create_dir_all(MOUNT)?;
        mount(Some(device), MOUNT, Some("vfat"), flags | NO, None::<&str>)?;
        Ok(Self { mount: MOUNT.into(), is_shared: false })
    }

    /// Reads a file of at most `most` bytes.
    ///
    /// # Errors
    /// The system's, or that it is larger.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Vec<u8>> {
        read_bounded(&self.mount.join(name), most)
    }

    /// Mounts `device` and reads files by name, each of at most so many bytes.
    ///
    /// # Errors
    /// When it cannot be mounted, or its mount not be taken away; the files have
    /// their own results.
    pub fn read_files<const N: usize>(
        device: &Path,
        files: [(&str, u64); N],
    ) -> io::Result<[io::Result<Vec<u8>>; N]> {
        let partition = Self::for_reading(device)?;
        let read = files.map(|(name, most)| partition.read(name, most));
        partition.close()?;
        Ok(read)
    }

    /// Writes a file, over one of the same name. A cut leaves it empty or short;
    /// whoever calls makes it anew then.
    ///
    /// It is emptied and filled again, not renamed over: FAT writes a rename as two
    /// directory entries, and a cut between them leaves two names for one chain of
    /// clusters. Freeing either one then takes the other one's. Here the entry is
    /// emptied before its clusters are freed, and clusters are allocated before the
    /// entry names them (Linux, fs/fat/file.c, `fat_free`, with `MS_DIRSYNC`): a
    /// cut loses a few clusters at most.
    ///
    /// # Errors
    /// The system's, for instance that the partition is full.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = self.mount.join(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(content)?;
        file.sync_all()?;
        // The directory too: its entry may be new.
        File::open(&self.mount)?.sync_all()
    }

    /// Unmounts it, so that an error on the way to the card is not lost.
    ///
    /// # Errors
    /// The system's.
    pub fn close(mut self) -> io::Result<()> {
        let result = self.unmount();
        std::mem::forget(self);
        result
    }

    /// With the last mount the mark goes that the file system is in use. Where another one
    /// stays, it goes when nobody may write any more.
    fn unmount(&mut self) -> io::Result<()> {
        let closed = match self.is_shared {
            true => remount(&self.mount, MsFlags::MS_RDONLY),
            false => Ok(()),
        };
        umount(&self.mount)?;
        closed
    }
}

fn remount(path: &Path, flags: MsFlags) -> io::Result<()> {
    let flags = flags | NO | MsFlags::MS_REMOUNT;
    Ok(mount(None::<&str>, path, None::<&str>, flags, None::<&str>)?)
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// Of the file system, or when it is longer.
pub fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        let name = path.file_name().unwrap_or(path.as_os_str()).display();
        return Err(io::Error::other(format!("{name} is larger than {most} bytes")));
    }
    Ok(bytes)
}

impl Drop for BootPartition {
    fn drop(&mut self) {
        // An error has been told already, by whatever failed before.
        let _ = self.unmount();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_over_whole_and_beside_others() {
        let dir = tempfile::tempdir().unwrap();
        // No mount point: unmounting it fails, and nobody hears of it.
        let partition = BootPartition { mount: dir.path().to_owned(), is_shared: false };
        std::fs::write(dir.path().join("boot.itb"), b"FIT").unwrap();
        for content in [&b"a longer record"[..], b"short", b"", b"a longer record again"] {
            partition.write("device-record.json", content).unwrap();
            assert_eq!(partition.read("device-record.json", 64).unwrap(), content);
        }
        assert_eq!(partition.read("boot.itb", 64).unwrap(), b"FIT");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_that_is_too_large_or_missing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let partition = BootPartition { mount: dir.path().to_owned(), is_shared: false };
        partition.write("manifest.json", &[b' '; 100]).unwrap();
        assert!(partition.read("manifest.json", 100).is_ok(), "premise");
        let error = partition.read("manifest.json", 99).unwrap_err().to_string();
        assert!(error.contains("larger than 99 bytes"), "{error}");
        assert!(partition.read("absent", 1).is_err());
    }
}
