//! What a field's bytes mean.

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::text::printable;

use super::template::Field;

/// A field that does not hold what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// No `ALGORITHM:` NUL in front of a digest.
    #[error("field {0} does not say which algorithm its digest has")]
    NoAlgorithm(Field),
    /// An algorithm that the TPM has none of, or as many bytes as it has not.
    #[error("field {field}: a digest of `{algorithm}` with {size} bytes")]
    Digest {
        /// The field.
        field: Field,
        /// What it calls the algorithm.
        algorithm: String,
        /// Bytes of the digest.
        size: usize,
    },
    /// A name without its end.
    #[error("field {0} has no NUL at its end, or one before it")]
    Name(Field),
    /// Another length than such a field has.
    #[error("field {field} has {size} bytes")]
    Size {
        /// The field.
        field: Field,
        /// Its bytes.
        size: usize,
    },
    /// Text that is none of such a field.
    #[error("field {0} is not written as such a field is")]
    Text(Field),
}

/// What was hashed, where a template tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prefix {
    /// The file.
    Ima,
    /// Its fs-verity digest.
    Verity,
}

/// The digest of a file or a buffer.
///
/// The kernel knows algorithms that no TPM has (`md5`, `wp512`, ...): their digests are kept
/// as they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileDigest {
    /// What was hashed; only `d-ngv2` tells.
    pub prefix: Option<Prefix>,
    /// The kernel's name of the algorithm (Linux, crypto/hash_info.c).
    pub algorithm: String,
    /// The digest.
    pub bytes: Vec<u8>,
}

/// Longest name of an algorithm: `streebog512` and the like.
const MAX_ALGORITHM: usize = 32;

impl FileDigest {
    /// A digest of a file (`prefix` is `None` or [`Prefix::Ima`]) or of fs-verity.
    ///
    /// # Errors
    /// That no algorithm is called so, or that its digests have another size.
    pub fn new(
        prefix: Option<Prefix>,
        algorithm: &str,
        bytes: Vec<u8>,
    ) -> Result<Self, FieldError> {
        let field = Field::DigestNg;
        if !is_algorithm(algorithm) {
            return Err(FieldError::NoAlgorithm(field));
        }
        Self { prefix, algorithm: algorithm.to_owned(), bytes }.checked(field)
    }

    /// As a digest that a TPM knows as well.
    #[must_use]
    pub fn known(&self) -> Option<Digest> {
        let algorithm =
            Algorithm::ALL.into_iter().find(|its| kernel_name(*its) == self.algorithm)?;
        Digest::new(algorithm, &self.bytes).ok()
    }

    /// Whether it is the digest of a violation: nothing was hashed, all is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Reads `[PREFIX:]ALGORITHM:` NUL, digest (`ima_eventdigest_init_common`).
    pub(super) fn read(field: Field, bytes: &[u8]) -> Result<Self, FieldError> {
        if field == Field::Digest {
            let algorithm = match bytes.len() {
                20 => "sha1",
                16 => "md5",
                size => return Err(FieldError::Size { field, size }),
            };
            let (algorithm, bytes) = (algorithm.to_owned(), bytes.to_vec());
            return Ok(Self { prefix: None, algorithm, bytes });
        }
        let none = || FieldError::NoAlgorithm(field);
        let end = bytes.iter().take(MAX_ALGORITHM).position(|byte| *byte == 0).ok_or_else(none)?;
        let (head, rest) = bytes.split_at_checked(end).ok_or_else(none)?;
        let head = std::str::from_utf8(head).map_err(|_| none())?;
        let head = head.strip_suffix(':').ok_or_else(none)?;
        let (prefix, algorithm) = prefixed(field, head).ok_or_else(none)?;
        if !is_algorithm(algorithm) {
            return Err(none());
        }
        let digest = rest.get(1..).unwrap_or_default().to_vec();
        let found = Self { prefix, algorithm: algorithm.to_owned(), bytes: digest };
        found.checked(field)
    }

    /// A digest of a known algorithm has as many bytes as that has.
    pub(super) fn checked(self, field: Field) -> Result<Self, FieldError> {
        let known = Algorithm::ALL.into_iter().find(|its| kernel_name(*its) == self.algorithm);
        let size = self.bytes.len();
        let fits = known.map_or((1..=64).contains(&size), |known| known.size() == size);
        if fits {
            Ok(self)
        } else {
            Err(FieldError::Digest { field, algorithm: printable(&self.algorithm), size })
        }
    }

    /// The field's bytes.
    pub(super) fn write(&self, field: Field) -> Vec<u8> {
        if field == Field::Digest {
            return self.bytes.clone();
        }
        let prefix = match self.prefix {
            Some(Prefix::Ima) => "ima:",
            Some(Prefix::Verity) => "verity:",
            None => "",
        };
        [prefix.as_bytes(), self.algorithm.as_bytes(), b":\0", &self.bytes].concat()
    }
}

/// Whether an algorithm may be called so.
fn is_algorithm(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_ALGORITHM).contains(&name.len()) && name.bytes().all(is_part)
}

/// Takes apart what stands in front of a digest.
pub(super) fn prefixed(field: Field, head: &str) -> Option<(Option<Prefix>, &str)> {
    if field != Field::DigestNgv2 {
        return Some((None, head));
    }
    match head.split_once(':')? {
        ("ima", algorithm) => Some((Some(Prefix::Ima), algorithm)),
        ("verity", algorithm) => Some((Some(Prefix::Verity), algorithm)),
        _ => None,
    }
}

/// The kernel's name of an algorithm (Linux, crypto/hash_info.c, `hash_algo_name`).
#[must_use]
pub const fn kernel_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha1 => "sha1",
        Algorithm::Sha256 => "sha256",
        Algorithm::Sha384 => "sha384",
        Algorithm::Sha512 => "sha512",
        Algorithm::Sm3_256 => "sm3",
        Algorithm::Sha3_256 => "sha3-256",
        Algorithm::Sha3_384 => "sha3-384",
        Algorithm::Sha3_512 => "sha3-512",
        // One that this crate has not heard of yet.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_says_what_it_is_of() {
        let read = |field, bytes: &[u8]| FileDigest::read(field, bytes);
        let sha256 = [&b"sha256:\0"[..], &[7; 32]].concat();
        let digest = read(Field::DigestNg, &sha256).unwrap();
        assert_eq!((digest.algorithm.as_str(), digest.prefix), ("sha256", None));
        assert_eq!(digest.known().unwrap().as_bytes(), [7; 32]);
        assert_eq!(digest.write(Field::DigestNg), sha256);
        let verity = [&b"verity:sha512:\0"[..], &[0; 64]].concat();
        let digest = read(Field::DigestNgv2, &verity).unwrap();
        assert_eq!((digest.prefix, digest.is_zero()), (Some(Prefix::Verity), true));
        assert_eq!(digest.write(Field::DigestNgv2), verity);
        // An algorithm that no TPM has.
        let digest = read(Field::DigestNg, &[&b"wp512:\0"[..], &[1; 64]].concat()).unwrap();
        assert_eq!((digest.known(), digest.algorithm.as_str()), (None, "wp512"));
        assert_eq!(read(Field::Digest, &[1; 20]).unwrap().algorithm, "sha1");
    }

    #[test]
    fn what_is_none_is_refused() {
        for (field, bytes) in [
            (Field::DigestNg, &b""[..]),
            (Field::DigestNg, b"sha256"),
            (Field::DigestNg, b"sha256\0"),
            (Field::DigestNg, b":\0"),
            (Field::DigestNg, b"sha256:\0short"),
            (Field::DigestNg, b"sha 256:\0"),
            (Field::DigestNg, b"\xff:\0"),
            (Field::DigestNg, b"unknown:\0"),
            (Field::DigestNgv2, b"sha256:\0"),
            (Field::DigestNgv2, b"next:sha1:\0aaaaaaaaaaaaaaaaaaaa"),
            (Field::Digest, &[0; 19]),
        ] {
            assert!(FileDigest::read(field, bytes).is_err(), "{field} {bytes:?}");
        }
        let long = [vec![b'a'; 100], b":\0x".to_vec()].concat();
        assert!(FileDigest::read(Field::DigestNg, &long).is_err());
    }
}
