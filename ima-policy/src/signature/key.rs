//! The private half: what signs files.

use std::fmt;
use std::io;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Private};
use openssl::pkey_ctx::{NonceType, PkeyCtx};
use openssl::rsa::Padding;
use openssl::x509::X509;
use pcr_measure::digest::{Algorithm, Digest};

use super::keyring::{asks, describe, is_taken, md};
use super::{KeyId, Kind, PublicKey, Signature, SignatureError, Version};

/// Largest key or certificate file that is read, in bytes.
pub const MAX_KEY_FILE: usize = 64 * 1024;

/// Sizes of an RSA modulus, in bits: those of the kernel (crypto/rsa.c,
/// `rsa_check_key_length`) that are strong enough.
pub(super) const RSA_BITS: [u32; 3] = [2048, 3072, 4096];

/// What can be wrong with a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not PEM of a private key.
    #[error(
        "this is no private key: PEM is taken (PKCS #8, PKCS #1 or SEC 1), as `openssl genpkey` writes it"
    )]
    NotAPrivateKey,
    /// A private key that a passphrase protects.
    #[error(
        "the private key is encrypted, and no passphrase is asked for here: give it decrypted, from a place that only you can read (`openssl pkey -in KEY -out DECRYPTED`)"
    )]
    Encrypted,
    /// Neither a certificate nor a public key.
    #[error("{0} is neither a certificate nor a public key, PEM or DER")]
    NotAPublicKey(String),
    /// A kind of key that the kernel does not verify with.
    #[error(
        "{0} keys are not taken: RSA of 2048, 3072 or 4096 bits, or ECC on P-256, P-384 or P-521"
    )]
    Kind(String),
    /// A certificate without the extension by which the kernel finds a key.
    #[error(
        "{0} has no SubjectKeyIdentifier of four bytes or more, by which the kernel would find the key: make one with `subjectKeyIdentifier=hash`"
    )]
    NoIdentifier(String),
    /// A certificate of another key.
    #[error("{0} is not the certificate of this key: their public halves differ")]
    OtherKey(String),
    /// A hash that is not signed.
    #[error("signatures over {0} are not made: sha256, sha384 or sha512")]
    Hash(Algorithm),
    /// What is signed.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A signature longer than the header can say.
    #[error("the signature is longer than its header can say")]
    Long,
    /// Who holds the private half did not sign, or not with it.
    #[error("no signature: {0}")]
    Elsewhere(io::Error),
    /// OpenSSL refused.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] ErrorStack),
}

/// A private key that signs files. OpenSSL holds it, and wipes it when the value ends; the
/// bytes it was read from are the caller's to wipe.
#[derive(Clone)]
pub struct SigningKey {
    private: Half,
    public: PublicKey,
}

/// The private half.
#[derive(Clone)]
enum Half {
    /// In memory.
    Here(PKey<Private>),
    /// With somebody who signs for us.
    Elsewhere(Arc<Sign>),
}

/// Signs a digest.
type Sign = dyn Fn(&Digest) -> io::Result<Vec<u8>> + Send + Sync;

impl SigningKey {
    /// Reads PEM: PKCS #8, PKCS #1 or SEC 1. A certificate in the same file gives the key its
    /// identifier. Nobody is asked for a passphrase. `name` is for people.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, KeyError> {
        let mut asked = false;
        let key = PKey::private_key_from_pem_callback(pem, |_| {
            asked = true;
            Err(ErrorStack::get())
        });
        let key = match key {
            Ok(key) => key,
            Err(_) if asked => return Err(KeyError::Encrypted),
            Err(_) => return Err(KeyError::NotAPrivateKey),
        };
        if !is_taken(&key)? {
            return Err(KeyError::Kind(describe(&key)));
        }
        let public = PKey::public_key_from_der(&key.public_key_to_der()?)?;
        let signing = Self { private: Half::Here(key), public: PublicKey::new(name, public)? };
        match X509::from_pem(if asks(pem) { &[] } else { pem }) {
            Ok(certificate) => signing.with(PublicKey::of_certificate(name, &certificate)?),
            Err(_) => Ok(signing),
        }
    }

    /// A key that somebody else holds, a PKCS#11 token for instance: `sign` gets a digest and
    /// returns RSASSA-PKCS1-v1_5 as bytes or ECDSA as DER. What it returns is verified. It is
    /// called from several threads.
    pub fn elsewhere(
        public: PublicKey,
        sign: impl Fn(&Digest) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self { private: Half::Elsewhere(Arc::new(sign)), public }
    }

    /// The same key, by the identifier of its certificate.
    ///
    /// # Errors
    /// [`KeyError::OtherKey`]; as [`PublicKey::parse`].
    pub fn with_certificate(self, name: &str, certificate: &[u8]) -> Result<Self, KeyError> {
        self.with(PublicKey::parse(name, certificate)?)
    }

    fn with(self, public: PublicKey) -> Result<Self, KeyError> {
        if self.public.is(&public) {
            Ok(Self { public, ..self })
        } else {
            Err(KeyError::OtherKey(public.name().to_owned()))
        }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// By which the kernel finds the public half.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.public.id()
    }

    /// The attribute that signs `digest`: the same bytes each time (RSASSA-PKCS1-v1_5, ECDSA
    /// by RFC 6979), so that an image that is built again is equal.
    ///
    /// # Errors
    /// [`KeyError::Hash`], [`KeyError::OpenSsl`], [`KeyError::Elsewhere`].
    pub fn sign(&self, kind: Kind, version: Version, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        let signed = Signature::signed(kind, version, digest)?;
        let bytes = self.sign_digest(&signed)?;
        let (algorithm, key) = (digest.algorithm(), self.id());
        let signature = Signature { kind, version, algorithm, key, bytes };
        signature.to_bytes().ok_or(KeyError::Long)
    }

    fn sign_digest(&self, digest: &Digest) -> Result<Vec<u8>, KeyError> {
        let algorithm = digest.algorithm();
        let md = md(algorithm).ok_or(KeyError::Hash(algorithm))?;
        match &self.private {
            Half::Here(key) => {
                let mut context = PkeyCtx::new(key)?;
                context.sign_init()?;
                if key.id() == Id::RSA {
                    context.set_rsa_padding(Padding::PKCS1)?;
                } else {
                    context.set_nonce_type(NonceType::DETERMINISTIC_K)?;
                }
                context.set_signature_md(md)?;
                let mut bytes = Vec::new();
                context.sign_to_vec(digest.as_bytes(), &mut bytes)?;
                Ok(bytes)
            }
            Half::Elsewhere(sign) => {
                let bytes = sign(digest).map_err(KeyError::Elsewhere)?;
                if self.public.signed(digest, &bytes) {
                    return Ok(bytes);
                }
                let text = "it signed with another key than its public half says";
                Err(KeyError::Elsewhere(io::Error::other(text)))
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
