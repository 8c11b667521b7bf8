//! Keys that sign, keys that do not, and certificates of theirs and of others.

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm::Cipher;
use openssl::x509::X509;
use openssl::x509::extension::SubjectKeyIdentifier;

use super::super::{Keyring, Verdict};
use super::*;

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn ecc(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn pem(key: &PKey<Private>) -> Vec<u8> {
    key.private_key_to_pem_pkcs8().unwrap()
}

fn signing(key: &PKey<Private>) -> Result<SigningKey, KeyError> {
    SigningKey::from_pem("KEY", &pem(key))
}

fn certificate(key: &PKey<Private>, has_identifier: bool) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    if has_identifier {
        let context = builder.x509v3_context(None, None);
        let extension = SubjectKeyIdentifier::new().build(&context).unwrap();
        builder.append_extension(extension).unwrap();
    }
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

#[test]
fn what_a_key_signs_it_verifies_and_no_other() {
    let keys = [rsa(2048), ecc(Nid::X9_62_PRIME256V1), ecc(Nid::SECP384R1), ecc(Nid::SECP521R1)];
    let stranger = signing(&ecc(Nid::X9_62_PRIME256V1)).unwrap();
    for key in keys.iter().map(|key| signing(key).unwrap()) {
        let mut keyring = Keyring::new();
        keyring.push(stranger.public().clone());
        keyring.push(key.public().clone());
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let digest = algorithm.hash(&[b"file"]).unwrap();
            let other = algorithm.hash(&[b"other"]).unwrap();
            for (kind, version) in [
                (Kind::File, Version::V2),
                (Kind::File, Version::V3),
                (Kind::Portable, Version::V2),
                (Kind::Verity, Version::V3),
            ] {
                let signature = key.sign(kind, version, &digest).unwrap();
                assert_eq!(signature, key.sign(kind, version, &digest).unwrap(), "the same");
                let verdict = |digest| keyring.verify(kind, &signature, digest);
                assert!(matches!(verdict(&digest), Verdict::Good(by) if by.id() == key.id()));
                assert!(matches!(verdict(&other), Verdict::Bad(id) if id == key.id()));
                let mut none = Keyring::new();
                none.push(stranger.public().clone());
                let verdict = none.verify(kind, &signature, &digest);
                assert!(matches!(verdict, Verdict::Unknown(id) if id == key.id()));
                // A key that claims the identifier.
                let mut forged = signature.clone();
                forged[3..7].copy_from_slice(&stranger.id().0);
                assert!(matches!(none.verify(kind, &forged, &digest), Verdict::Bad(_)));
                for at in [9, signature.len() / 2, signature.len() - 1] {
                    let mut broken = signature.clone();
                    broken[at] ^= 1;
                    let verdict = keyring.verify(kind, &broken, &digest);
                    assert!(matches!(verdict, Verdict::Bad(_)), "{at}");
                }
            }
        }
    }
}

#[test]
fn one_kind_does_not_stand_for_another() {
    let key = signing(&ecc(Nid::X9_62_PRIME256V1)).unwrap();
    let mut keyring = Keyring::new();
    keyring.push(key.public().clone());
    let digest = Algorithm::Sha256.hash(&[b"file"]).unwrap();
    let mut signature = key.sign(Kind::File, Version::V3, &digest).unwrap();
    let malformed = |kind, signature: &[u8], digest| match keyring.verify(kind, signature, digest) {
        Verdict::Malformed(error) => error,
        other => panic!("{other:?}"),
    };
    let error = malformed(Kind::Verity, &signature, &digest);
    assert_eq!(error, SignatureError::Kind { found: Kind::File, wanted: Kind::Verity });
    let long = Algorithm::Sha512.hash(&[b"file"]).unwrap();
    let error = malformed(Kind::File, &signature, &long);
    assert!(matches!(error, SignatureError::Algorithm { .. }));
    // Version 3 has signed what it is over: the header cannot be changed.
    signature[0] = Kind::Verity as u8;
    assert!(matches!(keyring.verify(Kind::Verity, &signature, &digest), Verdict::Bad(_)));
    // Version 2 has not.
    let mut signature = key.sign(Kind::File, Version::V2, &digest).unwrap();
    signature[0] = Kind::Portable as u8;
    assert!(matches!(keyring.verify(Kind::Portable, &signature, &digest), Verdict::Good(_)));
}

#[test]
fn keys_that_do_not_sign_are_named() {
    let key = rsa(2048);
    let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"x").unwrap();
    let traditional = key.rsa().unwrap();
    let traditional =
        traditional.private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"x").unwrap();
    let error = |pem: &[u8]| SigningKey::from_pem("KEY", pem).unwrap_err();
    for pem in [encrypted, traditional] {
        assert!(matches!(error(&pem), KeyError::Encrypted));
    }
    assert!(matches!(error(&key.public_key_to_pem().unwrap()), KeyError::NotAPrivateKey));
    assert!(matches!(error(b""), KeyError::NotAPrivateKey));
    for key in [rsa(1024), rsa(2056), ecc(Nid::SECP256K1), PKey::generate_ed25519().unwrap()] {
        assert!(matches!(signing(&key).unwrap_err(), KeyError::Kind(_)), "{key:?}");
    }
    let weak = Algorithm::Sha1.hash(&[b"file"]).unwrap();
    let error = signing(&key).unwrap().sign(Kind::File, Version::V2, &weak).unwrap_err();
    assert!(matches!(error, KeyError::Hash(Algorithm::Sha1)));
}

#[test]
fn a_certificate_has_to_fit() {
    let (key, other) = (ecc(Nid::X9_62_PRIME256V1), ecc(Nid::X9_62_PRIME256V1));
    let signing = signing(&key).unwrap();
    let with = |certificate: &[u8]| signing.clone().with_certificate("CERT", certificate);
    let own = certificate(&key, true);
    // `hash` is what the key's bits give.
    assert_eq!(with(&own.to_der().unwrap()).unwrap().id(), signing.id());
    assert_eq!(with(&own.to_pem().unwrap()).unwrap().id(), signing.id());
    let error = with(&certificate(&other, true).to_der().unwrap()).unwrap_err();
    assert!(matches!(error, KeyError::OtherKey(name) if name == "CERT"));
    let error = with(&certificate(&key, false).to_der().unwrap()).unwrap_err();
    assert!(matches!(error, KeyError::NoIdentifier(_)));
    assert!(matches!(with(b"no certificate").unwrap_err(), KeyError::NotAPublicKey(_)));
    let error = with(b"Proc-Type: 4,ENCRYPTED").unwrap_err();
    assert!(matches!(error, KeyError::NotAPublicKey(_)));

    let bundle = [own.to_pem().unwrap(), certificate(&other, true).to_pem().unwrap()].concat();
    let mut keyring = Keyring::new();
    keyring.add("BUNDLE", &bundle).unwrap();
    keyring.add("DER", &own.to_der().unwrap()).unwrap();
    keyring.add("PUBLIC", &key.public_key_to_pem().unwrap()).unwrap();
    assert_eq!(keyring.keys().len(), 4);
    assert!(keyring.add("KEY", &pem(&key)).is_err(), "a private key is none");
    // A certificate in the file of the key.
    let both = [pem(&key), own.to_pem().unwrap()].concat();
    assert_eq!(SigningKey::from_pem("KEY", &both).unwrap().id(), signing.id());
    let both = [pem(&other), own.to_pem().unwrap()].concat();
    assert!(matches!(SigningKey::from_pem("KEY", &both), Err(KeyError::OtherKey(_))));
}

#[test]
fn who_signs_elsewhere_is_checked() {
    let (key, other) = (signing(&rsa(2048)).unwrap(), signing(&rsa(2048)).unwrap());
    let digest = Algorithm::Sha256.hash(&[b"file"]).unwrap();
    let by = |who: &SigningKey| {
        let who = who.clone();
        SigningKey::elsewhere(key.public().clone(), move |digest| {
            who.sign_digest(digest).map_err(io::Error::other)
        })
    };
    let want = key.sign(Kind::File, Version::V2, &digest).unwrap();
    assert_eq!(by(&key).sign(Kind::File, Version::V2, &digest).unwrap(), want);
    let error = by(&other).sign(Kind::File, Version::V2, &digest).unwrap_err();
    assert!(matches!(error, KeyError::Elsewhere(_)));
}
