//! The key that a quote has to be signed with.

use super::QuoteError;
use crate::key::{KeyError, PublicKey};
use crate::structures::TpmPublic;

/// A public key that the caller trusts to be a TPM's attestation key, and what
/// is known of its attributes.
///
/// A key that is not `restricted` signs any bytes, also such as look like a
/// quote. A public area says whether it is; PEM and DER do not, and then whoever
/// enrolled the key has to know.
#[derive(Debug, Clone)]
pub struct AttestationKey {
    public: PublicKey,
    attributes: Option<u32>,
}

impl AttestationKey {
    /// Reads PEM, DER, or a TPM's public area as `tpm2_createak -u` and
    /// `tpm2_readpublic -o` write it.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        // DER begins with 0x30 and PEM with a dash: neither is a public area.
        match TpmPublic::parse(bytes) {
            Ok(public) => Ok(Self {
                public: PublicKey::from_tpm(&public)?,
                attributes: Some(public.attributes),
            }),
            Err(_) => Ok(PublicKey::parse(bytes)?.into()),
        }
    }

    /// Whether the attributes of the key are known.
    #[must_use]
    pub const fn has_attributes(&self) -> bool {
        self.attributes.is_some()
    }

    pub(super) const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key signs, signs only what its TPM made, and is in no other TPM.
    pub(super) fn check(&self) -> Result<(), QuoteError> {
        let Some(attributes) = self.attributes else {
            return Ok(());
        };
        let needed = [
            (TpmPublic::RESTRICTED, "restricted"),
            (TpmPublic::FIXED_TPM, "fixed to its TPM (fixedTPM)"),
            (TpmPublic::SIGN, "one that signs (sign)"),
        ];
        match needed.iter().find(|(bit, _)| attributes & bit == 0) {
            Some((_, missing)) => Err(QuoteError::Key(missing)),
            None => Ok(()),
        }
    }
}

impl From<PublicKey> for AttestationKey {
    fn from(public: PublicKey) -> Self {
        Self { public, attributes: None }
    }
}
