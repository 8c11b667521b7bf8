//! The environment that every build command gets: the same on every host. This
//! file's text is part of every component's key.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Time stamps in what is built: 2026-01-01 00:00:00 UTC, so that the same
/// inputs give the same bytes.
const SOURCE_DATE_EPOCH: &str = "1767225600";

/// A command that inherits no variable.
pub(super) fn command(program: impl AsRef<OsStr>, dir: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .env("TZ", "UTC")
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH)
        .current_dir(dir);
    command
}
