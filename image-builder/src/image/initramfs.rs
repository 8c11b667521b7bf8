//! The initramfs: a newc cpio archive with one program, its configuration, and
//! the directories that it mounts on.
//!
//! Same inputs, same bytes: entries come in a fixed order, belong to root and
//! are as old as the epoch. Of a foreign one [`file_in`] takes a file.

use std::collections::BTreeSet;
use std::io::{self, Read, Write as _};

use crate::recipe::{Compression, Recipe};

/// The largest compressed initramfs in bytes. What U-Boot has to read from a
/// card at less than 1 MB/s and hash byte by byte in a TPM's patience stays
/// small.
pub const MAX_SIZE: usize = 3 << 20;

/// zstd's best level that needs no window beyond the kernel's 128 MiB.
const ZSTD_LEVEL: i32 = 19;

/// File types of `st_mode` (POSIX `sys/stat.h`).
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// Why there is no initramfs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitramfsError {
    /// Compression or archiving failed.
    #[error("cannot pack the initramfs: {0}")]
    Pack(#[from] io::Error),
    /// The result is too large.
    #[error(
        "the initramfs has {size} bytes compressed, {max} are allowed: build initramfs-unseal with \
         --profile initramfs, and put nothing else into it"
    )]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A name that is no path inside the archive.
    #[error("`{0}` is no path inside an initramfs: relative, without `.`, `..` or a NUL")]
    Path(String),
}

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    path: String,
    mode: u32,
    device: Option<(u32, u32)>,
    content: Vec<u8>,
}

impl Entry {
    /// A directory, mode 0755. Only for paths that [`Entry::file`] takes.
    pub(super) fn directory(path: &str) -> Self {
        Self { path: path.to_owned(), mode: S_IFDIR | 0o755, device: None, content: Vec::new() }
    }

    /// A regular file. `permissions` are the lower 12 bits of its mode.
    ///
    /// # Errors
    /// If `path` is absolute, empty, has `.`, `..`, empty parts, or a NUL.
    pub fn file(path: &str, permissions: u32, content: Vec<u8>) -> Result<Self, InitramfsError> {
        let bad = |part: &str| matches!(part, "" | "." | "..");
        if path.contains('\0') || path.split('/').any(bad) {
            return Err(InitramfsError::Path(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            mode: S_IFREG | (permissions & 0o7777),
            device: None,
            content,
        })
    }
}

/// The entries of our initramfs around the program, its configuration, and files that this
/// names.
///
/// # Errors
/// None in practice: every path is a constant.
pub fn entries(
    unseal: Vec<u8>,
    config: Vec<u8>,
    more: Vec<Entry>,
) -> Result<Vec<Entry>, InitramfsError> {
    let dirs: BTreeSet<&str> = ["dev", "etc", "proc", "run", "sys", "sysroot"]
        .into_iter()
        .chain(more.iter().filter_map(|entry| Some(entry.path.rsplit_once('/')?.0)))
        .collect();
    let mut entries: Vec<Entry> = dirs.into_iter().map(Entry::directory).collect();
    entries.extend(more);
    // The kernel opens /dev/console for init before devtmpfs is there
    // (init/main.c, console_on_rootfs).
    entries.push(Entry {
        path: "dev/console".to_owned(),
        mode: S_IFCHR | 0o600,
        device: Some((5, 1)),
        content: Vec::new(),
    });
    entries.push(Entry::file(CONFIG, 0o644, config)?);
    entries.push(Entry::file("init", 0o755, unseal)?);
    Ok(entries)
}

/// Packs entries into a newc archive, sorted by path.
///
/// # Errors
/// If an entry is larger than the format's 4 GiB.
pub fn archive(mut entries: Vec<Entry>) -> Result<Vec<u8>, InitramfsError> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    let mut out = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let size = u32::try_from(entry.content.len())
            .map_err(|_| io::Error::other("a file is larger than 4 GiB"))?;
        // Inode numbers only need to differ: equal ones would make hard links.
        let ino = u32::try_from(index + 1).map_err(io::Error::other)?;
        let mut header = cpio::newc::Builder::new(&entry.path)
            .ino(ino)
            .mode(entry.mode)
            .nlink(1)
            .uid(0)
            .gid(0)
            .mtime(0);
        if let Some((major, minor)) = entry.device {
            header = header.rdev_major(major).rdev_minor(minor);
        }
        let mut writer = header.write(&mut out, size);
        writer.write_all(&entry.content)?;
        writer.finish()?;
    }
    cpio::newc::trailer(&mut out)?;
    Ok(out)
}

/// Compresses an archive so that the same archive always gives the same bytes,
/// padded to four bytes: further archives may follow.
///
/// # Errors
/// If the result is larger than [`MAX_SIZE`].
pub fn compress(archive: &[u8], method: Compression) -> Result<Vec<u8>, InitramfsError> {
    let mut packed = match method {
        Compression::Zstd => zstd::bulk::compress(archive, ZSTD_LEVEL)?,
        Compression::Gzip => gzip(archive)?,
    };
    packed.resize(packed.len().next_multiple_of(4), 0);
    if packed.len() > MAX_SIZE {
        return Err(InitramfsError::TooLarge { size: packed.len(), max: MAX_SIZE });
    }
    Ok(packed)
}

/// gzip at its best level, without name and date (RFC 1952, 2.3: MTIME 0 means
/// that no time stamp is available).
///
/// # Errors
/// None in practice: it writes to memory.
pub fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = flate2::GzBuilder::new()
        .mtime(0)
        // "unknown" (RFC 1952, 2.3.1), so that the building system does not show.
        .operating_system(255)
        .write(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Path of the configuration in our initramfs.
pub const CONFIG: &str = "etc/initramfs-unseal.json";

/// The most that is unpacked of an initramfs, in bytes.
const MAX_UNPACKED: u64 = 256 << 20;

/// The content of a regular file in an initramfs as Linux would find it: archives follow one
/// another, each compressed, and the last one that has it wins. `None` where none has.
///
/// # Errors
/// If it is not made of such archives, or larger than 256 MiB.
pub fn file_in(ramdisk: &[u8], path: &str) -> io::Result<Option<Vec<u8>>> {
    let mut found = None;
    let mut rest = skip_zeros(ramdisk);
    let mut room = MAX_UNPACKED;
    while !rest.is_empty() {
        let mut archive = Vec::new();
        rest = match rest {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = zstd::stream::read::Decoder::with_buffer(rest)?.single_frame();
                let mut decoder = decoder.take(room + 1);
                decoder.read_to_end(&mut archive)?;
                decoder.into_inner().finish()
            }
            [0x1f, 0x8b, ..] => {
                let mut decoder = flate2::bufread::GzDecoder::new(rest).take(room + 1);
                decoder.read_to_end(&mut archive)?;
                decoder.into_inner().into_inner()
            }
            _ => return Err(io::Error::other("neither zstd nor gzip")),
        };
        room = room.checked_sub(archive.len() as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        found = newc_file(&archive, path)?.or(found);
        rest = skip_zeros(rest);
    }
    Ok(found)
}

fn skip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

/// A file of a newc archive (Documentation/driver-api/early-userspace/buffer-format.rst). The
/// cpio crate makes room for a name of the length that the archive claims; this makes none.
fn newc_file(archive: &[u8], path: &str) -> io::Result<Option<Vec<u8>>> {
    const HEADER: usize = 110;
    let cut = || io::Error::other("an archive in it is cut or damaged");
    let mut found = None;
    let mut at = 0_usize;
    loop {
        let header = archive.get(at..).and_then(|rest| rest.get(..HEADER)).ok_or_else(cut)?;
        let field = |index: usize| {
            let digits = header.get(6 + 8 * index..14 + 8 * index)?;
            u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        if !header.starts_with(b"070701") {
            return Err(cut());
        }
        let length = |index| field(index).and_then(|n| usize::try_from(n).ok()).ok_or_else(cut);
        let (mode, size, name_size) = (field(1).ok_or_else(cut)?, length(6)?, length(11)?);
        // All terms are below 2^32 and usize has 64 bits where images are built; checked all
        // the same.
        let part = |from: usize, size: usize| {
            let end = from.checked_add(size)?;
            Some((archive.get(from..end)?, end.checked_next_multiple_of(4)?))
        };
        let (name, data) = part(at + HEADER, name_size).ok_or_else(cut)?;
        let (content, next) = part(data, size).ok_or_else(cut)?;
        match name.strip_suffix(b"\0") {
            Some(b"TRAILER!!!") => return Ok(found),
            Some(name) if name == path.as_bytes() && mode & 0o170_000 == S_IFREG => {
                found = Some(content.to_vec());
            }
            _ => {}
        }
        at = next;
    }
}

/// What initramfs-unseal is told in `/etc/initramfs-unseal.json`.
pub fn config(recipe: &Recipe) -> serde_json::Value {
    use crate::recipe::ProvisioningMode;
    serde_json::json!({
        "schema": "msec-boot/unseal-config/1",
        "disk": recipe.board.disk(),
        "boot_partition": 1,
        "root_partition": 2,
        "mapper": "root",
        "provision": match recipe.provisioning.mode {
            ProvisioningMode::InPlace => "in-place",
            ProvisioningMode::Never => "never",
        },
        "reserve_mib": recipe.disk.reserve_mib(),
        "nv_index": recipe.tpm.nv_index,
        "spare_index": recipe.tpm.spare_index,
        "srk": recipe.tpm.srk,
        "pcrs": recipe.tpm.pcrs,
        "pin": recipe.tpm.pin,
        "recovery_tries": recipe.provisioning.recovery_tries,
        "wait_seconds": recipe.provisioning.wait_seconds,
        "prompt_seconds": recipe.provisioning.prompt_seconds,
        "cipher": recipe.provisioning.cipher,
        "qr": recipe.provisioning.qr,
        "recipient": recipe.provisioning.recipient,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Vec<u8> {
        archive(entries(b"\x7fELF".to_vec(), b"{}".to_vec(), vec![]).unwrap()).unwrap()
    }

    fn list(mut bytes: &[u8]) -> Vec<(String, u32, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            let mut reader = cpio::NewcReader::new(bytes).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                return found;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            found.push((
                entry.name().to_owned(),
                entry.mode(),
                entry.rdev_major(),
                entry.rdev_minor(),
                content,
            ));
            bytes = reader.finish().unwrap();
        }
    }

    #[test]
    fn it_holds_one_program_its_configuration_and_nothing_else() {
        let dir = |path: &str| (path.to_owned(), 0o040_755, 0, 0, vec![]);
        assert_eq!(
            list(&ours()),
            [
                dir("dev"),
                ("dev/console".to_owned(), 0o020_600, 5, 1, vec![]),
                dir("etc"),
                ("etc/initramfs-unseal.json".to_owned(), 0o100_644, 0, 0, b"{}".to_vec()),
                ("init".to_owned(), 0o100_755, 0, 0, b"\x7fELF".to_vec()),
                dir("proc"),
                dir("run"),
                dir("sys"),
                dir("sysroot"),
            ]
        );
    }

    #[test]
    fn the_order_of_entries_does_not_matter() {
        let mut entries = entries(vec![1], vec![2], vec![]).unwrap();
        let forward = archive(entries.clone()).unwrap();
        entries.reverse();
        assert_eq!(archive(entries).unwrap(), forward);
    }

    #[test]
    fn compression_can_be_undone_and_is_padded() {
        let archive = ours();
        let packed = compress(&archive, Compression::Zstd).unwrap();
        assert_eq!(packed.len() % 4, 0);
        let mut frame = zstd::stream::read::Decoder::new(packed.as_slice()).unwrap().single_frame();
        let mut back = Vec::new();
        frame.read_to_end(&mut back).unwrap();
        assert_eq!(back, archive);

        let packed = compress(&archive, Compression::Gzip).unwrap();
        assert_eq!(packed.len() % 4, 0);
        // Magic, deflate, no flags, no time, best compression, unknown system.
        assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut back).unwrap();
        assert_eq!(back, archive);
    }

    #[test]
    fn a_file_is_found_where_linux_would_find_it() {
        let one = |content: &[u8]| {
            let entries = vec![Entry::file("etc/a", 0o644, content.to_vec()).unwrap()];
            archive(entries).unwrap()
        };
        let pack = |archive: &[u8], method| compress(archive, method).unwrap();
        let first = pack(&one(b"first"), Compression::Zstd);
        assert_eq!(file_in(&first, "etc/a").unwrap().unwrap(), b"first");
        assert_eq!(file_in(&first, "etc/b").unwrap(), None);
        assert_eq!(file_in(b"", "etc/a").unwrap(), None);
        // Another one behind it goes before.
        let both = [first.clone(), pack(&one(b"second"), Compression::Gzip)].concat();
        assert_eq!(file_in(&both, "etc/a").unwrap().unwrap(), b"second");
        let both = [both, pack(&ours(), Compression::Zstd)].concat();
        assert_eq!(file_in(&both, "etc/a").unwrap().unwrap(), b"second");
        assert_eq!(file_in(&both, CONFIG).unwrap().unwrap(), b"{}");

        // Foreign bytes are an error, never a panic, and never a large allocation.
        assert!(file_in(b"070701", "etc/a").is_err());
        let whole = one(b"content");
        for end in 0..whole.len() - 4 {
            assert!(newc_file(&whole[..end], "etc/b").is_err(), "{end}");
        }
        for at in 0..110 {
            for byte in [b'f', b'0', b'-', 0xff] {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = newc_file(&changed, "etc/a");
            }
        }
        let bomb = zstd::bulk::compress(&vec![0; (256 << 20) + 1], 1).unwrap();
        assert_eq!(file_in(&bomb, "a").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_large_initramfs_is_refused() {
        // Bytes that do not compress: a linear congruential generator.
        let mut state = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(MAX_SIZE + 1)
        .collect();
        let error = compress(&noise, Compression::Gzip).unwrap_err();
        assert!(matches!(error, InitramfsError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/etc/x", "../x", "a/./b", "a//b", "a\0b", "a/"] {
            assert!(Entry::file(path, 0o644, vec![]).is_err(), "{path:?}");
        }
        assert!(Entry::file("etc/x", 0o644, vec![]).is_ok());
    }

    #[test]
    fn the_configuration_says_what_the_recipe_says() {
        let recipe = Recipe::parse(include_str!("../../recipes/rpi3-tiny.toml"), "rpi3").unwrap();
        assert_eq!(
            config(&recipe),
            serde_json::json!({
                "schema": "msec-boot/unseal-config/1", "disk": "/dev/mmcblk0",
                "root_partition": 2, "boot_partition": 1, "mapper": "root",
                "provision": "in-place", "reserve_mib": 4, "nv_index": "0x01806d73",
                "spare_index": "0x01806d75", "pin": false,
                "srk": "0x81000001", "pcrs": [0, 1, 8, 9, 15],
                "recovery_tries": 3, "wait_seconds": 20,
                "prompt_seconds": 900, "cipher": "adiantum", "qr": "utf8", "recipient": null
            })
        );
        let recipe = Recipe::parse(include_str!("../../recipes/virt.toml"), "virt").unwrap();
        assert_eq!(config(&recipe)["disk"], "/dev/vda");
    }
}
