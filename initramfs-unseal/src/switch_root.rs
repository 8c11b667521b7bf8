//! Leaving the initramfs: the opened root becomes `/`, its init becomes PID 1.

use nix::mount::{MsFlags, mount};
use std::convert::Infallible;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the root is mounted before it becomes `/`.
pub const SYSROOT: &str = "/sysroot";
/// The program that takes over.
const INIT: &CStr = c"/sbin/init";
/// Mounts that move along.
const KEPT: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Why the root could not be entered.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct SwitchError {
    what: String,
    cause: io::Error,
}

/// Mounts the opened volume.
///
/// # Errors
/// [`SwitchError`] of mount(2).
pub fn mount_root(device: &Path) -> Result<(), SwitchError> {
    fs::create_dir_all(SYSROOT).map_err(|e| error("making the mount point", e))?;
    mount(Some(device), SYSROOT, Some("ext4"), MsFlags::empty(), None::<&str>)
        .map_err(|e| error(&format!("mounting {} on {SYSROOT}", device.display()), e.into()))
}

/// Moves the mounts, removes the initramfs' files so that their memory comes
/// back, and runs the root's init. Returns only when that fails.
///
/// # Errors
/// [`SwitchError`].
pub fn switch() -> Result<Infallible, SwitchError> {
    for name in KEPT {
        let target = format!("{SYSROOT}/{name}");
        fs::create_dir_all(&target).map_err(|e| error(&format!("making {target}"), e))?;
        mount(
            Some(format!("/{name}").as_str()),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .map_err(|e| error(&format!("moving /{name}"), e.into()))?;
    }
    let old = fs::metadata("/").map_err(|e| error("looking at /", e))?.dev();
    std::env::set_current_dir(SYSROOT).map_err(|e| error("entering the root", e))?;
    empty(Path::new("/"), old);
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(|e| error("moving the root", e.into()))?;
    nix::unistd::chroot(".").map_err(|e| error("entering the root", e.into()))?;
    std::env::set_current_dir("/").map_err(|e| error("entering the root", e))?;
    nix::unistd::execve(INIT, &[INIT], &[] as &[&CStr])
        .map_err(|e| error(&format!("starting {}", INIT.to_string_lossy()), e.into()))
}

/// Removes what lies below `dir` on file system `device` and nowhere else.
/// What cannot be removed only costs memory.
fn empty(dir: &Path, device: u64) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        if found.dev() != device {
            continue;
        }
        if found.is_dir() {
            empty(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

fn error(what: &str, cause: io::Error) -> SwitchError {
    SwitchError { what: what.to_string(), cause }
}
