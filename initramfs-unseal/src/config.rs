//! The initramfs' configuration file: which root, which TPM objects, what is
//! allowed. It is part of the initramfs and therefore measured (PCR 9): its
//! content can be trusted as far as the measurement can.

use crate::age::Recipient;
use crate::authority::{Authority, PolicyKey};
use crate::integrity::Integrity;
use crate::qr::Qr;
use pcr_measure::pcr::PcrSelection;
use serde::Deserialize;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

/// Where the image builder puts the file inside the initramfs.
pub const PATH: &str = "/etc/initramfs-unseal.json";
/// The schema this version reads.
pub const SCHEMA: &str = "msec-boot/unseal-config/1";
/// Largest file that is read, in bytes.
pub const MAX_LEN: u64 = 64 * 1024;

/// First and last handle of the owner's NV range (TCG Registry of Reserved
/// TPM 2.0 Handles and Localities 1.1, table 3).
const NV_OWNER: std::ops::RangeInclusive<u32> = 0x0180_0000..=0x01bf_ffff;
/// Persistent handles of the owner hierarchy (TPM 2.0 Library part 2, 7.4).
const PERSISTENT_OWNER: std::ops::RangeInclusive<u32> = 0x8100_0000..=0x817f_ffff;
/// PCR_Read returns eight values at most (`TPML_DIGEST`, part 2, 10.9.4).
const MAX_PCRS: usize = 8;

/// Whether a plain root may be encrypted in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provision {
    /// A plain root is encrypted and sealed when the TPM holds no root yet.
    InPlace,
    /// A plain root is refused.
    Never,
}

/// Which cipher a root gets that is encrypted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// AES-XTS where the CPU has AES instructions, Adiantum elsewhere.
    #[default]
    Auto,
    /// Adiantum: fast on CPUs without AES instructions, such as a Pi 3's.
    Adiantum,
    /// AES-256-XTS.
    AesXts,
}

/// The configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    schema: String,
    /// The whole disk, such as `/dev/mmcblk0`.
    pub disk: PathBuf,
    /// Number of the root partition, from 1.
    pub root_partition: u8,
    /// Number of the FAT partition with the boot manifest, from 1.
    pub boot_partition: u8,
    /// Name of the opened volume below `/dev/mapper`.
    pub mapper: String,
    /// What to do with a plain root.
    pub provision: Provision,
    /// Room before the root partition for the LUKS2 header, in MiB.
    pub reserve_mib: u32,
    /// Handle of the NV index that holds the secret.
    #[serde(deserialize_with = "handle")]
    pub nv_index: u32,
    /// Handle of the index that resealing alternates with.
    #[serde(deserialize_with = "handle")]
    pub spare_index: u32,
    /// Persistent handle of the storage root key.
    #[serde(deserialize_with = "handle")]
    pub srk: u32,
    /// PCRs to seal against.
    pub pcrs: PcrSelection,
    /// The binding `signed`: who approves a boot. Without it the secret is bound
    /// to the one boot that was sealed against.
    #[serde(default)]
    pub signed: Option<Authority>,
    /// The key that signs update bundles. Without it none is taken.
    #[serde(default)]
    pub update_key: Option<PolicyKey>,
    /// Whether the TPM wants a PIN beside a boot that it knows.
    #[serde(default)]
    pub pin: bool,
    /// Cipher of a root that is encrypted here.
    #[serde(default)]
    pub cipher: Cipher,
    /// Wrong recovery keys before the power goes off.
    pub recovery_tries: u32,
    /// Longest wait for the TPM and for the root device, each, in seconds.
    pub wait_seconds: u32,
    /// How long the prompt for the recovery key waits, in seconds.
    #[serde(default = "default_prompt_seconds")]
    pub prompt_seconds: u32,
    /// How the recovery key's QR code is drawn.
    #[serde(default)]
    pub qr: Qr,
    /// Whom the device record's recovery key is encrypted to.
    #[serde(default)]
    pub recipient: Option<Recipient>,
    /// What the running system is held to. Without it nothing is measured or appraised there.
    #[serde(default)]
    pub integrity: Option<Integrity>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not of this shape.
    #[error("not a configuration of this version ({0}); build the initramfs anew")]
    Syntax(#[from] serde_json::Error),
    /// Another schema.
    #[error("has schema {0:?}, this program reads {SCHEMA:?}; build the initramfs anew")]
    Schema(String),
    /// A value out of its range.
    #[error("{0}")]
    Value(&'static str),
    /// Not there, or not readable.
    #[error("cannot be read ({0}); build the initramfs anew")]
    File(#[from] std::io::Error),
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {cause}")]
pub struct FileError {
    path: String,
    cause: ConfigError,
}

impl Config {
    /// Reads and checks a configuration file.
    ///
    /// # Errors
    /// [`FileError`] with the file's name and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        // Cut off where it is too long, and no JSON any more then.
        let mut text = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_LEN).read_to_end(&mut text))
            .map_err(ConfigError::from)
            .and_then(|_| Self::parse(&text))
            .map_err(|cause| FileError { path: path.display().to_string(), cause })
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// [`ConfigError`] naming what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = serde_json::from_slice(text)?;
        if config.schema != SCHEMA {
            return Err(ConfigError::Schema(config.schema));
        }
        let signed = |bad: fn(&Self, &Authority) -> bool| {
            config.signed.as_ref().is_some_and(|authority| bad(&config, authority))
        };
        let any = |wanted: &[u8]| config.pcrs.iter().any(|pcr| wanted.contains(&pcr.get()));
        let problems = [
            (!is_device(&config.disk), "disk must be a path below /dev"),
            (config.root_partition == 0, "root_partition counts from 1"),
            (config.boot_partition == 0, "boot_partition counts from 1"),
            (
                config.boot_partition == config.root_partition,
                "root and boot partition are the same",
            ),
            (!is_mapper_name(&config.mapper), "mapper must be 1 to 64 letters, digits, - or _"),
            (!(4..=1024).contains(&config.reserve_mib), "reserve_mib must be 4 to 1024"),
            (
                !NV_OWNER.contains(&config.nv_index),
                "nv_index must lie in the owner range 0x01800000-0x01bfffff",
            ),
            (
                !NV_OWNER.contains(&config.spare_index),
                "spare_index must lie in the owner range 0x01800000-0x01bfffff",
            ),
            (config.spare_index == config.nv_index, "spare_index and nv_index are the same"),
            (!PERSISTENT_OWNER.contains(&config.srk), "srk must lie in 0x81000000-0x817fffff"),
            (config.pcrs.iter().count() > MAX_PCRS, "pcrs must name one to eight PCRs"),
            (
                !any(&[0, 1, 2, 3, 4, 5, 6, 7]),
                "pcrs must contain one of 0-7: 8 and 9 alone can be forged by whoever runs unmeasured",
            ),
            (!any(&[15]), "pcrs must contain 15, the latch"),
            (
                any(&[10, 11, 16, 23]),
                "PCRs 10, 11, 16 and 23 change or can be reset: they cannot be sealed against",
            ),
            (
                signed(|_, authority| !NV_OWNER.contains(&authority.counter)),
                "counter must lie in the owner range 0x01800000-0x01bfffff",
            ),
            (
                signed(|config, authority| config.indices().contains(&authority.counter)),
                "counter is the same as nv_index or spare_index",
            ),
            (
                signed(|_, authority| authority.version == 0),
                "rollback must be 1 or more: a counter never stands at 0",
            ),
            (!(1..=100).contains(&config.recovery_tries), "recovery_tries must be 1 to 100"),
            (!(1..=600).contains(&config.wait_seconds), "wait_seconds must be 1 to 600"),
            (!(1..=86_400).contains(&config.prompt_seconds), "prompt_seconds must be 1 to 86400"),
        ];
        match problems.iter().find(|(bad, _)| *bad) {
            Some((_, what)) => Err(ConfigError::Value(what)),
            None => Ok(config),
        }
    }

    /// The indices that may hold the secret. The token says which one does.
    #[must_use]
    pub const fn indices(&self) -> [u32; 2] {
        [self.nv_index, self.spare_index]
    }

    /// Path of partition `number` of the disk: with a `p` between where the
    /// disk's name ends in a digit, as the kernel names them, or with udev's
    /// `-part` below `/dev/disk`.
    #[must_use]
    pub fn partition(&self, number: u8) -> PathBuf {
        let disk = self.disk.to_string_lossy();
        let joint = match disk.ends_with(|c: char| c.is_ascii_digit()) {
            _ if disk.starts_with("/dev/disk/") => "-part",
            true => "p",
            false => "",
        };
        PathBuf::from(format!("{disk}{joint}{number}"))
    }

    /// The root partition's path.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.partition(self.root_partition)
    }

    /// The opened volume.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        Path::new("/dev/mapper").join(&self.mapper)
    }

    /// Room before the root partition for the LUKS2 header, in bytes.
    #[must_use]
    pub fn reserve(&self) -> u64 {
        u64::from(self.reserve_mib) << 20
    }
}

fn default_prompt_seconds() -> u32 {
    900
}

/// Whether `path` names something below `/dev`, without a way out of it.
fn is_device(path: &Path) -> bool {
    path.strip_prefix("/dev").is_ok_and(|below| {
        below.file_name().is_some() && below.components().all(|c| matches!(c, Component::Normal(_)))
    })
}

fn is_mapper_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Reads a TPM handle written as `"0x01806d73"`.
pub(crate) fn handle<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let text = String::deserialize(from)?;
    text.strip_prefix("0x")
        .filter(|digits| digits.len() == 8)
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or_else(|| serde::de::Error::custom("a handle is written as 0x and eight hex digits"))
}

/// Writes a TPM handle as [`handle`] reads it.
pub(crate) fn write_handle<S: serde::Serializer>(value: &u32, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format!("{value:#010x}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(crate) fn sample() -> Value {
        json!({
            "schema": SCHEMA, "disk": "/dev/mmcblk0", "root_partition": 2, "boot_partition": 1,
            "mapper": "root", "provision": "in-place", "reserve_mib": 16,
            "nv_index": "0x01806d73", "spare_index": "0x01806d75", "srk": "0x81000001",
            "pcrs": [0, 1, 8, 9, 15],
            "recovery_tries": 3, "wait_seconds": 20,
        })
    }

    #[test]
    fn a_good_configuration_is_taken() {
        let config = Config::parse(sample().to_string().as_bytes()).unwrap();
        assert_eq!(config.nv_index, 0x0180_6d73);
        assert_eq!(config.root(), PathBuf::from("/dev/mmcblk0p2"));
        assert_eq!(config.reserve(), 16 << 20);
        assert_eq!(config.prompt_seconds, 900);
        assert_eq!((config.qr, config.recipient), (Qr::Utf8, None));
    }

    #[test]
    fn partitions_are_named_as_kernel_and_udev_name_them() {
        for (disk, root) in [
            ("/dev/mmcblk0", "/dev/mmcblk0p2"),
            ("/dev/vda", "/dev/vda2"),
            ("/dev/nvme0n1", "/dev/nvme0n1p2"),
            (
                "/dev/disk/by-path/platform-3f202000.mmc",
                "/dev/disk/by-path/platform-3f202000.mmc-part2",
            ),
        ] {
            let mut other = sample();
            other["disk"] = disk.into();
            let config = Config::parse(other.to_string().as_bytes()).unwrap();
            assert_eq!(config.root(), PathBuf::from(root));
        }
    }

    #[test]
    fn a_file_is_named_by_what_is_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unseal.json");
        let told = || Config::read(&path).unwrap_err().to_string();
        assert!(told().contains("unseal.json: cannot be read"), "{}", told());
        std::fs::write(&path, "{").unwrap();
        assert!(told().contains("unseal.json: not a configuration"), "{}", told());
        std::fs::write(&path, sample().to_string()).unwrap();
        assert!(Config::read(&path).is_ok());
    }

    fn signed(field: &str, value: Value) -> Value {
        let mut authority = crate::authority::tests::sample();
        authority[field] = value;
        authority
    }

    #[test]
    fn the_binding_is_pcr_unless_an_authority_is_named() {
        let mut with = sample();
        assert!(Config::parse(with.to_string().as_bytes()).unwrap().signed.is_none());
        with["signed"] = crate::authority::tests::sample();
        let config = Config::parse(with.to_string().as_bytes()).unwrap();
        assert_eq!(config.signed.unwrap().version, 3);
    }

    #[test]
    fn what_would_weaken_or_break_the_boot_is_refused() {
        let cases: &[(&str, Value, &str)] = &[
            ("schema", json!("msec-boot/unseal-config/2"), "schema"),
            ("disk", json!("relative"), "disk must"),
            ("disk", json!("/dev"), "disk must"),
            ("disk", json!("/dev/../etc/disk"), "disk must"),
            ("root_partition", json!(0), "counts from 1"),
            ("boot_partition", json!(2), "the same"),
            ("mapper", json!("../x"), "mapper must"),
            ("mapper", json!(""), "mapper must"),
            ("reserve_mib", json!(0), "reserve_mib"),
            ("nv_index", json!("0x01c00002"), "owner range"),
            ("spare_index", json!("0x01c00002"), "owner range"),
            ("spare_index", json!("0x01806d73"), "are the same"),
            ("nv_index", json!(25_193_843), "string"),
            ("nv_index", json!("0x1"), "eight hex digits"),
            ("srk", json!("0x81800000"), "srk must"),
            ("pcrs", json!([]), "PCR"),
            ("pcrs", json!([0, 1, 2, 3, 4, 5, 6, 7, 15]), "one to eight"),
            ("pcrs", json!([8, 9, 15]), "one of 0-7"),
            ("pcrs", json!([0, 8, 9]), "the latch"),
            ("pcrs", json!([0, 10, 15]), "cannot be sealed"),
            ("pcrs", json!([0, 0, 15]), "twice"),
            ("pcrs", json!([0, 24]), "PCR"),
            ("recovery_tries", json!(0), "recovery_tries"),
            ("wait_seconds", json!(0), "wait_seconds"),
            ("prompt_seconds", json!(0), "prompt_seconds"),
            ("provision", json!("always"), "unknown variant"),
            ("qr", json!("utf16"), "unknown variant"),
            ("recipient", json!("age1x"), "no age recipient"),
            ("signed", signed("rollback", json!(0)), "1 or more"),
            ("signed", signed("rollback", json!(-1)), "integer"),
            ("signed", signed("counter", json!("0x01806d73")), "the same"),
            ("signed", signed("counter", json!("0x01806d75")), "the same"),
            ("pin", json!("1234"), "boolean"),
            ("integrity", json!({}), "policy"),
            ("integrity", json!({"policy": "/p", "more": 1}), "unknown field"),
            ("signed", signed("counter", json!("0x01c00002")), "counter must lie"),
            ("signed", signed("policy_key", json!("00")), "policy_key must"),
            ("signed", signed("policy_key", json!("xy")), "policy_key must"),
            ("signed", signed("more", json!(1)), "unknown field"),
            ("shell", json!(true), "unknown field"),
        ];
        for (field, value, want) in cases {
            let mut bad = sample();
            bad[*field] = value.clone();
            let err = Config::parse(bad.to_string().as_bytes()).unwrap_err().to_string();
            assert!(err.contains(want), "{field}={value}: {err}");
        }
        assert!(Config::parse(b"not json").is_err());
    }
}
