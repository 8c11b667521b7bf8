//! Values of a recipe that carry a rule: each can only be made by its check.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// Why a value is refused. The text completes "line, column, key: …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

pub(super) fn refuse<T>(why: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(why.into()))
}

/// Makes a checked text type: conversion through `check`, text out again.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                $check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// The name of an image: 1 to 40 of `a-z`, `0-9` and `-`, a letter first.
    Name, check_name
}

checked_text! {
    /// A host name in which one `{serial}` may stand for the last eight digits of the
    /// board's serial number.
    HostnamePattern, check_hostname_pattern
}

impl HostnamePattern {
    /// What stands for the serial number.
    pub const SERIAL: &'static str = "{serial}";

    /// Whether the name depends on the board.
    #[must_use]
    pub fn has_serial(&self) -> bool {
        self.0.contains(Self::SERIAL)
    }
}

fn check_hostname_pattern(text: &str) -> Result<(), ValueError> {
    check_hostname(&text.replacen(HostnamePattern::SERIAL, "01234567", 1)).map_err(|_| {
        ValueError(format!(
            "`{}` is no host name: 1 to 63 of a-z, 0-9 and `-`, no `-` at either end; {} once for \
             eight digits of the board's serial number",
            text.escape_debug(),
            HostnamePattern::SERIAL
        ))
    })
}

checked_text! {
    /// A Debian package name (Debian Policy, 5.6.1).
    PackageName, check_package
}

checked_text! {
    /// The kernel's command line: printable ASCII, at most
    /// [`CommandLine::MAX`] bytes, and no word that takes the choice of root
    /// or init away from the initramfs.
    CommandLine, check_command_line
}

impl PackageName {
    /// A name from this program's own text, valid as a test shows.
    pub(super) fn constant(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl CommandLine {
    /// The longest command line in bytes. Linux's `COMMAND_LINE_SIZE` on arm64
    /// is 2048, final NUL included (arch/arm64/include/uapi/asm/setup.h).
    pub const MAX: usize = 2047;
}

fn check_name(text: &str) -> Result<(), ValueError> {
    if !(1..=40).contains(&text.len()) {
        return refuse("a name has 1 to 40 characters");
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.bytes().all(is_label) {
        return refuse(format!(
            "`{}` is no name: letters a-z, digits and `-`, a letter first",
            text.escape_debug()
        ));
    }
    Ok(())
}

/// 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end (RFC 1123, 2.1).
fn check_hostname(text: &str) -> Result<(), ValueError> {
    let edge = text.starts_with('-') || text.ends_with('-');
    if !(1..=63).contains(&text.len()) || edge || !text.bytes().all(is_label) {
        return refuse(format!(
            "`{}` is no host name: 1 to 63 of a-z, 0-9 and `-`, no `-` at either end",
            text.escape_debug()
        ));
    }
    Ok(())
}

fn is_label(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

fn check_package(text: &str) -> Result<(), ValueError> {
    let allowed = |b: u8| is_label(b) || b == b'+' || b == b'.';
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // A trailing `-` or `+` would tell apt to remove or to install.
    let order = text.ends_with('-');
    if text.len() < 2 || !first || order || !text.bytes().all(allowed) {
        return refuse(format!("`{}` is no Debian package name", text.escape_debug()));
    }
    Ok(())
}

fn check_command_line(text: &str) -> Result<(), ValueError> {
    if text.len() > CommandLine::MAX {
        return refuse(format!(
            "the command line has {} bytes, Linux takes {}",
            text.len(),
            CommandLine::MAX
        ));
    }
    if let Some(byte) = text.bytes().find(|b| !(0x20..0x7f).contains(b)) {
        return refuse(format!(
            "the command line holds the byte 0x{byte:02x}: printable ASCII only"
        ));
    }
    if text.trim() != text || text.is_empty() {
        return refuse("the command line is empty or has blanks at an end");
    }
    for key in ["root", "init", "rdinit"] {
        if text.split(' ').any(|word| word.strip_prefix(key).is_some_and(|r| r.starts_with('='))) {
            return refuse(format!(
                "`{key}=` does not belong on the command line: initramfs-unseal alone opens the \
                 root and starts its init"
            ));
        }
    }
    Ok(())
}

/// The PCRs that the key is sealed against: sorted, each once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct PcrList(Vec<u8>);

impl PcrList {
    /// The PCR that initramfs-unseal extends to shut the key away for the rest
    /// of a boot. A selection without it could be unsealed again later on.
    pub const LATCH: u8 = 15;

    /// The most PCRs that initramfs-unseal takes: TPM2_PCR_Read gives eight
    /// digests at a time (TPM 2.0 Library part 2, TPML_DIGEST).
    pub const MAX: usize = 8;

    /// The PCRs in rising order.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl Default for PcrList {
    fn default() -> Self {
        Self(vec![0, 1, 8, 9, Self::LATCH])
    }
}

impl From<PcrList> for Vec<u8> {
    fn from(list: PcrList) -> Self {
        list.0
    }
}

impl TryFrom<Vec<u8>> for PcrList {
    type Error = ValueError;

    fn try_from(mut list: Vec<u8>) -> Result<Self, ValueError> {
        list.sort_unstable();
        for pcr in &list {
            match pcr {
                0..=9 | 12..=15 => {}
                10 => {
                    return refuse("PCR 10 is IMA's: it changes with every file that is measured");
                }
                11 => {
                    return refuse("PCR 11 holds the boot phases: it changes while a boot goes on");
                }
                // TCG PC Client PTP 1.05, 4.6.2: 16 and 23 can be reset by
                // anyone, 17 to 22 belong to a dynamic launch.
                16..=23 => {
                    return refuse(format!("PCR {pcr} can be reset while the system runs"));
                }
                _ => return refuse(format!("there is no PCR {pcr}: a TPM has 0 to 23")),
            }
        }
        if list.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("a PCR is named twice");
        }
        if list.len() > Self::MAX {
            return refuse(format!("{} PCRs: at most {}", list.len(), Self::MAX));
        }
        if !list.iter().any(|pcr| *pcr <= 7) {
            return refuse(
                "none of PCR 0-7 is selected: they alone carry the separator that shows that \
                 U-Boot measured at all",
            );
        }
        if !list.contains(&Self::LATCH) {
            return refuse(
                "PCR 15 is missing: extending it is what shuts the key away for the rest of a boot",
            );
        }
        Ok(Self(list))
    }
}

/// Makes a TPM handle type: a hexadecimal text within a range.
macro_rules! handle {
    ($(#[$doc:meta])* $name:ident, $range:expr, $default:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(u32);

        impl $name {
            /// The handle.
            pub fn handle(self) -> u32 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($default)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                let digits = text.strip_prefix("0x").filter(|d| {
                    d.len() == 8 && d.bytes().all(|b| b.is_ascii_hexdigit())
                });
                match digits.and_then(|d| u32::from_str_radix(d, 16).ok()) {
                    Some(handle) if $range.contains(&handle) => Ok(Self(handle)),
                    _ => refuse(format!(
                        "`{}` is no {}: \"0x{:08x}\" to \"0x{:08x}\"",
                        text.escape_debug(), $what, $range.start(), $range.end(),
                    )),
                }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                format!("0x{:08x}", value.0)
            }
        }
    };
}

handle! {
    /// An NV index in the owner's range
    /// (TCG Registry of Reserved TPM 2.0 Handles 1.1, 2.2.2).
    NvIndex, (0x0180_0000_u32..=0x01bf_ffff), 0x0180_6d73, "NV index of the owner"
}

handle! {
    /// A persistent handle of the owner hierarchy
    /// (TPM 2.0 Library part 2, 7.5: owner's half of the persistent handles).
    PersistentHandle, (0x8100_0000_u32..=0x817f_ffff), 0x8100_0001, "persistent handle of the owner"
}

impl NvIndex {
    /// The index behind this one, if there is one in the range.
    pub(super) fn next(self) -> Option<Self> {
        Self::try_from(format!("0x{:08x}", self.0 + 1)).ok()
    }
}

pub(super) fn schema<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        super::Recipe::SCHEMA => Ok(super::Recipe::SCHEMA),
        other => Err(D::Error::custom(format!(
            "schema is {other}, and this image-builder reads schema {}: take the image-builder that \
             the recipe was written for",
            super::Recipe::SCHEMA
        ))),
    }
}

pub(super) fn recovery_tries<'de, D: Deserializer<'de>>(d: D) -> Result<u8, D::Error> {
    match u8::deserialize(d)? {
        tries @ 1..=10 => Ok(tries),
        tries => Err(D::Error::custom(format!("recovery_tries is {tries}: 1 to 10"))),
    }
}

pub(super) fn prompt_seconds<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    match u16::deserialize(d)? {
        0 => Err(D::Error::custom("prompt_seconds is 0: 1 to 65535")),
        seconds => Ok(seconds),
    }
}

pub(super) fn wait_seconds<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    match u16::deserialize(d)? {
        seconds @ 1..=300 => Ok(seconds),
        seconds => Err(D::Error::custom(format!("wait_seconds is {seconds}: 1 to 300"))),
    }
}
