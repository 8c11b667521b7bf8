//! Whom the recovery keys of a recipe's devices are encrypted to.

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use serde::{Deserialize, Serialize};

use super::values::ValueError;

/// The human-readable part of a recipient, and of the private key that belongs to
/// it (C2SP, age.md, "The X25519 recipient type").
const PREFIX: &str = "age";
const PRIVATE: &str = "age-secret-key-";
/// Bytes of an X25519 public key.
const LEN: usize = 32;

/// An X25519 recipient of age, `age1…`: a public key.
///
/// Nothing tells whose it is. Whoever has its private half opens every device that
/// was provisioned with this recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Recipient(String);

impl Recipient {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Recipient {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        if text.to_ascii_lowercase().starts_with(PRIVATE) {
            // Not repeated, and not to be used any more.
            return Err(ValueError(
                "this is a private key of age: the recipe is no secret; make a new pair with \
                 age-keygen and give its public key"
                    .to_owned(),
            ));
        }
        let why = match CheckedHrpstring::new::<Bech32>(&text) {
            Err(error) => error.to_string(),
            Ok(found) if found.hrp().as_str() != PREFIX => {
                format!("it begins with `{}`", found.hrp().as_str().escape_debug())
            }
            Ok(found) if found.byte_iter().count() != LEN => {
                format!("it holds {} bytes and not {LEN}", found.byte_iter().count())
            }
            Ok(_) if text.bytes().any(|b| b.is_ascii_uppercase()) => {
                "age writes it in lower case".to_owned()
            }
            Ok(_) => return Ok(Self(text)),
        };
        Err(ValueError(format!(
            "`{}` is no age recipient ({why}): the public key that age-keygen prints, age1 and 58 \
             letters and digits",
            text.escape_debug()
        )))
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bech32::Hrp;

    fn written(prefix: &str, key: &[u8]) -> String {
        bech32::encode::<Bech32>(Hrp::parse(prefix).unwrap(), key).unwrap()
    }

    #[test]
    fn the_recipient_of_ages_documentation_is_taken() {
        let text = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        assert_eq!(Recipient::try_from(text.to_owned()).unwrap().as_str(), text);
    }

    #[test]
    fn what_is_none_is_refused_with_its_reason() {
        let good = written("age", &[7; 32]);
        let cases = [
            (String::new(), "no age recipient"),
            (good.replacen('q', "p", 1), "checksum"),
            (written("agf", &[7; 32]), "it begins with `agf`"),
            (written("age", &[7; 31]), "31 bytes"),
            (good.to_uppercase(), "`AGE`"),
            ("ssh-ed25519 AAAA".to_owned(), "no age recipient"),
        ];
        for (text, want) in cases {
            let error = Recipient::try_from(text.clone()).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn a_private_key_is_not_repeated() {
        for key in [written("age-secret-key-", &[7; 32]), "AGE-SECRET-KEY-1QQQQ".to_owned()] {
            for text in [key.to_uppercase(), key] {
                let error = Recipient::try_from(text.clone()).unwrap_err().to_string();
                assert!(error.contains("private key"), "{error}");
                assert!(!error.contains(&text[16..]), "{error}");
            }
        }
    }
}
