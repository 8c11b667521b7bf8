//! Trees of Debian's packages, opened without their scripts.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use image_builder::image::packages::Package;

/// Opens packages into a new tree at `root`.
///
/// # Panics
/// When one cannot be opened; the log's path is in the message.
pub fn all(packages: &[Package], root: &Path, log: &Path) {
    fs::create_dir_all(root).expect("a directory");
    // The links of a merged /usr first.
    let (first, rest): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| package.name == "base-files");
    for package in first.into_iter().chain(rest) {
        one(&package.deb, root, log);
    }
}

/// Opens a package into a tree.
///
/// # Panics
/// As [`all`].
pub fn one(package: &Path, root: &Path, log: &Path) {
    let mut data = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .expect("dpkg-deb");
    let from = data.stdout.take().expect("a pipe");
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--keep-directory-symlink", "--directory"]).arg(root).stdin(from);
    run(&mut tar, log);
    assert!(data.wait().expect("dpkg-deb").success(), "{}", package.display());
}

/// Runs a command; its words go to the log.
///
/// # Panics
/// When it fails; the log's path is in the message.
pub fn run(command: &mut Command, log: &Path) {
    let open = || fs::File::options().create(true).append(true).open(log).expect("the log");
    let status = command.stdout(open()).stderr(open()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}; log: {}", log.display());
}
