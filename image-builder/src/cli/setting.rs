//! What the commands need to begin: the checkout, the cache, the lock file.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::Global;
use crate::artifacts::KeyDir;
use crate::cache::Cache;
use crate::component::plan::{Context, Plan};
use crate::component::{self, Component, ensure_signing_key};
use crate::image::tamper::Signing;
use crate::keys::{self, Role};
use crate::progress::Progress;
use crate::recipe::{Firmware, Target};
use crate::sources::newer::{self, WhenGone};
use crate::sources::store::Store;

/// The lock file's place in the checkout. It also tells a checkout from other
/// directories.
const LOCK: &str = "image-builder/sources.lock";

/// Prints a result. A reader that has seen enough (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot print the result")
        }
        _ => Ok(()),
    }
}

/// Prints a result in JSON, on lines of its own.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value).context("cannot write JSON")?))
}

/// Where the build root has checkout and cache, and the variable that names the
/// same directory outside of it.
const MOUNTS: [(&str, &str); 2] =
    [("/msec/src", "MSEC_HOST_SRC"), ("/msec/cache", "MSEC_HOST_CACHE")];

/// A text for a person, who looks for its paths outside of the build root.
pub(super) fn for_host(text: &str) -> String {
    translate(text, |variable| std::env::var(variable).ok())
}

fn translate(text: &str, get: impl Fn(&str) -> Option<String>) -> String {
    MOUNTS.iter().fold(text.to_owned(), |text, (inside, variable)| match get(variable) {
        Some(outside) => text.replace(inside, &outside),
        None => text,
    })
}

/// The checkout: the given directory, or the nearest one above the current.
pub(super) fn tree(global: &Global) -> anyhow::Result<PathBuf> {
    if let Some(tree) = &global.tree {
        if !tree.join(LOCK).is_file() {
            bail!("{} is no checkout of msec-boot: it has no {LOCK}", tree.display());
        }
        return tree.canonicalize().with_context(|| format!("cannot resolve {}", tree.display()));
    }
    let current = std::env::current_dir().context("cannot tell the current directory")?;
    match current.ancestors().find(|dir| dir.join(LOCK).is_file()) {
        Some(dir) => Ok(dir.to_owned()),
        None => bail!(
            "no {LOCK} here or above: run this in a checkout of msec-boot, or give it as --tree"
        ),
    }
}

/// The lock file of this checkout.
pub(super) fn lock_file(tree: &Path) -> PathBuf {
    tree.join(LOCK)
}

/// What to do about versions that the mirror has dropped.
pub(super) fn when_gone(global: &Global) -> WhenGone {
    if global.take_newer { WhenGone::TakeNewer } else { WhenGone::from_env() }
}

/// Everything that builds start from. Makes the signing key if there is none. Nothing is
/// for the lab, and the TPM is the one of a recipe that does not say; a build takes what
/// its recipe says.
pub(super) fn context(global: &Global) -> anyhow::Result<Context> {
    let tools = Context::tools()?;
    let tree = tree(global)?;
    let cache = Cache::from_env()?;
    let signing_key = ensure_signing_key(&cache, global.signing_key.as_deref())?;
    // Somebody's own directory may do without, where no recipe asks for it.
    if global.signing_key.is_none() {
        keys::ensure(&signing_key, Role::Ima, false)?;
    }
    Ok(Context {
        lock: newer::in_force(&lock_file(&tree), &Store::new(&cache), when_gone(global))?,
        signing_key,
        target: Target::default(),
        tools,
        cache,
        tree,
    })
}

/// The vendor's keys; made where there are none.
pub(super) fn keys(global: &Global) -> anyhow::Result<KeyDir> {
    let keys = ensure_signing_key(&Cache::from_env()?, global.signing_key.as_deref())?;
    keys::ensure(&keys, Role::Update, global.signing_key.is_some())?;
    Ok(keys)
}

/// As [`context`], for a build: it may have to take newer versions.
pub(super) fn context_to_build(global: &Global, progress: &Progress) -> anyhow::Result<Context> {
    let mut context = context(global)?;
    let store = Store::new(&context.cache);
    context.lock = newer::settle(&lock_file(&context.tree), &store, when_gone(global), progress)?;
    Ok(context)
}

/// U-Boot's tools for signed FITs, as an earlier build left them in the cache; builds
/// nothing. They are the same whatever that U-Boot was for.
pub(super) struct UbootTools {
    /// What signs.
    pub(super) signing: Signing,
    /// What checks a signature.
    pub(super) fit_check_sign: PathBuf,
}

/// Looks the tools up.
pub(super) fn u_boot_tools(global: &Global) -> anyhow::Result<UbootTools> {
    let mut context = context(global)?;
    for firmware in [Firmware::default(), Firmware::UBoot] {
        context.target.firmware = firmware;
        let u_boot = Plan::new(&context, &[Component::UBoot])?.dir(Component::UBoot);
        let (mkimage, fit_check_sign) = (u_boot.join("mkimage"), u_boot.join("fit_check_sign"));
        if mkimage.is_file() && fit_check_sign.is_file() {
            let signing = Signing { mkimage, keys: context.signing_key };
            return Ok(UbootTools { signing, fit_check_sign });
        }
    }
    bail!("not built yet; run `image-builder build` first")
}

/// Our QEMU (TPM on SPI, a watchdog that counts), if an earlier build left it in the cache.
pub(super) fn emulator(global: &Global) -> Option<PathBuf> {
    let plan = Plan::new(&context(global).ok()?, &[Component::Qemu]).ok()?;
    Some(plan.dir(Component::Qemu).join(component::QEMU)).filter(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn paths_are_the_ones_outside() {
        let text = "see /msec/cache/logs/x.log and /msec/src/build";
        let outside = |variable: &str| {
            Some(if variable == "MSEC_HOST_SRC" { "/home/a" } else { "/c" }.to_owned())
        };
        assert_eq!(translate(text, outside), "see /c/logs/x.log and /home/a/build");
        assert_eq!(translate(text, |_| None), text);
    }
}
