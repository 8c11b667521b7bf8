//! Signing policies and verifying signatures, by OpenSSL.

use super::{
    MAX_ENTRIES, NoEntry, SignatureFile, SignedPolicy, SignedPolicyError, policy_of, policy_with,
};
use crate::digest::{Algorithm, Sha256Digest};
use crate::key::{KeyError, PublicKey, SigningKey};
use crate::pcr::{PcrBank, PcrSelection};
use crate::policy::Rollback;

/// The hash that is signed, whatever the bank: systemd 257,
/// src/shared/tpm2-util.c, `tpm2_policy_authorize`.
pub(super) const SIGNED_HASH: Algorithm = Algorithm::Sha256;

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

impl From<NoEntry> for Verdict {
    fn from(why: NoEntry) -> Self {
        match why {
            NoEntry::OtherKey => Self::OtherKey,
            NoEntry::OtherPcrs => Self::OtherPcrs,
            NoEntry::OtherPolicy => Self::OtherPolicy,
        }
    }
}

impl SignedPolicy {
    /// Whether the signature is this key's over the policy. A wrong one, or one
    /// of another kind of key, is `false`.
    fn is_signed_by(&self, key: &PublicKey) -> Result<bool, KeyError> {
        key.verify(key.policy_scheme(), SIGNED_HASH, self.policy.as_bytes(), &self.signature)
    }
}

impl SignatureFile {
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
        self.sign_with(key, pcrs, values, None)
    }

    /// As [`Self::sign`]; with a `rollback` the policy holds only as long as
    /// the counter allows it.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub fn sign_with(
        &mut self,
        key: &SigningKey,
        pcrs: &PcrSelection,
        values: &PcrBank,
        rollback: Option<&Rollback>,
    ) -> Result<Sha256Digest, SignedPolicyError> {
        let policy = policy_with(pcrs, values, rollback)?;
        let signature = key.sign(SIGNED_HASH, policy.as_bytes())?;
        let key = key.public().fingerprint()?;
        let rollback = rollback.map(|rollback| rollback.version);
        self.insert(SignedPolicy { pcrs: *pcrs, key, policy, signature, rollback })?;
        Ok(policy)
    }

    pub(super) fn insert(&mut self, entry: SignedPolicy) -> Result<(), SignedPolicyError> {
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
    /// [`Self::find`].
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
        self.verify_policy(key, pcrs, policy_of(pcrs, values)?)
    }

    /// Whether `key` signed `policy` over `pcrs`, by the rules of [`Self::find`].
    ///
    /// # Errors
    /// [`SignedPolicyError::Key`].
    pub fn verify_policy(
        &self,
        key: &PublicKey,
        pcrs: &PcrSelection,
        policy: Sha256Digest,
    ) -> Result<Verdict, SignedPolicyError> {
        match self.find(key.fingerprint()?, pcrs, policy) {
            Ok(entry) if entry.is_signed_by(key)? => Ok(Verdict::Signed),
            Ok(_) => Ok(Verdict::BadSignature),
            Err(why) => Ok(why.into()),
        }
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
