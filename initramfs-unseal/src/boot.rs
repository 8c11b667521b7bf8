//! One boot: look, decide ([`crate::flow`]), and carry the decision out.

use crate::authority::{self, Approved, SignedError};
use crate::blockdev;
use crate::board;
use crate::boot_partition::{BootPartition, read_bounded};
use crate::config::Config;
use crate::console::{Answer, Consoles};
use crate::disk_state::Seen;
use crate::flow::{self, IndexState, Plan, RootFound, TpmFound, Why};
use crate::guard::Guard;
use crate::luks::{LuksError, Volume};
use crate::pin::Pin;
use crate::provision::{self, BootError, Provisioning};
use crate::recovery::RecoveryKey;
use crate::report::{Method, Report};
use crate::reseal::request::known;
use crate::reseal::{self, ResealError, Resealing};
use crate::sealed::Sealed;
use crate::status::Objects;
use crate::switch_root;
use crate::token::{Phase, Place, RECOVERY_SLOT, SPARE_SLOT, TPM_SLOT, Token};
use crate::tpm::platform::Platform;
use crate::tpm::{Index, Tpm, TpmError, Unsealing, lockout};
use crate::volume::{self, Fingerprint, LATCH, LEAVE_INITRD, OPENED_BY_HAND, PHASES};
use anyhow::{Context as _, Result, anyhow, bail};
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::{Difference, MeasuredLog, explain};
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrError, PcrIndex, PcrSelection};
use pcr_measure::policy;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

/// The TPM itself, without the kernel's resource manager.
pub(crate) const TPM_DEVICE: &str = "/dev/tpm0";
/// Where Linux shows the firmware's event log.
pub(crate) const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Largest event log that is read, in bytes. U-Boot's has room for 64 KiB.
pub(crate) const MAX_EVENT_LOG: u64 = 1 << 20;
/// The boot manifest on the boot partition, and the most bytes of it that are read.
pub(crate) const MANIFEST: &str = "manifest.json";
/// See [`MANIFEST`].
pub(crate) const MAX_MANIFEST: u64 = 256 << 10;
/// The PCRs that firmware and boot loader measure into.
const FIRMWARE_PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

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
        }
    }

    /// Gets the root open and enters it. Returns only when that cannot be.
    ///
    /// # Errors
    /// What to tell the operator before the power goes off.
    pub fn run(&mut self) -> Result<Infallible> {
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
                            self.retire(volume, &key, pin.as_ref(), token);
                            return Ok(method);
                        }
                        Ok(Unlocked::ByHand(key)) => (BY_CHOICE.to_owned(), Some(key)),
                        Err(why) => (why.to_string(), None),
                    };
                    let (why, typed) = refusal;
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
        let files = [(MANIFEST, MAX_MANIFEST), (authority::FILE, authority::MAX_FILE)];
        let unreadable = |e: std::io::Error| BootError::NoManifest(e.to_string());
        let [manifest, signatures] =
            BootPartition::read_files(&boot_partition, files).map_err(unreadable)?;
        let manifest = manifest.map_err(unreadable)?;
        let log = read_bounded(Path::new(EVENT_LOG), MAX_EVENT_LOG)
            .map_err(|e| BootError::NoLog(e.to_string()))?;
        let live = tpm.pcrs(&firmware_and(&self.config.pcrs)?)?;
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
            pin: pin.as_ref(),
        }
        .run(step)?;
        self.pin = pin;
        Ok(())
    }

    /// Sets how many wrong PINs the TPM lets through. Safe to repeat until the lockout
    /// hierarchy has its password, which comes last.
    fn limit_guesses(&mut self) -> Result<()> {
        let Some(mut tpm) = self.tpm.take() else { bail!(Why::NoTpmToProvision) };
        if tpm.lockout_has_password()? {
            bail!(TpmError::WrongPassword);
        }
        let (tpm, done) = lockout::aside(tpm, Path::new(TPM_DEVICE), lockout::set_parameters);
        self.tpm = tpm;
        Ok(done?)
    }

    /// Forgives the wrong PINs of a root that the recovery key has opened.
    fn forgive_guesses(&mut self, token: &Token, volume_key: &[u8]) -> Result<()> {
        let Some(mut tpm) = self.tpm.take() else { return Ok(()) };
        let (srk, name) = (self.config.srk, &token.srk_name);
        if let Err(why) = tpm.open_lockout(srk, name, volume_key) {
            self.tpm = Some(tpm);
            return Err(why.into());
        }
        let (tpm, done) = lockout::aside(tpm, Path::new(TPM_DEVICE), lockout::forgive);
        self.tpm = tpm;
        let closed = self.tpm.as_mut().map(|tpm| tpm.close_lockout(srk, name, volume_key));
        done?;
        Ok(closed.transpose().map(drop)?)
    }

    /// The PIN of a root that is being provisioned: chosen before it is sealed, asked
    /// for again where that was cut.
    fn choose_pin(&mut self, step: flow::Step) -> Result<Pin> {
        let chosen = matches!(step, flow::Step::Encrypt | flow::Step::Finish);
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        loop {
            let mut ask = |question: &str| match self.consoles.ask(question, patience) {
                Answer::Line(line) => Ok(line),
                Answer::TimedOut => Err(anyhow!("nobody entered a PIN")),
                Answer::NoConsole => Err(anyhow!("there is no console to enter a PIN on")),
            };
            let first = ask(if chosen { "enter the PIN that was chosen" } else { "choose a PIN" })?;
            let same = chosen || *ask("enter it again")? == *first;
            match Pin::parse(&first) {
                Ok(pin) if same => return Ok(pin),
                Ok(_) => self.consoles.say("the two were not the same"),
                Err(why) => self.consoles.say(&format!("this is no PIN: {why}")),
            }
        }
    }

    /// The TPM's way. Any error leaves the volume closed.
    fn unlock(
        &mut self,
        volume: &mut Volume,
        token: &Token,
        index: Option<&Index>,
        lock_index: bool,
    ) -> Result<Unlocked> {
        let Some(place) = token.place(self.config.indices()) else {
            bail!(ResealError::ForeignPlace(token.nv_index));
        };
        let Some(index) = index else { bail!(Why::IndexMissing) };
        let (sealed, pin) = match self.unseal(token, place, index)? {
            Unsealed::Sealed(sealed, pin) => (sealed, pin),
            Unsealed::ByHand(key) => return Ok(Unlocked::ByHand(key)),
        };
        self.report.reached("unsealed");
        if let (true, Some(tpm)) = (lock_index, self.tpm.as_mut()) {
            tpm.lock_index(index, place.nv_index)?;
        }
        let (secret, fingerprint) = (sealed.secret.expose(), sealed.fingerprint);
        let key = self.open(volume, place.slot, secret, Some(fingerprint))?;
        Ok(Unlocked::Open(key, pin))
    }

    /// Unseals; where there is a PIN, until it is right or the tries are used up.
    fn unseal(&mut self, token: &Token, place: Place, index: &Index) -> Result<Unsealed> {
        let guard = token.guard(self.config.signed.as_ref())?;
        let mut tries = 1..=self.config.recovery_tries;
        loop {
            let pin = match (guard.pin(), self.pin.take()) {
                (true, None) => match self.ask_pin()? {
                    Typed::RecoveryKey(key) => return Ok(Unsealed::ByHand(key)),
                    Typed::Pin(pin) => Some(pin),
                },
                (true, chosen) => chosen,
                (false, _) => None,
            };
            let what = Unsealing {
                srk: self.config.srk,
                srk_name: &token.srk_name,
                pcrs: &self.config.pcrs,
                guard: &guard,
                pin: pin.as_ref(),
                nv_index: place.nv_index,
                lock: true,
            };
            let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpm) };
            let config = &self.config;
            let result = match &config.signed {
                Some(authority) => {
                    let file = || read_signatures(config);
                    let known = token.approved.as_ref();
                    tpm.unseal_signed(index, what, authority, known, file)
                }
                None => tpm.unseal(index, what).map(|s| (s, None)).map_err(SignedError::Tpm),
            };
            if guard.pin() {
                // A cut from here on is none that guesses.
                tpm.orderly()?;
            }
            match result {
                Ok((sealed, approved)) => {
                    self.approved = approved;
                    return Ok(Unsealed::Sealed(sealed, pin));
                }
                Err(SignedError::Tpm(wrong @ TpmError::WrongPin)) => {
                    let Some(attempt) = tries.next() else { bail!(wrong) };
                    let of = self.config.recovery_tries;
                    self.consoles.say(&format!("wrong PIN (try {attempt} of {of})"));
                    if attempt == of {
                        bail!(wrong);
                    }
                }
                Err(why) => return Err(why.into()),
            }
        }
    }

    fn ask_pin(&mut self) -> Result<Typed> {
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        let question = format!("enter the PIN for {}", self.config.root().display());
        loop {
            let typed = match self.consoles.ask(&question, patience) {
                Answer::Line(line) => line,
                Answer::TimedOut => bail!("nobody entered the PIN"),
                Answer::NoConsole => bail!("there is no console to enter the PIN on"),
            };
            if let Some(key) = RecoveryKey::parse(&typed) {
                return Ok(Typed::RecoveryKey(key));
            }
            match Pin::parse(&typed) {
                Ok(pin) => return Ok(Typed::Pin(pin)),
                // It costs no try: the TPM has not seen it.
                Err(why) => self.consoles.say(&format!("this is no PIN: {why}")),
            }
        }
    }

    /// Keeps what the TPM has verified for the next boot: one write of the header for
    /// each new image. Without it the next boot verifies again.
    fn keep_approval(&mut self, volume: &mut Volume) {
        let Some(approved) = self.approved.take() else { return };
        let kept = volume.metadata().map_err(anyhow::Error::from).and_then(|metadata| {
            let (number, mut token) = Token::find(&metadata)?;
            token.approved = Some(approved);
            Ok(volume.replace_token(number, &token)?)
        });
        if let Err(why) = kept {
            self.consoles.say(&format!("the TPM's approval of this image is not kept: {why}"));
        }
    }

    /// Seals to this boot alone, when the running system has asked for it. A
    /// failure is no reason to stay out: the volume opens by the old secret.
    fn retire(&mut self, volume: &mut Volume, volume_key: &[u8], pin: Option<&Pin>, token: &Token) {
        if !token.retire || self.config.signed.is_some() {
            return;
        }
        match self.try_retire(volume, volume_key, pin, token) {
            Ok(()) => self.consoles.say("sealed to this boot alone from now on"),
            Err(why) => self.consoles.say(&format!("the other boots were not retired: {why}")),
        }
        self.report.reached("retired");
    }

    fn try_retire(
        &mut self,
        volume: &mut Volume,
        volume_key: &[u8],
        pin: Option<&Pin>,
        token: &Token,
    ) -> Result<()> {
        let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpm) };
        // What the TPM has just released the secret to; the token is only asked for
        // the words that go with it.
        let values = reseal::unlatched(&tpm.pcrs(&self.config.pcrs)?);
        let guard = Guard::one(policy::pcr_digest(&self.config.pcrs, &values)?);
        let guard = guard.with_pin(pin.is_some());
        let Some(reference) = known(token, &values, &self.config.pcrs)?.cloned() else {
            bail!("the LUKS2 token does not describe this boot");
        };
        let change = |token: &mut Token| {
            token.reference = reference;
            token.pending.clear();
        };
        let indices = self.config.indices();
        Resealing::new(tpm, volume, volume_key, indices, guard, pin, change)?.run()?;
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

    /// The operator's way: latch, explain, ask.
    fn recover(
        &mut self,
        volume: &mut Volume,
        token: Option<&Token>,
        why: &str,
        typed: Option<RecoveryKey>,
    ) -> Result<()> {
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
        self.ask(volume, token, typed)
    }

    /// Asks for the recovery key, or takes the one that stands for the first try.
    fn ask(
        &mut self,
        volume: &mut Volume,
        token: Option<&Token>,
        mut given: Option<RecoveryKey>,
    ) -> Result<()> {
        let question = format!("enter the recovery key for {}", self.config.root().display());
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        let tries = self.config.recovery_tries;
        let recovery = token.map_or(RECOVERY_SLOT, |token| token.recovery_slot);
        let others = passphrases(&volume.slots()?, token);
        for attempt in 1..=tries {
            let typed = match given.take() {
                Some(key) => Entered::RecoveryKey(key),
                None => match self.consoles.ask(&question, patience) {
                    Answer::Line(line) => match RecoveryKey::parse(&line) {
                        Some(key) => Entered::RecoveryKey(key),
                        None => Entered::Other(line),
                    },
                    Answer::TimedOut => bail!(Refused("nobody entered the recovery key".into())),
                    Answer::NoConsole => bail!(
                        "there is no console to enter the recovery key on: connect one and boot again"
                    ),
                },
            };
            let result = match typed {
                Entered::RecoveryKey(key) => {
                    self.open(volume, recovery, key.expose().as_bytes(), None)
                }
                Entered::Other(line) => self.open_by_any(volume, &others, &line),
            };
            match result {
                Ok(key) => {
                    self.consoles.say("unlocked by the recovery key");
                    if let Some(token) = token.filter(|token| token.pin) {
                        match self.forgive_guesses(token, &key) {
                            Ok(()) => self.consoles.say("wrong PINs are forgiven"),
                            Err(why) => {
                                self.consoles.say(&format!("wrong PINs are not forgiven: {why}"))
                            }
                        }
                    }
                    return Ok(());
                }
                Err(e) if matches!(e.downcast_ref(), Some(LuksError::WrongKey(_))) => {
                    self.consoles.say(&format!("wrong recovery key (try {attempt} of {tries})"));
                }
                Err(e) => return Err(e),
            }
        }
        bail!(Refused(format!("{tries} wrong recovery keys")))
    }

    /// Tries a passphrase on the slots that are nobody's but the operator's.
    fn open_by_any(
        &mut self,
        volume: &mut Volume,
        slots: &[u32],
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        for slot in slots {
            match self.open(volume, *slot, passphrase, None) {
                Err(e) if matches!(e.downcast_ref(), Some(LuksError::WrongKey(_))) => {}
                other => return other,
            }
        }
        Err(LuksError::WrongKey(RECOVERY_SLOT).into())
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

/// What came of the TPM's way.
enum Unlocked {
    /// The volume is open; this is its key, and the PIN where there is one.
    Open(Zeroizing<Vec<u8>>, Option<Pin>),
    /// Whoever was asked for the PIN entered the recovery key.
    ByHand(RecoveryKey),
}

/// What came of asking the TPM.
enum Unsealed {
    Sealed(Sealed, Option<Pin>),
    ByHand(RecoveryKey),
}

/// What was entered where the recovery key was asked for.
enum Entered {
    RecoveryKey(RecoveryKey),
    Other(Zeroizing<Vec<u8>>),
}

/// Slots that an operator made: all but the TPM's and the recovery key's. A root that
/// was encrypted in place has none.
fn passphrases(slots: &[u32], token: Option<&Token>) -> Vec<u32> {
    let ours = |slot: u32| {
        token.is_some_and(|token| {
            slot == token.recovery_slot || [TPM_SLOT, SPARE_SLOT].contains(&slot)
        })
    };
    slots.iter().copied().filter(|slot| !ours(*slot)).collect()
}

/// What was typed where a PIN was asked for.
enum Typed {
    Pin(Pin),
    RecoveryKey(RecoveryKey),
}

/// Why the TPM was not asked.
const BY_CHOICE: &str = "the recovery key was entered in place of the PIN";

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

/// The index that holds the secret of a sealed root, and how far it is. Where
/// provisioning may follow, one index that is finished stands for both: a board
/// that holds a sealed root anywhere shows no new recovery key.
fn look_at_index(
    tpm: &mut Tpm,
    config: &Config,
    token: Option<&Token>,
) -> Result<(IndexState, Option<Index>), TpmError> {
    let state = |index: &Option<Index>| index.as_ref().map_or(IndexState::Missing, Index::state);
    let sealed = token.filter(|token| token.phase == Phase::Sealed);
    if let Some((token, place)) = sealed.and_then(|t| Some((t, t.place(config.indices())?))) {
        let index = match token.guard(config.signed.as_ref()) {
            Ok(guard) => tpm.index_of(place.nv_index, &guard)?,
            Err(_) => tpm.index(place.nv_index)?,
        };
        return Ok((state(&index), index));
    }
    let [index, spare] = config.indices().map(|index| tpm.index(index));
    let (index, spare) = (index?, spare?);
    match state(&spare) {
        IndexState::Locked => Ok((IndexState::Locked, index)),
        _ => Ok((state(&index), index)),
    }
}

/// What differs from the boot that was sealed against, of several from the nearest;
/// advice for a person.
fn differences(token: &Token, live: &PcrBank) -> Vec<Difference> {
    let log = read_bounded(Path::new(EVENT_LOG), MAX_EVENT_LOG).unwrap_or_default();
    let log = EventLog::parse(&log);
    let measured = MeasuredLog::from_log(&log);
    token
        .boots()
        .map(|boot| explain(boot, Some(&measured), live).sealed_differences())
        .min_by_key(Vec::len)
        .unwrap_or_default()
}

/// The signed policies, as they lie on the boot partition.
fn read_signatures(config: &Config) -> Result<Vec<u8>, SignedError> {
    let missing = |e: std::io::Error| SignedError::NoFile(e.to_string());
    let partition = config.partition(config.boot_partition);
    let [file] = BootPartition::read_files(&partition, [(authority::FILE, authority::MAX_FILE)])
        .map_err(missing)?;
    file.map_err(missing)
}

/// The PCRs that firmware and boot loader measure into, and these.
pub(crate) fn firmware_and(pcrs: &PcrSelection) -> Result<PcrSelection, PcrError> {
    let firmware = PcrSelection::sha256(&FIRMWARE_PCRS)?;
    PcrSelection::new(firmware.bank(), firmware.iter().chain(pcrs.iter()))
}

fn pcr(number: u8) -> Result<PcrIndex> {
    Ok(PcrIndex::new(number.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::tests::sample;

    #[test]
    fn passphrases_are_tried_on_the_operators_slots_alone() {
        let mut token = sample();
        let cases = [
            (vec![0, 1], 0, vec![]),
            (vec![0, 1, 2], 0, vec![]),
            (vec![0, 1, 3], 3, vec![0]),
            (vec![0, 1, 3, 5], 0, vec![3, 5]),
        ];
        for (slots, recovery, want) in cases {
            token.recovery_slot = recovery;
            assert_eq!(passphrases(&slots, Some(&token)), want, "{slots:?}");
        }
        assert_eq!(passphrases(&[0, 1], None), [0, 1], "nothing is ours without a token");
    }
}
