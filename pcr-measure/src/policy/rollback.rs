//! Rollback protection: a policy that holds as long as a counter in the TPM has
//! not passed the version of what is booted.

use super::{NvOperation, Policy, PolicyError};
use crate::structures::{NvPublic, nv_attribute};

/// Bytes of a counter (TPM 2.0 Library 1.59, Part 1, 37.2.5: 64 bits).
pub const COUNTER_SIZE: u16 = 8;

/// Attributes of a rollback counter as the TPM has it once it was counted up:
/// everybody reads it, the owner counts it up, nobody writes it.
pub const COUNTER_ATTRIBUTES: u32 = nv_attribute::OWNER_WRITE
    | nv_attribute::COUNTER
    | nv_attribute::AUTH_READ
    | nv_attribute::NO_DA
    | nv_attribute::WRITTEN;

/// The condition "the counter is at most this version".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rollback {
    /// Handle of the counter's NV index.
    pub counter: u32,
    /// The version of the image: it opens nothing once the counter is above.
    pub version: u64,
}

impl Rollback {
    /// The Name of the counter. It has nothing of a device in it, so that one
    /// signature serves all.
    #[must_use]
    pub fn counter_name(&self) -> Vec<u8> {
        let public = NvPublic {
            index: self.counter,
            attributes: COUNTER_ATTRIBUTES,
            policy: None,
            size: COUNTER_SIZE,
        };
        public.name()
    }

    /// What PolicyNV compares the counter with: the version, big-endian as the
    /// TPM keeps a counter.
    #[must_use]
    pub const fn operand(&self) -> [u8; COUNTER_SIZE as usize] {
        self.version.to_be_bytes()
    }
}

impl Policy {
    /// PolicyNV (23.9): the counter is at most the version.
    ///
    /// # Errors
    /// A hash that this build cannot compute.
    pub fn rollback(self, rollback: &Rollback) -> Result<Self, PolicyError> {
        let (name, operand) = (rollback.counter_name(), rollback.operand());
        self.nv(&name, &operand, 0, NvOperation::UnsignedLessOrEqual)
    }
}
