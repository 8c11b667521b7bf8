//! One boot: look, decide ([`crate::flow`]), and carry the decision out, by the TPM
//! ([`by_tpm`]) or by hand ([`by_hand`]).

mod by_hand;
mod by_tpm;
mod found;
mod guesses;

use crate::authority::Approved;
use crate::blockdev;
use crate::board;
use crate::config::Config;
use crate::console::Consoles;
use crate::disk_state::Seen;
use crate::evidence::{Evidence, check_boot, firmware_and};
use crate::flow::{self, Plan, RootFound, TpmFound, Why};
use crate::integrity::Kernel;
use crate::luks::Volume;
use crate::pin::Pin;
use crate::provision::{self, Provisioning};
use crate::report::{Method, Report};
use crate::status::Objects;
use crate::switch_root;
use crate::tpm::platform::Platform;
use crate::tpm::{DEVICE, Index, Tpm, TpmError};
use crate::update::firmware::{self, PutBack};
use crate::volume::{self, Fingerprint, LATCH, LEAVE_INITRD, OPENED_BY_HAND, PHASES};
use anyhow::{Context as _, Result, anyhow, bail};
use by_tpm::Unlocked;
use found::{Found, look_at_index};
use guesses::BY_CHOICE;
use pcr_measure::pcr::PcrIndex;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The root stays closed, and that is an answer: what was found says so, or nobody
/// had the key.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// A boot under way.
#[derive(Debug)]
pub struct Boot {
    config: Config,
    consoles: Consoles,
    report: Report,
    tpm: Option<Tpm>,
    provisioned: bool,
    /// What the TPM has verified in this boot, and not in the one before.
    approved: Option<Approved>,
    /// The PIN that was chosen in this boot; asked for once is enough.
    pin: Option<Pin>,
    /// TPM commands of a provisioning that came before the unlock.
    commands_before: u32,
    /// Whether this boot may be ended by a restart.
    may_restart: bool,
}

impl Boot {
    /// A boot with this configuration.
    #[must_use]
    pub fn new(config: Config, consoles: Consoles) -> Self {
        let mut report = Report::default();
        report.reached("start");
        Self {
            config,
            consoles,
            report,
            tpm: None,
            provisioned: false,
            approved: None,
            pin: None,
            commands_before: 0,
            may_restart: false,
        }
    }

    /// Gets the root open and enters it. Returns only when that cannot be.
    ///
    /// # Errors
    /// What to tell the operator before the power goes off; [`PutBack`] where the board has
    /// to start again.
    pub fn run(&mut self) -> Result<Infallible> {
        self.may_restart = true;
        let method = self.open_root()?;
        self.enter(method)
    }

    /// Gets the root open and leaves it to somebody else to enter. Returns the
    /// device of the opened volume.
    ///
    /// Whatever goes wrong, the boot goes on in other hands: the latch is shut
    /// and the platform hierarchy closed then too.
    ///
    /// # Errors
    /// What to tell the operator; [`Refused`] where that is an answer and no failure.
    pub fn run_step(&mut self) -> Result<PathBuf> {
        let done = self.open_root().and_then(|method| {
            self.conclude(method, "handed-over")?;
            Ok(self.config.device())
        });
        if done.is_err() {
            let latched = self.latch();
            if let Some(mut tpm) = self.tpm.take() {
                self.close_platform(&mut tpm);
            }
            latched?;
        }
        done
    }

    /// Everything up to the opened volume, for both kinds of boot.
    fn open_root(&mut self) -> Result<Method> {
        let patience = Duration::from_secs(self.config.wait_seconds.into());
        self.find_tpm(patience);
        self.report.reached("tpm");
        let root = self.config.root();
        blockdev::wait_for(
            &root,
            patience,
            "check that the card is seated and that its partition table is whole; write the image again if it is not",
        )?;
        self.report.reached("root-device");
        loop {
            let (mut found, tpm, index) = self.look(&root)?;
            self.report.sealed =
                found.token.as_ref().map(|token| Objects::new(&self.config, &token.srk_name));
            match flow::plan(self.config.provision, tpm, found.root) {
                Plan::Provision(step) => {
                    self.provision(step)?;
                    self.provisioned = true;
                    self.commands_before = self.tpm.as_ref().map_or(0, Tpm::commands);
                }
                Plan::Unlock { lock_index } => {
                    let (Some(volume), Some(token)) = (found.volume.as_mut(), &found.token) else {
                        bail!("no volume to open")
                    };
                    let refusal = match self.unlock(volume, token, index.as_ref(), lock_index) {
                        Ok(Unlocked::Open(key, pin)) => {
                            let method =
                                if self.provisioned { Method::Provisioned } else { Method::Tpm };
                            self.consoles.say("unlocked by the TPM");
                            self.keep_approval(volume);
                            self.keep_lockout(token, &key);
                            self.retire(volume, &key, pin.as_ref(), token);
                            return Ok(method);
                        }
                        Ok(Unlocked::ByHand(key)) => (BY_CHOICE.to_owned(), Some(key)),
                        Err(why) => (why.to_string(), None),
                    };
                    let (why, typed) = refusal;
                    if typed.is_none()
                        && let Some(put_back) = self.put_firmware_back()
                    {
                        self.latch()?;
                        return Err(put_back.into());
                    }
                    self.recover(volume, found.token.as_ref(), &why, typed)?;
                    return Ok(Method::Recovery);
                }
                Plan::Recover(why) => {
                    let Some(volume) = found.volume.as_mut() else { bail!("no volume to open") };
                    self.recover(volume, found.token.as_ref(), &why.to_string(), None)?;
                    return Ok(Method::Recovery);
                }
                Plan::Halt(Why::BadHeader) => {
                    self.latch()?;
                    let why = found.refusal.unwrap_or_else(|| Why::BadHeader.to_string());
                    bail!(Refused(why));
                }
                Plan::Halt(why) => bail!(Refused(why.to_string())),
            }
        }
    }

    fn find_tpm(&mut self, patience: Duration) {
        let path = Path::new(DEVICE);
        let opened = blockdev::wait_for(path, patience, "")
            .map_err(|_| TpmError::Absent(DEVICE.into()))
            .and_then(|()| Tpm::open(path));
        match opened {
            Ok(tpm) => self.tpm = Some(tpm),
            Err(why) => self.consoles.say(&why.to_string()),
        }
    }

    /// After an update that brought firmware and was given up by U-Boot: the good slot
    /// runs, was started by what is not its own, and sees to it.
    fn put_firmware_back(&mut self) -> Option<PutBack> {
        let tpm = self.tpm.as_mut().filter(|_| self.may_restart)?;
        let live = tpm.pcrs(&firmware::of_a_slot().ok()?).ok()?;
        firmware::put_back(&self.config.partition(self.config.boot_partition), &live)
    }

    /// What is on the root partition and in the TPM.
    fn look(&mut self, root: &Path) -> Result<(Found, TpmFound, Option<Index>)> {
        let seen = blockdev::look(root, self.config.reserve())?;
        let found = match seen {
            Seen::Plain(_) => Found::only(RootFound::Plain),
            Seen::Moved { header: false, .. } => Found::only(RootFound::Moved),
            Seen::Unknown => Found::only(RootFound::Unknown),
            Seen::Luks => Found::luks(root, self.config.reserve()),
            // A header in the reserve counts only once encryption has begun.
            Seen::Moved { header: true, .. } => match Found::luks(root, self.config.reserve()) {
                luks @ Found { root: RootFound::Luks { reencrypting: true, .. }, .. } => luks,
                _ => Found::only(RootFound::Moved),
            },
        };
        self.report.reached("header");
        let Some(tpm) = self.tpm.as_mut() else {
            let silent = board::has_tpm(Path::new("/"));
            let tpm = if silent { TpmFound::Silent } else { TpmFound::Absent };
            return Ok((found, tpm, None));
        };
        match look_at_index(tpm, &self.config, found.token.as_ref()) {
            Ok((state, index)) => Ok((found, TpmFound::Index(state), index)),
            // It cannot help; a root that is provisioned still opens by hand.
            Err(broken) => {
                self.consoles.say(&broken.to_string());
                Ok((found, TpmFound::Absent, None))
            }
        }
    }

    fn provision(&mut self, step: flow::Step) -> Result<()> {
        let pin = self.config.pin.then(|| self.choose_pin(step)).transpose()?;
        if pin.is_some() && matches!(step, flow::Step::Grow | flow::Step::Seal) {
            self.limit_guesses()?;
        }
        let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpmToProvision) };
        let boot_partition = self.config.partition(self.config.boot_partition);
        let Evidence { manifests, signatures, log } = Evidence::read(&boot_partition)?;
        let live = tpm.pcrs(&firmware_and(&self.config.pcrs)?)?;
        let (manifest, reference) = check_boot(&self.config.pcrs, &manifests, &log, &live)
            .context("this boot must not be sealed against")?;
        let cpu_has_aes =
            std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| provision::has_aes(&text));
        Provisioning {
            config: &self.config,
            tpm,
            consoles: &self.consoles,
            reference: &reference,
            manifest: &manifest,
            signatures,
            cpu_has_aes,
            pin: pin.as_ref(),
        }
        .run(step)?;
        self.pin = pin;
        Ok(())
    }

    /// Opens the volume: the one way for the TPM's key and the recovery key
    /// alike. The latch shuts before the volume opens.
    fn open(
        &mut self,
        volume: &mut Volume,
        slot: u32,
        passphrase: &[u8],
        fingerprint: Option<Fingerprint>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        let key = volume.volume_key(slot, passphrase)?;
        self.report.reached("keyslot");
        if fingerprint.is_some_and(|wanted| wanted != Fingerprint::of(&key)) {
            bail!("the volume's key is not the one that was sealed: the LUKS2 volume was replaced");
        }
        let measurement = volume::measurement(&key, &self.config.mapper, &volume.uuid()?);
        if let Some(tpm) = self.tpm.as_mut() {
            tpm.extend(pcr(LATCH)?, &measurement)?;
            tpm.extend(pcr(PHASES)?, &volume::words(LEAVE_INITRD))?;
        }
        self.report.reached("latched");
        volume.activate(&self.config.mapper, &key)?;
        self.report.reached("mapped");
        Ok(key)
    }

    /// Shuts the latch: nothing can be unsealed any more in this boot.
    fn latch(&mut self) -> Result<()> {
        let Some(tpm) = self.tpm.as_mut() else { return Ok(()) };
        match tpm.extend(pcr(LATCH)?, &volume::words(OPENED_BY_HAND)) {
            // A TPM in failure mode unseals nothing either.
            Ok(()) | Err(TpmError::FailureMode) => {
                self.report.reached("latched");
                Ok(())
            }
            Err(e) => Err(anyhow!("PCR 15 cannot be extended, so the root is not opened: {e}")),
        }
    }

    /// Takes the platform hierarchy from the running system. A TPM that will not is
    /// reported and no reason to stay out: what the hierarchy can do is destroy, never
    /// read the secret, and refusing to boot would destroy as well.
    fn close_platform(&self, tpm: &mut Tpm) -> Platform {
        let state = tpm.close_platform();
        if let Platform::Open(why) = &state {
            self.consoles.say(&format!(
                "the TPM's platform hierarchy could not be disabled, root can use it: {why}"
            ));
        }
        state
    }

    fn enter(&mut self, method: Method) -> Result<Infallible> {
        // Behind the volume: its table, with names of this device, is no file that a policy is
        // about, and would be in IMA's list.
        if let Some(integrity) = &self.config.integrity {
            let in_force = integrity
                .enforce(Kernel::default())
                .context("the running system would not be held to its policy")?;
            self.consoles.say(&in_force.to_string());
            self.report.reached("integrity");
        }
        let device = self.config.device();
        switch_root::mount_root(&device)?;
        self.report.reached("mounted");
        self.conclude(method, "switch-root")?;
        self.consoles.say(&format!("switching root to {}", device.display()));
        Ok(switch_root::switch()?)
    }

    /// The end of every boot that opened the root: the platform hierarchy and the
    /// report. `stage` is what comes next.
    fn conclude(&mut self, method: Method, stage: &'static str) -> Result<()> {
        self.report.method = Some(method);
        // Taken out, so that the connection closes: what follows uses the resource manager.
        if let Some(mut tpm) = self.tpm.take() {
            self.report.tpm_commands = tpm.commands().saturating_sub(self.commands_before);
            self.report.platform = Some(self.close_platform(&mut tpm));
        }
        self.report.reached(stage);
        self.report.write().context("writing the report")
    }
}

fn pcr(number: u8) -> Result<PcrIndex> {
    Ok(PcrIndex::new(number.into())?)
}
