//! `provision` in the running system: a LUKS2 root that exists gets the TPM's key
//! slot, a recovery key and our token. Nothing of its data changes.
//!
//! Nothing can be unsealed in a system that runs behind its latch, so the proof is
//! not a boot's: that the index is in the TPM as it should be, and that its secret
//! opens the slot. Each step may be cut: a volume without our token, or with one that
//! says "encrypting", is provisioned from the beginning by the next call, and opens by
//! its passphrases all along.

use super::{ProvisionError, Provisioning, has_aes};
use crate::authority::{Approved, SignedError};
use crate::boot_partition::BootPartition;
use crate::config::Config;
use crate::console::Consoles;
use crate::evidence::{BootError, Evidence, check_boot, firmware_and, unlatched};
use crate::flow::IndexState;
use crate::header::Refusal;
use crate::luks::{LuksError, Volume};
use crate::pin::{BadPin, Pin};
use crate::prompt;
use crate::secret::Secret;
use crate::token::{Phase, Place, SPARE_SLOT, TPM_SLOT, Token, TokenError};
use crate::tpm::{SHARED_DEVICE, Tpm, TpmError, lockout};
use crate::volume::{self, LATCH, OPENED_BY_HAND};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::pcr::{PcrBank, PcrIndex};
use std::io;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why it was not done. Whatever opened the volume still does.
#[derive(Debug, thiserror::Error)]
pub enum ExistingError {
    /// Our token says that it is done.
    #[error("the root is provisioned already: seal it anew with initramfs-unseal reseal")]
    Provisioned,
    /// The TPM holds a root.
    #[error(
        "this board's TPM holds a sealed root already: free its index from a trusted system (tpm2_nvundefine) to provision another"
    )]
    TpmTaken,
    /// Somebody's passphrase is where ours go.
    #[error(
        "key slot {0} is in use, and provisioning needs 1 and 2: move it (cryptsetup luksAddKey --new-key-slot 3, then luksKillSlot {0})"
    )]
    SlotTaken(u32),
    /// No slot for the recovery key.
    #[error("no key slot is free for the recovery key: remove one (cryptsetup luksKillSlot)")]
    NoSlotFree,
    /// The root is half encrypted.
    #[error("the root is being encrypted: let that come to its end first")]
    Reencrypting,
    /// Nobody could see the recovery key.
    #[error("there is no terminal to show the recovery key on: call this from one")]
    NoTerminal(io::Error),
    /// No place for the device record.
    #[error(
        "the boot partition {device} cannot be written to, and the device record goes there: {cause}; where it is mounted for reading alone, unmount it first"
    )]
    BootPartition {
        /// The partition.
        device: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// Two PINs.
    #[error("the two PINs were not the same")]
    PinsDiffer,
    /// The header.
    #[error(transparent)]
    Header(#[from] Refusal),
    /// A PIN that cannot be one.
    #[error(transparent)]
    Pin(#[from] BadPin),
    /// Terminal or standard input.
    #[error("cannot ask for it: {0}")]
    Ask(io::Error),
    /// All that provisioning in place meets as well.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
}

impl ExistingError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Provisioned
                | Self::TpmTaken
                | Self::SlotTaken(_)
                | Self::NoSlotFree
                | Self::Reencrypting
                | Self::PinsDiffer
                | Self::Header(_)
                | Self::Pin(_)
                | Self::Provision(
                    ProvisionError::Boot(_)
                        | ProvisionError::Unfit(_)
                        | ProvisionError::Luks(LuksError::NoSlot)
                )
        )
    }
}

impl From<TpmError> for ExistingError {
    fn from(why: TpmError) -> Self {
        Self::Provision(why.into())
    }
}

impl From<LuksError> for ExistingError {
    fn from(why: LuksError) -> Self {
        Self::Provision(why.into())
    }
}

impl From<BootError> for ExistingError {
    fn from(why: BootError) -> Self {
        Self::Provision(why.into())
    }
}

impl From<SignedError> for ExistingError {
    fn from(why: SignedError) -> Self {
        Self::Provision(why.into())
    }
}

/// What is done with the key slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slots {
    /// The slot for the recovery key.
    recovery: u32,
    /// An earlier attempt left a slot for its secret.
    left_over: bool,
}

/// Decides about the key slots. `machine` says whether slot 1 has the cost that only
/// a secret's slot has.
fn slots(
    taken: &[u32],
    token: Option<&Token>,
    machine: bool,
    opened: u32,
) -> Result<Slots, ExistingError> {
    let has = |slot: u32| taken.contains(&slot);
    let left_over = has(TPM_SLOT) && opened != TPM_SLOT && (token.is_some() || machine);
    if has(TPM_SLOT) && !left_over {
        return Err(ExistingError::SlotTaken(TPM_SLOT));
    }
    if has(SPARE_SLOT) {
        return Err(ExistingError::SlotTaken(SPARE_SLOT));
    }
    // A token's own slot was made by the attempt that was cut, and is made anew.
    let before = token.map(|token| token.recovery_slot).filter(|slot| *slot != opened);
    let free = || (0..32).find(|slot| !has(*slot) && ![TPM_SLOT, SPARE_SLOT].contains(slot));
    let recovery = before.or_else(free).ok_or(ExistingError::NoSlotFree)?;
    Ok(Slots { recovery, left_over })
}

/// Provisions the root that the configuration names.
///
/// # Errors
/// [`ExistingError`].
pub fn provision(config: &Config) -> Result<(), ExistingError> {
    let root = config.root();
    let mut volume = Volume::load(&root)?;
    if volume.check(config.reserve())??.reencrypting {
        return Err(ExistingError::Reencrypting);
    }
    let token = match Token::find(&volume.metadata()?) {
        Ok((_, token)) if token.phase == Phase::Sealed => return Err(ExistingError::Provisioned),
        Ok((number, token)) => Some((number, token)),
        Err(TokenError::Count(0)) => None,
        Err(other) => return Err(ProvisionError::from(other).into()),
    };
    let consoles = Consoles::terminal().map_err(ExistingError::NoTerminal)?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    for index in config.indices() {
        if tpm.index(index)?.is_some_and(|index| index.state() == IndexState::Locked) {
            return Err(ExistingError::TpmTaken);
        }
    }
    tpm.check_fit(config.nv_index, config.srk).map_err(ProvisionError::from)?;

    let boot = config.partition(config.boot_partition);
    let Evidence { manifests, signatures, log } = Evidence::read(&boot)?;
    BootPartition::for_writing(&boot).and_then(BootPartition::close).map_err(|cause| {
        let device = boot.clone();
        ExistingError::BootPartition { device, cause }
    })?;
    let all = firmware_and(&config.pcrs).map_err(|e| BootError::Policy(e.to_string()))?;
    let live = tpm.pcrs(&all)?;
    let live_then = before_latch(&live);
    let (manifest, reference) = check_boot(&config.pcrs, &manifests, &log, &live_then)?;

    let ask = |question: &str| prompt::ask(question).map_err(ExistingError::Ask);
    let passphrase = ask("passphrase of the root")?;
    let (volume_key, opened) = volume.volume_key_by(&passphrase)?;
    let machine = volume.is_for_a_secret(TPM_SLOT)?;
    let slots = slots(&volume.slots()?, token.as_ref().map(|t| &t.1), machine, opened)?;
    let pin = choose_pin(config, ask)?;
    if pin.is_some() {
        limit_guesses(&mut tpm)?;
    }

    let cpu_has_aes = std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_aes(&text));
    let mut provisioning = Provisioning {
        config,
        tpm: &mut tpm,
        consoles: &consoles,
        reference: &reference,
        manifest: &manifest,
        signatures,
        cpu_has_aes,
        pin: pin.as_ref(),
    };
    provisioning.add(&mut volume, &volume_key, token.map(|t| t.0), slots, &live)?;
    consoles.say(&format!(
        "provisioned: {} opens by the TPM from the next boot on; its passphrases stay",
        root.display()
    ));
    // What was sealed just now shall not be had in this boot.
    let latch = PcrIndex::new(LATCH.into()).map_err(|e| TpmError::Library(e.to_string()))?;
    Ok(tpm.extend(latch, &volume::words(OPENED_BY_HAND))?)
}

fn choose_pin(
    config: &Config,
    ask: impl Fn(&str) -> Result<Zeroizing<Vec<u8>>, ExistingError>,
) -> Result<Option<Pin>, ExistingError> {
    if !config.pin {
        return Ok(None);
    }
    let (first, again) = (ask("new PIN")?, ask("new PIN again")?);
    if first != again {
        return Err(ExistingError::PinsDiffer);
    }
    Ok(Some(Pin::parse(&first)?))
}

fn limit_guesses(tpm: &mut Tpm) -> Result<(), ExistingError> {
    if tpm.lockout_has_password()? {
        return Err(TpmError::WrongPassword.into());
    }
    Ok(lockout::limit_guesses(Path::new(SHARED_DEVICE))?)
}

/// PCRs as if the latch were open, which it is where another program opened the root.
fn before_latch(live: &PcrBank) -> PcrBank {
    unlatched(live).unwrap_or_else(|_| live.clone())
}

impl Provisioning<'_> {
    /// Adds secret, slots and token to a volume.
    fn add(
        &mut self,
        volume: &mut Volume,
        volume_key: &[u8],
        token: Option<u32>,
        slots: Slots,
        live: &PcrBank,
    ) -> Result<(), ProvisionError> {
        let approved = self.check_existing_signatures(live)?;
        self.tpm.destroy(self.config.nv_index)?;
        if slots.left_over {
            volume.remove_slot(TPM_SLOT)?;
        }
        let secret = self.random("msec-boot key slot secret 1")?;
        let mut new = self.seal_secret(&secret, volume_key)?;
        new.recovery_slot = slots.recovery;
        volume.add_secret(TPM_SLOT, volume_key, &secret)?;
        match token {
            Some(number) => volume.replace_token(number, &new)?,
            None => volume.add_token(&new)?,
        }
        self.prove(volume, &new, &secret, volume_key)?;
        self.complete(volume, &new, volume_key, approved)
    }

    /// For the binding `signed`: the counter allows this image, and the TPM takes the
    /// vendor's signature of this boot; behind the latch that is all that can be tried.
    fn check_existing_signatures(
        &mut self,
        live: &PcrBank,
    ) -> Result<Option<Approved>, ProvisionError> {
        let Some(authority) = &self.config.signed else { return Ok(None) };
        let latch = PcrIndex::new(LATCH.into()).ok().and_then(|pcr| live.sha256(pcr));
        if latch == Some(Sha256Digest::ZERO) {
            return self.check_signatures();
        }
        let (_, value) = self.tpm.ensure_counter(&authority.rollback())?;
        if value > authority.version {
            return Err(SignedError::BornAhead { version: authority.version, value }.into());
        }
        let file = super::signatures(&self.signatures)?;
        let entry = authority.choose(file, &self.config.pcrs, &before_latch(live))?;
        Ok(Some(self.tpm.approve_entry(&authority.policy_key, &entry)?))
    }

    fn prove(
        &mut self,
        volume: &mut Volume,
        token: &Token,
        secret: &Secret,
        volume_key: &[u8],
    ) -> Result<(), ProvisionError> {
        let index = self.index()?;
        let [place, _] = Place::both(self.config.indices());
        let key = volume.volume_key(place.slot, secret.expose())?;
        let kept = index.is_ours() && index.policy() == token.policy.as_bytes();
        if kept && key.as_slice() == volume_key { Ok(()) } else { Err(ProvisionError::Proof) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::RECOVERY_SLOT;

    fn cut(recovery_slot: u32) -> Token {
        let mut token = crate::token::tests::sample();
        token.phase = Phase::Encrypting;
        token.recovery_slot = recovery_slot;
        token
    }

    #[test]
    fn passphrases_are_never_in_the_way_of_a_slot_of_ours() {
        let new = |recovery| Slots { recovery, left_over: false };
        assert_eq!(slots(&[3], None, false, 3).unwrap(), new(RECOVERY_SLOT));
        assert_eq!(slots(&[0], None, false, 0).unwrap(), new(3));
        assert_eq!(slots(&[0, 3, 4], None, false, 4).unwrap(), new(5));
        for (taken, want) in [(vec![0, 1], TPM_SLOT), (vec![0, 2], SPARE_SLOT)] {
            let refusal = slots(&taken, None, false, 0).unwrap_err();
            assert!(matches!(refusal, ExistingError::SlotTaken(slot) if slot == want), "{refusal}");
        }
        // Slot 1 is the operator's own, whatever it looks like.
        let refusal = slots(&[1], None, true, 1).unwrap_err();
        assert!(matches!(refusal, ExistingError::SlotTaken(TPM_SLOT)), "{refusal}");
        let all: Vec<u32> = (0..32).filter(|n| ![1, 2].contains(n)).collect();
        assert!(matches!(slots(&all, None, false, 0), Err(ExistingError::NoSlotFree)));
    }

    #[test]
    fn what_a_cut_attempt_left_is_made_anew() {
        let left = |recovery| Slots { recovery, left_over: true };
        assert_eq!(slots(&[0, 1], None, true, 0).unwrap(), left(3), "before the token");
        assert_eq!(slots(&[0, 1], Some(&cut(3)), true, 0).unwrap(), left(3), "after it");
        assert_eq!(slots(&[0, 1, 3], Some(&cut(3)), true, 0).unwrap(), left(3));
        // Opened by the recovery key of that attempt: it is kept, another one is made.
        assert_eq!(slots(&[0, 1, 3], Some(&cut(3)), true, 3).unwrap(), left(4));
    }
}
