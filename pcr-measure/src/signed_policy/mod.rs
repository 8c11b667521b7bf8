//! Signed PCR policies: the `tpm2-pcr-signature.json` of systemd.
//!
//! An entry says "this key approves this PolicyPCR digest over these PCRs". A
//! secret that is sealed with PolicyAuthorize to the key's Name opens on every
//! boot whose policy digest has an entry, so a new image needs a new entry and
//! no new seal.
//!
//! An entry of ours may add "as long as a counter in the TPM is at most this
//! version" ([`Rollback`]): its policy goes on with a PolicyNV, and the field
//! `rollback`, which systemd passes over, says the version.
//!
//! What is signed is the policy digest, hashed with SHA-256 (the aHash of
//! [`crate::policy::authorized_hash`], with an empty policyRef): by RSASSA, or
//! by ECDSA as DER. systemd 257 uses RSA keys alone.
//!
//! A file that was read is foreign: a TPM, or with the feature `signature`
//! `SignatureFile::verify` and `SignatureFile::of_key`, tell a signature from a
//! claim.

mod json;
#[cfg(feature = "signature")]
mod sign;

use std::collections::BTreeMap;

use crate::digest::{Algorithm, Sha256Digest};
#[cfg(feature = "signature")]
use crate::key::KeyError;
use crate::pcr::{PcrBank, PcrSelection};
use crate::policy::{Policy, PolicyError, Rollback};
use crate::text::printable;

#[cfg(feature = "signature")]
pub use sign::Verdict;

/// Largest file that is read, in bytes.
pub const MAX_JSON: usize = 256 * 1024;
/// Most entries of a file, over all banks.
pub const MAX_ENTRIES: usize = 256;
/// Longest signature, in bytes: RSA of 4096 bits (`TPM2_MAX_RSA_KEY_BYTES` of
/// tpm2-tss 4.1, tss2_tpm2_types.h).
pub const MAX_SIGNATURE: usize = 512;

/// What can be wrong with a file of signed policies, or with signing one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignedPolicyError {
    /// More bytes than any such file has.
    #[error(
        "the file has {0} bytes, more than the {MAX_JSON} that one of signed policies may have"
    )]
    TooLong(usize),
    /// Not JSON, or not JSON of signed policies; what is wrong, fit for a console.
    #[error("this is no file of signed policies (tpm2-pcr-signature.json): {0}")]
    Json(String),
    /// Too many entries.
    #[error(
        "{0} entries are more than the {MAX_ENTRIES} that a file of signed policies may have: start a new one"
    )]
    TooManyEntries(usize),
    /// No policy follows from the values.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The key cannot do it.
    #[cfg(feature = "signature")]
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<serde_json::Error> for SignedPolicyError {
    /// serde repeats strings of the file, however long they are.
    fn from(error: serde_json::Error) -> Self {
        Self::Json(printable(&error.to_string()))
    }
}

/// One entry: a policy that a key is said to have signed. Nothing in it is
/// checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    /// The PCRs, of one bank.
    pub pcrs: PcrSelection,
    /// Fingerprint of the key
    /// ([`TpmPublic::fingerprint`](crate::structures::TpmPublic::fingerprint)): `pkfp`.
    pub key: Sha256Digest,
    /// The digest of a SHA-256 policy session after PolicyPCR, and PolicyNV
    /// where there is a `rollback`: `pol`.
    pub policy: Sha256Digest,
    /// The signature: `sig`.
    pub signature: Vec<u8>,
    /// The version of the image, if its policy has a [`Rollback`]: `rollback`.
    /// For people: the policy has it in its digest.
    pub rollback: Option<u64>,
}

impl SignedPolicy {
    fn is_for(&self, pcrs: &PcrSelection, key: Sha256Digest, policy: Sha256Digest) -> bool {
        self.pcrs == *pcrs && self.key == key && self.policy == policy
    }
}

/// Why a file has no entry for a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// No entry is of this key.
    #[error("the file has no entry of this key")]
    OtherKey,
    /// The key's entries are for other PCRs, or for another bank.
    #[error("the key's entries are for other PCRs")]
    OtherPcrs,
    /// The key's entries for these PCRs are for other policies.
    #[error("the key's entries for these PCRs are for other values")]
    OtherPolicy,
}

/// A file of signed policies: per bank its entries, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SignatureFile {
    banks: BTreeMap<Algorithm, Vec<SignedPolicy>>,
    skipped: Vec<String>,
}

impl SignatureFile {
    /// A file without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every entry, bank by bank. Unverified.
    pub fn entries(&self) -> impl Iterator<Item = &SignedPolicy> {
        self.banks.values().flatten()
    }

    /// Names of banks that stand in the file and are not known here, made fit
    /// for a console. They are not written again.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// The entry for `policy` over `pcrs` by the key with this fingerprint, by
    /// the rules of systemd 257 (src/shared/tpm2-util.c, `find_signature`): the
    /// first one of the bank that fits. Unverified.
    ///
    /// # Errors
    /// Why there is none.
    pub fn find(
        &self,
        key: Sha256Digest,
        pcrs: &PcrSelection,
        policy: Sha256Digest,
    ) -> Result<&SignedPolicy, NoEntry> {
        if let Some(entry) = self.entries().find(|entry| entry.is_for(pcrs, key, policy)) {
            return Ok(entry);
        }
        let mut of_key = self.entries().filter(|entry| entry.key == key).peekable();
        Err(if of_key.peek().is_none() {
            NoEntry::OtherKey
        } else if of_key.any(|entry| entry.pcrs == *pcrs) {
            NoEntry::OtherPolicy
        } else {
            NoEntry::OtherPcrs
        })
    }
}

/// The digest that is signed for "`pcrs` hold `values`": PolicyPCR in a fresh
/// SHA-256 session, of whatever bank the PCRs are.
///
/// # Errors
/// [`PolicyError::Pcr`] if a PCR has no value.
pub fn policy_of(pcrs: &PcrSelection, values: &PcrBank) -> Result<Sha256Digest, PolicyError> {
    policy_with(pcrs, values, None)
}

/// As [`policy_of`], and then "the counter is at most the version", if that is
/// asked for.
///
/// # Errors
/// [`PolicyError::Pcr`] if a PCR has no value.
pub fn policy_with(
    pcrs: &PcrSelection,
    values: &PcrBank,
    rollback: Option<&Rollback>,
) -> Result<Sha256Digest, PolicyError> {
    let mut policy = Policy::new(Algorithm::Sha256).pcr(&[(*pcrs, values)])?;
    if let Some(rollback) = rollback {
        policy = policy.rollback(rollback)?;
    }
    let (want, got) = (Algorithm::Sha256, policy.digest().algorithm());
    policy.digest().as_sha256().ok_or(PolicyError::OtherAlgorithm { want, got })
}

#[cfg(test)]
#[cfg(feature = "signature")]
mod tests;
