//! IMA's and EVM's signatures as they lie in extended attributes and in measurement lists:
//! a header, and what a key made of a digest.
//!
//! Version 2 signs a digest as it is. Version 3 signs the hash of a `struct ima_file_id`,
//! which says what kind of digest it is, so that one cannot stand for another. For fs-verity
//! digests the kernel takes version 3 alone, since Linux 5.19. For digests of files and of
//! metadata it takes version 2; version 3 as well only where it has `asymmetric_verify_v3`,
//! which was posted in 2026: none is made here, but one is verified.
//!
//! Modules have signatures of another form, appended to them ([`Appended`]).
//!
//! Source: Linux, security/integrity/integrity.h, digsig.c, digsig_asymmetric.c;
//! include/uapi/linux/hash_info.h; Documentation/security/IMA-templates.rst.

#[cfg(feature = "signature")]
mod appended;
#[cfg(feature = "signature")]
mod key;
#[cfg(feature = "signature")]
mod keyring;

use std::fmt;

use pcr_measure::digest::{Algorithm, Digest, DigestError};

#[cfg(feature = "signature")]
pub use appended::{Appended, AppendedError, KeyKind, Signer};
#[cfg(feature = "signature")]
pub use key::{KeyError, MAX_KEY_FILE, SigningKey};
#[cfg(feature = "signature")]
pub(crate) use keyring::is_certificate;
#[cfg(feature = "signature")]
pub use keyring::{AppendedVerdict, Keyring, PublicKey, Verdict};

/// Bytes in front of the signature proper: type, version, hash, key (4), size (2).
const HEADER: usize = 9;

/// What a signature is over: the type of the attribute that holds it
/// (`enum evm_ima_xattr_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The digest of a file, in `security.ima` (`EVM_IMA_XATTR_DIGSIG`).
    File = 3,
    /// Attributes, owner and mode of a file on any file system, in `security.evm`
    /// (`EVM_XATTR_PORTABLE_DIGSIG`).
    Portable = 5,
    /// The fs-verity digest of a file, in `security.ima` (`IMA_VERITY_DIGSIG`).
    Verity = 6,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a file's digest",
            Self::Portable => "a file's metadata",
            Self::Verity => "an fs-verity digest",
        })
    }
}

/// How a digest is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// As it is.
    V2 = 2,
    /// Within a `struct ima_file_id`.
    V3 = 3,
}

/// By which the kernel finds a key: the last four bytes of its certificate's
/// SubjectKeyIdentifier, as `/proc/keys` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

/// What is no signature, or none that is judged here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Fewer bytes than a header and a signature have.
    #[error("{0} bytes are no signature")]
    Short(usize),
    /// Another type of attribute.
    #[error("an attribute of type {0} is no signature")]
    Type(u8),
    /// A version that the kernel does not take for this kind.
    #[error("version {version} is none that signs {kind}")]
    Version {
        /// What it is over.
        kind: Kind,
        /// Its version.
        version: u8,
    },
    /// A hash that signatures are not taken over: too weak, or not known.
    #[error("signatures over the hash {0} of hash_info.h are not taken")]
    Hash(u8),
    /// The header claims another size.
    #[error("the header says {claimed} bytes of signature, {found} follow")]
    Size {
        /// As the header has it.
        claimed: usize,
        /// That follow.
        found: usize,
    },
    /// Over something else than was asked about.
    #[error("it signs {found}, not {wanted}")]
    Kind {
        /// What it is over.
        found: Kind,
        /// What was asked about.
        wanted: Kind,
    },
    /// Over a digest of another algorithm than was given.
    #[error("it signs a digest of {signed}, not one of {given}")]
    Algorithm {
        /// The header's.
        signed: Algorithm,
        /// The digest's.
        given: Algorithm,
    },
    /// This build has no such hash.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A signature with its header. That it reads well says nothing about who made it:
/// a keyring does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What it is over.
    pub kind: Kind,
    /// How.
    pub version: Version,
    /// The digest's algorithm.
    pub algorithm: Algorithm,
    /// Who made it, as it says itself.
    pub key: KeyId,
    /// RSASSA-PKCS1-v1_5 as bytes, or ECDSA as DER.
    pub bytes: Vec<u8>,
}

impl Signature {
    /// Reads an attribute, or the field `sig` or `evmsig` of a list.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let short = || SignatureError::Short(bytes.len());
        let (header, signature) = bytes.split_first_chunk::<HEADER>().ok_or_else(short)?;
        let [kind, version, hash, a, b, c, d, high, low] = *header;
        let kind = [Kind::File, Kind::Portable, Kind::Verity]
            .into_iter()
            .find(|known| *known as u8 == kind)
            .ok_or(SignatureError::Type(kind))?;
        let version = match (kind, version) {
            (Kind::File | Kind::Portable, 2) => Version::V2,
            (_, 3) => Version::V3,
            _ => return Err(SignatureError::Version { kind, version }),
        };
        let claimed = usize::from(u16::from_be_bytes([high, low]));
        if signature.is_empty() {
            return Err(short());
        }
        if claimed != signature.len() {
            return Err(SignatureError::Size { claimed, found: signature.len() });
        }
        let algorithm = HASHES
            .into_iter()
            .find(|(_, number)| *number == hash)
            .map(|(algorithm, _)| algorithm)
            .ok_or(SignatureError::Hash(hash))?;
        let key = KeyId([a, b, c, d]);
        Ok(Self { kind, version, algorithm, key, bytes: signature.to_vec() })
    }

    /// As an attribute holds it; `None` for more bytes of signature than a header can say.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let size = u16::try_from(self.bytes.len()).ok()?;
        let mut out = vec![self.kind as u8, self.version as u8, number(self.algorithm)?];
        out.extend(self.key.0);
        out.extend(size.to_be_bytes());
        out.extend(&self.bytes);
        Some(out)
    }

    /// The digest that a key signs for `digest`.
    ///
    /// # Errors
    /// [`SignatureError::Hash`] for an algorithm that is not taken.
    pub fn signed(kind: Kind, version: Version, digest: &Digest) -> Result<Digest, SignatureError> {
        match version {
            Version::V2 => Ok(*digest),
            Version::V3 => {
                let algorithm = digest.algorithm();
                let number = number(algorithm).ok_or(SignatureError::Hash(u8::MAX))?;
                // `struct ima_file_id`, as much of it as the digest fills.
                Ok(algorithm.hash(&[&[kind as u8, number], digest.as_bytes()])?)
            }
        }
    }
}

/// Numbers of hashes that signatures are taken over (`enum hash_algo`). MD5 and SHA-1, over
/// which the kernel still takes some, are not here: two files can share one such digest.
const HASHES: [(Algorithm, u8); 6] = [
    (Algorithm::Sha256, 4),
    (Algorithm::Sha384, 5),
    (Algorithm::Sha512, 6),
    (Algorithm::Sha3_256, 20),
    (Algorithm::Sha3_384, 21),
    (Algorithm::Sha3_512, 22),
];

fn number(algorithm: Algorithm) -> Option<u8> {
    HASHES.into_iter().find(|(known, _)| *known == algorithm).map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, version: u8, hash: u8, size: u16) -> Vec<u8> {
        let [high, low] = size.to_be_bytes();
        vec![kind, version, hash, 0xde, 0xad, 0xbe, 0xef, high, low]
    }

    #[test]
    fn a_signature_survives_its_bytes() {
        for (kind, version) in [(3, 2), (3, 3), (5, 2), (5, 3), (6, 3)] {
            for (algorithm, number) in HASHES {
                let bytes = [header(kind, version, number, 3), vec![1, 2, 3]].concat();
                let signature = Signature::parse(&bytes).unwrap();
                assert_eq!(signature.kind as u8, kind);
                assert_eq!(signature.version as u8, version);
                assert_eq!(signature.algorithm, algorithm);
                assert_eq!(signature.key.to_string(), "deadbeef");
                assert_eq!(signature.bytes, [1, 2, 3]);
                assert_eq!(signature.to_bytes().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        use SignatureError as E;
        let with = |kind, version, hash, size| [header(kind, version, hash, size), vec![0; 3]];
        let of = |parts: [Vec<u8>; 2]| Signature::parse(&parts.concat()).unwrap_err();
        assert_eq!(of([vec![], vec![]]), E::Short(0));
        assert_eq!(of([vec![3; 8], vec![]]), E::Short(8));
        assert_eq!(of([header(3, 2, 4, 0), vec![]]), E::Short(9));
        // A digest, an HMAC, and nothing known.
        for kind in [0, 1, 2, 4, 7, 255] {
            assert_eq!(of(with(kind, 2, 4, 3)), E::Type(kind));
        }
        for (kind, version) in [(3, 1), (3, 4), (5, 0), (6, 2), (6, 1)] {
            assert!(matches!(of(with(kind, version, 4, 3)), E::Version { .. }), "{kind}");
        }
        for hash in [0, 1, 2, 3, 7, 17, 19, 23, 255] {
            assert_eq!(of(with(3, 2, hash, 3)), E::Hash(hash));
        }
        for claimed in [0, 2, 4, 0x300, u16::MAX] {
            let error = E::Size { claimed: claimed.into(), found: 3 };
            assert_eq!(of(with(3, 2, 4, claimed)), error);
        }
    }

    #[test]
    fn version_3_says_what_it_signs() {
        let digest = Algorithm::Sha256.hash(&[b"a"]).unwrap();
        let signed = |kind, version| Signature::signed(kind, version, &digest).unwrap();
        assert_eq!(signed(Kind::File, Version::V2), digest);
        let want = Algorithm::Sha256.hash(&[&[6, 4], digest.as_bytes()]).unwrap();
        assert_eq!(signed(Kind::Verity, Version::V3), want);
        assert_ne!(signed(Kind::File, Version::V3), want);
        let weak = Algorithm::Sha1.hash(&[b"a"]).unwrap();
        assert!(Signature::signed(Kind::Verity, Version::V3, &weak).is_err());
    }
}
