//! The attestation key.

use tss_esapi::structures::Public;
use tss_esapi::traits::Marshall;

use super::{Primary, Tpm, TpmError};

impl Tpm {
    /// Makes an attestation key (ECC P-256, ECDSA with SHA-256, restricted, of
    /// this TPM, outside dictionary attack protection) in the endorsement
    /// hierarchy and keeps it at persistent handle `handle`. Safe to repeat: an
    /// attestation key that is there is kept. Gives its `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`TpmError::ForeignKey`] when the handle holds another kind of key; the
    /// TPM's when a hierarchy has a password.
    pub fn ensure_ak(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        self.ensure(Primary::Attestation, handle)
    }

    /// As [`Self::ensure_ak`], with RSA of 2048 bits (RSASSA, SHA-256). A key that is there is
    /// kept, of whatever kind it is.
    ///
    /// # Errors
    /// As of [`Self::ensure_ak`].
    pub fn ensure_rsa_ak(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        self.ensure(Primary::AttestationRsa, handle)
    }

    fn ensure(&mut self, primary: Primary, handle: u32) -> Result<Vec<u8>, TpmError> {
        if self.persistent(handle)?.is_none() {
            self.keep(primary, handle)?;
        }
        self.ak_public(handle)
    }

    /// The public area (`TPMT_PUBLIC`) of the attestation key at `handle`.
    ///
    /// # Errors
    /// [`TpmError::NoKey`], [`TpmError::ForeignKey`].
    pub fn ak_public(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        let key = self.persistent(handle)?.ok_or(TpmError::NoKey(handle))?;
        let (public, _, _) = self.run(|c| c.execute_without_session(|c| c.read_public(key)))?;
        let is_ak = is_restricted_signing_key(&public);
        if is_ak { Ok(public.marshall()?) } else { Err(TpmError::ForeignKey(handle)) }
    }
}

/// Restricted: it signs nothing but what the TPM made itself, so that a quote
/// under it cannot be forged by asking the TPM to sign one.
fn is_restricted_signing_key(public: &Public) -> bool {
    let a = public.object_attributes();
    a.restricted() && a.sign_encrypt() && a.fixed_tpm() && a.fixed_parent() && !a.decrypt()
}
