//! Any bytes as a signature: no panic, none that verifies, and a signature that is written as
//! it was read.

#![no_main]

use std::sync::LazyLock;

use ima_policy::signature::{Keyring, Kind, Signature, Verdict};
use libfuzzer_sys::fuzz_target;
use pcr_measure::digest::Algorithm;

/// Two keys whose private halves nobody has; the seeds name them.
static KEYRING: LazyLock<Keyring> = LazyLock::new(|| {
    let mut keyring = Keyring::new();
    keyring.add("rsa", include_bytes!("../seeds/keys/rsa.pem")).unwrap();
    keyring.add("ecc", include_bytes!("../seeds/keys/ecc.pem")).unwrap();
    keyring
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(signature) = Signature::parse(bytes) {
        assert_eq!(signature.to_bytes().unwrap(), bytes);
    }
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = algorithm.hash(&[b"fuzz"]).unwrap();
        for kind in [Kind::File, Kind::Portable, Kind::Verity] {
            let verdict = KEYRING.verify(kind, bytes, &digest);
            assert!(!matches!(verdict, Verdict::Good(_)), "nobody has signed this");
        }
    }
    let _ = Keyring::new().add("bytes", bytes);
});
