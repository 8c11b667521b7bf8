//! Any bytes as a file of signed policies: no panic, whatever is taken comes
//! back the same, and only what systemd-measure signed passes for signed.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pcr_measure::key::{PublicKey, SigningKey, ecdsa_der};
use pcr_measure::signed_policy::{SignatureFile, SignedPolicy, Verdict};
use pcr_measure::structures::{TpmPublic, two_integers};
use pcr_measure::{PcrBank, PcrIndex, Sha256Digest};

/// A file that systemd-measure signed: the best seed for the corpus, too.
static GENUINE: LazyLock<SignatureFile> = LazyLock::new(|| {
    SignatureFile::from_json(include_bytes!("../../tests/vectors/systemd-measure.json")).unwrap()
});
static KEY: LazyLock<PublicKey> = LazyLock::new(|| {
    PublicKey::parse(include_bytes!("../../tests/vectors/systemd-measure.pem")).unwrap()
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = SignatureFile::from_json(bytes) {
        let text = file.to_json().unwrap();
        let back = SignatureFile::from_json(text.as_bytes()).unwrap();
        // Banks that are not known are left out, all else stays.
        assert!(back.entries().eq(file.entries()));
        assert_eq!(back.to_json().unwrap(), text);

        for (entry, valid) in file.of_key(&KEY).unwrap() {
            let genuine = |known: &SignedPolicy| {
                (known.policy, &known.signature) == (entry.policy, &entry.signature)
            };
            assert_eq!(valid, GENUINE.entries().any(genuine));
        }
        for entry in file.entries() {
            let mut values = PcrBank::new(entry.pcrs.bank());
            for pcr in PcrIndex::all() {
                values.set(pcr, values.get_or_reset(pcr)).unwrap();
            }
            let verdict = file.verify(&KEY, &entry.pcrs, &values).unwrap();
            // Nobody signed these values.
            assert_ne!(verdict, Verdict::Signed);
        }
    }
    // Keys are foreign bytes too, and nothing asks for a passphrase.
    if let Ok(key) = PublicKey::parse(bytes) {
        assert_ne!(key.fingerprint().unwrap(), Sha256Digest::ZERO);
        let _ = key.tpm_name();
    }
    let _ = SigningKey::from_pem(bytes);
    // Two numbers have one form in DER, and OpenSSL writes that one.
    if let Some((r, s)) = two_integers(bytes) {
        assert_eq!(ecdsa_der(r, s).unwrap(), bytes);
    }
    // A key that OpenSSL takes has the fingerprint that it gives it.
    if let Ok(public) = TpmPublic::parse(bytes) {
        let fingerprint = public.fingerprint();
        if let Ok(key) = PublicKey::from_tpm(&public) {
            assert_eq!(key.fingerprint().unwrap(), fingerprint);
        }
    }
});
