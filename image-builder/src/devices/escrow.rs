//! Opening a record's recovery key, with the operator's age identity.

use std::io::Read as _;
use std::str::FromStr as _;

use age::armor::ArmoredReader;
use age::x25519::Identity;
use zeroize::Zeroizing;

/// Longest recovery key that is taken out, in bytes: it has 71 characters.
const MAX_KEY: u64 = 256;

/// Why a recovery key stays closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EscrowError {
    /// Nothing is in the record.
    #[error("the record has no recovery key: its recipe named no recipient")]
    None,
    /// No identity in the file.
    #[error(
        "there is no identity in this file: it is what age-keygen writes, a line AGE-SECRET-KEY-1… \
         (one with a passphrase has to be opened first: age -d)"
    )]
    NoIdentity,
    /// It is encrypted to somebody else, or damaged.
    #[error("none of the identities opens it: {0}")]
    Closed(String),
}

/// The identities in a file as `age-keygen` writes it: one a line, `#` begins a comment.
///
/// # Errors
/// [`EscrowError::NoIdentity`].
pub fn identities(text: &str) -> Result<Vec<Identity>, EscrowError> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("AGE-SECRET-KEY-"));
    let identities: Result<Vec<_>, _> = lines.map(Identity::from_str).collect();
    match identities {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(EscrowError::NoIdentity),
    }
}

/// Opens a recovery key.
///
/// # Errors
/// [`EscrowError::Closed`] when none of the identities is the recipient, or the file was
/// changed.
pub fn open(armoured: &str, identities: &[Identity]) -> Result<Zeroizing<String>, EscrowError> {
    let closed = |why: &dyn std::fmt::Display| EscrowError::Closed(why.to_string());
    let decryptor = age::Decryptor::new_buffered(ArmoredReader::new(armoured.as_bytes()))
        .map_err(|error| closed(&error))?;
    let mut reader = decryptor
        .decrypt(identities.iter().map(|identity| identity as &dyn age::Identity))
        .map_err(|error| closed(&error))?
        .take(MAX_KEY);
    // Room for all of it: a string that grows leaves copies behind.
    let mut key = Zeroizing::new(String::with_capacity(MAX_KEY as usize));
    reader.read_to_string(&mut key).map_err(|error| closed(&error))?;
    if key.chars().any(char::is_control) {
        return Err(closed(&"what is in it is no recovery key"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use age::secrecy::ExposeSecret as _;

    const KEY: &str = "cccccccc-dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii-jjjjjjjj";

    fn closed(text: &str) -> (String, Identity) {
        let identity = Identity::generate();
        (age::encrypt_and_armor(&identity.to_public(), text.as_bytes()).unwrap(), identity)
    }

    #[test]
    fn the_operator_opens_it_and_nobody_else() {
        let (file, operator) = closed(KEY);
        let text = format!("# created: today\n{}\n", operator.to_string().expose_secret());
        let found = identities(&text).unwrap();
        assert_eq!(open(&file, &found).unwrap().as_str(), KEY);
        assert_eq!(open(&file, &[Identity::generate(), operator]).unwrap().as_str(), KEY);
        let error = open(&file, &[Identity::generate()]).unwrap_err();
        assert!(matches!(error, EscrowError::Closed(_)), "{error}");
    }

    #[test]
    fn a_changed_file_stays_closed() {
        let (file, operator) = closed(KEY);
        let operator = [operator];
        let at = file.find("\n").unwrap() + 90;
        let mut bytes = file.into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let file = String::from_utf8(bytes).unwrap();
        assert!(matches!(open(&file, &operator), Err(EscrowError::Closed(_))));
        assert!(matches!(open("-----BEGIN", &operator), Err(EscrowError::Closed(_))));
    }

    #[test]
    fn what_is_no_key_is_not_shown() {
        let (file, operator) = closed("\u{1b}[2Jx");
        assert!(matches!(open(&file, &[operator]), Err(EscrowError::Closed(_))));
    }

    #[test]
    fn a_file_without_an_identity_says_what_one_is() {
        for text in ["", "# AGE-SECRET-KEY-1", "age1xyz", "AGE-SECRET-KEY-1BROKEN"] {
            assert!(matches!(identities(text), Err(EscrowError::NoIdentity)), "{text}");
        }
    }
}
