//! Which board this is, as its firmware says. Nothing vouches for names and numbers:
//! they are for people who look for a device in a list. That there is a TPM
//! counts, for a device tree that names one was measured.

use serde::Serialize;
use std::io::Read as _;
use std::path::Path;

/// Where Linux shows the device tree that it was booted with.
const DEVICE_TREE: &str = "proc/device-tree";
/// What the kernel found; arm64 kernels of Raspberry Pis add `Serial` and `Model`.
const CPUINFO: &str = "proc/cpuinfo";
/// A random number that the kernel draws at every start (random(4)).
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
/// How what a TPM 2.0 in a device tree is compatible with begins (Linux 6.12,
/// Documentation/devicetree/bindings/tpm).
const TPMS: [&str; 5] =
    ["tcg,tpm", "google,cr50", "microsoft,ftpm", "nuvoton,npct601", "st,st33zp24"];
/// Where Linux shows the table that ACPI describes a TPM 2.0 with.
const ACPI_TPM: &str = "sys/firmware/acpi/tables/TPM2";
/// Nodes within nodes that are looked at; a TPM lies on a bus of the SoC.
const MAX_DEPTH: usize = 8;
/// Longest text that is taken, in bytes.
const MAX_TEXT: u64 = 256;
/// Largest `cpuinfo` that is read, in bytes.
const MAX_CPUINFO: u64 = 64 << 10;

/// The board. A field is `None` where nothing names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Board {
    /// The model (`/model` of the device tree).
    pub model: Option<String>,
    /// The serial number (`/serial-number`).
    pub serial: Option<String>,
}

impl Board {
    /// Reads what the system below `sysroot` says; `/` but in tests.
    #[must_use]
    pub fn read(sysroot: &Path) -> Self {
        let tree = |name: &str| text(&bytes(&sysroot.join(DEVICE_TREE).join(name), MAX_TEXT));
        let cpuinfo = bytes(&sysroot.join(CPUINFO), MAX_CPUINFO);
        let cpuinfo = String::from_utf8_lossy(&cpuinfo);
        Self {
            model: tree("model").or_else(|| field(&cpuinfo, "Model")),
            serial: tree("serial-number").or_else(|| field(&cpuinfo, "Serial")),
        }
    }
}

/// The boot's random name, `None` when the kernel shows none.
#[must_use]
pub fn boot_id(sysroot: &Path) -> Option<String> {
    text(&bytes(&sysroot.join(BOOT_ID), MAX_TEXT))
}

/// Whether the firmware told the kernel of a TPM: a node of the device tree, switched
/// on or off, or ACPI's table.
#[must_use]
pub fn has_tpm(sysroot: &Path) -> bool {
    sysroot.join(ACPI_TPM).exists() || has_tpm_below(&sysroot.join(DEVICE_TREE), MAX_DEPTH)
}

fn has_tpm_below(node: &Path, depth: usize) -> bool {
    let nodes = std::fs::read_dir(node).into_iter().flatten().flatten();
    let is_node = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    is_tpm(&bytes(&node.join("compatible"), MAX_TEXT))
        || depth > 0 && nodes.filter(is_node).any(|child| has_tpm_below(&child.path(), depth - 1))
}

fn is_tpm(compatible: &[u8]) -> bool {
    let known = |name: &[u8]| TPMS.iter().any(|tpm| name.starts_with(tpm.as_bytes()));
    compatible.split(|byte| *byte == 0).any(known)
}

/// The first bytes of a file; none when it cannot be read.
fn bytes(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes));
    if read.is_ok() { bytes } else { Vec::new() }
}

/// A device tree's string: printable ASCII up to a NUL (Devicetree Specification
/// 0.4, 2.2.4). `None` when nothing is left. Foreign bytes in, nothing in the result
/// that a console or a log would act on.
#[must_use]
pub fn text(bytes: &[u8]) -> Option<String> {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let printable = |byte: &&u8| (b' '..=b'~').contains(*byte);
    let text: String = text.iter().filter(printable).map(|byte| char::from(*byte)).collect();
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A field of `cpuinfo`.
fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let value = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find_map(|(key, value)| (key.trim() == name).then_some(value))?;
    text(value.as_bytes().get(..MAX_TEXT as usize).unwrap_or(value.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        dir
    }

    fn board(model: Option<&str>, serial: Option<&str>) -> Board {
        Board { model: model.map(str::to_owned), serial: serial.map(str::to_owned) }
    }

    #[test]
    fn the_device_tree_comes_first_and_cpuinfo_second() {
        let model = ("proc/device-tree/model", &b"Raspberry Pi 3 Model B Rev 1.2\0"[..]);
        let serial = ("proc/device-tree/serial-number", &b"00000000deadbeef\0"[..]);
        let cpuinfo =
            ("proc/cpuinfo", &b"processor\t: 0\n\nSerial\t\t: 01\nModel\t\t: Other board\n"[..]);
        let full = (Some("Raspberry Pi 3 Model B Rev 1.2"), Some("00000000deadbeef"));
        let cases: [(&[_], _); 4] = [
            (&[model, serial, cpuinfo], full),
            (&[model, cpuinfo], (full.0, Some("01"))),
            (&[cpuinfo], (Some("Other board"), Some("01"))),
            (&[], (None, None)),
        ];
        for (files, (model, serial)) in cases {
            assert_eq!(Board::read(root(files).path()), board(model, serial), "{files:?}");
        }
    }

    #[test]
    fn foreign_bytes_become_short_printable_text_or_nothing() {
        let long = [b'x'; 5000];
        let cases: [(&[u8], Option<&str>); 6] = [
            (b"", None),
            (b"\0\0", None),
            (b"  \x1b\n", None),
            (b"a\x1b[2Jb\xff\0c", Some("a[2Jb")),
            (b"  Pi  ", Some("Pi")),
            (&long, Some(&"x".repeat(256))),
        ];
        for (bytes, want) in cases {
            let root = root(&[("proc/device-tree/model", bytes)]);
            assert_eq!(Board::read(root.path()).model.as_deref(), want);
        }
    }

    #[test]
    fn a_tpm_anywhere_in_the_device_tree_or_in_acpi_is_found() {
        const DEEP: &str = "proc/device-tree/soc/i2c@7e804000/tpm@2e/compatible";
        let cases: [(&str, &[u8], bool); 7] = [
            ("sys/firmware/acpi/tables/TPM2", b"TPM2", true),
            ("sys/firmware/acpi/tables/DSDT", b"DSDT", false),
            (DEEP, b"nuvoton,npct75x\0tcg,tpm-tis-i2c\0", true),
            (DEEP, b"infineon,slb9670\0tcg,tpm_tis-spi\0", true),
            (DEEP, b"atmel,24c32\0", false),
            ("proc/device-tree/compatible", b"raspberrypi,3-model-b\0brcm,bcm2837\0", false),
            ("proc/device-tree/soc/label", b"tcg,tpm-tis-i2c\0", false),
        ];
        for (path, content, want) in cases {
            assert_eq!(has_tpm(root(&[(path, content)]).path()), want, "{path}");
        }
        assert!(!has_tpm(Path::new("/nonexistent")));
    }

    #[test]
    fn the_boot_id_is_the_kernels() {
        let root = root(&[("proc/sys/kernel/random/boot_id", b"0a1b-2c\n")]);
        assert_eq!(boot_id(root.path()).as_deref(), Some("0a1b-2c"));
        assert_eq!(boot_id(Path::new("/nonexistent")), None);
    }
}
