//! The PIN: a second factor that the TPM checks, and counts wrong guesses of.

use pcr_measure::digest::Sha256Digest;
use tss_esapi::structures::Auth;
use zeroize::Zeroizing;

/// Fewest characters. With ten guesses and one more every ten minutes
/// ([`crate::tpm::lockout`]) six digits hold for some ten years.
pub const MIN_LEN: usize = 6;
/// Most characters.
pub const MAX_LEN: usize = 64;

/// What a PIN becomes: the authorisation value of the NV index. It does not cross
/// the bus; a session proves that it is known.
pub struct Pin(Zeroizing<[u8; 32]>);

/// A PIN that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPin {
    /// Too short.
    #[error("a PIN has {MIN_LEN} characters or more")]
    Short,
    /// Too long.
    #[error("a PIN has {MAX_LEN} characters or fewer")]
    Long,
    /// Something that not every keyboard types.
    #[error("a PIN is made of printable ASCII characters")]
    Characters,
}

impl Pin {
    /// Takes what was typed, without the end of the line.
    ///
    /// # Errors
    /// [`BadPin`]: it can be none.
    pub fn parse(typed: &[u8]) -> Result<Self, BadPin> {
        match typed.len() {
            ..MIN_LEN => return Err(BadPin::Short),
            MIN_LEN..=MAX_LEN => {}
            _ => return Err(BadPin::Long),
        }
        if !typed.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(BadPin::Characters);
        }
        let digest = Sha256Digest::of_parts(&[b"msec-boot pin 1\0", typed]);
        let mut value = Zeroizing::new(*digest.as_bytes());
        // A TPM takes zeros off an authorisation value's end; not every caller does.
        if let Some(last @ 0) = value.last_mut() {
            *last = 1;
        }
        Ok(Self(value))
    }

    /// As the TPM library takes it.
    pub(crate) fn auth(&self) -> Result<Auth, tss_esapi::Error> {
        Auth::try_from(self.0.to_vec())
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_keyboard_types_is_a_pin() {
        for good in ["123456", "correct horse", &"x".repeat(MAX_LEN)] {
            assert!(Pin::parse(good.as_bytes()).is_ok(), "{good}");
        }
        let cases: [(&[u8], BadPin); 5] = [
            (b"", BadPin::Short),
            (b"12345", BadPin::Short),
            (&[b'x'; MAX_LEN + 1], BadPin::Long),
            (b"12345\x7f", BadPin::Characters),
            ("12345\u{e4}".as_bytes(), BadPin::Characters),
        ];
        for (bad, want) in cases {
            assert_eq!(Pin::parse(bad).unwrap_err(), want, "{bad:?}");
        }
    }

    #[test]
    fn pins_differ_and_no_value_ends_in_zero() {
        let value = |pin: &str| Pin::parse(pin.as_bytes()).unwrap().0;
        assert_ne!(value("123456"), value("123457"));
        let ends = (0..4096).filter(|n| {
            let digest =
                Sha256Digest::of_parts(&[b"msec-boot pin 1\0", format!("{n:06}").as_bytes()]);
            assert_ne!(value(&format!("{n:06}"))[31], 0);
            digest.as_bytes()[31] == 0
        });
        assert!(ends.count() > 0, "the case is met");
    }

    #[test]
    fn a_pin_does_not_print_itself() {
        assert_eq!(format!("{:?}", Pin::parse(b"123456").unwrap()), "Pin(..)");
    }
}
