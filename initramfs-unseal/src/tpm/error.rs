//! TPM errors told apart by what an operator can do about them.

use pcr_measure::tpm::TpmError as Connection;
use tss_esapi::Error as Esapi;

/// TPM 2.0 Library part 2, 6.6.3. Format-one codes carry a parameter, handle
/// or session number besides; [`number`] takes it out.
mod rc {
    pub(super) const FAILURE: u32 = 0x101;
    pub(super) const PCR_CHANGED: u32 = 0x128;
    pub(super) const NV_AUTHORIZATION: u32 = 0x149;
    pub(super) const NV_LOCKED: u32 = 0x148;
    pub(super) const NV_UNINITIALIZED: u32 = 0x14a;
    pub(super) const NV_SPACE: u32 = 0x14b;
    pub(super) const INITIALIZE: u32 = 0x100;
    pub(super) const LOCKOUT: u32 = 0x921;
    pub(super) const HANDLE: u32 = 0x08b;
    pub(super) const AUTH_FAIL: u32 = 0x08e;
    pub(super) const POLICY_FAIL: u32 = 0x09d;
    pub(super) const BAD_AUTH: u32 = 0x0a2;
}

/// What went wrong with the TPM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmError {
    /// The device file cannot be opened.
    #[error("no TPM at {0}: check that the TPM board sits firmly on the header")]
    Absent(String),
    /// PolicyPCR does not match: another boot than the one sealed against.
    #[error("this boot does not measure as the one that was sealed against (policy failure)")]
    PolicyFailed,
    /// A PCR moved between PolicyPCR and its use. The only error worth a retry.
    #[error("a PCR changed while the key was being unsealed")]
    PcrChanged,
    /// The index is not defined, or not written.
    #[error("the TPM holds no secret at index {0:#010x}")]
    IndexMissing(u32),
    /// Read-locked: something in this boot has unsealed already.
    #[error("the secret is locked until the next reset: it was read in this boot already")]
    Locked,
    /// The SRK is another than the pinned one.
    #[error(
        "the storage root key at {0:#010x} is not the one the root was sealed under: the TPM was replaced or cleared, or something sits between"
    )]
    WrongSrk(u32),
    /// No key at the SRK's handle.
    #[error("the TPM has no storage root key at {0:#010x}: it was cleared or replaced")]
    SrkMissing(u32),
    /// A foreign key at the SRK's handle.
    #[error(
        "the key at {0:#010x} is no ECC P-256 storage key: free the handle (tpm2_evictcontrol) or choose another in the recipe"
    )]
    ForeignSrk(u32),
    /// Dictionary attack lockout.
    #[error(
        "the TPM is in dictionary attack lockout: leave it powered and try again later, or reset the lockout from a trusted system (tpm2_dictionarylockout -c)"
    )]
    Lockout,
    /// NV memory is full.
    #[error(
        "the TPM has no NV space left: free an index that is not needed (tpm2_getcap handles-nv-index, tpm2_nvundefine)"
    )]
    NvSpace,
    /// Owner authorisation is set and not known here.
    #[error(
        "the TPM's owner hierarchy has a password: provisioning needs it empty; clear the TPM from a trusted system"
    )]
    OwnerAuth,
    /// Self test failed.
    #[error("the TPM is in failure mode: cycle the power; if it stays, replace the TPM")]
    FailureMode,
    /// No SHA-256 bank.
    #[error(
        "the TPM has no active SHA-256 bank: allocate it (tpm2_pcrallocate sha256:all) and boot again"
    )]
    NoSha256Bank,
    /// The index holds something else than a secret of this version.
    #[error("the secret at index {0:#010x} is not of this version")]
    Content(u32),
    /// Anything else.
    #[error("TPM error {0:#x}: look it up with tpm2_rc_decode")]
    Other(u32),
    /// The wrapper refused before a command went out.
    #[error("internal error of the TPM library: {0}")]
    Library(String),
}

/// The error number of a TPM response code without the number of the
/// parameter, handle or session it complains about (part 2, 6.6.2).
fn number(code: u32) -> u32 {
    const FORMAT_ONE: u32 = 0x080;
    if code & FORMAT_ONE != 0 { code & 0x0bf } else { code }
}

/// Sorts a response code; `index` is the NV index the command was about.
#[must_use]
pub fn classify(code: u32, index: u32) -> TpmError {
    /// Bits above the TPM's own 12 name the layer (TSS 2.0 Overview, 3.2).
    const LAYER: u32 = 0xffff_f000;
    if code & LAYER != 0 {
        return TpmError::Other(code);
    }
    match number(code) {
        rc::POLICY_FAIL => TpmError::PolicyFailed,
        rc::PCR_CHANGED => TpmError::PcrChanged,
        rc::HANDLE | rc::NV_UNINITIALIZED => TpmError::IndexMissing(index),
        rc::NV_LOCKED => TpmError::Locked,
        rc::NV_SPACE => TpmError::NvSpace,
        rc::LOCKOUT => TpmError::Lockout,
        rc::AUTH_FAIL | rc::BAD_AUTH | rc::NV_AUTHORIZATION => TpmError::OwnerAuth,
        rc::FAILURE | rc::INITIALIZE => TpmError::FailureMode,
        _ => TpmError::Other(code),
    }
}

/// As [`classify`], from the connection's error.
pub(super) fn sorted(error: Connection, index: u32) -> TpmError {
    match error {
        Connection::Response(code) => classify(code, index),
        Connection::Absent(place) => TpmError::Absent(place),
        Connection::NoBank { .. } => TpmError::NoSha256Bank,
        Connection::Moving => TpmError::PcrChanged,
        other => TpmError::Library(other.to_string()),
    }
}

/// As [`classify`], from the library's error.
pub(super) fn from_esapi(error: Esapi, index: u32) -> TpmError {
    sorted(error.into(), index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        // (as the TPM sends them, with session/handle/parameter numbers)
        let cases = [
            (0x99d, TpmError::PolicyFailed),
            (0x09d, TpmError::PolicyFailed),
            (0x128, TpmError::PcrChanged),
            (0x18b, TpmError::IndexMissing(7)),
            (0x28b, TpmError::IndexMissing(7)),
            (0x14a, TpmError::IndexMissing(7)),
            (0x148, TpmError::Locked),
            (0x149, TpmError::OwnerAuth),
            (0x14b, TpmError::NvSpace),
            (0x921, TpmError::Lockout),
            (0x9a2, TpmError::OwnerAuth),
            (0x98e, TpmError::OwnerAuth),
            (0x101, TpmError::FailureMode),
            (0x100, TpmError::FailureMode),
            (0x922, TpmError::Other(0x922)),
            (0x000a_0008, TpmError::Other(0x000a_0008)),
            (0x0007_0148, TpmError::Other(0x0007_0148)),
        ];
        for (code, want) in cases {
            assert_eq!(classify(code, 7), want, "{code:#x}");
        }
    }
}
