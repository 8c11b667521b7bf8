//! Credentials: how a verifier finds out whose an attestation key is.
//!
//! Whoever has a TPM's endorsement key, from the certificate of its maker, encrypts a secret for
//! it and for the Name of an attestation key (TPM 2.0 Library 1.59, Part 1, 24). The TPM opens it
//! if both are its own, and so tells that the key is.

/// What tpm2-tools put in front of a credential, a magic number and a version (tpm2-tools 5.7,
/// lib/files.c); Keylime does as well.
const HEADER: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];

/// Longest credential, in bytes: both of its parts have their sizes in 16 bits.
pub const MAX_CREDENTIAL: usize = 2 * (2 + 0xffff) + 8;

/// No credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no credential as tpm2_makecredential writes it")]
pub struct CredentialError;

/// A credential: what `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET` hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The secret, encrypted and with its integrity.
    pub id_object: Vec<u8>,
    /// The seed, for the endorsement key.
    pub secret: Vec<u8>,
}

impl Credential {
    /// Reads what `tpm2_makecredential -o` writes, whole.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CredentialError> {
        let rest = bytes.strip_prefix(&HEADER).ok_or(CredentialError)?;
        let (id_object, rest) = sized(rest).ok_or(CredentialError)?;
        match sized(rest) {
            Some((secret, [])) => {
                Ok(Self { id_object: id_object.to_vec(), secret: secret.to_vec() })
            }
            _ => Err(CredentialError),
        }
    }
}

/// A `TPM2B`, and what is behind it.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*size).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_read_whole_or_not_at_all() {
        let bytes = [&HEADER[..], &[0, 2, 7, 8, 0, 1, 9]].concat();
        let parse = Credential::parse;
        let whole = parse(&bytes).unwrap();
        assert_eq!(whole, Credential { id_object: vec![7, 8], secret: vec![9] });
        for cut in 0..bytes.len() {
            parse(&bytes[..cut]).unwrap_err();
        }
        parse(&[&bytes[..], &[0]].concat()).unwrap_err();
        let mut other = bytes.clone();
        other[0] = 0;
        parse(&other).unwrap_err();
    }
}
