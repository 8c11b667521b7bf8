//! `TPMS_NV_PUBLIC`: what an NV index is, and the Name that follows from it.

use crate::digest::{Algorithm, Sha256Digest};

/// `TPMA_NV` (TPM 2.0 Library 1.59, Part 2, 13.4), those that are named here.
pub mod attribute {
    /// `TPMA_NV_OWNERWRITE`: the owner may write, or count up.
    pub const OWNER_WRITE: u32 = 1 << 1;
    /// `TPM_NT_COUNTER` in `TPM_NT`, bits 7 to 4: 64 bits that only count up.
    pub const COUNTER: u32 = 1 << 4;
    /// `TPMA_NV_WRITELOCKED`: it cannot be written any more.
    pub const WRITE_LOCKED: u32 = 1 << 11;
    /// `TPMA_NV_WRITEDEFINE`: a write lock stays until the index is undefined.
    pub const WRITE_DEFINE: u32 = 1 << 13;
    /// `TPMA_NV_AUTHREAD`: read with the index' own authorisation value.
    pub const AUTH_READ: u32 = 1 << 18;
    /// `TPMA_NV_POLICYREAD`: read under the index' policy.
    pub const POLICY_READ: u32 = 1 << 19;
    /// `TPMA_NV_NO_DA`: outside dictionary attack protection.
    pub const NO_DA: u32 = 1 << 25;
    /// `TPMA_NV_READLOCKED`: it cannot be read until the next reset.
    pub const READ_LOCKED: u32 = 1 << 28;
    /// `TPMA_NV_WRITTEN`: the TPM sets it with the first write.
    pub const WRITTEN: u32 = 1 << 29;
    /// `TPMA_NV_READ_STCLEAR`: it may be read-locked.
    pub const READ_STCLEAR: u32 = 1 << 31;
}

/// The public area of an NV index whose Name is made with SHA-256. Its parts
/// are known before any TPM has it, and so is its Name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvPublic<'a> {
    /// The handle.
    pub index: u32,
    /// [`attribute`]s; the TPM counts [`attribute::WRITTEN`] in.
    pub attributes: u32,
    /// `authPolicy`: a SHA-256 policy digest, or nothing.
    pub policy: Option<&'a Sha256Digest>,
    /// Bytes of the contents.
    pub size: u16,
}

impl NvPublic<'_> {
    /// The structure as a TPM marshals it (Part 2, 13.6).
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let policy = self.policy.map_or(&[][..], |digest| digest.as_bytes().as_slice());
        let mut out = self.index.to_be_bytes().to_vec();
        out.extend_from_slice(&Algorithm::Sha256.id().to_be_bytes());
        out.extend_from_slice(&self.attributes.to_be_bytes());
        // 0 or 32.
        out.extend_from_slice(&(policy.len() as u16).to_be_bytes());
        out.extend_from_slice(policy);
        out.extend_from_slice(&self.size.to_be_bytes());
        out
    }

    /// The Name: `nameAlg` and the hash of the public area (Part 1, 16).
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        let digest = Sha256Digest::of(&self.to_bytes());
        [&Algorithm::Sha256.id().to_be_bytes(), digest.as_bytes().as_slice()].concat()
    }
}
