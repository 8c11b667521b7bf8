//! The journey: five boots of one device.

use std::path::{Path, PathBuf};

use crate::{
    emu::{
        boot::{Boot, BootError},
        card::{Card, CardError},
        device::{Device, DeviceError, RecoveryKey},
        shell::{Shell, Status},
    },
    progress::Progress,
};

use ima_policy::{list::ListError, reference::Reference};

use super::collector::CollectorError;
use super::record::{BootRecord, Journey, Ran};

/// The images of a journey, all of one recipe and signed by one key.
#[derive(Debug, Clone)]
pub struct Images {
    /// As built.
    pub original: Card,
    /// With a changed command line.
    pub command_line: Card,
    /// With a changed initramfs.
    pub initramfs: Card,
    /// What a healthy boot of the original may measure while it runs; none where no policy
    /// is loaded.
    pub reference: Option<Reference>,
    /// The QEMU for boards with their TPM on SPI, if they are for such.
    pub emulator: Option<PathBuf>,
}

/// Why a journey did not go as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JourneyError {
    /// A boot went another way, or could not be followed.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The device cannot be made.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A card cannot be used.
    #[error(transparent)]
    Card(#[from] CardError),
    /// A list cannot be judged.
    #[error(transparent)]
    List(#[from] ListError),
    /// No collector of logs.
    #[error(transparent)]
    Collector(#[from] CollectorError),
}

/// A program of the root that is changed in the last boot.
const CHANGED: &str = "/usr/sbin/msec-update";

/// What the userland tries with Debian's tools: a policy session bound to the PCRs
/// as they are, and a read of the index under it. It is what anyone with root would
/// try first; the TPM has to refuse the read.
const TPM2_TOOLS: [&str; 3] = [
    "tpm2_startauthsession --policy-session -S /run/try.session",
    "tpm2_policypcr -Q -S /run/try.session -l sha256:{pcrs}",
    "tpm2_nvread {index} -P session:/run/try.session -o /run/try.secret",
];

/// A device that has come to the end of the journey.
#[derive(Debug)]
pub struct Done {
    /// The device, off, with the original image's boot files.
    pub device: Device,
    /// Its recovery key.
    pub recovery_key: RecoveryKey,
}

/// How tpm2-tools name a refusal of the TPM: `TPM_RC_POLICY_FAIL` of session 1 and
/// `TPM_RC_NV_LOCKED` (TCG Part 2, 6.6.3). Any other failure would prove nothing.
const REFUSALS: [&str; 2] = ["(0x99D)", "(0x148)"];

/// Runs the journey in `dir`; its device stays there, and each boot's logs in a
/// directory of the boot's name. What was seen goes into `seen` boot by boot, so
/// that it is there when a later boot deviates.
///
/// # Errors
/// [`JourneyError`], which names boot, expectation, what came instead, and the log.
pub fn journey(
    images: &Images,
    dir: &Path,
    progress: &Progress,
    seen: &mut Journey,
) -> Result<Done, JourneyError> {
    let mut device =
        Device::new(&dir.join("device"), &images.original)?.with_emulator(images.emulator.clone());
    let mut run = Run { images, dir, progress, seen };
    let key = run.provision(&device)?;
    run.unlock("2-unlock", "unlocks by itself", &device, None)?;
    device.card.take_boot_files_of(&images.command_line)?;
    let title = "changed command line: the TPM refuses, the recovery key opens";
    run.refuse("3a-command-line", title, &device, &images.command_line, "command line", &key)?;
    device.card.take_boot_files_of(&images.initramfs)?;
    let title = "changed initramfs: the TPM refuses, the recovery key opens";
    run.refuse("3b-initramfs", title, &device, &images.initramfs, "initramfs", &key)?;
    device.card.take_boot_files_of(&images.original)?;
    let (title, changed) = match images.reference {
        Some(_) => {
            ("the original again: unlocks by itself; a changed program is told", Some(CHANGED))
        }
        None => ("the original again: unlocks by itself", None),
    };
    run.unlock("4-original", title, &device, changed)?;
    Ok(Done { device, recovery_key: key })
}

struct Run<'a> {
    images: &'a Images,
    dir: &'a Path,
    progress: &'a Progress,
    seen: &'a mut Journey,
}

impl Run<'_> {
    /// Boot 1: a plain root becomes an encrypted one.
    fn provision(&mut self, device: &Device) -> Result<RecoveryKey, JourneyError> {
        let (name, title) = ("1-provision", "provisions: encrypts the root, seals its key");
        let task = self.progress.task(name);
        task.step("power-on");
        let mut boot = device.boot(name, &self.dir.join(name))?;
        let key = provision(&mut boot, |step| task.step(step))?;
        let seen = self.userland(&mut boot, "provisioned", |_, _| Ok(()))?;
        self.record(name, title, &boot, seen, &self.images.original);
        task.finish();
        Ok(key)
    }

    /// A boot that unlocks by itself.
    /// `changed`: a program that is changed and started there.
    fn unlock(
        &mut self,
        name: &str,
        title: &str,
        device: &Device,
        changed: Option<&str>,
    ) -> Result<(), JourneyError> {
        let task = self.progress.task(name);
        task.step("power-on");
        let mut boot = device.boot(name, &self.dir.join(name))?;
        boot.expect("initramfs-unseal starts", "initramfs-unseal: msec-boot ")?;
        task.step("unlock");
        boot.expect("the TPM unlocks the root", "initramfs-unseal: unlocked by the TPM\n")?;
        task.step("userland");
        let (status, ran) = self.userland(&mut boot, "tpm", |shell, _| {
            let Some(program) = changed else { return Ok(()) };
            shell.run(&format!("echo >> {program}; {program} --version"))?;
            Ok(())
        })?;
        let told: Vec<&String> = ran
            .told
            .iter()
            .filter(|told| changed.is_none_or(|path| !told.starts_with(path)))
            .collect();
        if !told.is_empty() || ran.told.len() != usize::from(changed.is_some()) {
            let what = "IMA's list has what changed and nothing else that is not foretold";
            return Err(boot.deviation(what, format!("{:?}", ran.told)).into());
        }
        self.record(name, title, &boot, (status, ran), &self.images.original);
        task.finish();
        Ok(())
    }

    /// A boot the TPM refuses, opened by hand.
    fn refuse(
        &mut self,
        name: &str,
        title: &str,
        device: &Device,
        booted: &Card,
        component: &str,
        key: &RecoveryKey,
    ) -> Result<(), JourneyError> {
        let task = self.progress.task(name);
        task.step("power-on");
        let mut boot = device.boot(name, &self.dir.join(name))?;
        refusal(&mut boot, component)?;
        task.step("recovery key");
        boot.type_recovery_key(key)?;
        boot.expect("the recovery key opens", "initramfs-unseal: unlocked by the recovery key\n")?;
        task.step("userland");
        let mut tools = String::new();
        let (status, ran) = self.userland(&mut boot, "recovery", |shell, status| {
            tools = tpm2_tools_refused(shell, status)?;
            Ok(())
        })?;
        let named: Vec<_> = status.report.differences.iter().map(|d| &*d.component).collect();
        if named != [component] {
            let what = format!("the report names {component} and nothing else");
            return Err(boot.deviation(&what, format!("{named:?}")).into());
        }
        self.record(name, title, &boot, (status, ran), booted);
        if let Some(last) = self.seen.boots.last_mut() {
            last.secret.tpm2_tools = Some(tools);
        }
        task.finish();
        Ok(())
    }

    /// The userland's part of every boot: status, whatever `more` does, power-off.
    fn userland(
        &self,
        boot: &mut Boot,
        method: &str,
        more: impl FnOnce(&mut Shell<'_>, &Status) -> Result<(), BootError>,
    ) -> Result<(Status, Ran), JourneyError> {
        let mut shell = boot.userland()?;
        let status = shell.status()?;
        more(&mut shell, &status)?;
        let records = shell.measurements()?;
        shell.power_off()?;
        check_status(boot, &status, method)?;
        let ran = Ran::of(&records, self.images.reference.as_ref(), &status.pcrs)?;
        if !ran.leads_to_pcr {
            return Err(boot.deviation("IMA's list leads to PCR 10", "another value").into());
        }
        Ok((status, ran))
    }

    fn record(
        &mut self,
        name: &str,
        title: &str,
        boot: &Boot,
        (status, ran): (Status, Ran),
        booted: &Card,
    ) {
        let manifests = (booted.manifest(), self.images.original.manifest());
        self.seen.boots.push(BootRecord::of(name, title, boot, status, ran, manifests));
    }
}

/// Follows a provisioning to its end; gives the recovery key.
///
/// # Errors
/// [`BootError`] when it does not get there.
pub fn provision(boot: &mut Boot, step: impl Fn(&str)) -> Result<RecoveryKey, BootError> {
    boot.expect("provisioning starts", "initramfs-unseal: provisioning: [^\n]*\n")?;
    step("encrypting the root");
    let key = boot.recovery_key()?;
    boot.expect("the root is provisioned", "initramfs-unseal: provisioned: [^\n]*\n")?;
    step("userland");
    Ok(key)
}

/// Follows a boot to the refusal that names `component`.
///
/// # Errors
/// [`BootError`] when the TPM unlocks, or another component is named first.
pub fn refusal(boot: &mut Boot, component: &str) -> Result<(), BootError> {
    let said = boot.expect(
        "the TPM refuses the key",
        "initramfs-unseal: (the TPM did not release the key|unlocked by [^\n]*)",
    )?;
    if said.text.starts_with("unlocked") {
        return Err(boot.deviation("the TPM refuses the key", said.text));
    }
    let named = boot.expect(
        "the console names what differs",
        "initramfs-unseal: (?:differs: PCR [0-9]+, ([^:\n]*):|(enter the recovery key))",
    )?;
    if named.text == component {
        Ok(())
    } else {
        Err(boot.deviation(&format!("the console names {component}"), named.text))
    }
}

fn check_status(boot: &Boot, status: &Status, method: &str) -> Result<(), BootError> {
    let check = |what: &str, expected: &str, got: &str| {
        if expected == got {
            Ok(())
        } else {
            Err(boot.deviation(&format!("{what} {expected:?}"), format!("{got:?}")))
        }
    };
    check("the root was unlocked by", method, &status.report.method)?;
    check("the root lies on", "/dev/mapper/root", &status.root.source)?;
    check("the secret is", "unreachable", &status.sealed)
}

/// Tries to read the secret with Debian's tools.
///
/// # Errors
/// [`BootError::Deviation`] when they get it, or fail before the TPM had to decide.
pub fn tpm2_tools_refused(shell: &mut Shell<'_>, status: &Status) -> Result<String, BootError> {
    let Some(sealed) = &status.report.sealed else {
        return Err(shell.boot().deviation("the report names the TPM objects", "nothing"));
    };
    let pcrs: Vec<String> = sealed.pcrs.iter().map(u32::to_string).collect();
    let mut output = None;
    for command in TPM2_TOOLS {
        let command =
            command.replace("{pcrs}", &pcrs.join(",")).replace("{index}", &sealed.nv_index);
        if let Some(before) = output.replace(shell.run(&format!("{command} 2>&1"))?)
            && before.code != 0
        {
            return Err(shell.boot().deviation("tpm2-tools start a policy session", before.text));
        }
    }
    let Some(read) = output else { return Ok(String::new()) };
    let refusal = read.text.lines().find(|line| REFUSALS.iter().any(|code| line.contains(code)));
    match refusal {
        Some(line) if read.code != 0 => Ok(line.trim().to_owned()),
        _ => {
            let instead = format!("exit code {}: {}", read.code, read.text.trim());
            Err(shell.boot().deviation("the TPM refuses tpm2_nvread", instead))
        }
    }
}
