//! Which board this is, as its firmware says. Nothing vouches for it: it is for
//! people who look for a device in a list.

use serde::Serialize;
use std::io::Read as _;
use std::path::Path;

/// Where Linux shows the device tree that it was booted with.
const DEVICE_TREE: &str = "proc/device-tree";
/// What the kernel found; arm64 kernels of Raspberry Pis add `Serial` and `Model`.
const CPUINFO: &str = "proc/cpuinfo";
/// A random number that the kernel draws at every start (random(4)).
const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
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

/// The first bytes of a file; none when it cannot be read.
fn bytes(path: &Path, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes));
    if read.is_ok() { bytes } else { Vec::new() }
}

/// A device tree's string: printable ASCII up to a NUL (Devicetree Specification
/// 0.4, 2.2.4). `None` when nothing is left.
fn text(bytes: &[u8]) -> Option<String> {
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
    fn the_boot_id_is_the_kernels() {
        let root = root(&[("proc/sys/kernel/random/boot_id", b"0a1b-2c\n")]);
        assert_eq!(boot_id(root.path()).as_deref(), Some("0a1b-2c"));
        assert_eq!(boot_id(Path::new("/nonexistent")), None);
    }
}
