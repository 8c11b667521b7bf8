//! The head of a TPM 2.0 command: code, name, handle area.
//!
//! TCG TPM 2.0 Library, Part 1, 18 (headers) and Part 2, table 12 (`TPM_CC`).

/// `TPM2_CC_PCR_Extend`.
pub const PCR_EXTEND: u32 = 0x182;
/// `TPM2_CC_Startup`.
pub const STARTUP: u32 = 0x144;
/// `TPM2_CC_ContextLoad`.
pub const CONTEXT_LOAD: u32 = 0x161;
/// `TPM2_CC_ContextSave`.
pub const CONTEXT_SAVE: u32 = 0x162;
/// `TPM2_CC_NV_Read`.
pub const NV_READ: u32 = 0x14e;
/// `TPM_CC_NV_WriteLock`.
pub const NV_WRITE_LOCK: u32 = 0x138;
/// `TPM_CC_HierarchyControl`.
pub const HIERARCHY_CONTROL: u32 = 0x121;
/// `TPM2_CC_GetRandom`.
pub const GET_RANDOM: u32 = 0x17b;

/// `TPM2_CC_StartAuthSession`.
pub const START_AUTH_SESSION: u32 = 0x176;

/// An answer that says `TPM_RC_FAILURE` (TCG Part 2, 6.6.3).
pub const FAILURE: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01];

/// Bytes of a command's or answer's header: tag, size, code.
pub const HEADER: usize = 10;

/// The most a TPM takes or gives in one frame. swtpm's buffer has 4096 bytes;
/// a frame that claims more is not one.
pub const FRAME_LIMIT: usize = 4096;

/// The third field of a header: the command's code or the answer's return code.
#[must_use]
pub fn code(frame: &[u8]) -> Option<u32> {
    be32(frame, 6)
}

/// The size a header claims for its frame, its own ten bytes included.
#[must_use]
pub fn claimed(frame: &[u8]) -> Option<usize> {
    be32(frame, 2).and_then(|size| usize::try_from(size).ok())
}

/// The command's name without `TPM2_CC_`.
#[must_use]
pub fn name(code: u32) -> Option<&'static str> {
    entry(code).map(|(_, name, _)| *name)
}

/// The handle area. Empty for a command that is unknown or cut short.
#[must_use]
pub fn handles(request: &[u8]) -> Vec<u32> {
    let count = code(request).and_then(entry).map_or(0, |(_, _, handles)| usize::from(*handles));
    let all: Option<Vec<u32>> = (0..count).map(|i| be32(request, HEADER + 4 * i)).collect();
    all.unwrap_or_default()
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}

fn entry(code: u32) -> Option<&'static (u32, &'static str, u8)> {
    COMMANDS.iter().find(|(known, _, _)| *known == code)
}

/// Code, name, handles in the command. TCG Part 2, table 12; handles from Part 3.
const COMMANDS: &[(u32, &str, u8)] = &[
    (0x11f, "NV_UndefineSpaceSpecial", 2),
    (0x120, "EvictControl", 2),
    (0x121, "HierarchyControl", 1),
    (0x122, "NV_UndefineSpace", 2),
    (0x124, "ChangeEPS", 1),
    (0x125, "ChangePPS", 1),
    (0x126, "Clear", 1),
    (0x127, "ClearControl", 1),
    (0x128, "ClockSet", 1),
    (0x129, "HierarchyChangeAuth", 1),
    (0x12a, "NV_DefineSpace", 1),
    (0x12b, "PCR_Allocate", 1),
    (0x12c, "PCR_SetAuthPolicy", 1),
    (0x12d, "PP_Commands", 1),
    (0x12e, "SetPrimaryPolicy", 1),
    (0x130, "ClockRateAdjust", 1),
    (0x131, "CreatePrimary", 1),
    (0x132, "NV_GlobalWriteLock", 1),
    (0x133, "GetCommandAuditDigest", 2),
    (0x134, "NV_Increment", 2),
    (0x135, "NV_SetBits", 2),
    (0x136, "NV_Extend", 2),
    (0x137, "NV_Write", 2),
    (0x138, "NV_WriteLock", 2),
    (0x139, "DictionaryAttackLockReset", 1),
    (0x13a, "DictionaryAttackParameters", 1),
    (0x13b, "NV_ChangeAuth", 1),
    (0x13c, "PCR_Event", 1),
    (0x13d, "PCR_Reset", 1),
    (0x13e, "SequenceComplete", 1),
    (0x13f, "SetAlgorithmSet", 1),
    (0x140, "SetCommandCodeAuditStatus", 1),
    (0x142, "IncrementalSelfTest", 0),
    (0x143, "SelfTest", 0),
    (0x144, "Startup", 0),
    (0x145, "Shutdown", 0),
    (0x146, "StirRandom", 0),
    (0x147, "ActivateCredential", 2),
    (0x148, "Certify", 2),
    (0x149, "PolicyNV", 3),
    (0x14a, "CertifyCreation", 2),
    (0x14b, "Duplicate", 2),
    (0x14c, "GetTime", 2),
    (0x14d, "GetSessionAuditDigest", 3),
    (NV_READ, "NV_Read", 2),
    (0x14f, "NV_ReadLock", 2),
    (0x150, "ObjectChangeAuth", 2),
    (0x151, "PolicySecret", 2),
    (0x152, "Rewrap", 2),
    (0x153, "Create", 1),
    (0x154, "ECDH_ZGen", 1),
    (0x155, "HMAC", 1),
    (0x156, "Import", 1),
    (0x157, "Load", 1),
    (0x158, "Quote", 1),
    (0x159, "RSA_Decrypt", 1),
    (0x15b, "HMAC_Start", 1),
    (0x15c, "SequenceUpdate", 1),
    (0x15d, "Sign", 1),
    (0x15e, "Unseal", 1),
    (0x160, "PolicySigned", 2),
    (0x161, "ContextLoad", 0),
    (0x162, "ContextSave", 1),
    (0x163, "ECDH_KeyGen", 1),
    (0x164, "EncryptDecrypt", 1),
    (0x165, "FlushContext", 0),
    (0x167, "LoadExternal", 0),
    (0x168, "MakeCredential", 1),
    (0x169, "NV_ReadPublic", 1),
    (0x16a, "PolicyAuthorize", 1),
    (0x16b, "PolicyAuthValue", 1),
    (0x16c, "PolicyCommandCode", 1),
    (0x16d, "PolicyCounterTimer", 1),
    (0x16e, "PolicyCpHash", 1),
    (0x16f, "PolicyLocality", 1),
    (0x170, "PolicyNameHash", 1),
    (0x171, "PolicyOR", 1),
    (0x172, "PolicyTicket", 1),
    (0x173, "ReadPublic", 1),
    (0x174, "RSA_Encrypt", 1),
    (START_AUTH_SESSION, "StartAuthSession", 2),
    (0x177, "VerifySignature", 1),
    (0x178, "ECC_Parameters", 0),
    (0x179, "FirmwareRead", 0),
    (0x17a, "GetCapability", 0),
    (GET_RANDOM, "GetRandom", 0),
    (0x17c, "GetTestResult", 0),
    (0x17d, "Hash", 0),
    (0x17e, "PCR_Read", 0),
    (0x17f, "PolicyPCR", 1),
    (0x180, "PolicyRestart", 1),
    (0x181, "ReadClock", 0),
    (PCR_EXTEND, "PCR_Extend", 1),
    (0x183, "PCR_SetAuthValue", 1),
    (0x184, "NV_Certify", 3),
    (0x185, "EventSequenceComplete", 2),
    (0x186, "HashSequenceStart", 0),
    (0x187, "PolicyPhysicalPresence", 1),
    (0x188, "PolicyDuplicationSelect", 1),
    (0x189, "PolicyGetDigest", 1),
    (0x18a, "TestParms", 0),
    (0x18b, "Commit", 1),
    (0x18c, "PolicyPassword", 1),
    (0x18d, "ZGen_2Phase", 1),
    (0x18e, "EC_Ephemeral", 0),
    (0x18f, "PolicyNvWritten", 1),
    (0x190, "PolicyTemplate", 1),
    (0x191, "CreateLoaded", 1),
    (0x192, "PolicyAuthorizeNV", 3),
    (0x193, "EncryptDecrypt2", 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_without_doubles() {
        assert!(COMMANDS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn heads_of_real_commands() {
        // Startup(CLEAR), NV_Read(owner, 0x01806d73), FlushContext(0x02000000)
        let cases: [(&[u8], &str, &[u32]); 3] = [
            (&[0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0], "Startup", &[]),
            (
                &[0x80, 2, 0, 0, 0, 18, 0, 0, 1, 0x4e, 0x40, 0, 0, 1, 0x01, 0x80, 0x6d, 0x73],
                "NV_Read",
                &[0x4000_0001, 0x0180_6d73],
            ),
            // Its handle is a parameter: Part 3, 28.4.
            (&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65, 2, 0, 0, 0], "FlushContext", &[]),
        ];
        for (frame, expected, area) in cases {
            assert_eq!(code(frame).and_then(name), Some(expected));
            assert_eq!(handles(frame), area, "{expected}");
            assert_eq!(claimed(frame), Some(frame.len()), "{expected}");
        }
    }

    #[test]
    fn a_handle_area_cut_short_gives_no_handles() {
        let frame = [0x80, 2, 0, 0, 0, 18, 0, 0, 1, 0x4e, 0x40, 0, 0, 1, 0x01];
        assert_eq!(handles(&frame), [0u32; 0]);
    }
}
