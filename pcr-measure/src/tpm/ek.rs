//! The endorsement key.

use tss_esapi::traits::Marshall;

use super::{Primary, Tpm, TpmError};

impl Tpm {
    /// The public area (`TPMT_PUBLIC`) of the endorsement key
    /// ([`Primary::Endorsement`]). It is made and flushed again.
    ///
    /// Nothing proves here that it is a real TPM's: that takes the certificate, and
    /// a credential that the key decrypts.
    ///
    /// # Errors
    /// The TPM's, for instance when the endorsement hierarchy has a password.
    pub fn ek_public(&mut self) -> Result<Vec<u8>, TpmError> {
        let (key, public) = self.make(Primary::Endorsement)?;
        let public = public.marshall();
        self.run(|c| c.flush_context(key.into()))?;
        Ok(public?)
    }
}
