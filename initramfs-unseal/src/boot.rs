//! One boot: look, decide ([`crate::flow`]), and carry the decision out.

use crate::authority::{self, SignedError};
use crate::blockdev;
use crate::board;
use crate::boot_partition::{BootPartition, read_bounded};
use crate::config::Config;
use crate::console::{Answer, Consoles};
use crate::disk_state::Seen;
use crate::flow::{self, IndexState, Plan, RootFound, TpmFound, Why};
use crate::luks::{LuksError, Volume};
use crate::provision::{self, BootError, Provisioning};
use crate::recovery::RecoveryKey;
use crate::report::{Method, Report};
use crate::status::Objects;
use crate::switch_root;
use crate::token::{RECOVERY_SLOT, TPM_SLOT, Token};
use crate::tpm::platform::Platform;
use crate::tpm::{Index, Tpm, TpmError, Unsealing};
use crate::volume::{self, Fingerprint, LATCH, LEAVE_INITRD, OPENED_BY_HAND, PHASES};
use anyhow::{Context as _, Result, anyhow, bail};
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::{Difference, MeasuredLog, explain};
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrIndex, PcrSelection};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The TPM itself, without the kernel's resource manager.
const TPM_DEVICE: &str = "/dev/tpm0";
/// Where Linux shows the firmware's event log.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Largest event log that is read, in bytes. U-Boot's has room for 64 KiB.
const MAX_EVENT_LOG: u64 = 1 << 20;
/// The boot manifest on the boot partition, and the most bytes of it that are read.
const MANIFEST: &str = "manifest.json";
/// See [`MANIFEST`].
const MAX_MANIFEST: u64 = 256 << 10;
/// The PCRs that firmware and boot loader measure into.
const FIRMWARE_PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// A boot under way.
#[derive(Debug)]
pub struct Boot {
    config: Config,
    consoles: Consoles,
    report: Report,
    tpm: Option<Tpm>,
    provisioned: bool,
    /// TPM commands of a provisioning that came before the unlock.
    commands_before: u32,
}

impl Boot {
    /// A boot with this configuration.
    #[must_use]
    pub fn new(config: Config, consoles: Consoles) -> Self {
        let mut report = Report::default();
        report.reached("start");
        Self { config, consoles, report, tpm: None, provisioned: false, commands_before: 0 }
    }

    /// Gets the root open and enters it. Returns only when that cannot be.
    ///
    /// # Errors
    /// What to tell the operator before the power goes off.
    pub fn run(&mut self) -> Result<Infallible> {
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
                    let Some(volume) = found.volume.as_mut() else { bail!("no volume to open") };
                    match self.unlock(volume, &found.token, index.as_ref(), lock_index) {
                        Ok(()) => {
                            let method =
                                if self.provisioned { Method::Provisioned } else { Method::Tpm };
                            self.consoles.say("unlocked by the TPM");
                            return self.enter(method);
                        }
                        Err(why) => self.recover(volume, found.token.as_ref(), &why.to_string())?,
                    }
                    return self.enter(Method::Recovery);
                }
                Plan::Recover(why) => {
                    let Some(volume) = found.volume.as_mut() else { bail!("no volume to open") };
                    self.recover(volume, found.token.as_ref(), &why.to_string())?;
                    return self.enter(Method::Recovery);
                }
                Plan::Halt(Why::BadHeader) => {
                    self.latch()?;
                    bail!("{}", found.refusal.unwrap_or_else(|| Why::BadHeader.to_string()));
                }
                Plan::Halt(why) => bail!(why),
            }
        }
    }

    fn find_tpm(&mut self, patience: Duration) {
        let path = Path::new(TPM_DEVICE);
        let opened = blockdev::wait_for(path, patience, "")
            .map_err(|_| TpmError::Absent(TPM_DEVICE.into()))
            .and_then(|()| Tpm::open(path));
        match opened {
            Ok(tpm) => self.tpm = Some(tpm),
            Err(why) => self.consoles.say(&why.to_string()),
        }
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
        let index = match self.tpm.as_mut().map(|tpm| tpm.index(self.config.nv_index)) {
            None if board::has_tpm(Path::new("/")) => return Ok((found, TpmFound::Silent, None)),
            None => return Ok((found, TpmFound::Absent, None)),
            Some(Ok(index)) => index,
            // It cannot help; a root that is provisioned still opens by hand.
            Some(Err(broken)) => {
                self.consoles.say(&broken.to_string());
                return Ok((found, TpmFound::Absent, None));
            }
        };
        let state = index.as_ref().map_or(IndexState::Missing, Index::state);
        Ok((found, TpmFound::Index(state), index))
    }

    fn provision(&mut self, step: flow::Step) -> Result<()> {
        let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpmToProvision) };
        let boot_partition = self.config.partition(self.config.boot_partition);
        let files = [(MANIFEST, MAX_MANIFEST), (authority::FILE, authority::MAX_FILE)];
        let unreadable = |e: std::io::Error| BootError::NoManifest(e.to_string());
        let [manifest, signatures] =
            BootPartition::read_files(&boot_partition, files).map_err(unreadable)?;
        let manifest = manifest.map_err(unreadable)?;
        let log = read_bounded(Path::new(EVENT_LOG), MAX_EVENT_LOG)
            .map_err(|e| BootError::NoLog(e.to_string()))?;
        let firmware = PcrSelection::sha256(&FIRMWARE_PCRS)?;
        let all = firmware.iter().chain(self.config.pcrs.iter());
        let all = PcrSelection::new(firmware.bank(), all)?;
        let live = tpm.pcrs(&all)?;
        let reference = provision::check_boot(&self.config.pcrs, &manifest, &log, &live)
            .context("this boot must not be sealed against")?;
        let cpu_has_aes =
            std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| provision::has_aes(&text));
        Provisioning {
            config: &self.config,
            tpm,
            consoles: &self.consoles,
            reference: &reference,
            manifest: &Manifest::from_json(&manifest)?,
            signatures: signatures.map_err(|e| e.to_string()),
            cpu_has_aes,
        }
        .run(step)?;
        Ok(())
    }

    /// The TPM's way. Any error leaves the volume closed.
    fn unlock(
        &mut self,
        volume: &mut Volume,
        token: &Option<Token>,
        index: Option<&Index>,
        lock_index: bool,
    ) -> Result<()> {
        let (Some(tpm), Some(index), Some(token)) = (self.tpm.as_mut(), index, token.as_ref())
        else {
            bail!(Why::NoTpm);
        };
        let what = Unsealing {
            srk: self.config.srk,
            srk_name: &token.srk_name,
            pcrs: &self.config.pcrs,
            nv_index: self.config.nv_index,
            lock: true,
        };
        let sealed = match &self.config.signed {
            None => tpm.unseal(index, what)?,
            Some(authority) => {
                let file = read_signatures(&self.config)?;
                self.report.reached("signatures");
                tpm.unseal_signed(index, what, authority, &file)?
            }
        };
        self.report.reached("unsealed");
        if lock_index {
            tpm.lock_index(index, self.config.nv_index)?;
        }
        self.open(volume, TPM_SLOT, sealed.secret.expose(), Some(sealed.fingerprint))
    }

    /// Opens the volume: the one way for the TPM's key and the recovery key
    /// alike. The latch shuts before the volume opens.
    fn open(
        &mut self,
        volume: &mut Volume,
        slot: u32,
        passphrase: &[u8],
        fingerprint: Option<Fingerprint>,
    ) -> Result<()> {
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
        Ok(())
    }

    /// The operator's way: latch, explain, ask.
    fn recover(&mut self, volume: &mut Volume, token: Option<&Token>, why: &str) -> Result<()> {
        self.report.refusal = Some(why.to_string());
        // Read before the latch changes PCR 15; needed for words alone.
        if let (None, Some(tpm)) = (&self.report.pcrs, self.tpm.as_mut()) {
            self.report.pcrs = tpm.pcrs(&self.config.pcrs).ok();
        }
        self.latch()?;
        self.consoles.say(&format!("the TPM did not release the key: {why}"));
        if let (Some(token), Some(live)) = (token, self.report.pcrs.as_ref()) {
            self.report.differences = differences(token, live);
        }
        for difference in &self.report.differences {
            self.consoles.say(&difference.to_string());
        }
        self.ask(volume)
    }

    fn ask(&mut self, volume: &mut Volume) -> Result<()> {
        let question = format!("enter the recovery key for {}", self.config.root().display());
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        let tries = self.config.recovery_tries;
        for attempt in 1..=tries {
            let typed = match self.consoles.ask(&question, patience) {
                Answer::Line(line) => line,
                Answer::TimedOut => bail!("nobody entered the recovery key"),
                Answer::NoConsole => bail!(
                    "there is no console to enter the recovery key on: connect one and boot again"
                ),
            };
            let result = match RecoveryKey::parse(&typed) {
                Some(key) => self.open(volume, RECOVERY_SLOT, key.expose().as_bytes(), None),
                None => Err(LuksError::WrongKey(RECOVERY_SLOT).into()),
            };
            match result {
                Ok(()) => {
                    self.consoles.say("unlocked by the recovery key");
                    return Ok(());
                }
                Err(e) if matches!(e.downcast_ref(), Some(LuksError::WrongKey(_))) => {
                    self.consoles.say(&format!("wrong recovery key (try {attempt} of {tries})"));
                }
                Err(e) => return Err(e),
            }
        }
        bail!("{tries} wrong recovery keys")
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
        let device = PathBuf::from("/dev/mapper").join(&self.config.mapper);
        switch_root::mount_root(&device)?;
        self.report.reached("mounted");
        self.report.method = Some(method);
        // Taken out, so that the connection closes: what follows uses the resource manager.
        if let Some(mut tpm) = self.tpm.take() {
            self.report.tpm_commands = tpm.commands().saturating_sub(self.commands_before);
            self.report.platform = Some(self.close_platform(&mut tpm));
        }
        self.report.reached("switch-root");
        self.report.write().context("writing the report")?;
        self.consoles.say(&format!("switching root to {}", device.display()));
        Ok(switch_root::switch()?)
    }
}

/// The root, with what belongs to it.
struct Found {
    root: RootFound,
    volume: Option<Volume>,
    token: Option<Token>,
    refusal: Option<String>,
}

impl Found {
    fn only(root: RootFound) -> Self {
        Self { root, volume: None, token: None, refusal: None }
    }

    fn luks(path: &Path, data_offset: u64) -> Self {
        let refused = |why: String| Self { refusal: Some(why), ..Self::only(RootFound::BadHeader) };
        let mut volume = match Volume::load(path) {
            Ok(volume) => volume,
            Err(e) => {
                return refused(format!(
                    "the LUKS2 header is damaged or was tampered with ({e}): write the image to the card again"
                ));
            }
        };
        match volume.check(data_offset) {
            Ok(Ok(facts)) => {
                let token = volume.metadata().ok().and_then(|m| Token::find(&m).ok()).map(|t| t.1);
                let phase = token.as_ref().map(|t| t.phase);
                let root = RootFound::Luks { reencrypting: facts.reencrypting, token: phase };
                Self { root, volume: Some(volume), token, refusal: None }
            }
            Ok(Err(refusal)) => refused(refusal.to_string()),
            Err(e) => refused(e.to_string()),
        }
    }
}

/// What differs from the boot that was sealed against; advice for a person.
fn differences(token: &Token, live: &PcrBank) -> Vec<Difference> {
    let log = read_bounded(Path::new(EVENT_LOG), MAX_EVENT_LOG).unwrap_or_default();
    let log = EventLog::parse(&log);
    let measured = MeasuredLog::from_log(&log);
    explain(&token.reference, Some(&measured), live).sealed_differences()
}

/// The signed policies, as they lie on the boot partition.
fn read_signatures(config: &Config) -> Result<Vec<u8>, SignedError> {
    let missing = |e: std::io::Error| SignedError::NoFile(e.to_string());
    let partition = config.partition(config.boot_partition);
    let [file] = BootPartition::read_files(&partition, [(authority::FILE, authority::MAX_FILE)])
        .map_err(missing)?;
    file.map_err(missing)
}

fn pcr(number: u8) -> Result<PcrIndex> {
    Ok(PcrIndex::new(number.into())?)
}
