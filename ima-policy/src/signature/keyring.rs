//! Public keys, and what they say about a signature.

use openssl::bn::BigNumContext;
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::hash::{MessageDigest, hash};
use openssl::md::{Md, MdRef};
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, Public};
use openssl::pkey_ctx::PkeyCtx;
use openssl::x509::X509;
use pcr_measure::digest::{Algorithm, Digest};

use super::appended::{Appended, AppendedError, KeyKind, Signer, issuer_and_serial};
use super::key::{KeyError, RSA_BITS};
use super::{KeyId, Kind, Signature, SignatureError};

/// A public key that signatures are held against.
#[derive(Debug, Clone)]
pub struct PublicKey {
    key: PKey<Public>,
    /// By its certificate, where there is one.
    id: KeyId,
    /// By its bits.
    own: Identifier,
    certificate: Option<Names>,
    /// Where it came from, for people.
    name: String,
}

/// SHA-1 over a key's bits, PKCS #1 or a point: the usual SubjectKeyIdentifier (RFC 5280,
/// 4.2.1.2, method 1).
type Identifier = [u8; 20];

/// By which appended signatures name a certificate.
#[derive(Debug, Clone)]
struct Names {
    issuer: Vec<u8>,
    serial: Vec<u8>,
    identifier: Vec<u8>,
}

/// What a keyring says about an appended signature.
#[derive(Debug)]
pub enum AppendedVerdict<'a> {
    /// This key made it, over this digest.
    Good(&'a PublicKey),
    /// The key that it names is here and did not make it over this digest.
    Bad,
    /// The key that it names is not here.
    Unknown,
    /// It is over a digest of another algorithm than the list has.
    Algorithm(Algorithm),
    /// It is none, or none that is judged.
    NotTaken(AppendedError),
}

/// What a keyring says about a signature.
#[derive(Debug)]
pub enum Verdict<'a> {
    /// This key made it, over this digest.
    Good(&'a PublicKey),
    /// The key that it names is here and did not make it over this digest.
    Bad(KeyId),
    /// No key here has this identifier.
    Unknown(KeyId),
    /// It is no signature, or none over such a digest.
    Malformed(SignatureError),
}

impl PublicKey {
    /// Reads one certificate or public key, PEM or DER. Who the certificate's issuer is, and
    /// whether it has expired, is not asked: the kernel does not either when it verifies.
    ///
    /// # Errors
    /// [`KeyError::NotAPublicKey`], [`KeyError::Kind`]; [`KeyError::NoIdentifier`] for a
    /// certificate by which the kernel would not find the key.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self, KeyError> {
        let none = || KeyError::NotAPublicKey(name.to_owned());
        if asks(bytes) {
            return Err(none());
        }
        if let Ok(certificate) = X509::from_pem(bytes).or_else(|_| X509::from_der(bytes)) {
            return Self::of_certificate(name, &certificate);
        }
        let key = PKey::public_key_from_pem(bytes).or_else(|_| PKey::public_key_from_der(bytes));
        let key = key.map_err(|_| none())?;
        Self::new(name, key)
    }

    /// The key of a certificate.
    pub(super) fn of_certificate(name: &str, certificate: &X509) -> Result<Self, KeyError> {
        let key = Self::new(name, certificate.public_key()?)?;
        let skid = certificate.subject_key_id().map(|skid| skid.as_slice());
        let id = skid.and_then(<[u8]>::last_chunk).copied();
        let id = id.ok_or_else(|| KeyError::NoIdentifier(name.to_owned()))?;
        let der = certificate.to_der()?;
        let (issuer, serial) =
            issuer_and_serial(&der).map_err(|_| KeyError::NotAPublicKey(name.to_owned()))?;
        let certificate = Names {
            issuer: issuer.to_vec(),
            serial: serial.to_vec(),
            identifier: skid.unwrap_or_default().to_vec(),
        };
        Ok(Self { id: KeyId(id), certificate: Some(certificate), ..key })
    }

    pub(super) fn new(name: &str, key: PKey<Public>) -> Result<Self, KeyError> {
        if !is_taken(&key)? {
            return Err(KeyError::Kind(describe(&key)));
        }
        let own = own_identifier(&key)?;
        let [.., a, b, c, d] = own;
        let (id, name) = (KeyId([a, b, c, d]), name.to_owned());
        Ok(Self { key, id, own, certificate: None, name })
    }

    /// By which the kernel finds it.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// Where it came from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// By its bits.
    const fn own_id(&self) -> KeyId {
        let [.., a, b, c, d] = self.own;
        KeyId([a, b, c, d])
    }

    /// Whether an appended signature names it. A key without a certificate has no issuer.
    fn is_signer(&self, signer: &Signer<'_>) -> bool {
        match (signer, &self.certificate) {
            (Signer::Certificate { issuer, serial }, Some(its)) => {
                its.issuer == *issuer && its.serial == *serial
            }
            (Signer::Certificate { .. }, None) => false,
            (Signer::Key(identifier), Some(its)) => its.identifier == *identifier,
            (Signer::Key(identifier), None) => self.own == *identifier,
        }
    }

    /// Whether both are one key.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.key.public_eq(&other.key)
    }

    /// Whether `signature` is this key's over `digest`, which is signed as it is.
    #[must_use]
    pub fn signed(&self, digest: &Digest, signature: &[u8]) -> bool {
        let verify = || -> Result<bool, ErrorStack> {
            let Some(md) = md(digest.algorithm()) else { return Ok(false) };
            let mut context = PkeyCtx::new(&self.key)?;
            context.verify_init()?;
            context.set_signature_md(md)?;
            context.verify(digest.as_bytes(), signature)
        };
        let right = verify().unwrap_or(false);
        if !right {
            // OpenSSL leaves on its queue why bytes are no signature at all.
            drop(ErrorStack::get());
        }
        right
    }
}

/// Public keys by which signatures are judged: all of them are trusted.
#[derive(Debug, Clone, Default)]
pub struct Keyring(Vec<PublicKey>);

impl Keyring {
    /// One without keys.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the certificates of a PEM file, or one certificate or public key, PEM or DER.
    ///
    /// # Errors
    /// As [`PublicKey::parse`].
    pub fn add(&mut self, name: &str, bytes: &[u8]) -> Result<(), KeyError> {
        if contains(bytes, b"-----BEGIN CERTIFICATE-----") && !asks(bytes) {
            let certificates = X509::stack_from_pem(bytes)
                .map_err(|_| KeyError::NotAPublicKey(name.to_owned()))?;
            for certificate in certificates {
                self.0.push(PublicKey::of_certificate(name, &certificate)?);
            }
            return Ok(());
        }
        self.0.push(PublicKey::parse(name, bytes)?);
        Ok(())
    }

    /// Adds a key.
    pub fn push(&mut self, key: PublicKey) {
        self.0.push(key);
    }

    /// Its keys.
    #[must_use]
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// Judges the signature in an attribute, or in the field `sig` or `evmsig` of a list,
    /// over the digest of the kind that it should be over.
    #[must_use]
    pub fn verify(&self, kind: Kind, signature: &[u8], digest: &Digest) -> Verdict<'_> {
        match self.judge(kind, signature, digest) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Malformed(error),
        }
    }

    /// Judges the appended signature in the field `modsig` of a list over the digest in
    /// `d-modsig`.
    #[must_use]
    pub fn verify_appended(&self, signature: &[u8], digest: &Digest) -> AppendedVerdict<'_> {
        let appended = match Appended::parse(signature) {
            Ok(appended) => appended,
            Err(error) => return AppendedVerdict::NotTaken(error),
        };
        if appended.algorithm != digest.algorithm() {
            return AppendedVerdict::Algorithm(appended.algorithm);
        }
        let mut meant = self.0.iter().filter(|key| key.is_signer(&appended.signer)).peekable();
        if meant.peek().is_none() {
            return AppendedVerdict::Unknown;
        }
        let kind = |key: &PublicKey| match key.key.id() {
            Id::RSA => KeyKind::Rsa,
            _ => KeyKind::Ecdsa,
        };
        let signer =
            meant.find(|key| kind(key) == appended.kind && key.signed(digest, appended.bytes));
        signer.map_or(AppendedVerdict::Bad, AppendedVerdict::Good)
    }

    fn judge(
        &self,
        wanted: Kind,
        signature: &[u8],
        digest: &Digest,
    ) -> Result<Verdict<'_>, SignatureError> {
        let signature = Signature::parse(signature)?;
        let (found, signed, given) = (signature.kind, signature.algorithm, digest.algorithm());
        if found != wanted {
            return Err(SignatureError::Kind { found, wanted });
        }
        if signed != given {
            return Err(SignatureError::Algorithm { signed, given });
        }
        let digest = Signature::signed(signature.kind, signature.version, digest)?;
        // `evmctl` names a key by its bits even where its certificate says otherwise.
        let is_meant = |key: &&PublicKey| [key.id, key.own_id()].contains(&signature.key);
        let mut meant = self.0.iter().filter(is_meant).peekable();
        if meant.peek().is_none() {
            return Ok(Verdict::Unknown(signature.key));
        }
        let signer = meant.find(|key| key.signed(&digest, &signature.bytes));
        Ok(signer.map_or(Verdict::Bad(signature.key), Verdict::Good))
    }
}

/// Whether a buffer is a certificate, and nothing behind it: what the kernel measures of a
/// key (`func=KEY_CHECK`).
pub(crate) fn is_certificate(buffer: &[u8]) -> bool {
    let again = X509::from_der(buffer).and_then(|certificate| certificate.to_der());
    if again.is_err() {
        // OpenSSL leaves on its queue why it is none.
        drop(ErrorStack::get());
    }
    again.is_ok_and(|der| der == buffer)
}

/// Whether OpenSSL would ask for a passphrase on the terminal to read this (RFC 1421, 4.6.1.1).
pub(super) fn asks(bytes: &[u8]) -> bool {
    contains(bytes, b"Proc-Type:")
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn own_identifier(key: &PKey<Public>) -> Result<Identifier, KeyError> {
    let bits = match key.id() {
        Id::RSA => key.rsa()?.public_key_to_der_pkcs1()?,
        _ => {
            let key = key.ec_key()?;
            let form = PointConversionForm::UNCOMPRESSED;
            key.public_key().to_bytes(key.group(), form, &mut *BigNumContext::new()?)?
        }
    };
    let sha1 = hash(MessageDigest::sha1(), &bits)?;
    // SHA-1 has twenty bytes.
    Ok(sha1.first_chunk().copied().unwrap_or_default())
}

pub(super) fn md(algorithm: Algorithm) -> Option<&'static MdRef> {
    match algorithm {
        Algorithm::Sha256 => Some(Md::sha256()),
        Algorithm::Sha384 => Some(Md::sha384()),
        Algorithm::Sha512 => Some(Md::sha512()),
        Algorithm::Sha3_256 => Some(Md::sha3_256()),
        Algorithm::Sha3_384 => Some(Md::sha3_384()),
        Algorithm::Sha3_512 => Some(Md::sha3_512()),
        _ => None,
    }
}

/// Keys that the kernel verifies with (crypto/rsa.c, `rsa_check_key_length`; crypto/ecc.c) and
/// that are strong enough.
pub(super) fn is_taken<T: HasPublic>(key: &PKey<T>) -> Result<bool, ErrorStack> {
    Ok(match key.id() {
        Id::RSA => RSA_BITS.contains(&key.bits()),
        Id::EC => {
            let curves = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1];
            let curve = key.ec_key()?.group().curve_name();
            curve.is_some_and(|curve| curves.contains(&curve))
        }
        _ => false,
    })
}

pub(super) fn describe<T: HasPublic>(key: &PKey<T>) -> String {
    let kind = match key.id() {
        Id::RSA => "RSA",
        Id::RSA_PSS => "RSA-PSS",
        Id::EC => "ECC",
        Id::ED25519 => "Ed25519",
        _ => "other",
    };
    format!("{kind} ({} bits)", key.bits())
}
