use super::build::{Quote, signature};
use super::*;
use crate::eventlog::AlgorithmId;

fn quoted(bank: u16, mask: u32) -> QuotedBank {
    QuotedBank { bank: AlgorithmId(bank), mask }
}

#[test]
fn a_quote_is_read_field_by_field() {
    let built = Quote::default();
    let bytes = built.bytes();
    let attest = Attest::parse(&bytes).unwrap();
    let want = Attest {
        magic: Attest::GENERATED,
        kind: Attest::QUOTE,
        qualified_signer: &[0, 0x0b, 7],
        extra_data: &[1, 2],
        clock: ClockInfo { clock: 1000, reset_count: 3, restart_count: 2, safe: true },
        firmware_version: 0x2019_1023_0016_3636,
        attested: Attested::Quote(QuoteInfo {
            selections: vec![quoted(0x000b, 3)],
            pcr_digest: &[9; 32],
        }),
    };
    assert_eq!(attest, want);
}

#[test]
fn selections_of_any_size_and_bank_are_read() {
    type Case = (Vec<(u16, Vec<u8>)>, Vec<QuotedBank>);
    let cases: [Case; 5] = [
        (vec![], vec![]),
        (vec![(0x000b, vec![1])], vec![quoted(0x000b, 1)]),
        (vec![(0x000b, vec![0, 0x80])], vec![quoted(0x000b, 0x8000)]),
        (vec![(0x7777, vec![0, 0, 0x80, 0])], vec![quoted(0x7777, 1 << 23)]),
        (
            vec![(0x0004, vec![0, 0, 0]), (0x000c, vec![1, 2, 4])],
            vec![quoted(0x0004, 0), quoted(0x000c, 0x0004_0201)],
        ),
    ];
    for (banks, want) in cases {
        let bytes = Quote { banks, ..Quote::default() }.bytes();
        let Attested::Quote(info) = Attest::parse(&bytes).unwrap().attested else { panic!() };
        assert_eq!(info.selections, want);
    }
    let shown = [quoted(0x000b, 3), quoted(0x7777, 0)].map(|bank| bank.to_string());
    assert_eq!(shown, ["sha256:0,1", "0x7777:none"]);
}

#[test]
fn fields_that_cannot_be_are_refused_by_name() {
    let bank = |bits: &[u8]| vec![(0x000b, bits.to_vec())];
    let cases = [
        (Quote { clock: (0, 0, 0, 2), ..Quote::default() }, "safe 0x2"),
        (Quote { banks: bank(&[]), ..Quote::default() }, "sizeofSelect 0x0"),
        (Quote { banks: bank(&[0; 5]), ..Quote::default() }, "sizeofSelect 0x5"),
        (Quote { banks: bank(&[0, 0, 0, 1]), ..Quote::default() }, "pcrSelect 0x1000000"),
        (Quote { banks: vec![(0x000b, vec![1]); 17], ..Quote::default() }, "count 0x11"),
    ];
    for (quote, want) in cases {
        let error = Attest::parse(&quote.bytes()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn magic_and_kind_are_left_to_the_verifier() {
    let bytes = Quote { magic: 1, kind: 0x8017, ..Quote::default() }.bytes();
    let attest = Attest::parse(&bytes).unwrap();
    assert_eq!((attest.magic, attest.kind), (1, 0x8017));
    assert!(matches!(attest.attested, Attested::Other(rest) if rest.len() == 44));
}

#[test]
fn signatures_of_three_schemes_are_read() {
    let cases = [
        (signature(0x0014, 0x000b, &[&[5; 3]]), SignatureValue::RsaSsa(&[5; 3])),
        (signature(0x0016, 0x000b, &[&[5; 3]]), SignatureValue::RsaPss(&[5; 3])),
        (
            signature(0x0018, 0x000b, &[&[5; 3], &[6]]),
            SignatureValue::EcDsa { r: &[5; 3], s: &[6] },
        ),
    ];
    for (bytes, value) in cases {
        let want = TpmSignature { hash: AlgorithmId(0x000b), value };
        assert_eq!(TpmSignature::parse(&bytes), Ok(want));
    }
}

#[test]
fn other_schemes_are_refused_by_name() {
    let cases = [
        (0x0005, "HMAC"),
        (0x0010, "no scheme"),
        (0x001a, "ECDAA"),
        (0x001b, "SM2"),
        (0x001c, "ECSCHNORR"),
        (0x4321, "sigAlg 0x4321"),
    ];
    for (scheme, want) in cases {
        let bytes = signature(scheme, 0x000b, &[&[5; 3]]);
        let error = TpmSignature::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn cut_and_extended_bytes_are_refused() {
    type Parse = fn(&[u8]) -> Option<StructureError>;
    let cases: [(Vec<u8>, Parse); 3] = [
        (Quote::default().bytes(), |bytes| Attest::parse(bytes).err()),
        (signature(0x0014, 0x000b, &[&[5; 3]]), |bytes| TpmSignature::parse(bytes).err()),
        (signature(0x0018, 0x000b, &[&[5], &[6]]), |bytes| TpmSignature::parse(bytes).err()),
    ];
    for (whole, error) in cases {
        assert_eq!(error(&whole), None);
        for end in 0..whole.len() {
            assert!(matches!(error(&whole[..end]), Some(StructureError::Truncated(_))), "{end}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert!(matches!(error(&longer), Some(StructureError::LeftOver { left: 1, .. })));
    }
}
