//! The endorsement key, and its maker's certificate.

use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::traits::Marshall;

use super::{Primary, Tpm, TpmError};

/// NV index of the certificate for the key of template L-2
/// (TCG EK Credential Profile 2.5, 2.2.1.4: ECC NIST P256).
const CERTIFICATE: u32 = 0x01c0_000a;

/// Bytes that every TPM lets be read at a time (TCG PC Client Platform TPM Profile 1.05,
/// 4.4: TPM_PT_NV_BUFFER_MAX).
const CHUNK: usize = 512;

/// Longest certificate that is taken, in bytes.
const MAX_CERTIFICATE: usize = 8192;

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

    /// The maker's certificate for that key (DER, X.509), as the TPM keeps it; `None` where
    /// it has none. Nothing in it is verified.
    ///
    /// # Errors
    /// The TPM's, for instance when the index may be read by its owner alone.
    pub fn ek_certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        let handle = TpmHandle::NvIndex(NvIndexTpmHandle::new(CERTIFICATE)?);
        let found = self.run(|c| c.execute_without_session(|c| c.tr_from_tpm_public(handle)));
        let index: NvIndexHandle = match found {
            Ok(object) => object.into(),
            Err(error) if error.is_no_such_handle() => return Ok(None),
            Err(error) => return Err(error),
        };
        let (public, _) = self.run(|c| c.execute_without_session(|c| c.nv_read_public(index)))?;
        let size = public.data_size().min(MAX_CERTIFICATE);
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let (offset, length) = (bytes.len(), (size - bytes.len()).min(CHUNK));
            let chunk = self.run(|c| {
                c.execute_with_session(Some(AuthSession::Password), |c| {
                    // Both are below MAX_CERTIFICATE.
                    c.nv_read(NvAuth::NvIndex(index), index, length as u16, offset as u16)
                })
            })?;
            if chunk.is_empty() {
                break;
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(of_der(&bytes).map(<[u8]>::to_vec))
    }
}

/// The DER structure (a `SEQUENCE`) that bytes begin with: an index may be larger than its
/// certificate (ITU-T X.690, 8.1.3).
fn of_der(bytes: &[u8]) -> Option<&[u8]> {
    let (tag, first) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match first {
        0..=0x7f => (2, usize::from(first)),
        0x81 => (3, usize::from(*bytes.get(2)?)),
        0x82 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        _ => return None,
    };
    if tag == 0x30 { bytes.get(..head + length) } else { None }
}

#[cfg(test)]
mod tests {
    use super::of_der;

    #[test]
    fn what_is_behind_a_certificate_is_no_part_of_it() {
        let long = |head: &[u8], length: usize| [head, &vec![7; length]].concat();
        for whole in
            [long(&[0x30, 3], 3), long(&[0x30, 0x81, 200], 200), long(&[0x30, 0x82, 1, 44], 300)]
        {
            assert_eq!(of_der(&[&whole[..], &[0xff; 9]].concat()), Some(&whole[..]));
            assert_eq!(of_der(&whole[..whole.len() - 1]), None, "cut");
        }
        for none in [&[][..], &[0x30], &[0xff; 40], &[0; 40], &[0x30, 0x83, 0, 0, 1, 7]] {
            assert_eq!(of_der(none), None, "{none:x?}");
        }
    }
}
