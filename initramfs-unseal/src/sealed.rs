//! What lies in the TPM's NV index: the secret of the key slot, and beside it
//! the fingerprint of the volume key that the slot must give.

use crate::secret::{SECRET_LEN, Secret};
use crate::volume::{FINGERPRINT_LEN, Fingerprint};
use zeroize::Zeroizing;

/// Length of the index' content in bytes: version, secret, fingerprint.
#[allow(clippy::cast_possible_truncation)] // 65
pub const SEALED_LEN: u16 = (1 + SECRET_LEN + FINGERPRINT_LEN) as u16;

const VERSION: u8 = 1;

/// The content of the index.
#[derive(Debug, Clone)]
pub struct Sealed {
    /// Passphrase of the TPM's key slot.
    pub secret: Secret,
    /// Fingerprint of the volume key.
    pub fingerprint: Fingerprint,
}

impl Sealed {
    /// The bytes to write into the index.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(SEALED_LEN.into()));
        bytes.push(VERSION);
        bytes.extend_from_slice(self.secret.expose());
        bytes.extend_from_slice(&self.fingerprint.0);
        bytes
    }

    /// Reads what [`Self::encode`] wrote. `None` for another length or version.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, rest) = bytes.split_first()?;
        let (secret, fingerprint) = rest.split_at_checked(SECRET_LEN)?;
        (version == VERSION).then_some(())?;
        Some(Self {
            secret: Secret::from_slice(secret)?,
            fingerprint: Fingerprint(fingerprint.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_and_nothing_else_is_taken() {
        let sealed = Sealed {
            secret: Secret::from_slice(&[7; 32]).unwrap(),
            fingerprint: Fingerprint([9; 32]),
        };
        let bytes = sealed.encode();
        assert_eq!(bytes.len(), usize::from(SEALED_LEN));
        let back = Sealed::decode(&bytes).unwrap();
        assert_eq!(back.secret.expose(), sealed.secret.expose());
        assert_eq!(back.fingerprint, sealed.fingerprint);

        for cut in 0..bytes.len() {
            assert!(Sealed::decode(&bytes[..cut]).is_none(), "{cut} bytes");
        }
        let mut other = bytes.to_vec();
        other[0] = 2;
        assert!(Sealed::decode(&other).is_none());
        other[0] = VERSION;
        other.push(0);
        assert!(Sealed::decode(&other).is_none());
        assert!(Sealed::decode(&[0xff; 65]).is_none());
    }
}
