//! Keylime from PyPI, pinned by hash, in the cache; where it cannot be had tests are skipped,
//! unless `MSEC_REQUIRE_TOOLS` is in the environment.

#![allow(dead_code)] // No test uses all of it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use pcr_measure::Sha256Digest;

const REQUIREMENTS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../ima-policy/tests/keylime/requirements.txt");

/// The directory of the pinned Keylime, made once.
pub(crate) fn keylime() -> Option<&'static Path> {
    static KEYLIME: OnceLock<Option<PathBuf>> = OnceLock::new();
    KEYLIME
        .get_or_init(|| match install() {
            Ok(path) => Some(path),
            Err(why) => {
                assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{why}");
                eprintln!("skipped: {why}");
                None
            }
        })
        .as_deref()
}

fn install() -> Result<PathBuf, String> {
    let cache = std::env::var_os("MSEC_CACHE").ok_or("no MSEC_CACHE: run it in the build root")?;
    let wanted = Sha256Digest::of(&fs::read(REQUIREMENTS).unwrap()).to_string();
    let path = Path::new(&cache).join(format!("keylime-{}", &wanted[..16]));
    if path.exists() {
        return Ok(path);
    }
    // Beside, and renamed: a cut leaves no half of it. Scripts in it name the directory that
    // they were made for, so they are started by its Python.
    let beside = tempfile::tempdir_in(&cache).map_err(|error| error.to_string())?;
    let step = |command: &mut Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{command:?}: {}", said(&output))),
        Err(error) => Err(format!("{command:?}: {error}")),
    };
    // Debian's gpg module is the system's.
    let venv = ["-m", "venv", "--system-site-packages"];
    step(Command::new("python3").args(venv).arg(beside.path()))?;
    let pip = ["-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:"];
    step(Command::new(beside.path().join("bin/python3")).args(pip).args([
        "--ignore-installed",
        "--no-deps",
        "-r",
        REQUIREMENTS,
    ]))?;
    step(Command::new(beside.path().join("bin/python3")).args(["-c", "import gpg, keylime"]))?;
    match fs::rename(beside.keep(), &path) {
        // Another test was faster.
        Err(_) if path.exists() => Ok(path),
        renamed => renamed.map(|()| path).map_err(|error| error.to_string()),
    }
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn python(keylime: &Path, script: &str, args: &[&OsStr]) -> Output {
    Command::new(keylime.join("bin/python3")).args(["-c", script]).args(args).output().unwrap()
}
