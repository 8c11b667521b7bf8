//! `TPMT_SIGNATURE`: a signature as a TPM gives it out.

use super::{StructureError, short};
use crate::eventlog::AlgorithmId;
use crate::reader::Reader;

/// What errors call the structure.
const WHAT: &str = "TPMT_SIGNATURE";

/// `TPM_ALG_ID` of signatures (TPM 2.0 Library 1.59, Part 2, 6.3).
mod alg {
    pub(super) const HMAC: u16 = 0x0005;
    pub(super) const NULL: u16 = 0x0010;
    pub(super) const RSASSA: u16 = 0x0014;
    pub(super) const RSAPSS: u16 = 0x0016;
    pub(super) const ECDSA: u16 = 0x0018;
    pub(super) const ECDAA: u16 = 0x001a;
    pub(super) const SM2: u16 = 0x001b;
    pub(super) const ECSCHNORR: u16 = 0x001c;
}

/// A signature (TPM 2.0 Library 1.59, Part 2, 11.3.4). Whose it is, only
/// checking it with a key tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TpmSignature<'a> {
    /// The hash that was signed over.
    pub hash: AlgorithmId,
    /// The signature itself.
    pub value: SignatureValue<'a>,
}

/// The schemes that are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureValue<'a> {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa(&'a [u8]),
    /// RSASSA-PSS.
    RsaPss(&'a [u8]),
    /// ECDSA; most significant byte first, leading zeros may be missing.
    EcDsa {
        /// r.
        r: &'a [u8],
        /// s.
        s: &'a [u8],
    },
}

impl<'a> TpmSignature<'a> {
    /// Reads a `TPMT_SIGNATURE`, whole, as `tpm2_quote -s` writes it.
    ///
    /// # Errors
    /// [`StructureError`]: truncated, left-over bytes, or another scheme than
    /// RSASSA, RSAPSS and ECDSA, by its name.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new(bytes);
        let scheme = reader.be_u16().map_err(short(WHAT))?;
        if let Some(name) = other(scheme) {
            return Err(StructureError::Kind { what: WHAT, name });
        }
        if ![alg::RSASSA, alg::RSAPSS, alg::ECDSA].contains(&scheme) {
            let value = scheme.into();
            return Err(StructureError::Field { what: WHAT, field: "sigAlg", value });
        }
        let hash = AlgorithmId(reader.be_u16().map_err(short(WHAT))?);
        let mut sized = || reader.tpm2b().map_err(short(WHAT));
        let value = match scheme {
            alg::RSASSA => SignatureValue::RsaSsa(sized()?),
            alg::RSAPSS => SignatureValue::RsaPss(sized()?),
            _ => SignatureValue::EcDsa { r: sized()?, s: sized()? },
        };
        match reader.rest().len() {
            0 => Ok(Self { hash, value }),
            left => Err(StructureError::LeftOver { what: WHAT, left }),
        }
    }
}

/// The names of schemes that exist and are not taken.
const fn other(scheme: u16) -> Option<&'static str> {
    match scheme {
        alg::HMAC => Some("HMAC"),
        alg::NULL => Some("no scheme at all (TPM_ALG_NULL)"),
        alg::ECDAA => Some("ECDAA"),
        alg::SM2 => Some("SM2"),
        alg::ECSCHNORR => Some("ECSCHNORR"),
        _ => None,
    }
}
