//! Quotes: PCR values that a key of the TPM vouches for.

use tss_esapi::constants::StructureTag;
use tss_esapi::constants::tss::{TPM2_ALG_ECDSA, TPM2_ALG_RSAPSS, TPM2_ALG_RSASSA};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{AttestInfo, Data, Signature, SignatureScheme};
use tss_esapi::traits::Marshall;

use super::pcrs::selections;
use super::{Tpm, TpmError};
use crate::digest::Algorithm;
use crate::pcr::{PcrBank, PcrSelection};

/// Longest nonce: `TPM2B_DATA` holds as much as a `TPMT_HA` (TPM 2.0 Library
/// 1.59, Part 2, 10.4.3), here an algorithm identifier and SHA-512.
const MAX_NONCE: usize = 66;
/// How often a quote is made anew when a PCR moved between it and the values.
const TRIES: u32 = 3;

/// A quote and the values that it is over.
#[derive(Debug, Clone)]
pub struct Quote {
    /// `TPMS_ATTEST`, as the TPM signed it.
    pub message: Vec<u8>,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Vec<u8>,
    /// The values, a bank for each selection, in order.
    pub values: Vec<PcrBank>,
}

impl Tpm {
    /// Quotes `selections` under the key at persistent handle `ak`, with the
    /// key's own scheme.
    ///
    /// # Errors
    /// [`TpmError::NoKey`], [`TpmError::LongNonce`], [`TpmError::NoBank`];
    /// [`TpmError::Moving`] when PCRs do not hold still.
    pub fn quote(
        &mut self,
        ak: u32,
        nonce: &[u8],
        wanted: &[PcrSelection],
    ) -> Result<Quote, TpmError> {
        if nonce.len() > MAX_NONCE {
            return Err(TpmError::LongNonce { got: nonce.len(), limit: MAX_NONCE });
        }
        let key = self.persistent(ak)?.ok_or(TpmError::NoKey(ak))?;
        for _ in 0..TRIES {
            let values: Vec<PcrBank> =
                wanted.iter().map(|selection| self.pcrs(selection)).collect::<Result<_, _>>()?;
            let (nonce, list) = (Data::try_from(nonce.to_vec())?, selections(wanted)?);
            let (attest, signature) = self.run(|c| {
                c.execute_with_session(Some(AuthSession::Password), |c| {
                    c.quote(key, nonce, SignatureScheme::Null, list)
                })
            })?;
            let (hash, signature) = marshal(&signature)?;
            let AttestInfo::Quote { info } = attest.attested() else {
                return Err(TpmError::Library(format!(
                    "{:?} instead of a quote",
                    StructureTag::from(attest.attestation_type())
                )));
            };
            if over(hash, wanted, &values)? == info.pcr_digest().as_bytes() {
                return Ok(Quote { message: attest.marshall()?, signature, values });
            }
        }
        Err(TpmError::Moving)
    }
}

/// What a quote with this hash is over (Part 3, 18.4).
fn over(hash: Algorithm, wanted: &[PcrSelection], values: &[PcrBank]) -> Result<Vec<u8>, TpmError> {
    let mut all = Vec::new();
    for (selection, bank) in wanted.iter().zip(values) {
        all.extend(bank.concatenated(selection)?);
    }
    let digest = hash.hash(&[&all]).map_err(crate::pcr::PcrError::from)?;
    Ok(digest.as_bytes().to_vec())
}

/// `TPMT_SIGNATURE` (Part 2, 11.3.4), and the hash in it.
pub(super) fn marshal(signature: &Signature) -> Result<(Algorithm, Vec<u8>), TpmError> {
    let (scheme, hash, parts) = match signature {
        Signature::RsaSsa(rsa) => {
            (TPM2_ALG_RSASSA, rsa.hashing_algorithm(), vec![rsa.signature().as_bytes()])
        }
        Signature::RsaPss(rsa) => {
            (TPM2_ALG_RSAPSS, rsa.hashing_algorithm(), vec![rsa.signature().as_bytes()])
        }
        Signature::EcDsa(ecc) => (
            TPM2_ALG_ECDSA,
            ecc.hashing_algorithm(),
            vec![ecc.signature_r().as_bytes(), ecc.signature_s().as_bytes()],
        ),
        _ => return Err(TpmError::Scheme),
    };
    let hash = Algorithm::from_id(hash.into()).ok_or(TpmError::Scheme)?;
    let mut out = [scheme.to_be_bytes(), hash.id().to_be_bytes()].concat();
    for part in parts {
        let size = u16::try_from(part.len()).map_err(|_| TpmError::Scheme)?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(part);
    }
    Ok((hash, out))
}
