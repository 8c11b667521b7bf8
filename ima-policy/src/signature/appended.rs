//! Signatures that are appended to a module, as the field `modsig` of a list has them: SignedData
//! of PKCS #7 (RFC 2315) or CMS (RFC 5652) without the content, which the field `d-modsig` has the
//! digest of.
//!
//! Taken is what the kernel takes of a module: one signer, no signed attributes
//! (crypto/asymmetric_keys/pkcs7_verify.c, `VERIFYING_MODULE_SIGNATURE`), found by its certificate's
//! issuer and number or by its SubjectKeyIdentifier. Stricter than there: DER alone, which is what
//! scripts/sign-file.c writes, no hash that is weak, and the signer's own certificate has to be in
//! the keyring; certificates that came along with the signature vouch for nobody.

use der::asn1::AnyRef;
use der::{Decode as _, ErrorKind, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use pcr_measure::digest::Algorithm;

/// What is no such signature, or none that is judged here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendedError {
    /// Other bytes.
    #[error("no PKCS #7 in DER: {0}")]
    Der(#[from] der::Error),
    /// Another structure in their place.
    #[error("PKCS #7, but not signed data of a version that is known")]
    Type,
    /// It signs what it carries along, and not what it is appended to.
    #[error("it has a content of its own")]
    Content,
    /// Several signers, of whom the kernel takes none.
    #[error("it has several signers")]
    Signers,
    /// What is signed are attributes, which the kernel does not take of a module.
    #[error("it signs attributes, which no kernel takes with a module")]
    Attributes,
    /// A hash that signatures are not taken over.
    #[error("signatures over the hash {0} are not taken")]
    Hash(String),
    /// A kind of key that the kernel does not verify with, or that is not taken here.
    #[error("signatures by {0} are not taken")]
    Key(String),
}

impl AppendedError {
    /// Whether it may be a signature all the same, one that is not judged here; or else what no
    /// kernel would have written into a list.
    #[must_use]
    pub fn is_of_another_form(&self) -> bool {
        match self {
            Self::Der(error) => error.kind() == ErrorKind::IndefiniteLength,
            Self::Type => false,
            Self::Content | Self::Signers | Self::Attributes | Self::Hash(_) | Self::Key(_) => true,
        }
    }
}

/// Who signed, as a signature says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signer<'a> {
    /// By the certificate.
    Certificate {
        /// Its issuer's name, the bytes of the whole element.
        issuer: &'a [u8],
        /// Its number, the bytes of the INTEGER.
        serial: &'a [u8],
    },
    /// By the key's SubjectKeyIdentifier.
    Key(&'a [u8]),
}

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSASSA-PKCS1-v1_5.
    Rsa,
    /// ECDSA, the signature in DER.
    Ecdsa,
}

/// A signature. That it reads well says nothing about who made it: a keyring does
/// (`Keyring::verify_appended`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended<'a> {
    /// Who signed, as it says.
    pub signer: Signer<'a>,
    /// The hash of what is signed.
    pub algorithm: Algorithm,
    /// By which kind of key.
    pub kind: KeyKind,
    /// What the key made of the digest.
    pub bytes: &'a [u8],
}

/// Contents of OBJECT IDENTIFIERs. PKCS #7: 1.2.840.113549.1.7.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// NIST's hashes, 2.16.840.1.101.3.4.2.
const HASHES: [(&[u8], Algorithm); 6] = [
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1], Algorithm::Sha256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], Algorithm::Sha384),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3], Algorithm::Sha512),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 8], Algorithm::Sha3_256),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 9], Algorithm::Sha3_384),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 10], Algorithm::Sha3_512),
];
/// rsaEncryption; ecdsa-with-SHA256 and its like, 1.2.840.10045.4.3, and with SHA-3,
/// 2.16.840.1.101.3.4.3. The hash in these names is not looked at, as in the kernel: the signer
/// has one of its own.
const KEYS: [(&[u8], KeyKind); 7] = [
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1], KeyKind::Rsa),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2], KeyKind::Ecdsa),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3], KeyKind::Ecdsa),
    (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4], KeyKind::Ecdsa),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 10], KeyKind::Ecdsa),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 11], KeyKind::Ecdsa),
    (&[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 3, 12], KeyKind::Ecdsa),
];

impl<'a> Appended<'a> {
    /// Reads the field `modsig`.
    ///
    /// # Errors
    /// [`AppendedError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AppendedError> {
        let mut message = only(bytes, Tag::Sequence)?;
        if element(&mut message, Tag::ObjectIdentifier)? != SIGNED_DATA {
            return Err(AppendedError::Type);
        }
        let explicit = element(&mut message, context(0, true))?;
        message.finish()?;
        let mut data = only(explicit, Tag::Sequence)?;
        let version = element(&mut data, Tag::Integer)?;
        // The hashes of all signers, of which each names its own.
        let mut hashes = SliceReader::new(element(&mut data, Tag::Set)?)?;
        while !hashes.is_finished() {
            algorithm(&mut hashes)?;
        }
        let mut content = SliceReader::new(element(&mut data, Tag::Sequence)?)?;
        if element(&mut content, Tag::ObjectIdentifier)? != DATA {
            return Err(AppendedError::Type);
        }
        if !content.is_finished() {
            return Err(AppendedError::Content);
        }
        // Certificates and revocations.
        let mut next = AnyRef::decode(&mut data)?;
        for number in [0, 1] {
            if next.tag() == context(number, true) {
                next = AnyRef::decode(&mut data)?;
            }
        }
        next.tag().assert_eq(Tag::Set)?;
        data.finish()?;
        let mut signers = SliceReader::new(next.value())?;
        let signer = element(&mut signers, Tag::Sequence)?;
        if !signers.is_finished() {
            return Err(AppendedError::Signers);
        }
        Self::of_signer(version, SliceReader::new(signer)?)
    }

    /// Reads SignerInfo, of a SignedData of this version (`pkcs7_note_signerinfo_version`).
    fn of_signer(version: &[u8], mut info: SliceReader<'a>) -> Result<Self, AppendedError> {
        let own = element(&mut info, Tag::Integer)?;
        let sid = AnyRef::decode(&mut info)?;
        let signer = match (version, own, sid.tag()) {
            ([1], [1], Tag::Sequence) => {
                let mut sid = SliceReader::new(sid.value())?;
                let issuer = sid.tlv_bytes()?;
                let serial = element(&mut sid, Tag::Integer)?;
                sid.finish()?;
                Signer::Certificate { issuer, serial }
            }
            ([3], [3], tag) if tag == context(0, false) => Signer::Key(sid.value()),
            _ => return Err(AppendedError::Type),
        };
        let hash = algorithm(&mut info)?;
        if Tag::peek(&info)? == context(0, true) {
            return Err(AppendedError::Attributes);
        }
        let key = algorithm(&mut info)?;
        let bytes = element(&mut info, Tag::OctetString)?;
        // Attributes that are not signed say nothing.
        if !info.is_finished() {
            element(&mut info, context(1, true))?;
        }
        info.finish()?;
        Ok(Self {
            signer,
            algorithm: known(&HASHES, hash)
                .ok_or_else(|| AppendedError::Hash(hex::encode(hash)))?,
            kind: known(&KEYS, key).ok_or_else(|| AppendedError::Key(hex::encode(key)))?,
            bytes,
        })
    }
}

/// By which a signature names a certificate: its issuer and its number (RFC 5280, 4.1).
///
/// # Errors
/// That it is none.
pub(super) fn issuer_and_serial(certificate: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut whole = only(certificate, Tag::Sequence)?;
    let mut signed = SliceReader::new(element(&mut whole, Tag::Sequence)?)?;
    let mut next = AnyRef::decode(&mut signed)?;
    // Its version.
    if next.tag() == context(0, true) {
        next = AnyRef::decode(&mut signed)?;
    }
    next.tag().assert_eq(Tag::Integer)?;
    element(&mut signed, Tag::Sequence)?;
    Ok((signed.tlv_bytes()?, next.value()))
}

/// The content of the one element that bytes are.
fn only(bytes: &[u8], tag: Tag) -> der::Result<SliceReader<'_>> {
    let mut reader = SliceReader::new(bytes)?;
    let content = element(&mut reader, tag)?;
    reader.finish()?;
    SliceReader::new(content)
}

/// The content of the next element.
fn element<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let next = AnyRef::decode(reader)?;
    next.tag().assert_eq(tag)?;
    Ok(next.value())
}

/// The name of an algorithm; what its parameters are is passed over, as in the kernel.
fn algorithm<'a>(reader: &mut SliceReader<'a>) -> der::Result<&'a [u8]> {
    let mut sequence = SliceReader::new(element(reader, Tag::Sequence)?)?;
    let name = element(&mut sequence, Tag::ObjectIdentifier)?;
    if !sequence.is_finished() {
        AnyRef::decode(&mut sequence)?;
    }
    sequence.finish()?;
    Ok(name)
}

fn context(number: u32, constructed: bool) -> Tag {
    TagNumber(number).context_specific(constructed)
}

fn known<T: Copy>(table: &[(&[u8], T)], name: &[u8]) -> Option<T> {
    table.iter().find(|(its, _)| *its == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/modsig/");
        std::fs::read(format!("{dir}{name}")).unwrap()
    }

    #[test]
    fn a_signature_says_who_made_it_and_of_what() {
        for (key, kind) in [("rsa", KeyKind::Rsa), ("ecc", KeyKind::Ecdsa)] {
            let certificate = vector(&format!("{key}.der"));
            let (issuer, serial) = issuer_and_serial(&certificate).unwrap();
            let openssl = openssl::x509::X509::from_der(&certificate).unwrap();
            assert_eq!(issuer, openssl.issuer_name().to_der().unwrap());
            let identifier = openssl.subject_key_id().unwrap().as_slice();
            for (name, algorithm) in [
                ("rsa-sha256", Algorithm::Sha256),
                ("rsa-sha512", Algorithm::Sha512),
                ("rsa-sha256-keyid", Algorithm::Sha256),
                ("ecc-sha384", Algorithm::Sha384),
                ("ecc-sha384-keyid", Algorithm::Sha384),
            ] {
                if !name.starts_with(key) {
                    continue;
                }
                let signer = match name.ends_with("keyid") {
                    true => Signer::Key(identifier),
                    false => Signer::Certificate { issuer, serial },
                };
                let bytes = vector(&format!("{name}.p7s"));
                let appended = Appended::parse(&bytes).unwrap();
                assert_eq!((appended.signer, appended.kind), (signer, kind), "{name}");
                assert_eq!(appended.algorithm, algorithm, "{name}");
                assert!(bytes.ends_with(appended.bytes), "{name}");
            }
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let good = vector("rsa-sha256.p7s");
        for end in 0..good.len() {
            assert!(Appended::parse(&good[..end]).is_err(), "{end}");
        }
        assert!(Appended::parse(&[good.as_slice(), &[0]].concat()).is_err());
        let of = |bytes: &[u8]| Appended::parse(bytes).unwrap_err();
        // Lengths that are not there: of what begins, and in BER of nothing.
        let huge = of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(huge, AppendedError::Der(_)) && !huge.is_of_another_form());
        let ber = of(&[0x30, 0x80, 0, 0]);
        assert!(ber.is_of_another_form(), "{ber}");
        // Deep, and not followed.
        assert!(matches!(of(&[0x30, 0x80].repeat(1000)), AppendedError::Der(_)));
        // A signer of another version than the data's; a weak hash; another key.
        let change = |from: &[u8], to: &[u8], last: bool| {
            let mut places = good.windows(from.len()).enumerate().filter(|(_, its)| *its == from);
            let place = if last { places.next_back() } else { places.next() };
            let at = place.unwrap().0;
            let mut bytes = good.clone();
            bytes[at..at + from.len()].copy_from_slice(to);
            bytes
        };
        assert_eq!(of(&change(&[2, 1, 1], &[2, 1, 3], false)), AppendedError::Type);
        assert_eq!(of(&change(DATA, SIGNED_DATA, true)), AppendedError::Type);
        let (sha256, sha224) = (HASHES[0].0, [&HASHES[0].0[..8], &[4]].concat());
        let hash = of(&change(sha256, &sha224, true));
        assert_eq!(hash, AppendedError::Hash("608648016503040204".to_owned()));
        let pss = [&KEYS[0].0[..8], &[10]].concat();
        let key = of(&change(KEYS[0].0, &pss, true));
        assert_eq!(key, AppendedError::Key("2a864886f70d01010a".to_owned()));
        assert!(hash.is_of_another_form() && key.is_of_another_form());
    }
}
