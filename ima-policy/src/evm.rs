//! What a portable EVM signature covers: the guarded attributes of a file, its owner and its
//! mode. It holds on any file system, and has to hold the file's `security.ima`.
//!
//! Source: Linux, security/integrity/evm/evm_crypto.c, `evm_calc_hmac_or_hash`,
//! `hmac_add_misc`; evm_main.c, `evm_config_default_xattrnames`.

use pcr_measure::digest::{Algorithm, Digest, DigestError};

/// The attribute that holds the signature.
pub const ATTRIBUTE: &str = "security.evm";
/// The attribute that holds a file's digest or signature.
pub const IMA: &str = "security.ima";

/// The attributes that are covered where a file has them, in the kernel's order. Those that a
/// kernel was not built for are covered too. Names that an administrator adds
/// (`/sys/kernel/security/integrity/evm/evm_xattrs`) are not here: such a kernel takes none of
/// these signatures of files that have them.
pub const GUARDED: [&str; 8] = [
    "security.selinux",
    "security.SMACK64",
    "security.SMACK64EXEC",
    "security.SMACK64TRANSMUTE",
    "security.SMACK64MMAP",
    "security.apparmor",
    IMA,
    "security.capability",
];

/// Owner and mode of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Of the owner.
    pub uid: u32,
    /// Of the group.
    pub gid: u32,
    /// Type and permissions (`st_mode`).
    pub mode: u16,
}

/// The digest that a portable signature is over; `value` gives an attribute's value, `None`
/// where the file has none. The kernel takes no portable signature of a file without
/// `security.ima`.
///
/// The kernel hashes its own struct, so the digest is that of a 64-bit little-endian one.
///
/// # Errors
/// That this build has no such hash.
pub fn digest<V: AsRef<[u8]>>(
    algorithm: Algorithm,
    mut value: impl FnMut(&str) -> Option<V>,
    metadata: Metadata,
) -> Result<Digest, DigestError> {
    let values: Vec<V> = GUARDED.into_iter().filter_map(&mut value).collect();
    // `struct h_misc`: inode number (8 bytes) and generation (4), which are zero in a
    // portable signature, uid, gid, mode, and what aligns it to 24 bytes.
    let misc = [
        &[0; 12][..],
        &metadata.uid.to_le_bytes(),
        &metadata.gid.to_le_bytes(),
        &metadata.mode.to_le_bytes(),
        &[0; 2],
    ]
    .concat();
    let parts: Vec<&[u8]> = values.iter().map(AsRef::as_ref).chain([&misc[..]]).collect();
    algorithm.hash(&parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_covered_counts() {
        let metadata = Metadata { uid: 1, gid: 2, mode: 0o100_755 };
        let of = |value: fn(&str) -> Option<&'static [u8]>, metadata| {
            digest(Algorithm::Sha256, value, metadata).unwrap()
        };
        let all = |name: &str| -> Option<&'static [u8]> {
            GUARDED.into_iter().find(|known| *known == name).map(str::as_bytes)
        };
        let misc = hex::decode("0000000000000000000000000100000002000000ed810000").unwrap();
        let names = "security.selinuxsecurity.SMACK64security.SMACK64EXECsecurity.SMACK64TRANSMUTE\
                     security.SMACK64MMAPsecurity.apparmorsecurity.imasecurity.capability";
        let want = Algorithm::Sha256.hash(&[names.as_bytes(), &misc]).unwrap();
        assert_eq!(of(all, metadata), want);
        assert_eq!(of(|_| None, metadata), Algorithm::Sha256.hash(&[&misc]).unwrap());
        for other in [
            Metadata { uid: 0, ..metadata },
            Metadata { gid: 0, ..metadata },
            Metadata { mode: 0o104_755, ..metadata },
        ] {
            assert_ne!(of(all, other), want);
        }
    }
}
