//! The kernel that a policy is for.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ima_policy::policy::Kernel;
use ima_policy::root::Root;
use pcr_measure::command::read;

/// Largest `.config` that is read, in bytes. Debian's have 300 KiB.
const MAX_CONFIG: usize = 4 << 20;

#[derive(Debug, Args)]
pub(super) struct KernelArgs {
    /// The kernel's release, as `uname -r` says it there
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Its `.config`; without it everything is taken to be built in that a rule may want
    #[arg(long, value_name = "FILE")]
    kernel_config: Option<PathBuf>,
}

impl KernelArgs {
    /// The kernel that was named, or else the one that `found` finds.
    pub(super) fn kernel(&self, found: impl FnOnce() -> Result<String>) -> Result<Kernel> {
        let release = match &self.kernel {
            Some(release) => release.clone(),
            None => found()?,
        };
        let kernel = Kernel::new(&release)?;
        let Some(path) = &self.kernel_config else { return Ok(kernel) };
        let config = String::from_utf8(read(path, MAX_CONFIG)?)
            .with_context(|| format!("{} is no .config of a kernel", path.display()))?;
        Ok(kernel.with_config(&config)?)
    }
}

/// The release of the kernel that runs here.
pub(super) fn running() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/osrelease");
    let release = String::from_utf8(read(path, 256)?).context("its release is no text")?;
    Ok(release.trim_end().to_owned())
}

/// The release of a root's one kernel, by its directory of modules.
pub(super) fn of_root(root: &Root) -> Result<String> {
    let names = match root.names(Path::new("/lib/modules")) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context("/lib/modules in the root cannot be read"),
    };
    match names.as_slice() {
        [one] => Ok(one.to_string_lossy().into_owned()),
        [] => bail!("the root has no kernel's modules: say with --kernel for which it is"),
        _ => bail!("the root has modules of several kernels: say with --kernel which is meant"),
    }
}
