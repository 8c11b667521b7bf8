//! Any bytes as an appended signature: no panic, nothing longer than they are, and none that
//! verifies.

#![no_main]

use std::sync::LazyLock;

use ima_policy::signature::{Appended, AppendedVerdict, Keyring, Signer};
use libfuzzer_sys::fuzz_target;
use pcr_measure::digest::Algorithm;

/// The certificates of the vectors, whose private keys nobody has.
static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let mut keyring = Keyring::new();
    keyring.add("rsa", include_bytes!("../../tests/vectors/modsig/rsa.der")).unwrap();
    keyring.add("ecc", include_bytes!("../../tests/vectors/modsig/ecc.der")).unwrap();
    keyring
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(appended) = Appended::parse(bytes) {
        let names = match appended.signer {
            Signer::Certificate { issuer, serial } => [issuer, serial],
            Signer::Key(identifier) => [identifier, &[]],
        };
        assert!(names.iter().map(|its| its.len()).sum::<usize>() + appended.bytes.len() <= bytes.len());
    }
    for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
        let digest = algorithm.hash(&[b"fuzz"]).unwrap();
        let verdict = KEYRING.verify_appended(bytes, &digest);
        assert!(!matches!(verdict, AppendedVerdict::Good(_)), "nobody has signed this");
    }
});
