//! `reseal` in the running system: decides what the new secret is bound to, and
//! asks for the recovery key.

use super::{ResealError, Resealing};
use crate::authority::SignedError;
use crate::boot_partition::read_bounded;
use crate::evidence::{self, BootError, Evidence, MAX_MANIFEST, check_boot, unlatched};
use crate::header::Refusal;
use crate::luks::{LuksError, Volume};
use crate::pin::{BadPin, Pin};
use crate::prompt;
use crate::recovery::RecoveryKey;
use crate::report;
use crate::status::Objects;
use crate::token::{Binding, Token, TokenError};
use crate::tpm::{SHARED_DEVICE, Tpm, TpmError, lockout};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::{Manifest, ManifestError, Reference};
use pcr_measure::pcr::{PcrBank, PcrSelection};
use pcr_measure::policy::PolicyError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
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
    #[error(
        "there is no report of the boot at {}: this system was not started by initramfs-unseal",
        report::PATH
    )]
    NoReport,
    /// The recovery key opened the root.
    #[error(
        "the TPM did not unlock this boot ({0}): find out why first; if this boot is as you want it, say so with --trust-this-boot"
    )]
    ByHand(String),
    /// Staged boots, where the vendor's signature decides.
    #[error(
        "the root is released to every boot that the vendor signed: an update needs no resealing, only its signed policies on the boot partition"
    )]
    SignedNeedsNone,
    /// Nothing to retire.
    #[error("the root is sealed to one boot alone already: there is nothing to retire")]
    NothingPending,
    /// A boot manifest that cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A boot manifest that is none.
    #[error("{path} is no boot manifest: {cause}")]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: ManifestError,
    },
    /// A boot manifest for other PCRs.
    #[error(
        "{path} seals PCRs {manifest}, this root is sealed to {root}: build it from the recipe of this image"
    )]
    Selection {
        /// The file.
        path: PathBuf,
        /// What it seals.
        manifest: PcrSelection,
        /// What the root is sealed to.
        root: PcrSelection,
    },
    /// A boot manifest that predicts nothing for a PCR.
    #[error(
        "{path} measures nothing into PCR {pcr}: a boot that leaves it at zero must not be sealed to"
    )]
    Unmeasured {
        /// The file.
        path: PathBuf,
        /// The PCR.
        pcr: u8,
    },
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
        matches!(
            self,
            Self::ByHand(_)
                | Self::SignedNeedsNone
                | Self::NothingPending
                | Self::Selection { .. }
                | Self::Unmeasured { .. }
                | Self::Boot(_)
                | Self::WrongKey
                | Self::PinsDiffer
                | Self::Pin(_)
        )
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
    let report = std::fs::read(report::PATH).map_err(|_| RequestError::NoReport)?;
    let report: Value = serde_json::from_slice(&report).map_err(|_| RequestError::NoReport)?;
    let objects = report.get("sealed").and_then(|sealed| Objects::deserialize(sealed).ok());
    let objects = objects.ok_or(RequestError::NoReport)?;
    let mut volume = Volume::load(&objects.root)?;
    volume.check(objects.data_offset)??;
    let (number, token) = Token::find(&volume.metadata()?)?;
    let (next, trust_this_boot) = match request {
        Request::Seal { next, trust_this_boot } => (next, *trust_this_boot),
        Request::Retire => return retire(&mut volume, number, token, &objects),
    };
    if !trust_this_boot {
        unlocked_by_tpm(&report)?;
    }
    if objects.signed.is_some() && !next.is_empty() {
        return Err(RequestError::SignedNeedsNone);
    }
    let next = next.iter().map(|path| staged(path, &objects.pcrs));
    let next = next.collect::<Result<Vec<_>, _>>()?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    let live = unlatched(&tpm.pcrs(&objects.pcrs)?)?;
    evidence::check_measured(&objects.pcrs, &live)?;
    let reference = this_boot(&mut tpm, &token, &live, &objects)?;
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
    })?
    .run()?;
    if objects.pin {
        tpm.close_lockout(objects.srk, &objects.srk_name, &volume_key)?;
    }
    Ok(Done::Sealed { policy, boots })
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

/// Refuses a boot that was opened by hand.
fn unlocked_by_tpm(report: &Value) -> Result<(), RequestError> {
    let text = |name: &str| report.get(name).and_then(Value::as_str);
    match text("method") {
        Some("tpm" | "provisioned") => Ok(()),
        _ => Err(RequestError::ByHand(text("refusal").unwrap_or("no reason is known").to_owned())),
    }
}

/// What a boot manifest predicts, if it is one to seal to.
fn staged(path: &Path, pcrs: &PcrSelection) -> Result<Reference, RequestError> {
    let bytes = read_bounded(path, MAX_MANIFEST);
    let bytes = bytes.map_err(|cause| RequestError::Manifest { path: path.to_owned(), cause })?;
    let manifest = Manifest::from_json(&bytes);
    let manifest =
        manifest.map_err(|cause| RequestError::BadManifest { path: path.to_owned(), cause })?;
    sealable(path, manifest.reference(), pcrs)
}

fn sealable(
    path: &Path,
    reference: Reference,
    root: &PcrSelection,
) -> Result<Reference, RequestError> {
    let path = || path.to_owned();
    if reference.seal() != root {
        let manifest = *reference.seal();
        return Err(RequestError::Selection { path: path(), manifest, root: *root });
    }
    let values = reference.sealed_values();
    let latch = crate::volume::LATCH;
    let blank = |pcr| values.sha256(pcr).is_none_or(|value| value == Sha256Digest::ZERO);
    match root.iter().find(|pcr| pcr.get() != latch && blank(*pcr)) {
        Some(pcr) => Err(RequestError::Unmeasured { path: path(), pcr: pcr.get() }),
        None => Ok(reference),
    }
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
    let Evidence { manifest, log, .. } = Evidence::read(&objects.boot)?;
    let all = evidence::firmware_and(&objects.pcrs).map_err(PolicyError::from)?;
    Ok(check_boot(&objects.pcrs, &manifest, &log, &unlatched(&tpm.pcrs(&all)?)?)?)
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
    use serde_json::json;

    fn boot(kernel: &[u8]) -> Reference {
        Manifest::builder("test", "test")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .event(8, "kernel", kernel, "")
            .seal(&[0, 8, 15])
            .build()
            .unwrap()
            .reference()
    }

    #[test]
    fn a_boot_that_was_opened_by_hand_is_not_sealed_to() {
        for method in ["tpm", "provisioned"] {
            unlocked_by_tpm(&json!({ "method": method })).unwrap();
        }
        let by_hand = json!({"method": "recovery", "refusal": "the boot differs"});
        let refusal = unlocked_by_tpm(&by_hand).unwrap_err();
        assert!(refusal.is_refusal(), "{refusal}");
        assert!(refusal.to_string().contains("(the boot differs)"), "{refusal}");
        unlocked_by_tpm(&json!({})).unwrap_err();
    }

    #[test]
    fn manifests_of_other_pcrs_and_blank_ones_are_refused() {
        let path = Path::new("next.json");
        let same = PcrSelection::sha256(&[0, 8, 15]).unwrap();
        assert_eq!(sealable(path, boot(b"k"), &same).unwrap(), boot(b"k"));
        let more = PcrSelection::sha256(&[0, 8, 9, 15]).unwrap();
        let refusal = sealable(path, boot(b"k"), &more).unwrap_err();
        assert!(matches!(refusal, RequestError::Selection { .. }), "{refusal}");
        let blank = Manifest::builder("test", "test")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .seal(&[0, 8, 15])
            .build()
            .unwrap()
            .reference();
        let refusal = sealable(path, blank, &same).unwrap_err();
        assert!(matches!(refusal, RequestError::Unmeasured { pcr: 8, .. }), "{refusal}");
        assert!(refusal.is_refusal());
    }

    #[test]
    fn the_same_boot_counts_once() {
        let next = vec![boot(b"a"), boot(b"this"), boot(b"b"), boot(b"a")];
        assert_eq!(distinct(&boot(b"this"), next), [boot(b"a"), boot(b"b")]);
    }
}
