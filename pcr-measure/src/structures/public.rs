//! `TPMT_PUBLIC`: the public area of an RSA or ECC key.

use super::{StructureError, der, short};
use crate::digest::{Algorithm, DigestError, Sha256Digest};
use crate::reader::{Reader, Short};

/// What errors call the structure.
const WHAT: &str = "TPMT_PUBLIC";

/// `TPM_ALG_ID` (TPM 2.0 Library 1.59, Part 2, 6.3; TCG Algorithm Registry 1.34).
mod alg {
    pub(super) const RSA: u16 = 0x0001;
    pub(super) const NULL: u16 = 0x0010;
    pub(super) const RSAES: u16 = 0x0015;
    pub(super) const ECDAA: u16 = 0x001a;
    pub(super) const ECC: u16 = 0x0023;
}

/// The exponent that 0 stands for (Part 2, 12.2.3.5).
const DEFAULT_EXPONENT: u32 = 65537;

/// What an uncompressed point begins with (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// The public area of a key, as `tpm2_readpublic -o` writes it. Nothing
/// authenticates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmPublic<'a> {
    /// The bytes of the `TPMT_PUBLIC`, which the Name is a hash of.
    bytes: &'a [u8],
    name_algorithm: u16,
    /// `TPMA_OBJECT` (Part 2, 8.3).
    pub attributes: u32,
    /// The key itself.
    pub parameters: PublicParameters<'a>,
}

/// The public part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicParameters<'a> {
    /// RSA.
    Rsa {
        /// The modulus, most significant byte first.
        modulus: &'a [u8],
        /// The public exponent.
        exponent: u32,
    },
    /// A point on a curve.
    Ecc {
        /// The curve.
        curve: EccCurve,
        /// The point's coordinates, most significant byte first; leading zeros
        /// may be missing.
        x: &'a [u8],
        /// See `x`.
        y: &'a [u8],
    },
}

/// `TPM_ECC_CURVE` (TCG Algorithm Registry 1.34, table 4), those that sign here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EccCurve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl EccCurve {
    fn from_id(id: u16) -> Option<Self> {
        match id {
            0x0003 => Some(Self::P256),
            0x0004 => Some(Self::P384),
            0x0005 => Some(Self::P521),
            _ => None,
        }
    }

    /// Bytes of a coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl<'a> TpmPublic<'a> {
    /// `TPMA_OBJECT.restricted`: the key signs nothing that the TPM did not make.
    pub const RESTRICTED: u32 = 1 << 16;
    /// `TPMA_OBJECT.fixedTPM`: the key was made in this TPM and cannot leave it.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// `TPMA_OBJECT.sign`: the key signs.
    pub const SIGN: u32 = 1 << 18;

    /// Reads a `TPM2B_PUBLIC` or a `TPMT_PUBLIC`, whole.
    ///
    /// # Errors
    /// [`StructureError`]: truncated, left-over bytes, or a kind of key that
    /// does not sign.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StructureError> {
        let mut outer = Reader::new(bytes);
        // No TPM_ALG_ID of a key is as large as a public area is long.
        let bytes = match outer.tpm2b() {
            Ok(inner) if outer.rest().is_empty() => inner,
            _ => bytes,
        };
        let mut reader = Reader::new(bytes);
        let kind = reader.be_u16().map_err(short(WHAT))?;
        let name_algorithm = reader.be_u16().map_err(short(WHAT))?;
        let attributes = reader.be_u32().map_err(short(WHAT))?;
        reader.tpm2b().map_err(short(WHAT))?; // authPolicy
        symmetric(&mut reader).map_err(short(WHAT))?;
        let parameters = match kind {
            alg::RSA => rsa(&mut reader).map_err(short(WHAT))?,
            alg::ECC => ecc(&mut reader)?,
            other => return Err(field("type", other)),
        };
        match reader.rest().len() {
            0 => Ok(Self { bytes, name_algorithm, attributes, parameters }),
            left => Err(StructureError::LeftOver { what: WHAT, left }),
        }
    }

    /// The Name: `nameAlg` and the hash of the public area (Part 1, 16).
    ///
    /// # Errors
    /// [`DigestError`] for an algorithm that is unknown or not built in.
    pub fn name(&self) -> Result<Vec<u8>, DigestError> {
        let algorithm = Algorithm::from_id(self.name_algorithm)
            .ok_or_else(|| DigestError::UnknownName(format!("{:#06x}", self.name_algorithm)))?;
        let digest = algorithm.hash(&[self.bytes])?;
        Ok([&self.name_algorithm.to_be_bytes(), digest.as_bytes()].concat())
    }

    /// SHA-256 over the key as OpenSSL's `i2d_PublicKey` writes it (PKCS #1 for
    /// RSA, the uncompressed point for ECC): what systemd calls `pkfp`.
    #[must_use]
    pub fn fingerprint(&self) -> Sha256Digest {
        match self.parameters {
            PublicParameters::Rsa { modulus, exponent } => {
                Sha256Digest::of(&der::write_two_integers(modulus, &exponent.to_be_bytes()))
            }
            PublicParameters::Ecc { curve, x, y } => {
                let padding = |number: &[u8]| vec![0; curve.size().saturating_sub(number.len())];
                Sha256Digest::of_parts(&[&[UNCOMPRESSED], &padding(x), x, &padding(y), y])
            }
        }
    }
}

fn field(name: &'static str, value: u16) -> StructureError {
    StructureError::Field { what: WHAT, field: name, value: value.into() }
}

/// Skips a `TPMT_SYM_DEF_OBJECT` (Part 2, 11.1.7).
fn symmetric(reader: &mut Reader<'_>) -> Result<(), Short> {
    if reader.be_u16()? != alg::NULL {
        reader.be_u32()?; // key bits and mode
    }
    Ok(())
}

/// `TPMS_RSA_PARMS` behind its symmetric part, and the modulus (Part 2,
/// 12.2.3.5 and 11.2.4.5).
fn rsa<'a>(reader: &mut Reader<'a>) -> Result<PublicParameters<'a>, Short> {
    // TPMT_RSA_SCHEME (11.2.4.2): NULL and RSAES have no details.
    if !matches!(reader.be_u16()?, alg::NULL | alg::RSAES) {
        reader.be_u16()?;
    }
    reader.be_u16()?; // key bits: the modulus says it itself
    let exponent = match reader.be_u32()? {
        0 => DEFAULT_EXPONENT,
        exponent => exponent,
    };
    Ok(PublicParameters::Rsa { modulus: reader.tpm2b()?, exponent })
}

/// `TPMS_ECC_PARMS` behind its symmetric part, and the point (Part 2, 12.2.3.6
/// and 11.2.5.2).
fn ecc<'a>(reader: &mut Reader<'a>) -> Result<PublicParameters<'a>, StructureError> {
    let read = |reader: &mut Reader<'a>| {
        match reader.be_u16()? {
            alg::NULL => {}
            alg::ECDAA => drop(reader.be_u32()?), // hash and count
            _ => drop(reader.be_u16()?),
        }
        let curve = reader.be_u16()?;
        if reader.be_u16()? != alg::NULL {
            reader.be_u16()?; // the hash of the key derivation
        }
        Ok((curve, reader.tpm2b()?, reader.tpm2b()?))
    };
    let (curve, x, y) = read(reader).map_err(short(WHAT))?;
    let curve = EccCurve::from_id(curve).ok_or_else(|| field("curve", curve))?;
    Ok(PublicParameters::Ecc { curve, x, y })
}
