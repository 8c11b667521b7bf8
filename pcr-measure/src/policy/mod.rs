//! Policy digests as the TPM computes them (TPM 2.0 Library 1.59, Part 3, 23).
//!
//! Pure arithmetic: what a trial session would answer, without a TPM.

mod or;
mod rollback;

use crate::digest::{Algorithm, Digest, DigestError, Sha256Digest};
use crate::pcr::{PcrBank, PcrError, PcrSelection, marshal_selections};

pub use or::{MAX_OR_BRANCHES, MIN_OR_BRANCHES, OrTree};
pub use rollback::{COUNTER_ATTRIBUTES, COUNTER_SIZE, Rollback};

/// `TPM_CC` of the policy commands (TPM 2.0 Library 1.59, Part 2, 6.5.2).
mod cc {
    pub(super) const POLICY_NV: u32 = 0x0000_0149;
    pub(super) const POLICY_AUTHORIZE: u32 = 0x0000_016a;
    pub(super) const POLICY_AUTH_VALUE: u32 = 0x0000_016b;
    pub(super) const POLICY_COMMAND_CODE: u32 = 0x0000_016c;
    pub(super) const POLICY_OR: u32 = 0x0000_0171;
    pub(super) const POLICY_PCR: u32 = 0x0000_017f;
}

/// What can be wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A selection that the bank has no values for.
    #[error(transparent)]
    Pcr(#[from] PcrError),
    /// A hash that this build cannot compute.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A PolicyOR with too few or too many branches.
    #[error("a PolicyOR has 2 to {MAX_OR_BRANCHES} branches, not {0}; more need a tree")]
    Branches(usize),
    /// A branch of another hash algorithm.
    #[error("a {got} digest cannot be a branch of a {want} policy")]
    OtherAlgorithm {
        /// Algorithm of the policy.
        want: Algorithm,
        /// Algorithm of the branch.
        got: Algorithm,
    },
    /// Bytes that are no Name.
    #[error("{0} bytes are no Name: it is an algorithm and a digest, or a handle of 4 bytes")]
    NotAName(usize),
    /// More bytes than the TPM takes.
    #[error("the {what} has {got} bytes, more than the {limit} that a TPM takes")]
    TooLong {
        /// Which parameter.
        what: &'static str,
        /// Its size in bytes.
        got: usize,
        /// The largest size in bytes.
        limit: usize,
    },
}

/// The PolicyPCR digest of a fresh SHA-256 session, over values of whatever bank:
/// what a key that is sealed to `selection` carries as its policy, and what is
/// signed for PolicyAuthorize.
///
/// # Errors
/// A selected PCR has no value in `values`, or the selection is of another bank.
pub fn pcr_digest(selection: &PcrSelection, values: &PcrBank) -> Result<Sha256Digest, PolicyError> {
    let concatenated = values.concatenated(selection)?;
    let hashed = Sha256Digest::of(&concatenated);
    Ok(Sha256Digest::of_parts(&[
        Sha256Digest::ZERO.as_bytes(),
        &cc::POLICY_PCR.to_be_bytes(),
        &selection.to_tpml(),
        hashed.as_bytes(),
    ]))
}

/// `TPM_EO`: how PolicyNV compares (TPM 2.0 Library 1.59, Part 2, 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum NvOperation {
    /// NV = operand.
    Equal = 0x0000,
    /// NV ≠ operand.
    NotEqual = 0x0001,
    /// NV > operand, signed.
    SignedGreater = 0x0002,
    /// NV > operand, unsigned.
    UnsignedGreater = 0x0003,
    /// NV < operand, signed.
    SignedLess = 0x0004,
    /// NV < operand, unsigned.
    UnsignedLess = 0x0005,
    /// NV ≥ operand, signed.
    SignedGreaterOrEqual = 0x0006,
    /// NV ≥ operand, unsigned.
    UnsignedGreaterOrEqual = 0x0007,
    /// NV ≤ operand, signed.
    SignedLessOrEqual = 0x0008,
    /// NV ≤ operand, unsigned.
    UnsignedLessOrEqual = 0x0009,
    /// Every bit of the operand is set in NV.
    BitSet = 0x000a,
    /// Every bit of the operand is clear in NV.
    BitClear = 0x000b,
}

impl NvOperation {
    /// Every operation, with the name that tpm2_policynv has for it.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Equal, "eq"),
        (Self::NotEqual, "neq"),
        (Self::SignedGreater, "sgt"),
        (Self::UnsignedGreater, "ugt"),
        (Self::SignedLess, "slt"),
        (Self::UnsignedLess, "ult"),
        (Self::SignedGreaterOrEqual, "sge"),
        (Self::UnsignedGreaterOrEqual, "uge"),
        (Self::SignedLessOrEqual, "sle"),
        (Self::UnsignedLessOrEqual, "ule"),
        (Self::BitSet, "bs"),
        (Self::BitClear, "bc"),
    ];
}

/// Largest policyRef, operand or digest a TPM takes, in bytes (`TPM2B_DIGEST`
/// and `TPM2B_NONCE` with SHA-512).
const MAX_BUFFER: usize = 64;

/// The state of a policy session: its digest, advanced by each command. Starts
/// from zeros, as TPM2_StartAuthSession leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    digest: Digest,
}

impl Policy {
    /// A fresh session with this hash.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self { digest: Digest::filled(algorithm, 0) }
    }

    /// A session that already has this digest.
    #[must_use]
    pub const fn from_digest(digest: Digest) -> Self {
        Self { digest }
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// H(old || parts).
    fn advanced(&self, parts: &[&[u8]]) -> Result<Self, PolicyError> {
        let mut all = vec![self.digest.as_bytes()];
        all.extend_from_slice(parts);
        Ok(Self { digest: self.digest.algorithm().hash(&all)? })
    }

    fn zeroed(&self) -> Self {
        Self::new(self.digest.algorithm())
    }

    /// PolicyPCR (23.7) over one or more banks: each selection with the bank
    /// that has its values, in the order of the selection list.
    ///
    /// # Errors
    /// A selected PCR has no value.
    pub fn pcr(self, selected: &[(PcrSelection, &PcrBank)]) -> Result<Self, PolicyError> {
        let mut values = Vec::new();
        for (selection, bank) in selected {
            values.extend(bank.concatenated(selection)?);
        }
        let selections: Vec<_> = selected.iter().map(|(selection, _)| *selection).collect();
        let hashed = self.digest.algorithm().hash(&[&values])?;
        self.pcr_hashed(&selections, &hashed)
    }

    /// PolicyPCR with the hash of the values already made.
    ///
    /// # Errors
    /// A hash that this build cannot compute.
    pub fn pcr_hashed(
        self,
        selections: &[PcrSelection],
        hashed: &Digest,
    ) -> Result<Self, PolicyError> {
        self.advanced(&[
            &cc::POLICY_PCR.to_be_bytes(),
            &marshal_selections(selections),
            hashed.as_bytes(),
        ])
    }

    /// PolicyOR (23.6) over 2 to 8 branches. The digest so far does not matter:
    /// the TPM only lets a session pass whose digest is one of the branches.
    /// More branches need an [`OrTree`].
    ///
    /// # Errors
    /// Too few or too many branches, or branches of another algorithm.
    pub fn or(self, branches: &[Digest]) -> Result<Self, PolicyError> {
        if branches.len() < MIN_OR_BRANCHES || branches.len() > MAX_OR_BRANCHES {
            return Err(PolicyError::Branches(branches.len()));
        }
        let want = self.digest.algorithm();
        if let Some(other) = branches.iter().find(|branch| branch.algorithm() != want) {
            return Err(PolicyError::OtherAlgorithm { want, got: other.algorithm() });
        }
        let code = cc::POLICY_OR.to_be_bytes();
        let mut parts: Vec<&[u8]> = vec![&code];
        parts.extend(branches.iter().map(Digest::as_bytes));
        self.zeroed().advanced(&parts)
    }

    /// PolicyAuthorize (23.16): any policy that the key with this Name signed
    /// for `policy_ref` (may be empty). What the key signs is
    /// [`authorized_hash`].
    ///
    /// # Errors
    /// Not a Name; a reference longer than a TPM takes.
    pub fn authorize(self, key_name: &[u8], policy_ref: &[u8]) -> Result<Self, PolicyError> {
        check_name(key_name)?;
        check_length("policyRef", policy_ref)?;
        // PolicyUpdate (23.2.3) on a digest of zeros: two hashes.
        self.zeroed()
            .advanced(&[&cc::POLICY_AUTHORIZE.to_be_bytes(), key_name])?
            .advanced(&[policy_ref])
    }

    /// PolicyNV (23.9): compares `operand` with the index of this Name, from
    /// `offset` (bytes) on.
    ///
    /// # Errors
    /// Not a Name; an operand longer than a TPM takes.
    pub fn nv(
        self,
        index_name: &[u8],
        operand: &[u8],
        offset: u16,
        operation: NvOperation,
    ) -> Result<Self, PolicyError> {
        check_name(index_name)?;
        check_length("operand", operand)?;
        let arguments = self.digest.algorithm().hash(&[
            operand,
            &offset.to_be_bytes(),
            &(operation as u16).to_be_bytes(),
        ])?;
        self.advanced(&[&cc::POLICY_NV.to_be_bytes(), arguments.as_bytes(), index_name])
    }

    /// PolicyAuthValue (23.17): the object's authorization value (a PIN) is
    /// needed, proven by an HMAC.
    ///
    /// # Errors
    /// A hash that this build cannot compute.
    pub fn auth_value(self) -> Result<Self, PolicyError> {
        self.advanced(&[&cc::POLICY_AUTH_VALUE.to_be_bytes()])
    }

    /// PolicyCommandCode (23.11): only this command (`TPM_CC`).
    ///
    /// # Errors
    /// A hash that this build cannot compute.
    pub fn command_code(self, code: u32) -> Result<Self, PolicyError> {
        self.advanced(&[&cc::POLICY_COMMAND_CODE.to_be_bytes(), &code.to_be_bytes()])
    }
}

/// What the key of a PolicyAuthorize signs: H(approved policy || policyRef)
/// (TPM 2.0 Library 1.59, Part 3, 23.16, aHash).
///
/// # Errors
/// A reference longer than a TPM takes.
pub fn authorized_hash(approved: &Digest, policy_ref: &[u8]) -> Result<Digest, PolicyError> {
    check_length("policyRef", policy_ref)?;
    Ok(approved.algorithm().hash(&[approved.as_bytes(), policy_ref])?)
}

/// A Name is a handle, or `nameAlg` and a digest of it (Part 1, 16).
fn check_name(name: &[u8]) -> Result<(), PolicyError> {
    let hashed = || {
        let (algorithm, digest) = name.split_first_chunk::<2>()?;
        let algorithm = Algorithm::from_id(u16::from_be_bytes(*algorithm))?;
        (digest.len() == algorithm.size()).then_some(())
    };
    if name.len() != 4 && hashed().is_none() {
        return Err(PolicyError::NotAName(name.len()));
    }
    Ok(())
}

const fn check_length(what: &'static str, bytes: &[u8]) -> Result<(), PolicyError> {
    if bytes.len() > MAX_BUFFER {
        return Err(PolicyError::TooLong { what, got: bytes.len(), limit: MAX_BUFFER });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
