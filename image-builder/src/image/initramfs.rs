//! The initramfs: a newc cpio archive with one program, its configuration, and
//! the directories that it mounts on.
//!
//! Same inputs, same bytes: entries come in a fixed order, belong to root and
//! are as old as the epoch. Foreign archives are never read here.

use std::io::{self, Write as _};

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

/// The entries of our initramfs around the program and its configuration.
///
/// # Errors
/// None in practice: every path is a constant.
pub fn entries(unseal: Vec<u8>, config: Vec<u8>) -> Result<Vec<Entry>, InitramfsError> {
    let mut entries: Vec<Entry> =
        ["dev", "etc", "proc", "run", "sys", "sysroot"].map(Entry::directory).into();
    // The kernel opens /dev/console for init before devtmpfs is there
    // (init/main.c, console_on_rootfs).
    entries.push(Entry {
        path: "dev/console".to_owned(),
        mode: S_IFCHR | 0o600,
        device: Some((5, 1)),
        content: Vec::new(),
    });
    entries.push(Entry::file("etc/initramfs-unseal.json", 0o644, config)?);
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
    use std::io::Read as _;

    fn ours() -> Vec<u8> {
        archive(entries(b"\x7fELF".to_vec(), b"{}".to_vec()).unwrap()).unwrap()
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
        let mut entries = entries(vec![1], vec![2]).unwrap();
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
