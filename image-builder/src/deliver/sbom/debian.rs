//! What a Debian package says of itself: architecture, source, licences.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::SbomError;
use crate::image::card::write_whole;
use crate::image::packages::Package;
use crate::image::tool::Tool;

/// The largest copyright file that is read, in bytes.
const MAX_COPYRIGHT: u64 = 4 << 20;

/// What a package says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Its architecture, or `all`.
    pub(super) architecture: String,
    /// Name and version of its source package.
    pub(super) source: (String, String),
    /// The short names of its licences, where the copyright file can be read by machines.
    pub(super) licences: BTreeSet<String>,
}

/// Looks into a package. What it says is kept in `cache` under the file's name, which in the
/// store of sources is the hash of the package.
pub(super) fn facts(package: &Package, cache: &Path) -> Result<Facts, SbomError> {
    let name = package.deb.file_name().unwrap_or_default();
    let kept = cache.join(name).with_extension("facts-1.json");
    if let Some(facts) = fs::read(&kept).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
        return Ok(facts);
    }
    let control = Tool::new("dpkg-deb", format!("read {}", package.deb.display()))
        .arg("--field")
        .arg(&package.deb)
        .args(["Architecture", "Source", "Version"])
        .run()?;
    let copyright = copyright(package)
        .map_err(|source| SbomError::Package { path: package.deb.clone(), source })?;
    let (architecture, source) = parse_control(&String::from_utf8_lossy(&control), package);
    let facts = Facts { architecture, source, licences: licences(&copyright) };
    fs::create_dir_all(cache)
        .map_err(|source| SbomError::Package { path: cache.to_owned(), source })?;
    let text = serde_json::to_vec(&facts).map_err(SbomError::Json)?;
    write_whole(&kept, &text)?;
    Ok(facts)
}

/// Architecture, and name and version of the source: the package's own where it says none
/// (Debian Policy 5.6.1).
fn parse_control(control: &str, package: &Package) -> (String, (String, String)) {
    let field = |name: &str| {
        let lines = control.lines();
        lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).next()
    };
    let architecture = field("Architecture").unwrap_or("all").to_owned();
    let version = field("Version").unwrap_or(&package.version);
    let source = field("Source").unwrap_or(&package.name);
    let source = match source.split_once(" (") {
        Some((name, version)) => (name.to_owned(), version.trim_end_matches(')').to_owned()),
        None => (source.to_owned(), version.to_owned()),
    };
    (architecture, source)
}

/// The copyright file; empty where there is none, or where it is another package's.
fn copyright(package: &Package) -> io::Result<String> {
    let mut dpkg = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&package.deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let wanted = PathBuf::from(format!("usr/share/doc/{}/copyright", package.name));
    let mut text = String::new();
    let found = dpkg.stdout.take().map_or(Ok(false), |output| {
        let mut archive = tar::Archive::new(BufReader::new(output));
        for entry in archive.entries()? {
            let entry = entry?;
            if entry.path()?.strip_prefix("./").is_ok_and(|path| path == wanted) {
                let mut bytes = Vec::new();
                entry.take(MAX_COPYRIGHT).read_to_end(&mut bytes)?;
                text = String::from_utf8_lossy(&bytes).into_owned();
                return Ok::<bool, io::Error>(true);
            }
        }
        Ok(false)
    });
    // Nothing of what comes behind that file is wanted: it ends by the closed pipe.
    let status = dpkg.wait()?;
    if !found? && !status.success() {
        return Err(io::Error::other(format!("dpkg-deb failed ({status})")));
    }
    Ok(text)
}

/// The short names of the licences in a copyright file of the machine-readable form
/// (Debian Policy, copyright-format 1.0, 7.2); none in
/// another one.
fn licences(copyright: &str) -> BTreeSet<String> {
    let first = copyright.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let is_machine_readable = first.starts_with("Format:") && first.contains("copyright-format");
    if !is_machine_readable {
        return BTreeSet::new();
    }
    let names = copyright.lines().filter_map(|line| line.strip_prefix("License:"));
    names.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_read_from_the_machine_readable_form_alone() {
        let head = "Format: doc/packaging-manuals/copyright-format/1.0/\n";
        let body = "\nFiles: *\nCopyright: 2001 A\nLicense: GPL-2+\n text: License: no\n\n\
                    Files: b\nLicense: Expat\n\nLicense: GPL-2+\n On Debian\n\nLicense:\n";
        let names: Vec<String> = licences(&format!("{head}{body}")).into_iter().collect();
        assert_eq!(names, ["Expat", "GPL-2+"]);
        for text in ["", "This package was debianized by\nLicense: GPL-2+\n", body] {
            assert_eq!(licences(text), BTreeSet::new(), "{text}");
        }
    }

    #[test]
    fn the_source_is_the_package_itself_unless_it_says_so() {
        let package =
            Package { name: "libx1".into(), version: "1:2-3".into(), deb: PathBuf::new() };
        for (control, source) in [
            ("Architecture: arm64\nVersion: 1:2-3\n", ("libx1", "1:2-3")),
            ("Version: 1:2-3\nArchitecture: arm64\nSource: x\n", ("x", "1:2-3")),
            ("Architecture: arm64\nSource: x (9)\nVersion: 1:2-3\n", ("x", "9")),
        ] {
            let (architecture, found) = parse_control(control, &package);
            assert_eq!(architecture, "arm64");
            assert_eq!((found.0.as_str(), found.1.as_str()), source);
        }
    }
}
