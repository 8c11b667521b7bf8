//! The private half: what signs policies.

use std::fmt;
use std::io;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;

use super::{
    KeyError, MAX_RSA_BITS, MIN_RSA_BITS, PublicKey, describe, is_encrypted, message_digest,
};
use crate::digest::Algorithm;

/// A private key that signs policies. OpenSSL holds it, and wipes it when the
/// value ends; the bytes it was read from are the caller's to wipe.
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

/// Signs a message, hashed with this algorithm.
type Sign = dyn Fn(Algorithm, &[u8]) -> io::Result<Vec<u8>> + Send + Sync;

impl SigningKey {
    /// Reads PEM: PKCS #8, PKCS #1 or SEC 1. Nobody is asked for a passphrase.
    ///
    /// # Errors
    /// [`KeyError::Encrypted`], [`KeyError::Public`], [`KeyError::NotAPrivateKey`];
    /// [`KeyError::SigningKind`] for a key that is too weak, that a TPM does not
    /// load, or of a kind that does not sign.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        // OpenSSL would ask for the passphrase on the terminal.
        if is_encrypted(pem) {
            return Err(KeyError::Encrypted);
        }
        let key = match PKey::private_key_from_pem(pem) {
            Ok(key) => key,
            Err(_) if says_public(pem) => return Err(KeyError::Public),
            Err(_) => return Err(KeyError::NotAPrivateKey),
        };
        if !signs(&key)? {
            return Err(KeyError::SigningKind(describe(&key)));
        }
        let public = PublicKey::new(PKey::public_key_from_der(&key.public_key_to_der()?)?)?;
        Ok(Self { private: Half::Here(key), public })
    }

    /// A key that somebody else holds, a PKCS#11 token for instance: `sign` gets hash and
    /// message, and returns what [`Self::sign`] does. What it returns is verified.
    pub fn elsewhere(
        public: PublicKey,
        sign: impl Fn(Algorithm, &[u8]) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self { private: Half::Elsewhere(Arc::new(sign)), public }
    }

    /// The public half.
    #[must_use]
    pub const fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message`, hashed with `hash`: RSASSA-PKCS1-v1_5 as bytes, the same
    /// each time, or ECDSA as DER, another each time.
    ///
    /// # Errors
    /// [`KeyError::Hash`]; [`KeyError::OpenSsl`]; [`KeyError::Elsewhere`].
    pub fn sign(&self, hash: Algorithm, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.private {
            Half::Here(key) => {
                // The padding of an RSA key is PKCS #1 v1.5 unless one says otherwise.
                let mut signer = Signer::new(message_digest(hash)?, key)?;
                Ok(signer.sign_oneshot_to_vec(message)?)
            }
            Half::Elsewhere(sign) => {
                let signature = sign(hash, message).map_err(KeyError::Elsewhere)?;
                let scheme = self.public.policy_scheme();
                if self.public.verify(scheme, hash, message, &signature)? {
                    return Ok(signature);
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

fn says_public(pem: &[u8]) -> bool {
    PKey::public_key_from_pem(pem).is_ok() || Rsa::public_key_from_pem_pkcs1(pem).is_ok()
}

fn signs(key: &PKey<Private>) -> Result<bool, ErrorStack> {
    Ok(match key.id() {
        Id::RSA => (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&key.bits()),
        Id::EC => key.ec_key()?.group().curve_name() == Some(Nid::X9_62_PRIME256V1),
        _ => false,
    })
}

#[cfg(test)]
mod tests;
