//! PID 1 of the initramfs: set the stage, run the boot, and if that fails say
//! why and turn the power off. There is no other way out, and no shell.

use crate::boot::Boot;
use crate::boot_partition::BootPartition;
use crate::config::{self, Config};
use crate::console::Consoles;
use crate::sys;
use crate::update::firmware::PutBack;
use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use pcr_measure::slots::{STATE_FILE, STATE_LEN, Slots};
use std::path::Path;

/// What is mounted first: source, target, type, flags.
const MOUNTS: [(&str, &str, &str, MsFlags); 5] = [
    ("proc", "/proc", "proc", PSEUDO),
    ("sysfs", "/sys", "sysfs", PSEUDO),
    ("devtmpfs", "/dev", "devtmpfs", MsFlags::MS_NOSUID),
    ("tmpfs", "/run", "tmpfs", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV)),
    ("securityfs", "/sys/kernel/security", "securityfs", PSEUDO),
];
const PSEUDO: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// Only errors of the kernel go to the console while people read there.
const CONSOLE_LEVEL: &str = "4";

/// Runs as PID 1.
pub fn run() -> ! {
    let prepared = prepare();
    let consoles = Consoles::open();
    consoles.say(concat!("msec-boot ", env!("CARGO_PKG_VERSION")));
    let mut boot_partition = None;
    let why = match prepared.and_then(|()| Ok(Config::read(Path::new(config::PATH))?)) {
        Ok(config) => {
            boot_partition = Some(config.partition(config.boot_partition));
            match Boot::new(config, consoles).run() {
                Ok(never) => match never {},
                Err(why) => why,
            }
        }
        Err(why) => why,
    };
    if why.is::<PutBack>() {
        Consoles::open().say(&format!("restarting: {why}"));
        sys::restart()
    }
    // An update that does not come up must not need a visit. U-Boot counts the attempts:
    // when there is none left it takes the boot from before.
    if boot_partition.is_some_and(|device| on_trial(&device)) {
        Consoles::open().say(&format!("restarting, for an update is on trial: {why:#}"));
        sys::restart()
    }
    Consoles::open().say(&format!("powering off: {why:#}"));
    sys::power_off()
}

/// Whether the card says that a slot is on trial. A claim, and nothing hangs on it but
/// how a boot ends that has opened nothing.
fn on_trial(boot_partition: &Path) -> bool {
    let file = [(STATE_FILE, STATE_LEN as u64)];
    let Ok([Ok(state)]) = BootPartition::read_files(boot_partition, file) else { return false };
    Slots::decode(&state).is_ok_and(|slots| slots.trial.is_some())
}

fn prepare() -> Result<()> {
    for (source, target, kind, flags) in MOUNTS {
        std::fs::create_dir_all(target).with_context(|| format!("making {target}"))?;
        match mount(Some(source), target, Some(kind), flags, None::<&str>) {
            // CONFIG_DEVTMPFS_MOUNT may have done it.
            Ok(()) | Err(nix::errno::Errno::EBUSY) => {}
            Err(e) => return Err(e).with_context(|| format!("mounting {target}")),
        }
    }
    sys::harden().context("keeping secrets in this process")?;
    // PID 1 does not take the signal that it becomes.
    sys::disable_ctrl_alt_del().context("disabling Ctrl-Alt-Del")?;
    // Not worth stopping for: it only makes the console harder to read.
    let _ = std::fs::write("/proc/sys/kernel/printk", CONSOLE_LEVEL);
    Ok(())
}
