//! Any bytes as attestation, signature, public area or dumped PCR values: no
//! panic, whatever is read lies in the bytes and marshals to them again, and
//! nothing that is not signed is verified.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcr_measure::PcrSelection;
use pcr_measure::quote::clock::compare;
use pcr_measure::quote::{AttestationKey, Expected, concatenated_values, tools_values, verify};
use pcr_measure::structures::{Attest, Attested, SignatureValue, TpmPublic, TpmSignature};

/// A key that signed nothing.
const KEY: &[u8] = include_bytes!("../../tests/vectors/quote-ecdsa.pub");

fuzz_target!(|bytes: &[u8]| {
    if let Ok(attest) = Attest::parse(bytes) {
        marshaled_again(&attest, bytes);
        assert!(!compare(&attest.clock, &attest.clock).is_refusal());
    }
    if let Ok(signature) = TpmSignature::parse(bytes) {
        let parts: &[&[u8]] = match signature.value {
            SignatureValue::RsaSsa(one) | SignatureValue::RsaPss(one) => &[one],
            SignatureValue::EcDsa { r, s } => &[r, s],
        };
        let size: usize = parts.iter().map(|part| 2 + part.len()).sum();
        assert_eq!(4 + size, bytes.len());
    }
    if let Ok(public) = TpmPublic::parse(bytes) {
        let _ = public.name();
    }
    let _ = AttestationKey::parse(bytes);
    if let Ok(banks) = tools_values(bytes) {
        // A dump has room for what it holds.
        let size: usize =
            banks.iter().flat_map(|bank| bank.iter()).map(|(_, v)| v.as_bytes().len()).sum();
        assert!(size < bytes.len());
    }
    let selections: [PcrSelection; 2] = ["0-3".parse().unwrap(), "sha384:23".parse().unwrap()];
    if let Ok(banks) = concatenated_values(bytes, &selections) {
        let values: Vec<u8> = banks
            .iter()
            .flat_map(|bank| {
                bank.iter().flat_map(|(_, value)| value.as_bytes().to_vec()).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(values, bytes);
    }
    // Message and signature, cut where the first byte says.
    let Some((at, both)) = bytes.split_first() else { return };
    let Some((message, signature)) = both.split_at_checked((*at).into()) else { return };
    let key = AttestationKey::parse(KEY).unwrap();
    let expected = Expected { nonce: b"msec-boot", selections: &selections, values: &[] };
    verify(message, signature, &key, &expected).unwrap_err();
});

/// Writes the fields as they stand in the specification; of a selection the
/// number of bytes is not kept, so that it is taken from `bytes`.
fn marshaled_again(attest: &Attest<'_>, bytes: &[u8]) {
    let mut out = attest.magic.to_be_bytes().to_vec();
    out.extend(attest.kind.to_be_bytes());
    for sized in [attest.qualified_signer, attest.extra_data] {
        out.extend(u16::try_from(sized.len()).unwrap().to_be_bytes());
        out.extend(sized);
    }
    let clock = &attest.clock;
    out.extend(clock.clock.to_be_bytes());
    out.extend(clock.reset_count.to_be_bytes());
    out.extend(clock.restart_count.to_be_bytes());
    out.push(clock.safe.into());
    out.extend(attest.firmware_version.to_be_bytes());
    match &attest.attested {
        Attested::Other(rest) => out.extend(*rest),
        Attested::Quote(info) => {
            out.extend(u32::try_from(info.selections.len()).unwrap().to_be_bytes());
            for quoted in &info.selections {
                out.extend(quoted.bank.0.to_be_bytes());
                let size = bytes[out.len()];
                out.push(size);
                assert!(quoted.mask < 1 << 24);
                out.extend(&quoted.mask.to_le_bytes()[..size.into()]);
            }
            out.extend(u16::try_from(info.pcr_digest.len()).unwrap().to_be_bytes());
            out.extend(info.pcr_digest);
        }
    }
    assert_eq!(out, bytes);
}
