//! What a TPM, or the way to it, answers instead of what was asked for.

use crate::digest::Algorithm;
use crate::pcr::PcrError;
use crate::text::listed;

/// Format-one codes (TPM 2.0 Library 1.59, Part 2, 6.6.3).
const RC_HASH: u32 = 0x083;
const RC_HANDLE: u32 = 0x08b;
/// The error number of a format-one code without what it is about (6.6.2).
const RC_NUMBER: u32 = 0x0bf;

/// What went wrong with the TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TpmError {
    /// Nothing answers.
    #[error(
        "no TPM at {0}: check that it is there and that you may use it (group tss), or say where it is (--tcti)"
    )]
    Absent(String),
    /// Not a TCTI.
    #[error("{0:?} names no TPM: write it as device:/dev/tpmrm0 or swtpm:host=127.0.0.1,port=2321")]
    BadTcti(String),
    /// The TPM refused; the code is as it sent it.
    #[error("the TPM answers {0:#x}: look it up with tpm2_rc_decode")]
    Response(u32),
    /// A bank that is not active.
    #[error("the TPM has no active {bank} bank; it has {}", listed(.has))]
    NoBank {
        /// The bank that was asked for.
        bank: Algorithm,
        /// The banks that are active.
        has: Vec<Algorithm>,
    },
    /// PCRs went on changing while they were read.
    #[error("the PCRs change faster than they can be read: try again")]
    Moving,
    /// A nonce that the TPM would not take.
    #[error("the nonce has {got} bytes, a TPM takes {limit} at most")]
    LongNonce {
        /// Its size in bytes.
        got: usize,
        /// The most, in bytes.
        limit: usize,
    },
    /// No key at a handle.
    #[error("the TPM has no key at {0:#010x}: make one there (pcr-measure create-ak)")]
    NoKey(u32),
    /// A key that is not fit to quote.
    #[error(
        "the key at {0:#010x} is no restricted signing key of this TPM: free the handle (tpm2_evictcontrol) or choose another"
    )]
    ForeignKey(u32),
    /// A signature of a kind that is not written here.
    #[error("the key signs with a scheme other than RSASSA, RSAPSS and ECDSA")]
    Scheme,
    /// The wrapper refused before a command went out.
    #[error("internal error of the TPM library: {0}")]
    Library(String),
    /// PCRs or values that cannot be.
    #[error(transparent)]
    Pcr(#[from] PcrError),
}

impl TpmError {
    /// Whether the TPM said that a handle names nothing.
    #[must_use]
    pub fn is_no_such_handle(&self) -> bool {
        self.is(RC_HANDLE)
    }

    /// Whether the TPM said that it does not have a hash algorithm.
    pub(super) fn is_no_such_hash(&self) -> bool {
        self.is(RC_HASH)
    }

    fn is(&self, number: u32) -> bool {
        matches!(self, Self::Response(code) if code & RC_NUMBER == number)
    }
}

impl From<tss_esapi::Error> for TpmError {
    fn from(error: tss_esapi::Error) -> Self {
        match error {
            tss_esapi::Error::TssError(code) => Self::Response(code.into()),
            tss_esapi::Error::WrapperError(kind) => Self::Library(kind.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_handle_is_told_from_other_refusals() {
        for code in [0x08b, 0x18b, 0x28b] {
            assert!(TpmError::Response(code).is_no_such_handle(), "{code:#x}");
        }
        for code in [0x99d, 0x101, 0x14a, 0x1c4] {
            assert!(!TpmError::Response(code).is_no_such_handle(), "{code:#x}");
        }
    }
}
