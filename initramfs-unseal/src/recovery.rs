//! The recovery key: 256 random bits in a form that a person can read out.
//!
//! The form is systemd's (`systemd-cryptenroll --recovery-key`): 64 letters of
//! the "modhex" alphabet, which sit on the same keys of most keyboard layouts,
//! in eight groups of eight joined by dashes. The formatted text itself is the
//! passphrase of the key slot, so `cryptsetup open` and systemd take it too.

use crate::secret::{SECRET_LEN, Secret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Letters for the values 0 to 15 (modhex, as Yubico defined it).
const ALPHABET: &[u8; 16] = b"cbdefghijklnrtuv";
/// Letters in a group.
const GROUP: usize = 8;
/// Letters of a whole key.
const LETTERS: usize = SECRET_LEN * 2;

/// A recovery key in its written form. Wiped when dropped, never printed by
/// `Debug`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct RecoveryKey(String);

impl RecoveryKey {
    /// Writes `secret` as a recovery key.
    #[must_use]
    pub fn from_secret(secret: &Secret) -> Self {
        let letters = secret
            .expose()
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0x0f])
            .filter_map(|nibble| ALPHABET.get(usize::from(nibble)).copied());
        Self(group(letters))
    }

    /// Reads what a person typed: upper or lower case, with dashes, spaces or
    /// nothing between the groups. `None` when it cannot be a recovery key, so
    /// that a slip costs no slow key derivation.
    #[must_use]
    pub fn parse(typed: &[u8]) -> Option<Self> {
        let mut letters = Zeroizing::new(Vec::with_capacity(LETTERS));
        for byte in typed {
            match byte.to_ascii_lowercase() {
                b'-' | b' ' | b'\t' | b'\r' | b'\n' => {}
                letter if ALPHABET.contains(&letter) && letters.len() < LETTERS => {
                    letters.push(letter);
                }
                _ => return None,
            }
        }
        (letters.len() == LETTERS).then(|| Self(group(letters.iter().copied())))
    }

    /// The written form: 71 ASCII characters, the passphrase of the key slot.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

fn group(letters: impl Iterator<Item = u8>) -> String {
    // Reserved whole: growing would leave copies of the key behind.
    let mut text = String::with_capacity(LETTERS + LETTERS / GROUP);
    for (i, letter) in letters.enumerate() {
        if i > 0 && i % GROUP == 0 {
            text.push('-');
        }
        text.push(char::from(letter));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecoveryKey {
        let bytes: Vec<u8> = (0..32).map(|i| i * 7).collect();
        RecoveryKey::from_secret(&Secret::from_slice(&bytes).unwrap())
    }

    #[test]
    fn the_form_is_systemds() {
        let zero = RecoveryKey::from_secret(&Secret::from_slice(&[0x01; 32]).unwrap());
        assert_eq!(zero.expose(), ["cbcbcbcb"; 8].join("-"));
        assert_eq!(key().expose().len(), 71);
        let bytes = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef].repeat(4);
        let all = RecoveryKey::from_secret(&Secret::from_slice(&bytes).unwrap());
        assert!(all.expose().starts_with("cbdefghi-jklnrtuv-"));
    }

    #[test]
    fn what_people_type_is_taken() {
        let key = key();
        let text = key.expose().to_string();
        for typed in [
            text.clone(),
            text.to_uppercase(),
            text.replace('-', " "),
            text.replace('-', ""),
            format!("  {text}\r\n"),
        ] {
            let parsed = RecoveryKey::parse(typed.as_bytes()).expect(&typed);
            assert_eq!(parsed.expose(), text);
        }
    }

    #[test]
    fn what_cannot_be_a_key_is_refused() {
        let text = key().expose().to_string();
        let long = format!("{text}c");
        let foreign = text.replacen('c', "a", 1);
        for typed in ["", "password", &text[1..], &long, &foreign] {
            assert!(RecoveryKey::parse(typed.as_bytes()).is_none(), "{typed}");
        }
        assert!(RecoveryKey::parse(&[0xff; 4096]).is_none());
        assert!(RecoveryKey::parse(&vec![b'c'; 1 << 20]).is_none());
    }
}
