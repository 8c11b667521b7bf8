//! Quotes: a TPM's signed word on its PCRs, verified without a TPM.
//!
//! [`verify`] takes a quote apart step by step; each step has its own error, and
//! what it hands out ([`VerifiedQuote`]) exists only after the last. [`boot`] holds
//! log and manifest of a boot against it, [`clock`] compares two quotes in time, [`tools_values`] reads the PCR values that
//! `tpm2_quote -o` writes.
//!
//! What it trusts: the attestation key, which the caller chose, and nothing
//! else. PCR values, logs and messages are foreign bytes.

pub mod boot;
pub mod clock;
mod error;
mod key;
mod values;

use crate::digest::{Algorithm, Digest};
use crate::key::{PublicKey, Scheme, ecdsa_der};
use crate::pcr::{PcrBank, PcrIndex, PcrSelection};
use crate::structures::{Attest, Attested, ClockInfo, QuoteInfo, SignatureValue, TpmSignature};

pub use error::{QuoteError, Step};
pub use key::AttestationKey;
pub use values::{concatenated_values, to_tools_values, tools_values};

/// Longest nonce, in bytes: `TPM2B_DATA` has room for a `TPMT_HA` (TPM 2.0
/// Library 1.59, Part 2, 10.4.3), an identifier and a SHA-512 digest.
pub const MAX_NONCE: usize = 2 + 64;

/// What a quote has to be.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// What was sent to be signed along; 0 to [`MAX_NONCE`] bytes.
    pub nonce: &'a [u8],
    /// The PCRs, one selection per bank: exactly these.
    pub selections: &'a [PcrSelection],
    /// Their values. Others may stand there too and are not looked at.
    pub values: &'a [PcrBank],
}

/// A quote that went through every step of [`verify`]; nothing else makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedQuote {
    scheme: Scheme,
    hash: Algorithm,
    qualified_signer: Vec<u8>,
    clock: ClockInfo,
    firmware_version: u64,
    pcr_digest: Digest,
    values: Vec<PcrBank>,
}

impl VerifiedQuote {
    /// The scheme of the signature.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The hash of the signature and of the PCR digest.
    #[must_use]
    pub const fn hash(&self) -> Algorithm {
        self.hash
    }

    /// The Qualified Name that the TPM gives the key: a hash over the Names of
    /// the keys above it too, which only the TPM can tell.
    #[must_use]
    pub fn qualified_signer(&self) -> &[u8] {
        &self.qualified_signer
    }

    /// The TPM's clock when it signed.
    #[must_use]
    pub const fn clock(&self) -> &ClockInfo {
        &self.clock
    }

    /// The TPM's firmware version, as [`Attest::firmware_version`] says.
    #[must_use]
    pub const fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// The hash over the values.
    #[must_use]
    pub const fn pcr_digest(&self) -> Digest {
        self.pcr_digest
    }

    /// The quoted PCRs and their values, by bank in the order of the quote. No
    /// other PCR stands in them.
    #[must_use]
    pub fn values(&self) -> &[PcrBank] {
        &self.values
    }

    /// The quoted values of one bank; empty if the quote has none of it.
    #[must_use]
    pub fn bank(&self, algorithm: Algorithm) -> PcrBank {
        let found = self.values.iter().find(|bank| bank.algorithm() == algorithm);
        found.cloned().unwrap_or_else(|| PcrBank::new(algorithm))
    }
}

/// Verifies a quote: a `TPMS_ATTEST` and its `TPMT_SIGNATURE`, as `tpm2_quote -m`
/// and `-s` write them.
///
/// In this order: the key's attributes as far as they are known, structure of
/// message and signature, magic, type, hash, signature, nonce, selection, PCR
/// digest. A quote over fewer, more or other PCRs than `expected`, or over
/// another bank, is refused, as is one of a bank named twice. Banks may stand in
/// any order; a bank of which no PCR is selected says nothing and is passed over.
///
/// Not verified: that the key is one of a TPM (its certificate, or an activated
/// credential, tells), and that the clock goes on ([`clock::compare`]).
///
/// # Errors
/// [`QuoteError`], one variant per step; [`QuoteError::is_refusal`] tells a bad
/// quote from a verification that could not be done.
pub fn verify(
    message: &[u8],
    signature: &[u8],
    key: &AttestationKey,
    expected: &Expected<'_>,
) -> Result<VerifiedQuote, QuoteError> {
    check_expected(expected)?;
    key.check()?;
    let attest = Attest::parse(message).map_err(QuoteError::Message)?;
    let parsed = TpmSignature::parse(signature).map_err(QuoteError::SignatureStructure)?;
    if attest.magic != Attest::GENERATED {
        return Err(QuoteError::Magic(attest.magic));
    }
    let Attested::Quote(info) = &attest.attested else {
        return Err(QuoteError::Type(attest.kind));
    };
    let hash = strong_hash(&parsed)?;
    let scheme = check_signature(message, &parsed, hash, key.public())?;
    if attest.extra_data != expected.nonce {
        return Err(QuoteError::Nonce {
            want: expected.nonce.to_vec(),
            got: attest.extra_data.to_vec(),
        });
    }
    check_selection(info, expected.selections)?;
    let (pcr_digest, values) = check_digest(info, hash, expected.values)?;
    Ok(VerifiedQuote {
        scheme,
        hash,
        qualified_signer: attest.qualified_signer.to_vec(),
        clock: attest.clock,
        firmware_version: attest.firmware_version,
        pcr_digest,
        values,
    })
}

/// Whether anything can be expected like this.
fn check_expected(expected: &Expected<'_>) -> Result<(), QuoteError> {
    if expected.nonce.len() > MAX_NONCE {
        return Err(QuoteError::NonceTooLong(expected.nonce.len()));
    }
    check_selections(expected.selections)
}

/// Whether a quote over these PCRs is one that [`verify`] takes.
///
/// # Errors
/// [`QuoteError::Nothing`], [`QuoteError::BankTwice`].
pub fn check_selections(selections: &[PcrSelection]) -> Result<(), QuoteError> {
    if selections.is_empty() {
        return Err(QuoteError::Nothing);
    }
    for (n, selection) in selections.iter().enumerate() {
        let bank = selection.bank();
        if selections.iter().take(n).any(|other| other.bank() == bank) {
            return Err(QuoteError::BankTwice(bank));
        }
    }
    Ok(())
}

/// A hash that collisions are not known of.
fn strong_hash(signature: &TpmSignature<'_>) -> Result<Algorithm, QuoteError> {
    match signature.hash.known() {
        Some(hash @ (Algorithm::Sha256 | Algorithm::Sha384 | Algorithm::Sha512)) => Ok(hash),
        _ => Err(QuoteError::Hash(signature.hash)),
    }
}

fn check_signature(
    message: &[u8],
    signature: &TpmSignature<'_>,
    hash: Algorithm,
    key: &PublicKey,
) -> Result<Scheme, QuoteError> {
    let (scheme, right) = match signature.value {
        SignatureValue::RsaSsa(bytes) => {
            (Scheme::RsaSsa, key.verify(Scheme::RsaSsa, hash, message, bytes)?)
        }
        SignatureValue::RsaPss(bytes) => {
            (Scheme::RsaPss, key.verify(Scheme::RsaPss, hash, message, bytes)?)
        }
        SignatureValue::EcDsa { r, s } => {
            (Scheme::EcDsa, key.verify(Scheme::EcDsa, hash, message, &ecdsa_der(r, s)?)?)
        }
    };
    if right { Ok(scheme) } else { Err(QuoteError::Signature { scheme, hash }) }
}

/// Both lists name the same PCRs of the same banks, each bank once.
fn check_selection(info: &QuoteInfo<'_>, expected: &[PcrSelection]) -> Result<(), QuoteError> {
    let quoted: Vec<_> = info.selections.iter().filter(|quoted| quoted.mask != 0).collect();
    let is_quoted = |selection: &PcrSelection| {
        let bank = Some(selection.bank());
        quoted.iter().any(|q| q.bank.known() == bank && q.mask == selection.mask())
    };
    // Different banks are expected, each is quoted, and no more: so none twice.
    if quoted.len() == expected.len() && expected.iter().all(is_quoted) {
        return Ok(());
    }
    Err(QuoteError::Selection { want: expected.to_vec(), got: info.selections.clone() })
}

/// The digest over the values in the order of the quote, and these values.
/// Only for a selection that was checked: its banks are known.
fn check_digest(
    info: &QuoteInfo<'_>,
    hash: Algorithm,
    banks: &[PcrBank],
) -> Result<(Digest, Vec<PcrBank>), QuoteError> {
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for quoted in info.selections.iter().filter(|quoted| quoted.mask != 0) {
        let algorithm = quoted.bank.known().ok_or(QuoteError::Hash(quoted.bank))?;
        let pcrs = PcrIndex::all().filter(|pcr| quoted.mask & 1 << pcr.get() != 0);
        let selection = PcrSelection::new(algorithm, pcrs)?;
        let none = PcrBank::new(algorithm);
        let bank = banks.iter().find(|bank| bank.algorithm() == algorithm).unwrap_or(&none);
        bytes.extend(bank.concatenated(&selection)?);
        let mut confirmed = PcrBank::new(algorithm);
        for (pcr, value) in bank.iter().filter(|(pcr, _)| selection.contains(*pcr)) {
            confirmed.set(pcr, value)?;
        }
        values.push(confirmed);
    }
    let computed = hash.hash(&[&bytes]).map_err(crate::pcr::PcrError::from)?;
    if computed.as_bytes() != info.pcr_digest {
        return Err(QuoteError::Digest { computed, quoted: info.pcr_digest.to_vec() });
    }
    Ok((computed, values))
}

#[cfg(test)]
mod tests;
