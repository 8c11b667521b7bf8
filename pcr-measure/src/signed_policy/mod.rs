//! Signed PCR policies: the `tpm2-pcr-signature.json` of systemd.
//!
//! An entry says "this key approves this PolicyPCR digest over these PCRs". A
//! secret that is sealed with PolicyAuthorize to the key ([`PublicKey::tpm_name`])
//! opens on every boot whose policy digest has an entry, so a new image needs a
//! new entry and no new seal.
//!
//! What is signed is the policy digest, hashed with SHA-256 (the aHash of
//! [`crate::policy::authorized_hash`], with an empty policyRef): by RSASSA, or
//! by ECDSA as DER. systemd 257 uses RSA keys alone.
//!
//! A file that was read is foreign: [`SignatureFile::verify`] and
//! [`SignatureFile::of_key`] are what tells a signature from a claim.

mod json;

use std::collections::BTreeMap;

use crate::digest::{Algorithm, Sha256Digest};
use crate::key::{KeyError, PublicKey, SigningKey};
use crate::pcr::{PcrBank, PcrSelection};
use crate::policy::{PolicyError, pcr_digest};
use crate::text::printable;

/// Largest file that is read, in bytes.
pub const MAX_JSON: usize = 256 * 1024;
/// Most entries of a file, over all banks.
pub const MAX_ENTRIES: usize = 256;
/// Longest signature, in bytes: RSA of 4096 bits (`TPM2_MAX_RSA_KEY_BYTES` of
/// tpm2-tss 4.1, tss2_tpm2_types.h).
pub const MAX_SIGNATURE: usize = 512;

/// The hash that is signed, whatever the bank: systemd 257,
/// src/shared/tpm2-util.c, `tpm2_policy_authorize`.
const SIGNED_HASH: Algorithm = Algorithm::Sha256;

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
    /// [`PublicKey::fingerprint`] of the key: `pkfp`.
    pub key: Sha256Digest,
    /// The digest of a SHA-256 policy session after PolicyPCR: `pol`.
    pub policy: Sha256Digest,
    /// The signature: `sig`.
    pub signature: Vec<u8>,
}

impl SignedPolicy {
    fn is_for(&self, pcrs: &PcrSelection, key: Sha256Digest, policy: Sha256Digest) -> bool {
        self.pcrs == *pcrs && self.key == key && self.policy == policy
    }

    /// Whether the signature is this key's over the policy. A wrong one, or one
    /// of another kind of key, is `false`.
    fn is_signed_by(&self, key: &PublicKey) -> Result<bool, KeyError> {
        key.verify(key.policy_scheme(), SIGNED_HASH, self.policy.as_bytes(), &self.signature)
    }
}

/// Whether a key signed a policy, and if not, why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did.
    Signed,
    /// No entry is of this key.
    OtherKey,
    /// The key's entries are for other PCRs, or for another bank.
    OtherPcrs,
    /// The key's entries for these PCRs are for other values.
    OtherPolicy,
    /// An entry says so, but its signature is not the key's.
    BadSignature,
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

    /// Signs the policy "`pcrs` hold `values`". It takes the place of an entry
    /// for the same PCRs, key and policy; every other entry stays.
    ///
    /// # Errors
    /// [`SignedPolicyError::Policy`] if a PCR has no value,
    /// [`SignedPolicyError::TooManyEntries`], [`SignedPolicyError::Key`].
    pub fn sign(
        &mut self,
        key: &SigningKey,
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<Sha256Digest, SignedPolicyError> {
        let policy = pcr_digest(pcrs, values)?;
        let signature = key.sign(SIGNED_HASH, policy.as_bytes())?;
        let key = key.public().fingerprint()?;
        self.insert(SignedPolicy { pcrs: *pcrs, key, policy, signature })?;
        Ok(policy)
    }

    fn insert(&mut self, entry: SignedPolicy) -> Result<(), SignedPolicyError> {
        let entries = self.banks.entry(entry.pcrs.bank()).or_default();
        let same = |old: &SignedPolicy| old.is_for(&entry.pcrs, entry.key, entry.policy);
        let place = entries.iter().position(same).unwrap_or(entries.len());
        // Who reads the file takes the first that fits: no second one may stay.
        entries.retain(|old| !same(old));
        entries.insert(place.min(entries.len()), entry);
        match self.entries().count() {
            count if count > MAX_ENTRIES => Err(SignedPolicyError::TooManyEntries(count)),
            _ => Ok(()),
        }
    }

    /// Whether `key` signed the policy "`pcrs` hold `values`", by the rules of
    /// systemd 257 (src/shared/tpm2-util.c, `find_signature`): the first entry
    /// of the bank with the same PCRs, fingerprint and policy decides.
    ///
    /// # Errors
    /// [`SignedPolicyError::Policy`] if a PCR has no value;
    /// [`SignedPolicyError::Key`].
    pub fn verify(
        &self,
        key: &PublicKey,
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<Verdict, SignedPolicyError> {
        let (policy, fingerprint) = (pcr_digest(pcrs, values)?, key.fingerprint()?);
        let found = self.entries().find(|entry| entry.is_for(pcrs, fingerprint, policy));
        if let Some(entry) = found {
            let signed = entry.is_signed_by(key)?;
            return Ok(if signed { Verdict::Signed } else { Verdict::BadSignature });
        }
        let of_key: Vec<_> = self.entries().filter(|entry| entry.key == fingerprint).collect();
        Ok(if of_key.is_empty() {
            Verdict::OtherKey
        } else if of_key.iter().any(|entry| entry.pcrs == *pcrs) {
            Verdict::OtherPolicy
        } else {
            Verdict::OtherPcrs
        })
    }

    /// The entries that are said to be of `key`, and whether their signatures
    /// are.
    ///
    /// # Errors
    /// [`SignedPolicyError::Key`].
    pub fn of_key(&self, key: &PublicKey) -> Result<Vec<(&SignedPolicy, bool)>, SignedPolicyError> {
        let fingerprint = key.fingerprint()?;
        self.entries()
            .filter(|entry| entry.key == fingerprint)
            .map(|entry| Ok((entry, entry.is_signed_by(key)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;
