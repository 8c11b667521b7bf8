//! TPM errors told apart by what an operator can do about them.

use pcr_measure::tpm::TpmError as Connection;
use tss_esapi::Error as Esapi;

/// TPM 2.0 Library part 2, 6.6.3. Format-one codes carry a parameter, handle
/// or session number besides; [`number`] takes it out.
mod rc {
    pub(super) const INITIALIZE: u32 = 0x100;
    pub(super) const FAILURE: u32 = 0x101;
    pub(super) const DISABLED: u32 = 0x120;
    pub(super) const AUTH_TYPE: u32 = 0x124;
    pub(super) const PCR_CHANGED: u32 = 0x128;
    pub(super) const UPGRADE: u32 = 0x12d;
    pub(super) const AUTH_UNAVAILABLE: u32 = 0x12f;
    pub(super) const REBOOT: u32 = 0x130;
    pub(super) const COMMAND_CODE: u32 = 0x143;
    pub(super) const NV_RANGE: u32 = 0x146;
    pub(super) const NV_SIZE: u32 = 0x147;
    pub(super) const NV_LOCKED: u32 = 0x148;
    pub(super) const NV_AUTHORIZATION: u32 = 0x149;
    pub(super) const NV_UNINITIALIZED: u32 = 0x14a;
    pub(super) const NV_SPACE: u32 = 0x14b;
    pub(super) const NV_DEFINED: u32 = 0x14c;
    pub(super) const NEEDS_TEST: u32 = 0x153;

    // Format one.
    pub(super) const HASH: u32 = 0x083;
    pub(super) const HIERARCHY: u32 = 0x085;
    pub(super) const MODE: u32 = 0x089;
    pub(super) const HANDLE: u32 = 0x08b;
    pub(super) const AUTH_FAIL: u32 = 0x08e;
    pub(super) const SYMMETRIC: u32 = 0x096;
    pub(super) const POLICY_FAIL: u32 = 0x09d;
    pub(super) const BAD_AUTH: u32 = 0x0a2;
    pub(super) const CURVE: u32 = 0x0a6;

    // Warnings.
    pub(super) const OBJECT_MEMORY: u32 = 0x902;
    pub(super) const SESSION_MEMORY: u32 = 0x903;
    pub(super) const MEMORY: u32 = 0x904;
    pub(super) const SESSION_HANDLES: u32 = 0x905;
    pub(super) const OBJECT_HANDLES: u32 = 0x906;
    pub(super) const YIELDED: u32 = 0x908;
    pub(super) const TESTING: u32 = 0x90a;
    pub(super) const NV_RATE: u32 = 0x920;
    pub(super) const LOCKOUT: u32 = 0x921;
    pub(super) const RETRY: u32 = 0x922;
    pub(super) const NV_UNAVAILABLE: u32 = 0x923;
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
    /// The PIN was not the one that the index was sealed with.
    #[error("the PIN is wrong")]
    WrongPin,
    /// The lockout hierarchy has a password of somebody else's.
    #[error(
        "the TPM's lockout hierarchy has another password: from a trusted system remove it (tpm2_changeauth -c lockout -p PASSWORD) or clear the TPM"
    )]
    WrongPassword,
    /// The TPM does not accept what it agreed on for this session.
    #[error(
        "the TPM refuses the session that was just begun with it: something sits between it and the CPU, or its connection is bad"
    )]
    Session,
    /// Owner authorisation is set and not known here.
    #[error(
        "the TPM's owner hierarchy has a password: provisioning needs it empty; clear the TPM from a trusted system"
    )]
    OwnerAuth,
    /// The largest index that the TPM allows is too small.
    #[error("the TPM allows no NV index as large as the secret needs: use another TPM")]
    NvSize,
    /// A handle is in use by something that no query shows.
    #[error(
        "a TPM handle of the configuration is taken by an object that does not show, such as a hidden one of the platform: choose another nv_index or srk in the recipe"
    )]
    Taken,
    /// The index has not the attributes of ours.
    #[error(
        "the NV index {0:#010x} was not made by msec-boot: free it (tpm2_nvundefine) or choose another in the recipe"
    )]
    ForeignIndex(u32),
    /// The hierarchy is switched off until the next reset.
    #[error(
        "the TPM's hierarchy is disabled for this boot: reset the board; if it stays, the firmware disables it"
    )]
    HierarchyDisabled,
    /// No room for one more object or session.
    #[error(
        "the TPM's memory is full of objects and sessions that somebody left behind: cycle the power"
    )]
    MemoryFull,
    /// It said "later" until nobody asked any more.
    #[error(
        "the TPM stays busy or is still testing itself: leave it powered for a minute and boot again"
    )]
    Busy,
    /// It spares its NV memory.
    #[error(
        "the TPM does not write to its NV memory now, to spare it: leave it powered for a minute and boot again"
    )]
    NvRate,
    /// Self test failed.
    #[error("the TPM is in failure mode: cycle the power; if it stays, replace the TPM")]
    FailureMode,
    /// No TPM2_Startup since it was reset.
    #[error(
        "the TPM was not started (TPM2_Startup): it was reset behind the firmware's back; cycle the power, and look for what pulls its reset line"
    )]
    NotStarted,
    /// It wants to be reset.
    #[error("the TPM needs a reset before it goes on: cycle the power")]
    Reboot,
    /// A firmware update of the TPM is under way.
    #[error(
        "the TPM waits for the rest of a firmware update of its own: finish it with the vendor's tool on a trusted system"
    )]
    Upgrade,
    /// The command is switched off.
    #[error(
        "the TPM has a command disabled that is needed: enable it in the firmware, or clear the TPM from a trusted system"
    )]
    Disabled,
    /// A command or an algorithm is missing.
    #[error(
        "the TPM lacks a command or an algorithm that is needed (error {0:#x}): use one that follows the PC Client profile"
    )]
    Unsupported(u32),
    /// No SHA-256 bank.
    #[error(
        "the TPM has no active SHA-256 bank: allocate it from a trusted system (tpm2_pcrallocate sha256:all) and boot again"
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
        rc::NV_RANGE => TpmError::Content(index),
        rc::NV_SIZE => TpmError::NvSize,
        rc::NV_SPACE => TpmError::NvSpace,
        rc::NV_DEFINED => TpmError::Taken,
        // The authorisation was right, the index does not take it from there
        // (part 3, 31.1); ours would.
        rc::NV_AUTHORIZATION | rc::AUTH_TYPE | rc::AUTH_UNAVAILABLE => {
            TpmError::ForeignIndex(index)
        }
        rc::NV_RATE | rc::NV_UNAVAILABLE => TpmError::NvRate,
        rc::LOCKOUT => TpmError::Lockout,
        rc::AUTH_FAIL | rc::BAD_AUTH => TpmError::OwnerAuth,
        rc::HIERARCHY => TpmError::HierarchyDisabled,
        rc::OBJECT_MEMORY
        | rc::SESSION_MEMORY
        | rc::MEMORY
        | rc::SESSION_HANDLES
        | rc::OBJECT_HANDLES => TpmError::MemoryFull,
        // tpm2-tss sends the command again, five times in all (_ESYS_MAX_SUBMISSIONS,
        // esys_int.h), and below it Linux does, with growing pauses of 2.5 s in all
        // (tpm_transmit, tpm-interface.c). A third loop would only multiply them.
        rc::RETRY | rc::YIELDED | rc::TESTING | rc::NEEDS_TEST => TpmError::Busy,
        rc::FAILURE => TpmError::FailureMode,
        rc::INITIALIZE => TpmError::NotStarted,
        rc::REBOOT => TpmError::Reboot,
        rc::UPGRADE => TpmError::Upgrade,
        rc::DISABLED => TpmError::Disabled,
        rc::COMMAND_CODE | rc::HASH | rc::MODE | rc::SYMMETRIC | rc::CURVE => {
            TpmError::Unsupported(code)
        }
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
            (0x149, TpmError::ForeignIndex(7)),
            (0x124, TpmError::ForeignIndex(7)),
            (0x12f, TpmError::ForeignIndex(7)),
            (0x146, TpmError::Content(7)),
            (0x147, TpmError::NvSize),
            (0x14b, TpmError::NvSpace),
            (0x14c, TpmError::Taken),
            (0x920, TpmError::NvRate),
            (0x921, TpmError::Lockout),
            (0x9a2, TpmError::OwnerAuth),
            (0x98e, TpmError::OwnerAuth),
            (0x185, TpmError::HierarchyDisabled),
            (0x902, TpmError::MemoryFull),
            (0x903, TpmError::MemoryFull),
            (0x904, TpmError::MemoryFull),
            (0x905, TpmError::MemoryFull),
            (0x908, TpmError::Busy),
            (0x90a, TpmError::Busy),
            (0x922, TpmError::Busy),
            (0x153, TpmError::Busy),
            (0x101, TpmError::FailureMode),
            (0x100, TpmError::NotStarted),
            (0x130, TpmError::Reboot),
            (0x12d, TpmError::Upgrade),
            (0x120, TpmError::Disabled),
            (0x143, TpmError::Unsupported(0x143)),
            (0x2e6, TpmError::Unsupported(0x2e6)),
            (0x909, TpmError::Other(0x909)),
            (0x000a_0008, TpmError::Other(0x000a_0008)),
            (0x0007_0148, TpmError::Other(0x0007_0148)),
        ];
        for (code, want) in cases {
            assert_eq!(classify(code, 7), want, "{code:#x}");
        }
    }
}
