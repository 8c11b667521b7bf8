//! `reseal` in the running system: decides what the new secret is bound to, and
//! asks for the recovery key.

use super::{ResealError, Resealing};
use crate::authority::{Approved, Authority, SignedError};
use crate::evidence::{self, BootError, Evidence, check_boot, unlatched};
use crate::header::Refusal;
use crate::luks::{LuksError, Volume};
use crate::pin::{BadPin, Pin};
use crate::prompt;
use crate::recovery::RecoveryKey;
use crate::report::this_boot::{NoReport, ThisBoot};
use crate::staged::{StagedError, staged};
use crate::status::Objects;
use crate::token::{Binding, Token, TokenError};
use crate::tpm::{SHARED_DEVICE, Tpm, TpmError, lockout};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::Reference;
use pcr_measure::pcr::PcrBank;
use pcr_measure::policy::PolicyError;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Seal anew, to this boot and to those that these manifests predict.
    Seal {
        /// Boot manifests of updates that are to be installed.
        next: Vec<PathBuf>,
        /// Seal to this boot although the TPM did not unlock it.
        trust_this_boot: bool,
    },
    /// Leave all boots but the one that the TPM unlocks next.
    Retire,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No report of the initramfs.
    #[error(transparent)]
    NoReport(#[from] NoReport),
    /// The recovery key opened the root.
    #[error(
        "the TPM did not unlock this boot ({0}): find out why first; if this boot is as you want it, say so with --trust-this-boot"
    )]
    ByHand(String),
    /// Staged boots, where the vendor's signature decides.
    #[error(
        "the root is released to every boot that the vendor signed: an update needs no resealing, only its signed policies on the boot partition (initramfs-unseal approve has the TPM try them before)"
    )]
    SignedNeedsNone,
    /// Nothing to retire.
    #[error("the root is sealed to one boot alone already: there is nothing to retire")]
    NothingPending,
    /// A boot manifest.
    #[error(transparent)]
    Staged(#[from] StagedError),
    /// This boot is not one to seal to.
    #[error("this boot must not be sealed to: {0}")]
    Boot(#[from] BootError),
    /// The header.
    #[error(transparent)]
    Header(#[from] Refusal),
    /// Not the recovery key.
    #[error("this is not the recovery key of the root")]
    WrongKey,
    /// Two PINs.
    #[error("the two PINs were not the same")]
    PinsDiffer,
    /// A PIN that cannot be one.
    #[error(transparent)]
    Pin(#[from] BadPin),
    /// Terminal or standard input.
    #[error("cannot ask for it: {0}")]
    Ask(io::Error),
    /// No policy.
    #[error("no policy for these PCRs: {0}")]
    Policy(#[from] PolicyError),
    /// The binding `signed`.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The resealing itself.
    #[error(transparent)]
    Reseal(#[from] ResealError),
}

impl RequestError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Staged(why) => why.is_refusal(),
            Self::Signed(why) => why.is_refusal(),
            Self::ByHand(_)
            | Self::SignedNeedsNone
            | Self::NothingPending
            | Self::Boot(_)
            | Self::WrongKey
            | Self::PinsDiffer
            | Self::Pin(_) => true,
            _ => false,
        }
    }
}

impl From<TpmError> for RequestError {
    fn from(why: TpmError) -> Self {
        Self::Reseal(why.into())
    }
}

impl From<LuksError> for RequestError {
    fn from(why: LuksError) -> Self {
        Self::Reseal(why.into())
    }
}

impl From<TokenError> for RequestError {
    fn from(why: TokenError) -> Self {
        Self::Reseal(why.into())
    }
}

/// What the root is sealed to from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "done", rename_all = "lowercase")]
pub enum Done {
    /// Sealed anew.
    Sealed {
        /// The policy of the index.
        policy: Sha256Digest,
        /// How many boots it is released to; none where the vendor's signature
        /// decides.
        boots: Option<usize>,
    },
    /// The next boot retires the others.
    Retiring {
        /// How many boots it is released to until then.
        boots: usize,
    },
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sealed { boots: None, .. } => {
                f.write_str("the root is sealed anew, to every boot that the vendor signs")
            }
            Self::Sealed { boots: Some(1), .. } => {
                f.write_str("the root is sealed anew, to this boot alone")
            }
            Self::Sealed { boots: Some(boots), .. } => write!(
                f,
                "the root is sealed anew, to this boot and {} more: install the update now, and retire this boot when the new one is up (initramfs-unseal reseal --retire)",
                boots.saturating_sub(1)
            ),
            Self::Retiring { boots } => write!(
                f,
                "of {boots} boots that the root is sealed to, the next one that the TPM unlocks will be the only one"
            ),
        }
    }
}

/// Carries a request out.
///
/// # Errors
/// [`RequestError`]; what opened the root before still does.
pub fn reseal(request: &Request) -> Result<Done, RequestError> {
    let boot = ThisBoot::read()?;
    let objects = &boot.objects;
    let mut volume = Volume::load(&objects.root)?;
    volume.check(objects.data_offset)??;
    let (number, token) = Token::find(&volume.metadata()?)?;
    let (next, trust_this_boot) = match request {
        Request::Seal { next, trust_this_boot } => (next, *trust_this_boot),
        Request::Retire => return retire(&mut volume, number, token, objects),
    };
    if !trust_this_boot {
        boot.unlocked_by_tpm().map_err(|why| RequestError::ByHand(why.to_owned()))?;
    }
    if objects.signed.is_some() && !next.is_empty() {
        return Err(RequestError::SignedNeedsNone);
    }
    let next = next.iter().map(|path| staged(path, &objects.pcrs));
    let next = next.collect::<Result<Vec<_>, _>>()?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    let live = unlatched(&tpm.pcrs(&objects.pcrs)?)?;
    evidence::check_measured(&objects.pcrs, &live)?;
    let reference = this_boot(&mut tpm, &token, &live, objects)?;
    let approved = match &objects.signed {
        Some(authority) => Some(approval(&mut tpm, authority, objects, &live)?),
        None => None,
    };
    let recovery_slot = token.recovery_slot;
    let mut wanted = token;
    wanted.pending = distinct(&reference, next);
    wanted.reference = reference;
    wanted.binding = Binding::by(objects.signed.as_ref());
    wanted.pin = objects.pin;
    let guard = wanted.guard(objects.signed.as_ref()).map_err(ResealError::from)?;
    let policy = guard.policy()?;
    let boots = objects.signed.is_none().then_some(1 + wanted.pending.len());

    let typed = prompt::ask("recovery key").map_err(RequestError::Ask)?;
    let key = RecoveryKey::parse(&typed).ok_or(RequestError::WrongKey)?;
    let volume_key = match volume.volume_key(recovery_slot, key.expose().as_bytes()) {
        Err(LuksError::WrongKey(_)) => return Err(RequestError::WrongKey),
        other => other?,
    };
    let pin = match objects.pin {
        true => Some(new_pin(&mut tpm)?),
        false => None,
    };
    let indices = objects.indices();
    Resealing::new(&mut tpm, &mut volume, &volume_key, indices, guard, pin.as_ref(), |token| {
        token.binding = wanted.binding;
        token.pin = wanted.pin;
        token.reference = wanted.reference;
        token.pending = wanted.pending;
        token.approved = approved.into();
    })?
    .run()?;
    if objects.pin {
        tpm.close_lockout(objects.srk, &objects.srk_name, &volume_key)?;
    }
    Ok(Done::Sealed { policy, boots })
}

/// The TPM's word that the vendor signed this boot: to seal to a key that did not
/// would shut everybody out.
fn approval(
    tpm: &mut Tpm,
    authority: &Authority,
    objects: &Objects,
    live: &PcrBank,
) -> Result<Approved, SignedError> {
    let files = evidence::signatures(&objects.boot)?;
    let entry = authority.choose(&files, &objects.pcrs, live)?;
    tpm.approve_entry(&authority.policy_key, &entry)
}

/// Asks for a PIN, twice. A TPM whose guesses nobody has limited yet, for the root had
/// no PIN before, gets its limits.
fn new_pin(tpm: &mut Tpm) -> Result<Pin, RequestError> {
    let ask = |question: &str| prompt::ask(question).map_err(RequestError::Ask);
    let (first, again) = (ask("new PIN")?, ask("new PIN again")?);
    if first != again {
        return Err(RequestError::PinsDiffer);
    }
    let pin = Pin::parse(&first)?;
    if !tpm.lockout_has_password()? {
        lockout::limit_guesses(Path::new(SHARED_DEVICE))?;
    }
    Ok(pin)
}

/// Writes the request for the initramfs into the token.
fn retire(
    volume: &mut Volume,
    number: u32,
    mut token: Token,
    objects: &Objects,
) -> Result<Done, RequestError> {
    if objects.signed.is_some() {
        return Err(RequestError::SignedNeedsNone);
    }
    if token.pending.is_empty() {
        return Err(RequestError::NothingPending);
    }
    let boots = token.boots().count();
    token.retire = true;
    volume.replace_token(number, &token)?;
    volume.flush()?;
    Ok(Done::Retiring { boots })
}

/// What was measured in this boot: the token's word for it where that leads to the
/// PCRs as they are, else the manifest on the boot partition, checked as at
/// provisioning.
fn this_boot(
    tpm: &mut Tpm,
    token: &Token,
    live: &PcrBank,
    objects: &Objects,
) -> Result<Reference, RequestError> {
    if let Some(known) = token.boot_with(&objects.pcrs, live)? {
        return Ok(known.clone());
    }
    let Evidence { manifests, log, .. } = Evidence::read(&objects.boot)?;
    let all = evidence::firmware_and(&objects.pcrs).map_err(PolicyError::from)?;
    let live = unlatched(&tpm.pcrs(&all)?)?;
    let (_, reference) = check_boot(&objects.pcrs, &manifests, &log, &live)?;
    Ok(reference)
}

/// The boots that differ from this one and from each other in what is sealed.
fn distinct(this: &Reference, next: Vec<Reference>) -> Vec<Reference> {
    let mut seen = vec![this.sealed_values()];
    let mut rest = Vec::new();
    for boot in next {
        let values = boot.sealed_values();
        if !seen.contains(&values) {
            seen.push(values);
            rest.push(boot);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staged::tests::boot;

    #[test]
    fn the_same_boot_counts_once() {
        let next = vec![boot(b"a"), boot(b"this"), boot(b"b"), boot(b"a")];
        assert_eq!(distinct(&boot(b"this"), next), [boot(b"a"), boot(b"b")]);
    }
}
