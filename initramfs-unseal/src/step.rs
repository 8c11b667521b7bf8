//! `unlock`: the boot as one step of somebody else's initramfs (initramfs-tools,
//! dracut). It opens the volume and ends; who called it mounts the root.
//!
//! What the caller has done: /proc, /sys, /dev and /run are mounted, drivers are
//! loaded. What it must not do: give anybody a shell before this step, or after it
//! has failed (docs/other-initramfs.md).

use crate::boot::Boot;
use crate::config::Config;
use crate::console::Consoles;
use crate::sys;
use crate::tpm::{DEVICE, Tpm};
use crate::volume::{self, LATCH, OPENED_BY_HAND};
use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MsFlags, mount};
use pcr_measure::pcr::PcrIndex;
use std::path::Path;

/// Where the kernel shows the event log, and whether somebody mounts it is chance.
const SECURITYFS: &str = "/sys/kernel/security";

/// Opens the root that the configuration file names.
///
/// # Errors
/// What to tell the operator; it was told on every console. [`crate::boot::Refused`]
/// where the root stays closed by an answer and not by a failure.
pub fn unlock(config: &Path) -> Result<()> {
    // The first thing that happens: from here on there are secrets.
    let hardened = sys::harden().context("keeping secrets in this process");
    let consoles = Consoles::open();
    let _settings = consoles.settings();
    consoles.say(concat!("msec-boot ", env!("CARGO_PKG_VERSION")));
    show_event_log();
    let done = match hardened.and_then(|()| Ok(Config::read(config)?)) {
        Ok(config) => Boot::new(config, consoles).run_step(),
        Err(why) => Err(match shut_latch() {
            Ok(()) => why,
            Err(latch) => anyhow!("{why:#}; PCR 15 cannot be extended: {latch:#}"),
        }),
    };
    let consoles = Consoles::open();
    match &done {
        Ok(device) => consoles.say(&format!("{} is open", device.display())),
        Err(why) => consoles.say(&format!("the root stays closed: {why:#}")),
    }
    done.map(drop)
}

/// Shows the event log. Without it nothing can be provisioned and a refusal cannot be
/// explained, which both say so themselves; unlocking does not need it.
fn show_event_log() {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("securityfs"), SECURITYFS, Some("securityfs"), flags, None::<&str>);
}

/// Shuts the latch where there is not even a configuration to boot by.
fn shut_latch() -> Result<()> {
    let mut tpm = Tpm::open(Path::new(DEVICE))?;
    tpm.extend(PcrIndex::new(LATCH.into())?, &volume::words(OPENED_BY_HAND))?;
    Ok(())
}
