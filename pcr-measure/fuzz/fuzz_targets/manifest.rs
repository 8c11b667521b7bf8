//! Any bytes as a manifest, a reference, a bank of values or a selection: no
//! panic, and whatever is taken comes back the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcr_measure::manifest::{Manifest, Reference};
use pcr_measure::{PcrBank, PcrSelection, policy};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        let text = manifest.to_json().unwrap();
        assert_eq!(Manifest::from_json(text.as_bytes()).unwrap(), manifest);
        policy::pcr_digest(manifest.seal(), &manifest.sealed_values()).unwrap();
        again(&manifest.reference());
    }
    if let Ok(reference) = serde_json::from_slice::<Reference>(bytes) {
        again(&reference);
    }
    if let Ok(bank) = serde_json::from_slice::<PcrBank>(bytes) {
        let text = serde_json::to_vec(&bank).unwrap();
        assert_eq!(serde_json::from_slice::<PcrBank>(&text).unwrap(), bank);
    }
    if let Some(selection) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<PcrSelection>().ok()) {
        assert_eq!(selection.to_string().parse::<PcrSelection>().unwrap(), selection);
    }
});

fn again(reference: &Reference) {
    let text = serde_json::to_vec(reference).unwrap();
    assert_eq!(serde_json::from_slice::<Reference>(&text).unwrap(), *reference);
    policy::pcr_digest(reference.seal(), &reference.sealed_values()).unwrap();
}
