use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;

use super::sign::SIGNED_HASH;
use super::*;
use crate::key::SigningKey;
use crate::pcr::PcrIndex;
use crate::policy;

fn rsa() -> SigningKey {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    SigningKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

fn ec() -> SigningKey {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    SigningKey::from_pem(&key.private_key_to_pem_pkcs8().unwrap()).unwrap()
}

fn values(seed: u8) -> PcrBank {
    PcrIndex::all().map(|pcr| (pcr, Sha256Digest::of(&[seed, pcr.get()]))).collect()
}

fn pcrs() -> PcrSelection {
    PcrSelection::sha256(&[0, 1, 8, 9, 15]).unwrap()
}

fn read(text: &str) -> SignatureFile {
    SignatureFile::from_json(text.as_bytes()).unwrap()
}

/// A file with an entry of `key` for `values(1)`.
fn signed(key: &SigningKey) -> SignatureFile {
    let mut file = SignatureFile::new();
    file.sign(key, &pcrs(), &values(1)).unwrap();
    file
}

#[test]
fn what_was_signed_verifies_after_it_was_written_and_read() {
    for key in [rsa(), ec()] {
        let file = signed(&key);
        let back = read(&file.to_json().unwrap());
        assert_eq!(back, file);
        let verdict = back.verify(key.public(), &pcrs(), &values(1)).unwrap();
        assert_eq!(verdict, Verdict::Signed);
        let [(entry, true)] = back.of_key(key.public()).unwrap()[..] else { panic!("{back:?}") };
        assert_eq!(entry.policy, policy::pcr_digest(&pcrs(), &values(1)).unwrap());
        assert_eq!(entry.key, key.public().fingerprint().unwrap());
    }
}

#[test]
fn what_is_not_signed_is_refused_with_its_reason() {
    let (key, other) = (rsa(), rsa());
    let file = signed(&key);
    let verify = |file: &SignatureFile, key: &SigningKey, pcrs, values| {
        file.verify(key.public(), &pcrs, &values).unwrap()
    };
    assert_eq!(verify(&file, &key, pcrs(), values(1)), Verdict::Signed);
    assert_eq!(verify(&file, &other, pcrs(), values(1)), Verdict::OtherKey);
    assert_eq!(verify(&file, &key, pcrs(), values(2)), Verdict::OtherPolicy);
    let fewer = PcrSelection::sha256(&[0, 1, 8, 9]).unwrap();
    assert_eq!(verify(&file, &key, fewer, values(1)), Verdict::OtherPcrs);
    assert_eq!(verify(&SignatureFile::new(), &key, pcrs(), values(1)), Verdict::OtherKey);
}

#[test]
fn a_changed_entry_is_refused() {
    let (key, other) = (rsa(), rsa());
    let file = signed(&key);
    assert_eq!(file.verify(key.public(), &pcrs(), &values(1)).unwrap(), Verdict::Signed);
    let changed = |change: &dyn Fn(&mut SignedPolicy)| {
        let mut file = file.clone();
        file.banks.values_mut().flatten().for_each(change);
        file.verify(key.public(), &pcrs(), &values(1)).unwrap()
    };
    let flip = |entry: &mut SignedPolicy| entry.signature[0] ^= 1;
    assert_eq!(changed(&flip), Verdict::BadSignature);
    let cut = |entry: &mut SignedPolicy| entry.signature.truncate(255);
    assert_eq!(changed(&cut), Verdict::BadSignature);
    let to_ec = |entry: &mut SignedPolicy| {
        entry.signature = ec().sign(SIGNED_HASH, entry.policy.as_bytes()).unwrap();
    };
    assert_eq!(changed(&to_ec), Verdict::BadSignature);
    let policy = policy::pcr_digest(&pcrs(), &values(2)).unwrap();
    assert_eq!(changed(&|entry| entry.policy = policy), Verdict::OtherPolicy);
    let fewer = PcrSelection::sha256(&[0]).unwrap();
    assert_eq!(changed(&|entry| entry.pcrs = fewer), Verdict::OtherPcrs);
    let fingerprint = other.public().fingerprint().unwrap();
    assert_eq!(changed(&|entry| entry.key = fingerprint), Verdict::OtherKey);

    // The policy of other values under the old signature, and an entry of
    // another key under this key's fingerprint.
    let mut moved = file.clone();
    moved.banks.values_mut().flatten().for_each(|entry| entry.policy = policy);
    let verdict = moved.verify(key.public(), &pcrs(), &values(2)).unwrap();
    assert_eq!(verdict, Verdict::BadSignature);
    let mut foreign = signed(&other);
    let mine = key.public().fingerprint().unwrap();
    foreign.banks.values_mut().flatten().for_each(|entry| entry.key = mine);
    let verdict = foreign.verify(key.public(), &pcrs(), &values(1)).unwrap();
    assert_eq!(verdict, Verdict::BadSignature);
    assert!(foreign.of_key(key.public()).unwrap().iter().all(|(_, good)| !good));
}

#[test]
fn the_first_entry_that_fits_decides_as_in_systemd() {
    let key = rsa();
    let good = signed(&key).entries().next().unwrap().clone();
    let bad = SignedPolicy { signature: vec![1; 256], ..good.clone() };
    for (entries, want) in
        [([&good, &bad], Verdict::Signed), ([&bad, &good], Verdict::BadSignature)]
    {
        let entries = entries.into_iter().cloned().collect();
        let banks = [(Algorithm::Sha256, entries)].into();
        let mut file = SignatureFile { banks, skipped: vec![] };
        assert_eq!(file.verify(key.public(), &pcrs(), &values(1)).unwrap(), want);
        // Signing anew leaves one of them, and that one is right.
        file.sign(&key, &pcrs(), &values(1)).unwrap();
        assert!(file.entries().eq([&good]));
    }
}

#[test]
fn signing_replaces_the_same_entry_and_keeps_the_others_in_order() {
    let (key, other) = (ec(), rsa());
    let mut file = signed(&key);
    file.sign(&key, &pcrs(), &values(2)).unwrap();
    file.sign(&other, &pcrs(), &values(1)).unwrap();
    let before: Vec<_> = file.entries().cloned().collect();
    assert_eq!(before.len(), 3);
    file.sign(&key, &pcrs(), &values(2)).unwrap();
    let after: Vec<_> = file.entries().cloned().collect();
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    // An ECDSA signature is another each time.
    assert_ne!(after[1].signature, before[1].signature);
    assert_eq!(after[1].policy, before[1].policy);
    assert!(file.of_key(key.public()).unwrap().iter().all(|(_, good)| *good));
}

#[test]
fn a_policy_with_a_counter_is_another_one_and_says_its_version() {
    let key = rsa();
    let rollback = Rollback { counter: 0x0180_6d74, version: 7 };
    let mut file = SignatureFile::new();
    file.sign_with(&key, &pcrs(), &values(1), Some(&rollback)).unwrap();
    assert!(file.to_json().unwrap().ends_with("\",\"rollback\":7}]}\n"));
    let file = read(&file.to_json().unwrap());
    assert_eq!(file.entries().next().unwrap().rollback, Some(7));
    let verify = |rollback: Option<Rollback>| {
        let policy = policy_with(&pcrs(), &values(1), rollback.as_ref()).unwrap();
        file.verify_policy(key.public(), &pcrs(), policy).unwrap()
    };
    assert_eq!(verify(Some(rollback)), Verdict::Signed);
    for other in [
        None,
        Some(Rollback { version: 6, ..rollback }),
        Some(Rollback { version: 8, ..rollback }),
        Some(Rollback { counter: 0x0180_6d75, ..rollback }),
    ] {
        assert_eq!(verify(other), Verdict::OtherPolicy, "{other:?}");
    }
}

#[test]
fn banks_stay_apart() {
    let key = ec();
    let bank = Algorithm::Sha384;
    let mut long = PcrBank::new(bank);
    for pcr in PcrIndex::all() {
        long.set(pcr, bank.hash(&[&[pcr.get()]]).unwrap()).unwrap();
    }
    let selection = PcrSelection::new(bank, pcrs().iter()).unwrap();
    let mut file = signed(&key);
    file.sign(&key, &selection, &long).unwrap();
    let file = read(&file.to_json().unwrap());
    assert_eq!(file.verify(key.public(), &selection, &long).unwrap(), Verdict::Signed);
    assert_eq!(file.verify(key.public(), &pcrs(), &values(1)).unwrap(), Verdict::Signed);
    let only = signed(&key);
    assert_eq!(only.verify(key.public(), &selection, &long).unwrap(), Verdict::OtherPcrs);
}

#[test]
fn a_pcr_without_value_can_neither_be_signed_nor_verified() {
    let key = ec();
    let few: PcrBank =
        values(1).iter().take(3).filter_map(|(p, v)| Some((p, v.as_sha256()?))).collect();
    let mut file = SignatureFile::new();
    assert!(matches!(file.sign(&key, &pcrs(), &few), Err(SignedPolicyError::Policy(_))));
    assert_eq!(file, SignatureFile::new());
    let verdict = file.verify(key.public(), &pcrs(), &few);
    assert!(matches!(verdict, Err(SignedPolicyError::Policy(_))));
}

#[test]
fn a_full_file_can_be_written_and_read_and_takes_no_more() {
    let all = PcrSelection::sha256(&(0..24).collect::<Vec<_>>()).unwrap();
    let entry = |n: usize| SignedPolicy {
        pcrs: all,
        key: Sha256Digest::ZERO,
        policy: Sha256Digest::of(&n.to_be_bytes()),
        signature: vec![7; MAX_SIGNATURE],
        rollback: None,
    };
    let mut file = SignatureFile::new();
    for n in 0..MAX_ENTRIES {
        file.insert(entry(n)).unwrap();
    }
    assert_eq!(read(&file.to_json().unwrap()), file);
    let error = file.insert(entry(MAX_ENTRIES)).unwrap_err();
    assert!(matches!(error, SignedPolicyError::TooManyEntries(257)), "{error}");
}

/// An entry with these fields; the defaults are taken.
fn entry(change: &[(&str, &str)]) -> String {
    let hex = format!("\"{}\"", "ab".repeat(32));
    let fields = [("pcrs", "[0,11]"), ("pkfp", &hex), ("pol", &hex), ("sig", "\"AAEC\"")];
    let field = |(name, default): &(&str, &str)| {
        let value = change.iter().find(|(changed, _)| changed == name).map_or(*default, |c| c.1);
        (!value.is_empty()).then(|| format!("\"{name}\":{value}"))
    };
    format!("{{{}}}", fields.iter().filter_map(field).collect::<Vec<_>>().join(","))
}

#[test]
fn a_file_is_written_as_systemd_writes_it() {
    let text = format!("{{\"sha1\":[],\"sha256\":[{}]}}\n", entry(&[]));
    assert_eq!(read(&text).to_json().unwrap(), text);
}

#[test]
fn unknown_fields_and_banks_are_ignored() {
    let plain = format!("{{\"sha256\":[{}]}}", entry(&[]));
    let more = entry(&[("sig", "\"AAEC\",\"more\":{\"a\":[1.5]}")]);
    let file = read(&format!("{{\"sha257\\u001b\":[{{}}],\"sha256\":[{more}],\"x\":null}}"));
    assert_eq!(file.entries().collect::<Vec<_>>(), read(&plain).entries().collect::<Vec<_>>());
    assert_eq!(file.skipped(), ["sha257?", "x"]);
}

#[test]
fn what_could_mean_two_things_is_refused() {
    let short = format!("\"{}\"", "ab".repeat(31));
    let long = format!("\"{}\"", "ab".repeat(33));
    let too_long = format!("\"{}\"", "AAAA".repeat(MAX_SIGNATURE / 3 + 1));
    let cases = [
        ("pcrs", "[24]", "there is no PCR 24"),
        ("pcrs", "[0,0]", "twice"),
        ("pcrs", "[]", "empty"),
        ("pcrs", "[-1]", "integer"),
        ("pcrs", "[1.0]", "floating"),
        ("pcrs", "[\"1\"]", "string"),
        ("pcrs", "1", "integer"),
        ("pcrs", "", "missing field `pcrs`"),
        ("pkfp", &short, "64 hexadecimal digits"),
        ("pkfp", "1", "integer"),
        ("pkfp", "", "missing field `pkfp`"),
        ("pol", &long, "64 hexadecimal digits"),
        ("pol", "null", "null"),
        ("pol", "", "missing field `pol`"),
        ("sig", "\"\"", "1 to 512"),
        ("sig", &too_long, "1 to 512"),
        ("sig", "\"AAE\"", "base64"),
        ("sig", "\"AA EC\"", "base64"),
        ("sig", "\"AAEC\",\"sig\":\"AAEC\"", "duplicate field"),
        ("sig", "", "missing field `sig`"),
        ("sig", "\"AAEC\",\"rollback\":-1", "integer"),
        ("sig", "\"AAEC\",\"rollback\":\"1\"", "string"),
    ];
    assert!(
        SignatureFile::from_json(format!("{{\"sha256\":[{}]}}", entry(&[])).as_bytes()).is_ok()
    );
    for (name, value, want) in cases {
        let text = format!("{{\"sha256\":[{}]}}", entry(&[(name, value)]));
        let error = SignatureFile::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {value}: {error}");
    }
}

#[test]
fn what_is_no_such_file_is_refused() {
    let many = format!("{{\"sha256\":[{}]}}", vec![entry(&[]); MAX_ENTRIES + 1].join(","));
    let blanks = " ".repeat(MAX_JSON + 1);
    let cases = [
        ("", "no file of signed policies"),
        ("[]", "an object from banks"),
        ("{\"sha256\":{}}", "sequence"),
        ("{\"sha256\":[],\"sha256\":[]}", "sha256 stands there twice"),
        ("{\"sha256\":[]} {}", "trailing"),
        (&many, "257 entries"),
        (&blanks, "more than the 262144"),
    ];
    for (text, want) in cases {
        let error = SignatureFile::from_json(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{text:.80}: {error}");
    }
}
