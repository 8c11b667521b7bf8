//! A public key as a TPM loads it, and the Name it then has.
//!
//! The Name stands in the digest of a PolicyAuthorize, so every bit of the
//! public area counts. This one is systemd's (systemd 257, src/shared/tpm2-util.c,
//! `tpm2_tpm2b_public_from_openssl_pkey`) for every key that systemd gets into a
//! TPM.

use openssl::bn::{BigNum, BigNumContext};
use openssl::nid::Nid;
use openssl::pkey::Id;

use super::{KeyError, MAX_RSA_BITS, PublicKey, describe};
use crate::digest::{Algorithm, Sha256Digest};

/// `TPM_ALG_RSA`, `TPM_ALG_ECC`, `TPM_ALG_NULL` (TCG Algorithm Registry 1.34).
const ALG_RSA: u16 = 0x0001;
const ALG_ECC: u16 = 0x0023;
const ALG_NULL: u16 = 0x0010;

/// `TPMA_OBJECT` (TPM 2.0 Library 1.59, Part 2, 8.3): userWithAuth, decrypt and
/// sign.
const ATTRIBUTES: u32 = 1 << 6 | 1 << 17 | 1 << 18;

impl PublicKey {
    /// The `TPMT_PUBLIC` that systemd makes of a key in PEM, for
    /// `TPM2_LoadExternal` (which wants its size as 16 bits before it).
    ///
    /// # Errors
    /// [`KeyError::NotForTpm`] if the key does not fit; [`KeyError::OpenSsl`].
    pub fn to_tpm_public(&self) -> Result<Vec<u8>, KeyError> {
        let key = &self.0;
        let not_for_tpm = || KeyError::NotForTpm(describe(key));
        let mut out = Vec::new();
        match key.id() {
            Id::RSA => {
                let rsa = key.rsa()?;
                let exponent = u32_of(rsa.e()).ok_or_else(not_for_tpm)?;
                let modulus = rsa.n().to_vec();
                let bits = u16::try_from(8 * modulus.len()).map_err(|_| not_for_tpm())?;
                if u32::from(bits) > MAX_RSA_BITS {
                    return Err(not_for_tpm());
                }
                head(&mut out, ALG_RSA);
                out.extend_from_slice(&bits.to_be_bytes());
                // Written out even where 0 would stand for it: the Name differs.
                out.extend_from_slice(&exponent.to_be_bytes());
                tpm2b(&mut out, &modulus).ok_or_else(not_for_tpm)?;
            }
            _ => {
                let ec = key.ec_key()?;
                let (curve, size) =
                    ec.group().curve_name().and_then(curve_of).ok_or_else(not_for_tpm)?;
                let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
                let mut context = BigNumContext::new()?;
                ec.public_key().affine_coordinates(ec.group(), &mut x, &mut y, &mut context)?;
                head(&mut out, ALG_ECC);
                out.extend_from_slice(&curve.to_be_bytes());
                out.extend_from_slice(&ALG_NULL.to_be_bytes()); // kdf
                // systemd leaves out leading zeros, and a TPM then refuses the key.
                tpm2b(&mut out, &x.to_vec_padded(size)?).ok_or_else(not_for_tpm)?;
                tpm2b(&mut out, &y.to_vec_padded(size)?).ok_or_else(not_for_tpm)?;
            }
        }
        Ok(out)
    }

    /// The Name of the key in a TPM that systemd loads it into: the key name of
    /// [`crate::policy::Policy::authorize`].
    ///
    /// # Errors
    /// As [`PublicKey::to_tpm_public`].
    pub fn tpm_name(&self) -> Result<Vec<u8>, KeyError> {
        let digest = Sha256Digest::of(&self.to_tpm_public()?);
        Ok([&Algorithm::Sha256.id().to_be_bytes(), digest.as_bytes().as_slice()].concat())
    }
}

/// Everything up to the key's own parameters (Part 2, 12.2.4, 12.2.3.5,
/// 12.2.3.6): type, nameAlg, attributes, no authPolicy, no symmetric part, no
/// scheme.
fn head(out: &mut Vec<u8>, kind: u16) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&Algorithm::Sha256.id().to_be_bytes());
    out.extend_from_slice(&ATTRIBUTES.to_be_bytes());
    out.extend_from_slice(&0_u16.to_be_bytes());
    out.extend_from_slice(&ALG_NULL.to_be_bytes());
    out.extend_from_slice(&ALG_NULL.to_be_bytes());
}

/// Appends a `TPM2B`.
fn tpm2b(out: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
    out.extend_from_slice(bytes);
    Some(())
}

fn u32_of(number: &openssl::bn::BigNumRef) -> Option<u32> {
    let bytes = number.to_vec();
    let mut out = [0; 4];
    let start = out.len().checked_sub(bytes.len())?;
    out.get_mut(start..)?.copy_from_slice(&bytes);
    Some(u32::from_be_bytes(out))
}

/// `TPM_ECC_CURVE` (TCG Algorithm Registry 1.34, table 4), and bytes of a
/// coordinate.
fn curve_of(curve: Nid) -> Option<(u16, i32)> {
    match curve {
        Nid::X9_62_PRIME256V1 => Some((0x0003, 32)),
        Nid::SECP384R1 => Some((0x0004, 48)),
        Nid::SECP521R1 => Some((0x0005, 66)),
        _ => None,
    }
}
