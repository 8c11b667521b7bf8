//! Hash algorithms of the TCG registry, and digests.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

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
    let mut bytes = [0; MAX_DIGEST_SIZE];
    for (to, from) in bytes.iter_mut().zip(hasher.finalize()) {
        *to = from;
    }
    Digest { algorithm, bytes }
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
        let mut digest = Self::filled(algorithm, 0);
        for (to, from) in digest.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(digest)
    }

    /// A digest from hexadecimal digits of either case.
    ///
    /// # Errors
    /// [`DigestError::NotHex`] if `text` is anything else.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Result<Self, DigestError> {
        hex::decode(text)
            .ok()
            .and_then(|bytes| Self::new(algorithm, &bytes).ok())
            .ok_or_else(|| DigestError::NotHex {
                text: shortened(text),
                algorithm,
                digits: 2 * algorithm.size(),
            })
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
        self.bytes
            .get(..self.algorithm.size())
            .unwrap_or(&self.bytes)
    }

    /// The same digest as a [`Sha256Digest`], if it is one.
    #[must_use]
    pub fn as_sha256(&self) -> Option<Sha256Digest> {
        match self.algorithm {
            Algorithm::Sha256 => self.as_bytes().try_into().ok().map(Sha256Digest),
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

/// A SHA-256 digest, the one this project seals to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// All zero: a PCR that nobody extended.
    pub const ZERO: Self = Self([0; 32]);

    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts(&[bytes])
    }

    /// Hashes the concatenation of `parts`.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Hashes all that `reader` gives, in pieces; returns the digest and the
    /// number of bytes.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = sha2::Sha256::new();
        let mut piece = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let read = match reader.read(&mut piece) {
                Ok(0) => return Ok((Self(hasher.finalize().into()), size)),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            hasher.update(piece.get(..read).unwrap_or(&piece));
            size += read as u64;
        }
    }

    /// The value of a PCR after `measured` was extended into it:
    /// H(old || measured) (TPM 2.0 Library 1.59, Part 1, 17.2).
    #[must_use]
    pub fn extended_by(&self, measured: &Self) -> Self {
        Self::of_parts(&[&self.0, &measured.0])
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 hexadecimal digits: what fits on a console line. Never
    /// compare these.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(self.0.get(..8).unwrap_or_default())
    }
}

impl From<[u8; 32]> for Sha256Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl From<Sha256Digest> for Digest {
    fn from(digest: Sha256Digest) -> Self {
        let mut to = Self::filled(Algorithm::Sha256, 0);
        for (to, from) in to.bytes.iter_mut().zip(digest.0) {
            *to = from;
        }
        to
    }
}

impl FromStr for Sha256Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| DigestError::NotHex {
            text: shortened(text),
            algorithm: Algorithm::Sha256,
            digits: 64,
        })?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
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
mod tests {
    use super::*;

    #[test]
    fn the_table_has_no_two_rows_alike() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_id(algorithm.id()), Some(algorithm));
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
            assert!(algorithm.size() <= MAX_DIGEST_SIZE);
        }
        assert_eq!(Algorithm::from_id(0x0010), None);
        assert!("SHA256".parse::<Algorithm>().is_err());
    }

    #[test]
    fn known_answers() {
        // FIPS 180-4 and FIPS 202 examples, GB/T 32905: the message "abc".
        let cases = [
            (
                Algorithm::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha384,
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            #[cfg(feature = "all-banks")]
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            #[cfg(feature = "all-banks")]
            (
                Algorithm::Sm3_256,
                "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
            ),
            #[cfg(feature = "all-banks")]
            (
                Algorithm::Sha3_256,
                "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532",
            ),
        ];
        for (algorithm, want) in cases {
            assert_eq!(
                algorithm.hash(&[b"a", b"bc"]).unwrap().to_string(),
                want,
                "{algorithm}"
            );
        }
    }

    #[test]
    fn a_reader_gives_the_digest_of_its_bytes() {
        let bytes = vec![7; 600_000];
        let (digest, size) = Sha256Digest::of_reader(&mut bytes.as_slice()).unwrap();
        assert_eq!((digest, size), (Sha256Digest::of(&bytes), 600_000));
    }

    #[test]
    fn hex_is_taken_exactly_or_refused() {
        let digest = Sha256Digest::of(b"");
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        let long = format!("{digest}00");
        for bad in ["", "e3", "zz", &digest.to_string()[..63], &long] {
            assert!(bad.parse::<Sha256Digest>().is_err(), "{bad}");
            assert!(Digest::from_hex(Algorithm::Sha256, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_digest_types_convert_without_loss() {
        let digest = Sha256Digest::of(b"x");
        assert_eq!(Digest::from(digest).as_sha256(), Some(digest));
        assert_eq!(Digest::filled(Algorithm::Sha384, 0).as_sha256(), None);
    }
}
