use super::*;
use crate::digest::{Digest, Sha256Digest};

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

#[test]
fn there_are_24_pcrs() {
    assert_eq!(PcrIndex::all().count(), 24);
    assert_eq!(PcrIndex::new(24), Err(PcrError::NoSuchPcr(24)));
    assert_eq!(PcrIndex::new(256), Err(PcrError::NoSuchPcr(256)));
    assert!(serde_json::from_str::<PcrIndex>("24").is_err());
    assert_eq!(serde_json::from_str::<PcrIndex>("23").unwrap(), pcr(23));
}

#[test]
fn selections_are_read_and_written() {
    let cases = [
        ("0", Some("sha256:0")),
        ("0-9,15", Some("sha256:0,1,2,3,4,5,6,7,8,9,15")),
        ("9,0,9", Some("sha256:0,9")),
        ("sha1:23", Some("sha1:23")),
        ("sha256:", None),
        ("", None),
        ("24", None),
        ("0-24", None),
        ("9-0", None),
        ("+1", None),
        ("0,,1", None),
        ("99999999999999999999", None),
        ("md5:0", None),
    ];
    for (text, want) in cases {
        let got = text.parse::<PcrSelection>().ok().map(|s| s.to_string());
        assert_eq!(got.as_deref(), want, "{text:?}");
    }
}

#[test]
fn a_selection_marshals_as_tpm2_tools_does() {
    // tpm2_policypcr -l sha256:0,1,8,9,15 sends exactly these bytes.
    let selection = PcrSelection::sha256(&[0, 1, 8, 9, 15]).unwrap();
    assert_eq!(hex::encode(selection.to_tpml()), "00000001000b03038300");
    let two = [PcrSelection::sha256(&[16]).unwrap(), "sha1:0".parse().unwrap()];
    assert_eq!(hex::encode(marshal_selections(&two)), "00000002000b03000001000403010000");
}

#[test]
fn json_selections_are_strict() {
    let read = |text| serde_json::from_str::<PcrSelection>(text);
    assert_eq!(read("[0,15]").unwrap(), PcrSelection::sha256(&[0, 15]).unwrap());
    for bad in ["[]", "[0,0]", "[24]", "[-1]", "[\"0\"]", "0"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn extending_hashes_old_and_new() {
    let mut bank = PcrBank::new(Algorithm::Sha256);
    let measured = Sha256Digest::of(b"event");
    bank.extend(pcr(4), measured).unwrap();
    assert_eq!(bank.sha256(pcr(4)), Some(Sha256Digest::ZERO.extended_by(&measured)));
    let other = Digest::filled(Algorithm::Sha384, 0);
    assert!(matches!(bank.extend(pcr(4), other), Err(PcrError::OtherBank { .. })));
    assert!(matches!(bank.set(pcr(4), other), Err(PcrError::OtherBank { .. })));
}

#[test]
fn a_missing_value_is_an_error_and_not_zero() {
    let bank: PcrBank = [(pcr(0), Sha256Digest::ZERO)].into_iter().collect();
    assert_eq!(bank.concatenated(&"0".parse().unwrap()).unwrap(), vec![0; 32]);
    assert!(bank.concatenated(&"0,1".parse().unwrap()).is_err());
    assert!(bank.concatenated(&"sha1:0".parse().unwrap()).is_err());
}
