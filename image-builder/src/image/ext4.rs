//! The root file system: ext4, made by `mke2fs` from a directory of files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::tool::{SOURCE_DATE_EPOCH, Tool, ToolError};

/// The label of the file system.
pub const LABEL: &str = "msec-root";

/// Where an ext4's superblock begins (Linux, Documentation/filesystems/ext4).
const SUPERBLOCK: u64 = 1024;

/// Magic number of ext2, ext3 and ext4, at 0x38 of the superblock.
const MAGIC: u16 = 0xef53;

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ext4Error {
    /// The files do not fit.
    #[error(
        "the root file system has {have} MiB, its files need about {need} MiB: raise root_mib in \
         the recipe (and size_mib with it), or name fewer packages"
    )]
    TooSmall {
        /// Size in MiB.
        have: u64,
        /// Needed in MiB.
        need: u64,
    },
    /// Not run as root.
    #[error("only root can make files that belong to root: run image-builder in the build root")]
    NotRoot,
    /// `mke2fs` failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How full a file system is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Everything.
    pub size: u64,
    /// Not free.
    pub used: u64,
}

/// A UUID that depends on nothing but two texts (RFC 9562, 5.8: version 8).
pub fn uuid(purpose: &str, name: &str) -> String {
    let hash = Sha256::new().chain_update(purpose).chain_update([0]).chain_update(name).finalize();
    let hex: Vec<char> =
        hash.iter().flat_map(|byte| format!("{byte:02x}").chars().collect::<Vec<_>>()).collect();
    let mut uuid = String::new();
    for (index, digit) in hex.into_iter().take(32).enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            uuid.push('-');
        }
        uuid.push(match index {
            12 => '8',
            16 => '8',
            _ => digit,
        });
    }
    uuid
}

/// Makes the file system in `image`, which is created, from the files below `dir`: owners,
/// modes and extended attributes are theirs. `name` is the recipe's: UUID and hash seed come
/// from it.
///
/// # Errors
/// If the files do not fit, or anything cannot be read or written.
pub fn make(dir: &Path, size: u64, name: &str, image: &Path) -> Result<Usage, Ext4Error> {
    const MIB: u64 = 1 << 20;
    let need = needed(dir)?;
    if need > size {
        return Err(Ext4Error::TooSmall { have: size / MIB, need: need.div_ceil(MIB) });
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Ext4Error::NotRoot);
    }
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Ext4Error::File { path, source }
    };
    let extended = format!(
        "hash_seed={},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
        uuid("hash seed", name)
    );
    // mke2fs reads a directory in sorted order and, given a date, makes no file
    // newer than that.
    Tool::new("mke2fs", format!("make the root file system {}", image.display()))
        .env("E2FSPROGS_FAKE_TIME", SOURCE_DATE_EPOCH.to_string())
        .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256"])
        // One inode for 16 KiB: the default has four times as many.
        .args(["-i", "16384", "-m", "0", "-L", LABEL])
        .args(["-U", &uuid("root", name)])
        .args(["-E", &extended])
        .arg("-d")
        .arg(dir)
        .arg(image)
        .arg(format!("{}k", size / 1024))
        .run()?;
    let file = File::open(image).map_err(file_error(image))?;
    let usage = usage(&file, 0).map_err(file_error(image))?;
    usage.ok_or_else(|| file_error(image)(io::Error::other("mke2fs left no ext4 there")))
}

/// How many bytes an ext4 with 4 KiB blocks needs for the files below `dir`, with a small
/// journal, tables and one tenth to spare.
///
/// # Errors
/// If they cannot be looked at.
fn needed(dir: &Path) -> Result<u64, Ext4Error> {
    // Journal (1024 blocks), inode tables, group descriptors.
    const FIXED: u64 = 6 << 20;
    let mut seen = BTreeSet::new();
    let content = blocks(dir, &mut seen)?;
    Ok(FIXED + content + content / 10)
}

/// What the files below `dir` take; one with several names (inodes in `seen`) once.
fn blocks(dir: &Path, seen: &mut BTreeSet<u64>) -> Result<u64, Ext4Error> {
    const BLOCK: u64 = 4096;
    /// What lies in an inode (Linux, Documentation/filesystems/ext4: i_block).
    const INLINE: u64 = 60;
    let error = |source| Ext4Error::File { path: dir.to_owned(), source };
    let mut sum = BLOCK;
    for entry in fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        let meta = entry.metadata().map_err(error)?;
        if meta.is_dir() {
            sum += blocks(&entry.path(), seen)?;
        } else if (meta.is_file() || meta.len() >= INLINE)
            && (meta.nlink() == 1 || seen.insert(meta.ino()))
        {
            sum += meta.len().next_multiple_of(BLOCK);
        }
    }
    Ok(sum)
}

/// How full the ext4 at `offset` is; `None` if there is none. Not verified.
///
/// # Errors
/// If the file cannot be read.
pub fn usage(file: &File, offset: u64) -> io::Result<Option<Usage>> {
    let mut block = [0; 1024];
    match file.read_exact_at(&mut block, offset.saturating_add(SUPERBLOCK)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    Ok(superblock(&block))
}

/// Fields: s_blocks_count 0x4, s_free_blocks_count 0xc, s_log_block_size 0x18,
/// s_magic 0x38 (Documentation/filesystems/ext4/super.rst). The 64-bit halves
/// are left out: a file system of ours has less than 2^32 blocks.
fn superblock(block: &[u8; 1024]) -> Option<Usage> {
    let word = |at: usize| {
        let bytes = block.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    let magic = u16::from_le_bytes(block.get(0x38..0x3a)?.try_into().ok()?);
    let log = word(0x18)?;
    if magic != MAGIC || log > 6 {
        return None;
    }
    let (blocks, free) = (word(0x4)?, word(0xc)?);
    Some(Usage { size: blocks << (10 + log), used: blocks.checked_sub(free)? << (10 + log) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_stable_and_differ() {
        let root = uuid("root", "msec-rpi3");
        assert_eq!(root, uuid("root", "msec-rpi3"));
        assert_ne!(root, uuid("hash seed", "msec-rpi3"));
        assert_ne!(root, uuid("root", "other"));
        assert_eq!(root.len(), 36);
        assert_eq!(&root[14..15], "8");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_figure() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![0; 20 << 20]).unwrap();
        let error = make(dir.path(), 16 << 20, "x", Path::new("/nonexistent")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the root file system has 16 MiB, its files need about 29 MiB: raise root_mib in the \
             recipe (and size_mib with it), or name fewer packages"
        );
    }

    #[test]
    fn the_size_grows_with_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let grown = |path: &str, make: &dyn Fn(&Path)| {
            let sum = || blocks(dir.path(), &mut BTreeSet::new()).unwrap();
            let before = sum();
            make(&dir.path().join(path));
            sum() - before
        };
        assert_eq!(grown("a", &|path| fs::write(path, [0; 4097]).unwrap()), 8192);
        // Another name, a short link and a long one, a directory.
        assert_eq!(grown("b", &|path| fs::hard_link(path.with_file_name("a"), path).unwrap()), 0);
        assert_eq!(grown("c", &|path| std::os::unix::fs::symlink("a", path).unwrap()), 0);
        let long = "x".repeat(60);
        assert_eq!(grown("d", &|path| std::os::unix::fs::symlink(&long, path).unwrap()), 4096);
        assert_eq!(grown("e", &|path| fs::create_dir(path).unwrap()), 4096);
    }

    #[test]
    fn superblocks_are_read_and_nonsense_is_not() {
        let mut block = [0; 1024];
        block[0x4..0x8].copy_from_slice(&16384_u32.to_le_bytes());
        block[0xc..0x10].copy_from_slice(&10000_u32.to_le_bytes());
        block[0x18] = 2;
        block[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        let usage = Usage { size: 64 << 20, used: 6384 * 4096 };
        assert_eq!(superblock(&block), Some(usage));
        for (at, value) in [(0x38, 0), (0x18, 7), (0xe, 0xff)] {
            let mut bad = block;
            bad[at] = value;
            assert_eq!(superblock(&bad), None, "{at:#x}");
        }
    }
}
