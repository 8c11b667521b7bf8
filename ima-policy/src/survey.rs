//! What of a root can become code, and what of that has a signature.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::closure::is_elf;
use crate::root::{Entry, Root};

/// What a file becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It may be started: a program or a script.
    Program,
    /// An ELF file that may not: a library.
    Library,
    /// A module of the kernel.
    Module,
    /// Firmware of a device.
    Firmware,
}

impl Code {
    /// What a file becomes, by its path in the root (without `/` in front), its mode and its
    /// first bytes.
    #[must_use]
    pub fn of(path: &Path, mode: u32, begins: &[u8]) -> Option<Self> {
        let path = path.as_os_str().as_bytes();
        let path = path.strip_prefix(b"usr/").unwrap_or(path);
        if path.starts_with(b"lib/modules/") {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            let is_module = [&b".ko"[..], b".ko.gz", b".ko.xz", b".ko.zst"]
                .iter()
                .any(|end| name.ends_with(end));
            return is_module.then_some(Self::Module);
        }
        if path.starts_with(b"lib/firmware/") {
            return Some(Self::Firmware);
        }
        match (mode & 0o111 != 0, is_elf(begins)) {
            (true, _) => Some(Self::Program),
            (false, true) => Some(Self::Library),
            (false, false) => None,
        }
    }
}

/// A file of code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its path in the root.
    pub path: PathBuf,
    /// What it becomes.
    pub code: Code,
    /// Whether `security.ima` holds a signature. Whether that one is good is not looked at.
    pub is_signed: bool,
}

/// `EVM_IMA_XATTR_DIGSIG` and `IMA_VERITY_DIGSIG` (Linux, security/integrity/integrity.h).
const SIGNATURES: [u8; 2] = [3, 6];

/// What of a root can become code.
#[derive(Debug, Default)]
pub struct Survey {
    /// All such files, by path.
    pub code: Vec<Found>,
    /// Directories on which another file system is mounted: what is there was not looked at.
    pub mounts: Vec<PathBuf>,
}

/// Looks at all files of a root.
///
/// # Errors
/// The file or directory that cannot be read, and why.
pub fn survey(root: &Root) -> Result<Survey, (PathBuf, io::Error)> {
    let walk = root.walk(Path::new(""), &BTreeSet::new()).whole()?;
    let mut found = Vec::new();
    for Entry { path, .. } in walk.files {
        let named = Path::new("/").join(&path);
        match look(root, &path) {
            Ok(None) => {}
            Ok(Some((code, is_signed))) => found.push(Found { path: named, code, is_signed }),
            Err(error) => return Err((named, error)),
        }
    }
    found.sort();
    Ok(Survey { code: found, mounts: walk.mounts })
}

fn look(root: &Root, path: &Path) -> io::Result<Option<(Code, bool)>> {
    let Some(file) = root.open_file(path)? else { return Ok(None) };
    let mut begins = Vec::new();
    (&file).take(4).read_to_end(&mut begins)?;
    let Some(code) = Code::of(path, file.metadata()?.mode(), &begins) else { return Ok(None) };
    let mut value = [0; 4096];
    let is_signed = match rustix::fs::fgetxattr(&file, "security.ima", &mut value[..]) {
        Ok(length) => length > 1 && value.first().is_some_and(|kind| SIGNATURES.contains(kind)),
        // No signature is that long.
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => false,
        Err(error) => return Err(error.into()),
    };
    Ok(Some((code, is_signed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_may_run() {
        let elf = b"\x7fELF";
        for (path, mode, begins, want) in [
            ("usr/bin/true", 0o755, &elf[..], Some(Code::Program)),
            ("usr/bin/x.sh", 0o100_755, b"#!/b", Some(Code::Program)),
            ("home/a/own", 0o100, b"", Some(Code::Program)),
            ("usr/lib/libc.so.6", 0o644, elf, Some(Code::Library)),
            ("usr/share/doc/x", 0o644, b"text", None),
            ("lib/modules/6.12/a.ko.xz", 0o644, b"\xfd7zX", Some(Code::Module)),
            ("usr/lib/modules/6.12/b.ko", 0o644, elf, Some(Code::Module)),
            ("usr/lib/modules/6.12/modules.dep", 0o644, b"a.ko", None),
            ("usr/lib/firmware/brcm/x.bin", 0o644, b"", Some(Code::Firmware)),
            ("opt/lib/modules/x", 0o644, b"", None),
        ] {
            assert_eq!(Code::of(Path::new(path), mode, begins), want, "{path}");
        }
    }
}
