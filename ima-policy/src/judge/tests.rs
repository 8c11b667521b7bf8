//! Entries of the template `evm-sig`: who vouches for a file by its metadata.

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use pcr_measure::digest::Algorithm;

use super::*;
use crate::list::DEFAULT;
use crate::list::ascii::Ascii;
use crate::signature::{SigningKey, Version};

const CONTENT: &[u8] = b"a program";

fn key() -> (SigningKey, Keyring) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut keyring = Keyring::new();
    keyring.add("key", &key.public_key_to_pem().unwrap()).unwrap();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    (SigningKey::from_pem("key", &pem).unwrap(), keyring)
}

fn sha256(bytes: &[u8]) -> Digest {
    Algorithm::Sha256.hash(&[bytes]).unwrap()
}

/// An entry of `evm-sig`, as the text of a list, of a file with these attributes.
fn entry(measured: &[u8], signature: &[u8], values: &[(&str, &[u8])], mode: u16) -> Record {
    let joined = values.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("|");
    let lengths: Vec<u8> = values
        .iter()
        .flat_map(|(_, value)| u32::try_from(value.len()).unwrap().to_le_bytes())
        .collect();
    let all: Vec<u8> = values.iter().flat_map(|(_, value)| value.iter().copied()).collect();
    let fields = [
        [&b"sha256:\0"[..], sha256(measured).as_bytes()].concat(),
        b"/usr/bin/a\0".to_vec(),
        signature.to_vec(),
        [joined.as_bytes(), b"\0"].concat(),
        lengths.clone(),
        all.clone(),
        0_u32.to_le_bytes().to_vec(),
        0_u32.to_le_bytes().to_vec(),
        mode.to_le_bytes().to_vec(),
    ];
    let mut data = Vec::new();
    for field in &fields {
        data.extend(u32::try_from(field.len()).unwrap().to_le_bytes());
        data.extend(field);
    }
    let line = format!(
        "10 {} evm-sig sha256:{} /usr/bin/a {} {joined} {} {} 0 0 {mode}\n",
        DEFAULT.hash(&[&data]).unwrap(),
        sha256(measured),
        hex::encode(signature),
        hex::encode(lengths),
        hex::encode(all),
    );
    Ascii::new(line.as_bytes(), DEFAULT).next().unwrap().unwrap()
}

#[test]
fn metadata_vouch_for_the_content_that_their_ima_attribute_names() {
    const MODE: u16 = 0o100_755;
    let (key, keyring) = key();
    let judge = Judge { keyring: Some(&keyring), ..Judge::default() };
    let portable = |ima: &[u8], capability: Option<&[u8]>| {
        let value = |name: &str| match name {
            evm::IMA => Some(ima.to_vec()),
            "security.capability" => capability.map(<[u8]>::to_vec),
            _ => None,
        };
        let metadata = Metadata { uid: 0, gid: 0, mode: MODE };
        let over = evm::digest(Algorithm::Sha256, value, metadata).unwrap();
        key.sign(Kind::Portable, Version::V2, &over).unwrap()
    };
    let hashed = |content: &[u8]| [&[4, 4][..], sha256(content).as_bytes()].concat();
    let signed = |content: &[u8]| key.sign(Kind::File, Version::V2, &sha256(content)).unwrap();
    let judged = |record: &Record| judge.judge(2, record).unwrap();
    for ima in [hashed(CONTENT), signed(CONTENT)] {
        let signature = portable(&ima, None);
        let values = [(evm::IMA, ima.as_slice())];
        assert_eq!(judged(&entry(CONTENT, &signature, &values, MODE)), None);
        // Another content than the attribute names: the metadata are right, and say nothing.
        let other = entry(b"another", &signature, &values, MODE);
        assert_eq!(judged(&other), Some(Fault::Unknown));
        // It became setuid, or got a capability.
        let setuid = entry(CONTENT, &signature, &values, 0o104_755);
        assert_eq!(judged(&setuid), Some(Fault::BadSignature));
        let more = [values[0], ("security.capability", b"all")];
        let capable = entry(CONTENT, &signature, &more, MODE);
        assert_eq!(judged(&capable), Some(Fault::BadSignature));
        let with = portable(&ima, Some(b"all"));
        assert_eq!(judged(&entry(CONTENT, &with, &more, MODE)), None, "premise");
        assert_eq!(judged(&entry(CONTENT, &[], &values, MODE)), Some(Fault::Unknown));
        assert_eq!(judged(&entry(CONTENT, b"\x05", &values, MODE)), Some(Fault::BadSignature));
    }
    // The attribute's own signature is by nobody that is known here.
    let (stranger, _) = self::key();
    let foreign = stranger.sign(Kind::File, Version::V2, &sha256(CONTENT)).unwrap();
    let signature = portable(&foreign, None);
    let record = entry(CONTENT, &signature, &[(evm::IMA, &foreign)], MODE);
    assert_eq!(judged(&record), Some(Fault::Unknown));
}
