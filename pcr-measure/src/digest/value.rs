//! A digest of any algorithm.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Algorithm, DigestError, MAX_DIGEST_SIZE, Sha256Digest, shortened, write_hex};

/// A digest of any algorithm of the table. `Copy`, never on the heap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    // Zero beyond the algorithm's size, so that derived comparisons hold.
    bytes: [u8; MAX_DIGEST_SIZE],
}

impl Digest {
    /// A digest out of its bytes.
    ///
    /// # Errors
    /// [`DigestError::Length`] if `bytes` is not as long as the algorithm says.
    pub fn new(algorithm: Algorithm, bytes: &[u8]) -> Result<Self, DigestError> {
        if bytes.len() != algorithm.size() {
            return Err(DigestError::Length {
                algorithm,
                got: bytes.len(),
                want: algorithm.size(),
            });
        }
        Ok(Self::copied(algorithm, bytes))
    }

    /// A digest out of bytes that are as long as the algorithm says.
    pub(super) fn copied(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut digest = Self::filled(algorithm, 0);
        for (to, from) in digest.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        digest
    }

    /// A digest from hexadecimal digits of either case.
    ///
    /// # Errors
    /// [`DigestError::NotHex`] if `text` is anything else.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, DigestError> {
        hex::decode(text).ok().and_then(|bytes| Self::new(algorithm, &bytes).ok()).ok_or_else(
            || DigestError::NotHex {
                text: shortened(text),
                algorithm,
                digits: 2 * algorithm.size(),
            },
        )
    }

    /// Every byte `byte`: what a PCR holds after a reset (0x00 or 0xff).
    #[must_use]
    pub fn filled(algorithm: Algorithm, byte: u8) -> Self {
        let mut bytes = [0; MAX_DIGEST_SIZE];
        for to in bytes.iter_mut().take(algorithm.size()) {
            *to = byte;
        }
        Self { algorithm, bytes }
    }

    /// The algorithm that made it.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The bytes, as many as the algorithm has.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.algorithm.size()).unwrap_or(&self.bytes)
    }

    /// The same digest as a [`Sha256Digest`], if it is one.
    #[must_use]
    pub fn as_sha256(&self) -> Option<Sha256Digest> {
        match self.algorithm {
            Algorithm::Sha256 => <[u8; 32]>::try_from(self.as_bytes()).ok().map(Sha256Digest::from),
            _ => None,
        }
    }

    /// The same digest with its last byte replaced.
    pub(crate) fn with_last_byte(mut self, byte: u8) -> Self {
        if let Some(last) = self.bytes.get_mut(self.algorithm.size() - 1) {
            *last = byte;
        }
        self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, self.as_bytes())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{self}", self.algorithm)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
