use openssl::ec::{EcGroup, EcKey};
use openssl::symm::Cipher;

use super::*;
use crate::key::Scheme;
use crate::structures::{TpmPublic, two_integers};

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn read(key: &PKey<Private>) -> Result<SigningKey, KeyError> {
    SigningKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap())
}

#[test]
fn every_form_of_pem_gives_the_same_key() {
    let (rsa, ec) = (rsa(2048), ec(Nid::X9_62_PRIME256V1));
    let cases = [
        (&rsa, rsa.private_key_to_pem_pkcs8().unwrap()),
        (&rsa, rsa.rsa().unwrap().private_key_to_pem().unwrap()),
        (&ec, ec.private_key_to_pem_pkcs8().unwrap()),
        (&ec, ec.ec_key().unwrap().private_key_to_pem().unwrap()),
    ];
    for (key, pem) in cases {
        let read = SigningKey::from_pem(&pem).unwrap();
        assert_eq!(read.public().to_pem().unwrap(), key.public_key_to_pem().unwrap());
    }
}

#[test]
fn what_was_signed_verifies_and_nothing_else() {
    for key in [rsa(2048), ec(Nid::X9_62_PRIME256V1)] {
        let key = read(&key).unwrap();
        let scheme = key.public().policy_scheme();
        for hash in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let signature = key.sign(hash, b"policy").unwrap();
            let check =
                |message, signature| key.public().verify(scheme, hash, message, signature).unwrap();
            assert!(check(b"policy", &signature));
            assert!(!check(b"policies", &signature));
            assert!(!check(b"policy", &signature[1..]));
            assert!(!check(b"policy", b""));
        }
        assert!(matches!(key.sign(Algorithm::Sha1, b""), Err(KeyError::Hash(_))));
    }
}

#[test]
fn the_two_numbers_of_an_ecdsa_signature_are_read() {
    let key = read(&ec(Nid::X9_62_PRIME256V1)).unwrap();
    for message in 0..64_u8 {
        let signature = key.sign(Algorithm::Sha256, &[message]).unwrap();
        let (r, s) = two_integers(&signature).unwrap();
        assert_eq!(super::super::ecdsa_der(r, s).unwrap(), signature);
    }
}

#[test]
fn an_rsa_signature_is_pkcs1_and_the_same_each_time() {
    let key = read(&rsa(2048)).unwrap();
    let signature = key.sign(Algorithm::Sha256, b"policy").unwrap();
    assert_eq!(key.sign(Algorithm::Sha256, b"policy").unwrap(), signature);
    let pss = key.public().verify(Scheme::RsaPss, Algorithm::Sha256, b"policy", &signature);
    assert!(!pss.unwrap());
}

#[test]
fn weak_keys_and_other_kinds_do_not_sign() {
    let ed25519 = PKey::generate_ed25519().unwrap();
    for key in [rsa(1024), ec(Nid::SECP384R1), ec(Nid::SECP256K1), ed25519] {
        let error = read(&key).unwrap_err();
        assert!(matches!(error, KeyError::SigningKind(_)), "{error}");
    }
}

#[test]
fn what_is_no_private_key_says_so() {
    let key = rsa(2048);
    let cipher = Cipher::aes_256_cbc();
    let ec = ec(Nid::X9_62_PRIME256V1).ec_key().unwrap();
    let cases = [
        (key.private_key_to_pem_pkcs8_passphrase(cipher, b"x").unwrap(), "encrypted"),
        (key.rsa().unwrap().private_key_to_pem_passphrase(cipher, b"x").unwrap(), "encrypted"),
        (ec.private_key_to_pem_passphrase(cipher, b"x").unwrap(), "encrypted"),
        (key.public_key_to_pem().unwrap(), "public key where a private"),
        (key.rsa().unwrap().public_key_to_pem_pkcs1().unwrap(), "public key where a private"),
        (key.private_key_to_der().unwrap(), "PEM is taken"),
        (b"".to_vec(), "PEM is taken"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n".to_vec(), "PEM is taken"),
    ];
    let twice = [&cases[0].0[..], &cases[0].0].concat();
    for (bytes, want) in cases.into_iter().chain([(twice, "encrypted")]) {
        let error = SigningKey::from_pem(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn a_private_key_is_not_taken_for_a_public_one() {
    let key = rsa(2048);
    let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_256_cbc(), b"x").unwrap();
    for pem in [key.private_key_to_pem_pkcs8().unwrap(), encrypted] {
        assert!(matches!(PublicKey::parse(&pem), Err(KeyError::Private)));
    }
}

#[test]
fn no_public_key_makes_openssl_ask_for_a_passphrase() {
    let pem = String::from_utf8(rsa(2048).public_key_to_pem().unwrap()).unwrap();
    assert!(PublicKey::parse(pem.as_bytes()).is_ok());
    let header =
        "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,000102030405060708090A0B0C0D0E0F\n\n";
    let asks = pem.replacen("-----\n", &format!("-----\n{header}"), 1);
    assert!(matches!(PublicKey::parse(asks.as_bytes()), Err(KeyError::NotAKey(_))));
}

#[test]
fn the_private_half_is_not_shown() {
    let key = rsa(2048);
    let shown = format!("{:?}", read(&key).unwrap());
    assert!(!shown.contains(&key.rsa().unwrap().d().to_hex_str().unwrap().to_lowercase()));
    assert!(shown.ends_with(".. }"), "{shown}");
}

#[test]
fn the_public_area_for_a_tpm_reads_back_as_the_same_key() {
    for key in [rsa(2048), rsa(3072), ec(Nid::X9_62_PRIME256V1)] {
        let public = read(&key).unwrap().public().clone();
        let area = public.to_tpm_public().unwrap();
        let parsed = TpmPublic::parse(&area).unwrap();
        assert_eq!(parsed.name().unwrap(), public.tpm_name().unwrap());
        let back = PublicKey::from_tpm(&parsed).unwrap();
        assert_eq!(back.to_pem().unwrap(), public.to_pem().unwrap());
        assert_eq!(back.fingerprint().unwrap(), public.fingerprint().unwrap());
        assert_eq!(parsed.fingerprint(), public.fingerprint().unwrap());
    }
}

#[test]
fn a_key_that_no_tpm_has_room_for_has_no_name() {
    let exponent = openssl::bn::BigNum::from_hex_str("100000001").unwrap();
    let odd = Rsa::generate_with_e(2048, &exponent).unwrap();
    let pem = PKey::from_rsa(odd).unwrap().public_key_to_pem().unwrap();
    let error = PublicKey::parse(&pem).unwrap().tpm_name().unwrap_err();
    assert!(matches!(error, KeyError::NotForTpm(_)), "{error}");
}

#[test]
fn what_somebody_else_signs_is_verified() {
    let mine = read(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()).unwrap();
    let other = read(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()).unwrap();
    let public = mine.public().clone();
    let expected = mine.sign(Algorithm::Sha256, b"x").unwrap();
    let key = SigningKey::elsewhere(public.clone(), move |hash, message| {
        mine.sign(hash, message).map_err(std::io::Error::other)
    });
    assert_eq!(key.sign(Algorithm::Sha256, b"x").unwrap(), expected);
    let key = SigningKey::elsewhere(public.clone(), move |hash, message| {
        other.sign(hash, message).map_err(std::io::Error::other)
    });
    let error = key.sign(Algorithm::Sha256, b"x").unwrap_err().to_string();
    assert!(error.contains("another key"), "{error}");
    let key = SigningKey::elsewhere(public, |_, _| Err(std::io::Error::other("no PIN")));
    let error = key.sign(Algorithm::Sha256, b"x").unwrap_err().to_string();
    assert_eq!(error, "no signature: no PIN");
}
