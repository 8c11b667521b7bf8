//! Secret bytes: how they are made, held and wiped.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of every secret of this crate, in bytes: 256 bits.
pub const SECRET_LEN: usize = 32;

/// Fewest distinct byte values that 32 bytes of a working random number
/// generator show. Thirty-two uniform bytes fall below it with a probability
/// under 2^-70; a stuck or counting generator does not reach it.
const MIN_DISTINCT: usize = 12;

/// Thirty-two secret bytes on the heap, wiped when dropped and never printed.
///
/// The box keeps moves from leaving copies on the stack.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret(Box<[u8; SECRET_LEN]>);

impl Secret {
    /// Copies `bytes` into a secret. `None` unless there are exactly
    /// [`SECRET_LEN`] of them. The caller wipes its own copy.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut held = Box::new([0; SECRET_LEN]);
        if bytes.len() != held.len() {
            return None;
        }
        held.copy_from_slice(bytes);
        Some(Self(held))
    }

    /// The bytes themselves. Whoever copies them has to wipe the copy.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Two random draws that must not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RandomError {
    /// A generator returned a pattern instead of random bytes.
    #[error("the random numbers of {0} are degenerate: refusing to make a key of them")]
    Degenerate(&'static str),
    /// The kernel has none.
    #[error("the kernel gives no random numbers: {0}")]
    Kernel(getrandom::Error),
    /// A generator returned the wrong number of bytes.
    #[error("{0} returned too few random bytes")]
    Short(&'static str),
}

/// Makes a secret of random bytes of the TPM and of the kernel together, so
/// that it is as good as the better of the two: HMAC-SHA256 under the kernel's
/// bytes over `label` and the TPM's bytes.
///
/// # Errors
/// [`RandomError`] when either draw is not 32 bytes long or is degenerate.
pub fn combine(label: &str, tpm: &[u8], kernel: &[u8]) -> Result<Secret, RandomError> {
    for (name, draw) in [("the TPM", tpm), ("the kernel", kernel)] {
        if draw.len() != SECRET_LEN {
            return Err(RandomError::Short(name));
        }
        if is_degenerate(draw) {
            return Err(RandomError::Degenerate(name));
        }
    }
    let mut mixed = hmac_sha256(kernel, &[label.as_bytes(), tpm]);
    let secret = Secret::from_slice(&mixed).ok_or(RandomError::Short("HMAC-SHA256"));
    mixed.zeroize();
    secret
}

/// [`combine`] of bytes that the TPM drew and of as many of the kernel's.
///
/// # Errors
/// As [`combine`]; [`RandomError::Kernel`].
pub fn fresh(label: &str, tpm: &[u8]) -> Result<Secret, RandomError> {
    let mut kernel = Zeroizing::new([0; SECRET_LEN]);
    getrandom::fill(kernel.as_mut_slice()).map_err(RandomError::Kernel)?;
    combine(label, tpm, kernel.as_slice())
}

/// HMAC-SHA256 (RFC 2104) over the parts in order.
#[must_use]
pub fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // HMAC takes keys of any length, so that construction cannot fail; an
    // all-zero block stands for the branch that never runs.
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&Default::default()));
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn is_degenerate(draw: &[u8]) -> bool {
    let mut seen = [false; 256];
    for byte in draw {
        if let Some(slot) = seen.get_mut(usize::from(*byte)) {
            *slot = true;
        }
    }
    let distinct = seen.iter().filter(|s| **s).count();
    let steps: Vec<u8> = draw
        .windows(2)
        .filter_map(|w| match w {
            [a, b] => Some(b.wrapping_sub(*a)),
            _ => None,
        })
        .collect();
    let counts_up = steps.windows(2).all(|w| w.first() == w.last());
    distinct < MIN_DISTINCT || counts_up
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(seed: u8) -> Vec<u8> {
        hmac_sha256(&[seed], &[b"test"]).to_vec()
    }

    #[test]
    fn both_draws_and_the_label_decide() {
        let base = combine("a", &good(1), &good(2)).unwrap();
        for (label, tpm, kernel) in [("b", 1, 2), ("a", 3, 2), ("a", 1, 3)] {
            let other = combine(label, &good(tpm), &good(kernel)).unwrap();
            assert_ne!(base.expose(), other.expose(), "{label} {tpm} {kernel}");
        }
        let same = combine("a", &good(1), &good(2)).unwrap();
        assert_eq!(base.expose(), same.expose());
    }

    #[test]
    fn broken_generators_are_refused() {
        let counting: Vec<u8> = (0..32).collect();
        let striped: Vec<u8> = (0..32).map(|i| (i % 4) * 60).collect();
        for bad in [vec![0; 32], vec![0xff; 32], counting, striped] {
            assert_eq!(
                combine("a", &bad, &good(2)).unwrap_err(),
                RandomError::Degenerate("the TPM")
            );
            assert_eq!(
                combine("a", &good(1), &bad).unwrap_err(),
                RandomError::Degenerate("the kernel")
            );
        }
        assert_eq!(
            combine("a", &good(1)[..31], &good(2)).unwrap_err(),
            RandomError::Short("the TPM")
        );
    }

    #[test]
    fn hmac_is_rfc_4231_case_2() {
        assert_eq!(
            hex::encode(hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        let secret = Secret::from_slice(&[0x41; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert!(Secret::from_slice(&[0; 31]).is_none());
    }
}
