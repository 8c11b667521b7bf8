//! `approve`: the TPM verifies the vendor's signature of an update before it is
//! installed, and the first boot of it need not.
//!
//! So a signature that the device would not take is found while the old image still
//! runs. Nothing is opened by it: the ticket that the TPM gives only spares the work.

use crate::authority::MAX_FILE;
use crate::authority::SignedError;
use crate::boot_partition::read_bounded;
use crate::header::Refusal;
use crate::luks::{LuksError, Volume};
use crate::report::this_boot::{NoReport, ThisBoot};
use crate::staged::{StagedError, staged};
use crate::token::{Token, TokenError};
use crate::tpm::{SHARED_DEVICE, Tpm, TpmError};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::signed_policy::{NoEntry, SignatureFile, SignedPolicyError};
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// The files of an update that tell its boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Its boot manifest.
    pub manifest: PathBuf,
    /// Its signed policies.
    pub signatures: PathBuf,
}

/// Why it was not approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    /// No report of the initramfs.
    #[error(transparent)]
    NoReport(#[from] NoReport),
    /// Another binding.
    #[error(
        "the root is bound to single boots (binding pcr), no signature opens it: stage the update with initramfs-unseal reseal --next"
    )]
    NotSigned,
    /// The boot manifest.
    #[error(transparent)]
    Staged(#[from] StagedError),
    /// Signed policies that cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that is none.
    #[error("{path} cannot be used: {cause}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: SignedPolicyError,
    },
    /// Nobody signed that boot.
    #[error(
        "{signatures} has no policy of the boot that {manifest} predicts: {why}; take both from one image, which was signed with the policy key of this one"
    )]
    NoEntry {
        /// The signed policies.
        signatures: PathBuf,
        /// The boot manifest.
        manifest: PathBuf,
        /// Why.
        why: NoEntry,
    },
    /// The TPM does not take the signature.
    #[error("the TPM refuses the signature in {0}: the file was changed")]
    BadSignature(PathBuf),
    /// Rollback.
    #[error(
        "this update is older than this board allows: its version is {version}, the TPM's rollback counter stands at {value}"
    )]
    Older {
        /// The update's version.
        version: u64,
        /// Where the counter stands.
        value: u64,
    },
    /// TPM or counter.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The header.
    #[error(transparent)]
    Header(#[from] Refusal),
    /// The volume.
    #[error(transparent)]
    Luks(#[from] LuksError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl From<TpmError> for ApproveError {
    fn from(why: TpmError) -> Self {
        Self::Signed(why.into())
    }
}

impl ApproveError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Staged(why) => why.is_refusal(),
            Self::Signed(why) => why.is_refusal(),
            Self::NotSigned | Self::NoEntry { .. } | Self::BadSignature(_) | Self::Older { .. } => {
                true
            }
            _ => false,
        }
    }
}

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Version of the update.
    pub version: u64,
    /// The policy that is signed.
    pub policy: Sha256Digest,
    /// Where the rollback counter stands.
    pub counter: u64,
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, counter, .. } = self;
        write!(
            f,
            "the TPM takes the signature of this update, version {version} (rollback counter at {counter}): install it now"
        )
    }
}

/// Lets this machine's TPM approve an update. It may be cut and called again.
///
/// # Errors
/// [`ApproveError`].
pub fn approve(update: &Update) -> Result<Done, ApproveError> {
    let objects = ThisBoot::read()?.objects;
    let authority = objects.signed.as_ref().ok_or(ApproveError::NotSigned)?;
    let next = staged(&update.manifest, &objects.pcrs)?;
    let signatures = || update.signatures.clone();
    let file = read_bounded(&update.signatures, MAX_FILE)
        .map_err(|cause| ApproveError::Unreadable { path: signatures(), cause })?;
    let file = SignatureFile::from_json(&file)
        .map_err(|cause| ApproveError::BadFile { path: signatures(), cause })?;
    let (entry, version) =
        authority.choose_next(&file, &objects.pcrs, &next.sealed_values()).map_err(|why| {
            let manifest = update.manifest.clone();
            ApproveError::NoEntry { signatures: signatures(), manifest, why }
        })?;

    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    let counter = tpm.counter(&authority.rollback())?;
    let counter = tpm.counter_value(counter)?;
    if counter > version {
        return Err(ApproveError::Older { version, value: counter });
    }
    let approved = tpm.approve_entry(&authority.policy_key, &entry).map_err(|why| match why {
        SignedError::BadSignature => ApproveError::BadSignature(signatures()),
        other => other.into(),
    })?;

    let mut volume = Volume::load(&objects.root)?;
    volume.check(objects.data_offset)??;
    let (number, mut token) = Token::find(&volume.metadata()?)?;
    token.approved.keep(approved);
    volume.replace_token(number, &token)?;
    volume.flush()?;
    Ok(Done { version, policy: entry.policy, counter })
}
