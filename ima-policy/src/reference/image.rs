//! The root in an image: an ext4, by itself or in a partition of a card.
//!
//! It is read by a library and not mounted: that needs neither root nor a loop device, and
//! no foreign file system comes near the kernel of the machine that builds.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType};

/// Most files and directories of an image: one with a directory in itself has no end.
const MAX_FILES: usize = 4 << 20;

/// Where an ext4's magic number is, and what it is (Linux,
/// Documentation/filesystems/ext4/super.rst: 0x38 of the superblock, which begins at 1024).
const MAGIC_AT: u64 = 1024 + 0x38;
const MAGIC: [u8; 2] = [0x53, 0xef];

/// The first bytes of a LUKS volume (LUKS2 On-Disk Format 1.1.4, 2.1).
const LUKS: [u8; 6] = *b"LUKS\xba\xbe";

/// The partition table of a PC: four entries of sixteen bytes at 446, then 55 aa. An entry
/// has the type at 4, the first sector at 8 and their number at 12.
const SECTOR: u64 = 512;
const TYPE_LINUX: u8 = 0x83;
const TYPE_GPT: u8 = 0xee;

/// Where the root lies in a file.
#[derive(Debug)]
pub(super) struct Image {
    file: Arc<File>,
    start: u64,
}

impl Image {
    /// Looks for the one ext4.
    pub(super) fn find(file: File) -> io::Result<Self> {
        let file = Arc::new(file);
        let at = |start| Self { file: Arc::clone(&file), start };
        if at(0).has(MAGIC_AT, &MAGIC) {
            return Ok(at(0));
        }
        let encrypted = "its root is encrypted: take the image that it was made from, or the \
                         opened volume in /dev/mapper";
        if at(0).has(0, &LUKS) {
            return Err(io::Error::other(encrypted));
        }
        let none = || io::Error::other("neither a directory nor an image with an ext4");
        let mut table = [0; SECTOR as usize];
        file.read_exact_at(&mut table, 0).map_err(|_| none())?;
        let (entries, signature) = table.split_last_chunk::<2>().ok_or_else(none)?;
        if *signature != [0x55, 0xaa] {
            return Err(none());
        }
        let entries = entries.split_last_chunk::<64>().ok_or_else(none)?.1;
        let mut found = Vec::new();
        for entry in entries.as_chunks::<16>().0 {
            let [_, _, _, _, kind, _, _, _, a, b, c, d, ..] = *entry;
            let partition = at(u64::from(u32::from_le_bytes([a, b, c, d])) * SECTOR);
            if kind == TYPE_GPT {
                let what = "a disk with a GPT: name the partition with the root";
                return Err(io::Error::other(what));
            }
            if kind == TYPE_LINUX && partition.has(0, &LUKS) {
                return Err(io::Error::other(encrypted));
            }
            if kind == TYPE_LINUX && partition.has(MAGIC_AT, &MAGIC) {
                found.push(partition);
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => {
                Err(io::Error::other("several partitions with an ext4: name the one with the root"))
            }
            (None, _) => Err(none()),
        }
    }

    fn has(&self, at: u64, wanted: &[u8]) -> bool {
        let mut there = vec![0; wanted.len()];
        let read = self.file.read_exact_at(&mut there, self.start + at);
        read.is_ok() && there == wanted
    }

    pub(super) fn mount(&self) -> io::Result<Mounted> {
        let window = Window { file: Arc::clone(&self.file), start: self.start };
        Ext4::load(Box::new(window)).map(Mounted).map_err(io::Error::other)
    }
}

/// What lies behind the start of a root.
struct Window {
    file: Arc<File>,
    start: u64,
}

impl Ext4Read for Window {
    fn read(
        &mut self,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let at = self.start.checked_add(at).ok_or("beyond every file")?;
        Ok(self.file.read_exact_at(into, at)?)
    }
}

/// A file system that can be read.
pub(super) struct Mounted(Ext4);

impl Mounted {
    /// As [`crate::root::Root::files`].
    pub(super) fn files(
        &self,
        skip: &BTreeSet<PathBuf>,
    ) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
        let mut files = Vec::new();
        let mut directories = vec![PathBuf::from("/")];
        let mut seen = 0;
        while let Some(path) = directories.pop() {
            let failed = |error: Ext4Error| (path.clone(), io::Error::other(error));
            for entry in self.0.read_dir(path.as_path()).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let name = entry.file_name();
                let name: &[u8] = name.as_ref();
                if [&b"."[..], b".."].contains(&name) {
                    continue;
                }
                seen += 1;
                if seen > MAX_FILES {
                    return Err((path, io::Error::other("the file system has too many files")));
                }
                let its = path.join(OsStr::from_bytes(name));
                let own = its.strip_prefix("/").unwrap_or(&its);
                match entry.file_type().map_err(failed)? {
                    FileType::Regular => files.push(own.to_owned()),
                    FileType::Directory if !skip.contains(own) => directories.push(its),
                    _ => {}
                }
            }
        }
        Ok(files)
    }

    /// Opens one of them; `None` if it is not root's and only such are wanted.
    pub(super) fn open(&self, path: &Path, only_roots: bool) -> io::Result<Option<Opened>> {
        let path = Path::new("/").join(path);
        let file = self.0.open(path.as_path()).map_err(io::Error::other)?;
        let is_wanted = !only_roots || file.metadata().uid() == 0;
        Ok(is_wanted.then_some(Opened(file)))
    }
}

/// A file of an image.
pub(super) struct Opened(ext4_view::File);

impl Read for Opened {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_bytes(into).map_err(io::Error::other)
    }
}
