//! Keys that sign policies and quotes: reading them, checking a signature.
//!
//! The arithmetic is OpenSSL's. A public key from a file is as trustworthy as
//! the way it came here; callers say which key they trust.

mod signing;
mod template;

use std::fmt;

use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};

use crate::digest::{Algorithm, Sha256Digest};
use crate::structures::{EccCurve, PublicParameters, StructureError, TpmPublic};

pub use signing::SigningKey;

/// Shortest RSA modulus that is taken, in bits (NIST SP 800-131A rev. 2).
const MIN_RSA_BITS: u32 = 2048;
/// Longest RSA modulus that a TPM's public area holds, in bits
/// (`TPM2_MAX_RSA_KEY_BYTES` of tpm2-tss 4.1, tss2_tpm2_types.h: 512 bytes).
const MAX_RSA_BITS: u32 = 4096;
/// Largest key file that is read, in bytes.
pub const MAX_KEY_FILE: usize = 64 * 1024;

/// What can be wrong with a key or a signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Neither PEM nor DER nor a TPM's public area.
    #[error(
        "this is no public key: PEM (as `openssl pkey -pubout` writes it), DER, or a TPM's public area (as `tpm2_readpublic -o` writes it) is taken; as the latter: {0}"
    )]
    NotAKey(StructureError),
    /// A private key where a public one is needed.
    #[error(
        "this is a private key where a public one is needed: give what `openssl pkey -in KEY -pubout` writes"
    )]
    Private,
    /// Not PEM of a private key.
    #[error(
        "this is no private key: PEM is taken (PKCS #8, PKCS #1 or SEC 1), as `openssl genpkey` writes it"
    )]
    NotAPrivateKey,
    /// A public key where a private one is needed.
    #[error(
        "this is a public key where a private one is needed: sign with the other half of the pair"
    )]
    Public,
    /// A private key that a passphrase protects.
    #[error(
        "the private key is encrypted, and no passphrase is asked for here: give it decrypted, from a place that only you can read (`openssl pkey -in KEY -out DECRYPTED`)"
    )]
    Encrypted,
    /// A private key of a kind that signs no policies.
    #[error(
        "{0} keys do not sign policies: RSA of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, or ECC on P-256"
    )]
    SigningKind(String),
    /// A public key that does not fit into a TPM's public area.
    #[error(
        "a TPM does not load this key: {0}; RSA of at most {MAX_RSA_BITS} bits with an exponent of at most 32 bits, or ECC"
    )]
    NotForTpm(String),
    /// A kind of key that does not sign here.
    #[error(
        "{0} keys are not taken: RSA of {MIN_RSA_BITS} bits or more, or ECC on P-256, P-384 or P-521"
    )]
    Kind(String),
    /// A hash that signatures are not made over.
    #[error("signatures over {0} are not taken: sha256, sha384 or sha512")]
    Hash(Algorithm),
    /// The key is of another kind than the signature.
    #[error("a {scheme} signature cannot be of {key}")]
    Scheme {
        /// The signature's scheme.
        scheme: Scheme,
        /// The key.
        key: String,
    },
    /// Who holds the private half did not sign, or not with it.
    #[error("no signature: {0}")]
    Elsewhere(std::io::Error),
    /// OpenSSL refused.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// A signature scheme (TPM 2.0 Library 1.59, Part 2, 11.2.1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5.
    RsaSsa,
    /// RSASSA-PSS.
    RsaPss,
    /// ECDSA.
    EcDsa,
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RsaSsa => "RSASSA",
            Self::RsaPss => "RSAPSS",
            Self::EcDsa => "ECDSA",
        })
    }
}

/// The public part of a key that signs.
#[derive(Debug, Clone)]
pub struct PublicKey(PKey<Public>);

impl PublicKey {
    /// Reads PEM or DER (`SubjectPublicKeyInfo`), or a TPM's public area
    /// (`TPM2B_PUBLIC`, `TPMT_PUBLIC`).
    ///
    /// # Errors
    /// [`KeyError::NotAKey`] for anything else, [`KeyError::Private`] for PEM of
    /// a private key, [`KeyError::Kind`] for a key that is too weak or of a kind
    /// that does not sign.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        // OpenSSL would ask for a passphrase on the terminal.
        if contains(bytes, PRIVATE_LABEL) {
            return Err(KeyError::Private);
        }
        let spki = if is_encrypted(bytes) {
            None
        } else {
            PKey::public_key_from_pem(bytes).or_else(|_| PKey::public_key_from_der(bytes)).ok()
        };
        let key = match spki {
            Some(key) => key,
            None => from_tpm(&TpmPublic::parse(bytes).map_err(KeyError::NotAKey)?)?,
        };
        Self::new(key)
    }

    /// The key of a TPM's public area.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn from_tpm(public: &TpmPublic<'_>) -> Result<Self, KeyError> {
        Self::new(from_tpm(public)?)
    }

    fn new(key: PKey<Public>) -> Result<Self, KeyError> {
        if is_taken(&key)? { Ok(Self(key)) } else { Err(KeyError::Kind(describe(&key))) }
    }

    /// SHA-256 over the key as OpenSSL's `i2d_PublicKey` writes it (PKCS #1 for
    /// RSA, the point for ECC): what systemd calls `pkfp`.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`].
    pub fn fingerprint(&self) -> Result<Sha256Digest, KeyError> {
        let bytes = match self.0.id() {
            Id::RSA => self.0.rsa()?.public_key_to_der_pkcs1()?,
            _ => {
                let key = self.0.ec_key()?;
                let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
                let mut context = BigNumContext::new()?;
                key.public_key().to_bytes(key.group(), form, &mut context)?
            }
        };
        Ok(Sha256Digest::of(&bytes))
    }

    /// The scheme in which this kind of key signs policies: RSASSA or ECDSA.
    #[must_use]
    pub fn policy_scheme(&self) -> Scheme {
        if self.0.id() == Id::EC { Scheme::EcDsa } else { Scheme::RsaSsa }
    }

    /// The key as PEM.
    ///
    /// # Errors
    /// [`KeyError::OpenSsl`].
    pub fn to_pem(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.0.public_key_to_pem()?)
    }

    /// Whether `signature` is this key's over `message`, hashed with `hash`.
    /// RSA signatures are bytes as they are, ECDSA ones DER.
    ///
    /// # Errors
    /// [`KeyError::Scheme`] and [`KeyError::Hash`] for combinations that cannot
    /// be; a signature that is merely wrong is `Ok(false)`.
    pub fn verify(
        &self,
        scheme: Scheme,
        hash: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, KeyError> {
        if (self.0.id() == Id::EC) != (scheme == Scheme::EcDsa) {
            return Err(KeyError::Scheme { scheme, key: describe(&self.0) });
        }
        let mut verifier = Verifier::new(message_digest(hash)?, &self.0)?;
        if scheme == Scheme::RsaPss {
            verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
            // A TPM takes the longest salt there is room for, or one of the
            // hash's length (Part 1, B.7): the padding says which.
            verifier.set_rsa_pss_saltlen(RsaPssSaltlen::custom(SALT_AUTO))?;
        }
        // OpenSSL answers bytes that are no signature at all with an error, and
        // leaves it on its queue if nobody takes it.
        let mut right = verifier.verify_oneshot(signature, message);
        if right.is_err() {
            right = Ok(false);
            drop(ErrorStack::get());
        }
        Ok(right.unwrap_or(false))
    }
}

/// `RSA_PSS_SALTLEN_AUTO` (openssl/rsa.h).
const SALT_AUTO: i32 = -2;

/// An ECDSA signature of a TPM (`TPMS_SIGNATURE_ECDSA`: r and s) as DER.
///
/// # Errors
/// [`KeyError::OpenSsl`].
pub fn ecdsa_der(r: &[u8], s: &[u8]) -> Result<Vec<u8>, KeyError> {
    let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
    Ok(EcdsaSig::from_private_components(r, s)?.to_der()?)
}

/// How every label of a private key in PEM ends (RFC 7468, 10 and 11).
const PRIVATE_LABEL: &[u8] = b"PRIVATE KEY-----";

/// Whether this is PEM that OpenSSL would ask a passphrase for: PKCS #8 by its
/// label (RFC 7468, 11), the older forms by a header (RFC 1421, 4.6.1.1).
fn is_encrypted(bytes: &[u8]) -> bool {
    contains(bytes, b"-----BEGIN ENCRYPTED") || contains(bytes, b"Proc-Type:")
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn message_digest(hash: Algorithm) -> Result<MessageDigest, KeyError> {
    match hash {
        Algorithm::Sha256 => Ok(MessageDigest::sha256()),
        Algorithm::Sha384 => Ok(MessageDigest::sha384()),
        Algorithm::Sha512 => Ok(MessageDigest::sha512()),
        other => Err(KeyError::Hash(other)),
    }
}

fn is_taken<T: HasPublic>(key: &PKey<T>) -> Result<bool, ErrorStack> {
    Ok(match key.id() {
        Id::RSA => key.bits() >= MIN_RSA_BITS,
        Id::EC => {
            let curves = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
            let curve = key.ec_key()?.group().curve_name();
            curve.is_some_and(|curve| curves.contains(&curve))
        }
        _ => false,
    })
}

fn describe<T: HasPublic>(key: &PKey<T>) -> String {
    let kind = match key.id() {
        Id::RSA => "RSA",
        Id::EC => "ECC",
        Id::ED25519 => "Ed25519",
        _ => "other",
    };
    format!("{kind} ({} bits)", key.bits())
}

fn from_tpm(public: &TpmPublic<'_>) -> Result<PKey<Public>, KeyError> {
    match public.parameters {
        PublicParameters::Rsa { modulus, exponent } => {
            let modulus = BigNum::from_slice(modulus)?;
            Ok(PKey::from_rsa(Rsa::from_public_components(modulus, BigNum::from_u32(exponent)?)?)?)
        }
        PublicParameters::Ecc { curve, x, y } => {
            let group = EcGroup::from_curve_name(match curve {
                EccCurve::P256 => Nid::X9_62_PRIME256V1,
                EccCurve::P384 => Nid::SECP384R1,
                EccCurve::P521 => Nid::SECP521R1,
            })?;
            let mut context = BigNumContext::new()?;
            let mut point = EcPoint::new(&group)?;
            let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
            // Refuses a point that is not on the curve.
            point.set_affine_coordinates_gfp(&group, &x, &y, &mut context)?;
            let key = EcKey::from_public_key(&group, &point)?;
            key.check_key()?;
            Ok(PKey::from_ec_key(key)?)
        }
    }
}
