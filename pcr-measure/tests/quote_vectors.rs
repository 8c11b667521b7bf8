//! Quotes kept from an emulated TPM, verified without any tools.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "signature")]

use std::path::PathBuf;

use pcr_measure::quote::clock::{ClockChange, compare};
use pcr_measure::quote::{
    AttestationKey, Expected, Step, VerifiedQuote, concatenated_values, to_tools_values,
    tools_values, verify,
};
use pcr_measure::{Algorithm, Digest, PcrBank, PcrIndex, PcrSelection};

/// The nonce of every quote.
const NONCE: &[u8] = b"msec-boot";

fn vector(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name))
        .unwrap()
}

/// Verifies a quote with a key in both of its forms.
fn verified(quote: &str, key: &str, pcrs: &[&str]) -> VerifiedQuote {
    let file = |ending: &str| vector(&format!("quote-{quote}.{ending}"));
    let selections: Vec<PcrSelection> = pcrs.iter().map(|text| text.parse().unwrap()).collect();
    let bytes = file("pcrs");
    let values =
        tools_values(&bytes).or_else(|_| concatenated_values(&bytes, &selections)).unwrap();
    let expected = Expected { nonce: NONCE, selections: &selections, values: &values };
    let [public, pem] = ["pub", "pem"].map(|ending| {
        let key = AttestationKey::parse(&vector(&format!("quote-{key}.{ending}"))).unwrap();
        assert_eq!(key.has_attributes(), ending == "pub");
        verify(&file("msg"), &file("sig"), &key, &expected).unwrap()
    });
    assert_eq!(public, pem);
    public
}

#[test]
fn quotes_of_every_scheme_are_verified() {
    let seal = "0,1,8,9,15";
    let cases: [(&str, &str, &[&str], &str); 5] = [
        ("rsassa", "rsassa", &[seal], "RSASSA"),
        ("rsapss", "rsapss", &[seal, "sha384:0,23"], "RSAPSS"),
        ("ecdsa", "ecdsa", &[seal], "ECDSA"),
        ("ecdsa-later", "ecdsa", &[seal], "ECDSA"),
        ("other-initramfs", "ecdsa", &[seal], "ECDSA"),
    ];
    for (quote, key, pcrs, scheme) in cases {
        let got = verified(quote, key, pcrs);
        assert_eq!(got.scheme().to_string(), scheme);
        assert_eq!(got.hash(), Algorithm::Sha256);
        assert_eq!(got.values().len(), pcrs.len());
        assert_eq!(got.bank(Algorithm::Sha256).iter().count(), 5);
    }
}

#[test]
fn values_are_written_as_the_tools_write_them() {
    for name in ["quote-rsassa", "quote-ecdsa", "quote-rsapss"] {
        let bytes = vector(&format!("{name}.pcrs"));
        if let Ok(values) = tools_values(&bytes) {
            assert_eq!(to_tools_values(&values).unwrap(), bytes, "{name}");
        }
    }
    let all: Vec<_> = [Algorithm::Sha256, Algorithm::Sha512]
        .map(|bank| {
            let mut values = PcrBank::new(bank);
            for pcr in PcrIndex::all() {
                values.set(pcr, Digest::filled(bank, pcr.get())).unwrap();
            }
            values
        })
        .to_vec();
    assert_eq!(tools_values(&to_tools_values(&all).unwrap()).unwrap(), all);
}

#[test]
fn a_quote_is_not_good_for_another_key() {
    let selections = ["0,1,8,9,15".parse().unwrap()];
    let values = tools_values(&vector("quote-rsassa.pcrs")).unwrap();
    let expected = Expected { nonce: NONCE, selections: &selections, values: &values };
    for other in ["quote-rsapss.pub", "quote-ecdsa.pem"] {
        let key = AttestationKey::parse(&vector(other)).unwrap();
        let (message, signature) = (vector("quote-rsassa.msg"), vector("quote-rsassa.sig"));
        let error = verify(&message, &signature, &key, &expected).unwrap_err();
        assert_eq!(error.step(), Step::Signature);
        assert!(error.is_refusal());
    }
}

#[test]
fn power_was_cut_between_two_quotes() {
    let [earlier, later] =
        ["ecdsa", "ecdsa-later"].map(|quote| verified(quote, "ecdsa", &["0,1,8,9,15"]));
    assert_eq!(earlier.qualified_signer(), later.qualified_signer());
    assert!(earlier.clock().safe && !later.clock().safe);
    assert!(later.clock().clock < earlier.clock().clock);
    let change = compare(earlier.clock(), later.clock());
    assert_eq!(change, ClockChange::Rebooted { resets: 1, power_cut: true });
    assert_eq!(compare(later.clock(), earlier.clock()), ClockChange::ResetsBackwards);
}
