//! An X25519 recipient as people write it: `age1…` (C2SP, age.md, "The X25519
//! recipient type").

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

/// The human-readable part of a recipient.
const PREFIX: &str = "age";

/// A recipient: an X25519 public key. It is public, and goes into the device
/// record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient {
    key: [u8; 32],
    text: String,
}

/// A text that is no recipient. It is not repeated: it may be the private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// Not Bech32, or of another kind.
    #[error(
        "this is no age recipient: give the public key that age-keygen prints, age1 and 58 letters and digits"
    )]
    Syntax,
    /// A point of small order: everybody would know the shared secret.
    #[error(
        "this recipient is no key that age-keygen makes: anybody could decrypt what is encrypted to it"
    )]
    Weak,
}

impl Recipient {
    /// Reads a recipient.
    ///
    /// # Errors
    /// [`RecipientError`].
    pub fn parse(text: &str) -> Result<Self, RecipientError> {
        // BIP 173: lower case as age writes it.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(RecipientError::Syntax);
        }
        let decoded = CheckedHrpstring::new::<Bech32>(text).map_err(|_| RecipientError::Syntax)?;
        let bytes: Vec<u8> = decoded.byte_iter().collect();
        let key: [u8; 32] = bytes.try_into().map_err(|_| RecipientError::Syntax)?;
        if decoded.hrp().as_str() != PREFIX {
            return Err(RecipientError::Syntax);
        }
        // Any scalar does: X25519 makes each a multiple of the cofactor.
        let shared = StaticSecret::from([1; 32]).diffie_hellman(&PublicKey::from(key));
        if !shared.was_contributory() {
            return Err(RecipientError::Weak);
        }
        Ok(Self { key, text: text.to_owned() })
    }

    /// The public key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.key
    }
}

impl TryFrom<String> for Recipient {
    type Error = RecipientError;

    fn try_from(text: String) -> Result<Self, RecipientError> {
        Self::parse(&text)
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bech32::Hrp;

    /// The recipient of age's own documentation.
    const SAMPLE: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";

    fn written(prefix: &str, key: &[u8]) -> String {
        bech32::encode::<Bech32>(Hrp::parse(prefix).unwrap(), key).unwrap()
    }

    #[test]
    fn a_recipient_is_read_as_the_age_crate_reads_it() {
        let recipient = Recipient::parse(SAMPLE).unwrap();
        assert!(SAMPLE.parse::<::age::x25519::Recipient>().is_ok());
        assert_eq!(written("age", recipient.as_bytes()), SAMPLE);
        assert_eq!(String::from(recipient), SAMPLE);
    }

    #[test]
    fn what_is_no_recipient_is_refused() {
        let secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
        let typo = SAMPLE.replace("age1q", "age1p");
        let short = written("age", &[7; 31]);
        let long = written("age", &[7; 33]);
        let other = written("agf", &[7; 32]);
        for text in [
            "",
            "age1",
            secret,
            &typo,
            &short,
            &long,
            &other,
            &SAMPLE.to_uppercase(),
            "ssh-ed25519 A",
        ] {
            assert_eq!(Recipient::parse(text), Err(RecipientError::Syntax), "{text}");
        }
    }

    #[test]
    fn points_of_small_order_are_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for key in [[0; 32], one] {
            assert_eq!(Recipient::parse(&written("age", &key)), Err(RecipientError::Weak));
        }
    }
}
