//! The Debian package of `initramfs-unseal`: for an initramfs that Debian's own tools
//! make (initramfs-tools, dracut).
//!
//! What it installs stands in [`FILES`], as it lies in the checkout; program, manual
//! pages and the list of what is linked statically come from the build. The same
//! inputs give the same bytes. There is no maintainer script.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use crate::component::{Crate, Linked};
use crate::image::initramfs::gzip;
use crate::image::tool::{SOURCE_DATE_EPOCH, Tool, ToolError};

/// The command line of `initramfs-unseal`, for its manual pages.
#[path = "../../initramfs-unseal/src/cli.rs"]
mod unseal_cli;

/// The package's name.
pub const NAME: &str = "initramfs-unseal";

/// The target's architecture in Debian's words.
const ARCHITECTURE: &str = "arm64";

/// Where the program goes.
const PROGRAM: &str = "usr/sbin/initramfs-unseal";

/// A sample, to be copied to where the hooks look.
const EXAMPLE: &str = "etc/initramfs-unseal.json.example";

/// A file of the checkout that the package installs.
macro_rules! packaged {
    ($name:literal) => {
        include_str!(concat!("../../initramfs-unseal/packaging/", $name))
    };
}

/// Files that come as they are: path, permissions, content.
const FILES: [(&str, u32, &str); 7] = [
    ("usr/share/initramfs-tools/hooks/initramfs-unseal", 0o755, packaged!("initramfs-tools/hook")),
    (
        "usr/share/initramfs-tools/scripts/local-top/initramfs-unseal",
        0o755,
        packaged!("initramfs-tools/local-top"),
    ),
    (
        "usr/lib/dracut/modules.d/90initramfs-unseal/module-setup.sh",
        0o755,
        packaged!("dracut/module-setup.sh"),
    ),
    ("usr/lib/dracut/modules.d/90initramfs-unseal/unlock.sh", 0o755, packaged!("dracut/unlock.sh")),
    (EXAMPLE, 0o644, packaged!("initramfs-unseal.json.example")),
    (
        "usr/share/doc/initramfs-unseal/other-initramfs.md",
        0o644,
        include_str!("../../docs/other-initramfs.md"),
    ),
    // dpkg's own; the initramfs is made anew when the package comes, changes or goes.
    ("DEBIAN/triggers", 0o644, packaged!("debian/triggers")),
];

/// Why there is no package.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebError {
    /// A file could not be read or written.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A manual page could not be made.
    #[error("cannot make the manual pages: {0}")]
    Manual(io::Error),
}

/// What is linked into the program, a line each: `NAME VERSION LICENCE`.
pub fn linked(linked: &Linked) -> String {
    let mut text = String::from("Comment: Rust crates: name, version, licence\n");
    for Crate { name, version, licence, .. } in &linked.crates {
        text += &format!(" {name} {version} {}\n", licence.as_deref().unwrap_or("-"));
    }
    text.push_str(" .\n Debian's static libraries: source, version\n");
    let sources: BTreeSet<_> =
        linked.libraries.iter().map(|one| (&one.source, &one.source_version)).collect();
    text.extend(sources.iter().map(|(source, version)| format!(" {source} {version}\n")));
    text
}

/// Makes the package in `out` and returns its path. `program` is the static binary,
/// `linked` what [`linked`] says.
///
/// # Errors
/// [`DebError`]; an older package of the same version is whole then.
pub fn make(program: &[u8], linked: &str, out: &Path) -> Result<PathBuf, DebError> {
    fs::create_dir_all(out).map_err(file("make", out))?;
    let work = tempfile::Builder::new().prefix(".deb-").tempdir_in(out);
    let work = work.map_err(file("make a directory in", out))?;
    let root = work.path().join("root");
    let doc = format!("usr/share/doc/{NAME}");
    let copyright = format!("{}{linked}", packaged!("debian/copyright"));
    for (path, mode, text) in FILES {
        put(&root, path, mode, text.as_bytes())?;
    }
    put(&root, PROGRAM, 0o755, program)?;
    put(&root, &format!("{doc}/copyright"), 0o644, copyright.as_bytes())?;
    for (name, page) in manual().map_err(DebError::Manual)? {
        let path = format!("usr/share/man/man8/{name}.8.gz");
        put(&root, &path, 0o644, &gzip(&page).map_err(DebError::Manual)?)?;
    }
    put(&root, "DEBIAN/conffiles", 0o644, format!("/{EXAMPLE}\n").as_bytes())?;
    put(&root, "DEBIAN/control", 0o644, control(&root)?.as_bytes())?;
    date(&root)?;

    let name = format!("{NAME}_{}_{ARCHITECTURE}.deb", env!("CARGO_PKG_VERSION"));
    let partial = work.path().join(&name);
    Tool::new("dpkg-deb", format!("make {name}"))
        .args(["--root-owner-group", "--uniform-compression", "-Zxz", "--build"])
        .args([&root, &partial])
        .run()?;
    let path = out.join(name);
    fs::rename(&partial, &path).map_err(file("write", &path))?;
    Ok(path)
}

/// The manual pages: name and roff.
fn manual() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = unseal_cli::Cli::command().disable_help_subcommand(true);
    command.build();
    let pages = std::iter::once(&command).chain(command.get_subcommands());
    pages
        .map(|page| {
            let name = page.get_display_name().unwrap_or(page.get_name()).to_owned();
            let mut roff = Vec::new();
            clap_mangen::Man::new(page.clone())
                .section("8")
                .manual("System administration")
                .render(&mut roff)?;
            Ok((name, roff))
        })
        .collect()
}

/// The control file; `Installed-Size` counts in KiB (Debian Policy 5.6.20).
fn control(root: &Path) -> Result<String, DebError> {
    let size: u64 = files(root)?.iter().map(|(_, length)| length.div_ceil(1024)).sum();
    Ok(format!(
        "Package: {NAME}\n\
         Version: {}\n\
         Architecture: {ARCHITECTURE}\n\
         Maintainer: msec-boot <root@localhost>\n\
         Installed-Size: {size}\n\
         Depends: initramfs-tools-core | dracut-core\n\
         Section: admin\n\
         Priority: optional\n\
         Description: unlocks a TPM-sealed LUKS2 root from Debian's initramfs\n \
          A step of initramfs-tools and of dracut: one static program gets the root's key\n \
          out of a TPM 2.0 if what was booted measures as what was sealed against, asks\n \
          for the recovery key otherwise, and seals a new root on the first boot.\n \
          .\n \
          It does nothing before there is an /etc/initramfs-unseal.json; an example lies\n \
          beside. See /usr/share/doc/{NAME}/other-initramfs.md.\n",
        env!("CARGO_PKG_VERSION"),
    ))
}

fn file<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DebError + use<'a> {
    move |source| DebError::File { what, path: path.to_owned(), source }
}

/// Writes one file of the package.
fn put(root: &Path, path: &str, mode: u32, content: &[u8]) -> Result<(), DebError> {
    let path = root.join(path);
    let parent = path.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(file("make", parent))?;
    fs::write(&path, content).map_err(file("write", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(file("write", &path))
}

/// Gives everything the one date, and directories the one mode, whatever the umask.
fn date(root: &Path) -> Result<(), DebError> {
    for (path, _) in files(root)? {
        if path.is_dir() {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&path, mode).map_err(file("write", &path))?;
        }
        Tool::new("touch", format!("date {}", path.display()))
            .arg(format!("--date=@{SOURCE_DATE_EPOCH}"))
            .arg(&path)
            .run()?;
    }
    Ok(())
}

/// Everything below `root` with its length, directories after what is in them.
fn files(root: &Path) -> Result<Vec<(PathBuf, u64)>, DebError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(file("read", root))? {
        let path = entry.map_err(file("read", root))?.path();
        let meta = fs::symlink_metadata(&path).map_err(file("read", &path))?;
        if meta.is_dir() {
            found.extend(files(&path)?);
        }
        found.push((path, meta.len()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_manual_page() {
        let pages = manual().unwrap();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"initramfs-unseal"), "{names:?}");
        assert!(names.contains(&"initramfs-unseal-unlock"), "{names:?}");
        for (name, page) in &pages {
            let text = String::from_utf8_lossy(page);
            assert!(text.contains(&format!(".TH {name} 8")), "{text}");
        }
    }

    #[test]
    fn scripts_are_short_and_nothing_in_them_is_a_secret() {
        for (path, mode, text) in FILES.iter().filter(|(_, mode, _)| mode & 0o111 != 0) {
            assert!(text.starts_with("#!/bin/"), "{path}: {mode:o}");
            assert!(text.lines().count() < 50, "{path}");
            // The recovery key is typed into the program and goes by no pipe.
            assert!(!text.contains("| initramfs-unseal"), "{path}");
        }
    }
}
