//! The Debian that every image of a set of packages begins with: mmdebstrap installs exactly
//! the locked packages, their maintainer scripts run under qemu-user.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::entry::Entry;
use crate::cache::key::{Description, Kind};
use crate::cache::{CacheError, IoContext as _};
use crate::component::plan::{Context, significant};
use crate::image::packages::Package;
use crate::image::tool::{SOURCE_DATE_EPOCH, Tool, ToolError};
use crate::logged;
use crate::progress::Progress;

/// Its name in the cache.
const NAME: &str = "debian";

/// The architecture of every board so far.
const ARCHITECTURE: &str = "arm64";

/// Runs programs of the build root where those of the boards run, too.
const FOREIGN: &str = "image-builder/buildroot/arm64";

/// What dpkg leaves out: manuals, other languages, names of hardware that nobody looks up on a
/// board. Licences (`copyright`) stay.
const LEFT_OUT: [&str; 12] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    // 20 MB, and as much again in the database that is made of them.
    "path-exclude=/usr/lib/udev/hwdb.d/20-OUI.hwdb",
    "path-exclude=/usr/lib/udev/hwdb.d/20-pci-*.hwdb",
    "path-exclude=/usr/lib/udev/hwdb.d/20-usb-*.hwdb",
    "path-exclude=/usr/lib/udev/hwdb.d/20-bluetooth-*.hwdb",
    "path-exclude=/usr/lib/udev/hwdb.d/20-acpi-*.hwdb",
    // The build may be cut at any time: what it leaves then is thrown away.
    "force-unsafe-io",
];

/// Takes away what is this machine's, what must not be the same on two devices, and the
/// copies that shadow-utils keep of the files they have changed.
const CLEAN: &str = "cd \"$1\"; rm -f etc/hostname etc/apt/sources.list etc/ssh/ssh_host_*_key* \
                     etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/subuid- etc/subgid- \
                     var/cache/ldconfig/aux-cache var/lib/dbus/machine-id";

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// mmdebstrap failed.
    #[error("mmdebstrap failed ({status}). The last lines of {}:\n{tail}", log.display())]
    Failed {
        /// How it ended.
        status: String,
        /// Where all its words are.
        log: PathBuf,
        /// Its last words.
        tail: String,
    },
    /// The packages cannot be listed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The cache refused something.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Where the base of these packages lies, or will lie.
///
/// # Errors
/// When an input cannot be read.
pub fn entry(context: &Context, packages: &[Package]) -> Result<Entry, BaseError> {
    Ok(planned(context, packages)?.1)
}

fn planned(context: &Context, packages: &[Package]) -> Result<(Description, Entry), BaseError> {
    let mut description = Description::new(NAME);
    let code = significant(include_str!("base.rs"));
    description.contents(Kind::Code, "build", code.as_bytes());
    let script = context.tree.join(FOREIGN);
    let text = fs::read(&script).on("cannot read", &script)?;
    description.contents(Kind::Code, FOREIGN, &text);
    description.text(Kind::Tools, "build root", &context.tools);
    for package in packages {
        let content = fs::read(&package.deb).on("cannot read", &package.deb)?;
        description.contents(Kind::Source, &package.name, &content);
    }
    let entry = Entry::new(&context.cache, NAME, &description.key());
    Ok((description, entry))
}

/// The archive (`tar`, with owners, modes and extended attributes) of the root that these
/// packages make; made if the cache has it not.
///
/// # Errors
/// If mmdebstrap fails, or a directory cannot be written.
pub fn obtain(
    context: &Context,
    packages: &[Package],
    progress: &Progress,
) -> Result<PathBuf, BaseError> {
    let (description, entry) = planned(context, packages)?;
    let archive = entry.dir().join("root.tar");
    if entry.exists() {
        return Ok(archive);
    }
    let task = progress.task(NAME);
    let claim = entry.claim(|| task.step("waiting: another process builds it"))?;
    if !entry.exists() {
        let out = entry.begin(&claim)?;
        let repository = entry.work().join("repository");
        lay_repository(packages, &repository)?;
        let tmp = entry.work().join("tmp");
        fs::create_dir(&tmp).on("cannot create", &tmp)?;
        let mut command = mmdebstrap(&context.tree, packages, &repository, &tmp, &out);
        if let Err(failure) = logged::run(&mut command, "mmdebstrap", &task, entry.log())? {
            return Err(BaseError::Failed {
                status: failure.status,
                log: entry.log().to_owned(),
                tail: failure.tail,
            });
        }
        entry.finish(claim, &description.to_text())?;
    }
    task.finish();
    Ok(archive)
}

/// A repository of these packages and no others. Their hashes are those of the lock file, so
/// that nothing needs to be signed.
fn lay_repository(packages: &[Package], dir: &Path) -> Result<(), BaseError> {
    fs::create_dir(dir).on("cannot create", dir)?;
    for package in packages {
        let to = dir.join(package.deb.file_name().unwrap_or_default());
        // The store may lie on another disk.
        match fs::hard_link(&package.deb, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fs::copy(&package.deb, &to).map(drop)
            }
            other => other,
        }
        .on("cannot write", &to)?;
    }
    let index = Tool::new("dpkg-scanpackages", "list the packages of the root")
        .in_dir(dir)
        .args(["--multiversion", "."])
        .run()?;
    let path = dir.join("Packages");
    Ok(fs::write(&path, index).on("cannot write", &path)?)
}

fn mmdebstrap(
    tree: &Path,
    packages: &[Package],
    repository: &Path,
    tmp: &Path,
    out: &Path,
) -> Command {
    let names: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut command = Command::new("bash");
    command
        .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
        .arg(tree.join(FOREIGN))
        .args(["env", &format!("TMPDIR={}", tmp.display())])
        // The essential packages first, as apt on a running system would have them.
        .args(["mmdebstrap", "--verbose", "--mode=root", "--variant=essential"])
        .arg(format!("--architectures={ARCHITECTURE}"))
        // It looks in the host's table, which has nothing to do with ours. The nodes below
        // /dev are there in the archive or not, depending on who may make them.
        .args(["--skip=check/qemu", "--skip=output/dev"])
        .arg(format!("--include={}", names.join(",")))
        .args(LEFT_OUT.map(|option| format!("--dpkgopt={option}")))
        .arg(format!("--customize-hook={CLEAN}"))
        // No suite: everything that is in the repository.
        .arg("")
        .arg(out.join("root.tar"))
        .arg(format!("deb [trusted=yes] copy:{} ./", repository.display()));
    command
}
