//! Files of the boot partition: FAT, mounted for the moment they are read in.
//! Everything on it may be an attacker's.

use nix::mount::{MsFlags, mount, umount};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Where the partition is mounted.
const MOUNT: &str = "/run/boot";
/// Nothing on it is run, opened as a device, or changed.
const FLAGS: MsFlags =
    MsFlags::MS_RDONLY.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOSUID).union(MsFlags::MS_NOEXEC);

/// Reads files of the partition by name, each of at most so many bytes.
///
/// # Errors
/// When the partition cannot be mounted, or its mount not be taken away; the
/// files have their own results.
pub fn read<const N: usize>(
    partition: &Path,
    files: [(&str, u64); N],
) -> io::Result<[io::Result<Vec<u8>>; N]> {
    std::fs::create_dir_all(MOUNT)?;
    mount(Some(partition), MOUNT, Some("vfat"), FLAGS, None::<&str>)?;
    let read = files.map(|(name, most)| read_bounded(&format!("{MOUNT}/{name}"), most));
    umount(MOUNT)?;
    Ok(read)
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// Of the file system, or when it is longer.
pub fn read_bounded(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("{path} is larger than {most} bytes")));
    }
    Ok(bytes)
}
