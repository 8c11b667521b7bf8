//! Hash algorithms of the TCG registry, and digests.

#[cfg(feature = "all-banks")]
pub mod several;
mod sha256;
mod value;

use std::fmt;
use std::str::FromStr;

pub use sha256::Sha256Digest;
pub use value::Digest;

/// Largest digest of the registry, in bytes (SHA-512, SHA3-512).
pub const MAX_DIGEST_SIZE: usize = 64;

/// What can be wrong with an algorithm or a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// No hash algorithm of this name.
    #[error(
        "unknown hash algorithm {0:?}: known are sha1, sha256, sha384, sha512, sm3_256, sha3_256, sha3_384 and sha3_512"
    )]
    UnknownName(String),
    /// The algorithm is known, but this build cannot compute it.
    #[error("this build cannot compute {0}: it was made without the feature `all-banks`")]
    NotBuilt(Algorithm),
    /// Not the hexadecimal digits of a digest.
    #[error("{text:?} is no {algorithm} digest: {digits} hexadecimal digits are needed")]
    NotHex {
        /// What stood there (shortened).
        text: String,
        /// The algorithm it should be a digest of.
        algorithm: Algorithm,
        /// Hexadecimal digits of such a digest.
        digits: usize,
    },
    /// Wrong number of bytes for the algorithm.
    #[error("{got} bytes are no {algorithm} digest: it has {want}")]
    Length {
        /// The algorithm.
        algorithm: Algorithm,
        /// Bytes that were given.
        got: usize,
        /// Bytes that a digest has.
        want: usize,
    },
}

/// A hash algorithm that can name a PCR bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-384, 48 bytes.
    Sha384,
    /// SHA-512, 64 bytes.
    Sha512,
    /// SM3, 32 bytes.
    Sm3_256,
    /// SHA3-256, 32 bytes.
    Sha3_256,
    /// SHA3-384, 48 bytes.
    Sha3_384,
    /// SHA3-512, 64 bytes.
    Sha3_512,
}

impl Algorithm {
    /// Every algorithm of the table, by identifier.
    pub const ALL: [Self; 8] = [
        Self::Sha1,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Sm3_256,
        Self::Sha3_256,
        Self::Sha3_384,
        Self::Sha3_512,
    ];

    /// `TPM_ALG_ID` (TCG Algorithm Registry 1.34, table 3), name as tpm2-tools
    /// writes it, and digest size in bytes.
    const fn row(self) -> (u16, &'static str, usize) {
        match self {
            Self::Sha1 => (0x0004, "sha1", 20),
            Self::Sha256 => (0x000b, "sha256", 32),
            Self::Sha384 => (0x000c, "sha384", 48),
            Self::Sha512 => (0x000d, "sha512", 64),
            Self::Sm3_256 => (0x0012, "sm3_256", 32),
            Self::Sha3_256 => (0x0027, "sha3_256", 32),
            Self::Sha3_384 => (0x0028, "sha3_384", 48),
            Self::Sha3_512 => (0x0029, "sha3_512", 64),
        }
    }

    /// The algorithm's `TPM_ALG_ID`.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.row().0
    }

    /// The name that tpm2-tools uses: `sha256`, `sm3_256`, ...
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Bytes of a digest.
    #[must_use]
    pub const fn size(self) -> usize {
        self.row().2
    }

    /// The algorithm with this `TPM_ALG_ID`, if it is in the table.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.id() == id)
    }

    /// Hashes the concatenation of `parts`.
    ///
    /// # Errors
    /// [`DigestError::NotBuilt`] for algorithms beyond SHA-2 without the feature
    /// `all-banks`.
    pub fn hash(self, parts: &[&[u8]]) -> Result<Digest, DigestError> {
        match self {
            Self::Sha256 => Ok(digest_of::<sha2::Sha256>(self, parts)),
            Self::Sha384 => Ok(digest_of::<sha2::Sha384>(self, parts)),
            Self::Sha512 => Ok(digest_of::<sha2::Sha512>(self, parts)),
            #[cfg(feature = "all-banks")]
            Self::Sha1 => Ok(digest_of::<sha1::Sha1>(self, parts)),
            #[cfg(feature = "all-banks")]
            Self::Sm3_256 => Ok(digest_of::<sm3::Sm3>(self, parts)),
            #[cfg(feature = "all-banks")]
            Self::Sha3_256 => Ok(digest_of::<sha3::Sha3_256>(self, parts)),
            #[cfg(feature = "all-banks")]
            Self::Sha3_384 => Ok(digest_of::<sha3::Sha3_384>(self, parts)),
            #[cfg(feature = "all-banks")]
            Self::Sha3_512 => Ok(digest_of::<sha3::Sha3_512>(self, parts)),
            #[cfg(not(feature = "all-banks"))]
            _ => Err(DigestError::NotBuilt(self)),
        }
    }
}

fn digest_of<H: sha2::Digest>(algorithm: Algorithm, parts: &[&[u8]]) -> Digest {
    let mut hasher = H::new();
    for part in parts {
        hasher.update(part);
    }
    Digest::copied(algorithm, &hasher.finalize())
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(name: &str) -> Result<Self, DigestError> {
        Self::ALL
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or_else(|| DigestError::UnknownName(shortened(name)))
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Foreign text for an error message: bounded, so that a message stays one.
fn shortened(text: &str) -> String {
    if text.chars().count() > 80 {
        text.chars().take(79).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests;
