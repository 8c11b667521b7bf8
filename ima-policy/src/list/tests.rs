use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use super::ascii::Ascii;
use super::binary::Binary;
use super::growing::Growing;
use super::replay::{Filling, Replay};
use super::*;

/// The first records of a list that ima-evm-utils tests with (1.5,
/// tests/test_ascii_runtime_measurements, GPL-2.0-or-later): facts of a boot in 2020.
const UPSTREAM: &str = "\
10 cf41b43c4031672fcc2bd358b309ad33b977424f ima-ng sha256:f1b4c7c9b27e94569f4c2b64051c452bc609c3cb891dd7fae06b758f8bc83d14 boot_aggregate
10 983dcd8e6f7c84a1a5f10e762d1850623966ceab ima-ng sha256:ae06e032a65fed8102aff5f8f31c678dcf2eb25b826f77ecb699faa0411f89e0 /init
10 b6e4d01c73f6e4b698eaf48e7d76a2bae0c02514 ima-ng sha256:4b1764ee112aa8b2a6ae9a3a2f1e272b6601681f610708497673cd49e5bd2f5c /bin/sh
";

fn ascii(text: &[u8]) -> Result<Vec<Record>, ListError> {
    Ascii::new(text, DEFAULT).collect()
}

fn binary(bytes: &[u8]) -> Result<Vec<Record>, ListError> {
    Binary::new(bytes, DEFAULT).collect()
}

/// A record in the binary form, whatever its fields say.
fn encoded(template: &str, fields: &[&[u8]], digest: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut out = 10_u32.to_le_bytes().to_vec();
    out.extend(digest);
    out.extend(length(template.as_bytes()));
    out.extend(template.as_bytes());
    if template == "ima" {
        out.extend(fields[0]);
        out.extend(length(fields[1]));
        out.extend(fields[1]);
        return out;
    }
    let data: Vec<u8> = fields.iter().flat_map(|f| [&length(f)[..], f].concat()).collect();
    out.extend(length(&data));
    out.extend(data);
    out
}

fn of(template: &str, fields: &[&[u8]]) -> Record {
    let zeros = encoded(template, fields, &[0; 20]);
    let mut record = binary(&zeros).unwrap().remove(0);
    record.digest = record.hash(Algorithm::Sha1).unwrap();
    record
}

#[test]
fn records_of_a_real_list_have_the_digests_of_their_data() {
    let records = ascii(UPSTREAM.as_bytes()).unwrap();
    assert_eq!(records.len(), 3);
    for record in &records {
        assert!(record.is_whole().unwrap());
    }
    assert_eq!(records[1].name(), Some(&b"/init"[..]));
    assert_eq!(records[1].file_digest().unwrap().algorithm, "sha256");
    // One letter of a name, and of a digest.
    for (from, to) in [("/init", "/Init"), (":ae06", ":ae07"), ("983d", "983e")] {
        let changed = UPSTREAM.replace(from, to);
        assert_ne!(changed, UPSTREAM);
        let records = ascii(changed.as_bytes()).unwrap();
        let whole: Vec<_> = records.iter().map(|record| record.is_whole().unwrap()).collect();
        assert_eq!(whole, [true, false, true], "{to}");
    }
}

const SHA256: &[u8] = b"sha256:\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const HEX: &str = "sha256:6161616161616161616161616161616161616161616161616161616161616161";

/// Every template, as text and in the binary form: both say the same.
#[test]
fn both_forms_of_every_template_are_the_same_record() {
    let v2 = [b"verity:", SHA256].concat();
    let v2_hex = format!("verity:{HEX}");
    let cases: Vec<(&str, Vec<&[u8]>, String)> = vec![
        ("ima", vec![&[7; 20], b"/bin/a b"], format!("{} /bin/a b", "07".repeat(20))),
        ("ima-ng", vec![SHA256, b"/bin/a b\0"], format!("{HEX} /bin/a b")),
        ("ima-sig", vec![SHA256, b"/a\0", b"\x03\x02"], format!("{HEX} /a 0302")),
        ("ima-sig", vec![SHA256, b"/a b\0", b""], format!("{HEX} /a b ")),
        ("ima-ngv2", vec![&v2, b"/a\0"], format!("{v2_hex} /a")),
        ("ima-sigv2", vec![&v2, b"/a\0", b"\x06"], format!("{v2_hex} /a 06")),
        ("ima-buf", vec![SHA256, b"kexec-cmdline\0", b"quiet"], {
            format!("{HEX} kexec-cmdline 7175696574")
        }),
        ("ima-modsig", vec![SHA256, b"/m.ko\0", b"", SHA256, b"\x30\x82"], {
            format!("{HEX} /m.ko  {HEX} 3082")
        }),
        ("ima-modsig", vec![SHA256, b"/m.ko\0", b"", b"", b""], format!("{HEX} /m.ko   ")),
        (
            "evm-sig",
            vec![
                SHA256,
                b"/a\0",
                b"\x05",
                b"security.ima\0",
                &[33, 0, 0, 0],
                &[4; 33],
                &[0; 4],
                &[1, 1, 0, 0],
                &[0xed, 0x81],
            ],
            format!("{HEX} /a 05 security.ima 21000000 {} 0 257 33261", "04".repeat(33)),
        ),
        ("n-ng|d-ng", vec![b"/a b\0", SHA256], format!("/a b {HEX}")),
        ("d-ng|iuid", vec![SHA256, &[5, 0, 0, 0]], format!("{HEX} 5")),
    ];
    for (template, fields, text) in cases {
        let record = of(template, &fields);
        let line = format!("10 {} {template} {text}\n", hex::encode(record.digest.as_bytes()));
        assert_eq!(ascii(line.as_bytes()).unwrap(), std::slice::from_ref(&record), "{line}");
        let bytes = encoded(template, &fields, record.digest.as_bytes());
        assert_eq!(binary(&bytes).unwrap(), std::slice::from_ref(&record), "{line}");
        assert!(record.is_whole().unwrap());
        assert_eq!(record.fields().map(|(_, bytes)| bytes).collect::<Vec<_>>(), fields);
    }
}

/// The oldest template hashes its name in 256 bytes (`ima_calc_field_array_hash_tfm`).
#[test]
fn the_oldest_template_pads_its_name() {
    let record = of("ima", &[&[7; 20], b"/bin/sh"]);
    let mut name = b"/bin/sh".to_vec();
    name.resize(256, 0);
    let want = Algorithm::Sha1.hash(&[&[7; 20], &name]).unwrap();
    assert_eq!(record.digest, want);
}

#[test]
fn every_cut_is_told() {
    let whole = [
        encoded("ima-sig", &[SHA256, b"/a\0", b"\x03"], &[1; 20]),
        encoded("ima", &[&[7; 20], b"/b"], &[2; 20]),
    ];
    let ends = [0, whole[0].len(), whole.concat().len()];
    let whole = whole.concat();
    for cut in 0..=whole.len() {
        let read = binary(&whole[..cut]);
        match ends.contains(&cut) {
            true => assert!(read.is_ok(), "{cut}"),
            false => assert!(matches!(read, Err(ListError::Cut(1 | 2))), "{cut}: {read:?}"),
        }
    }
    let text = UPSTREAM.as_bytes();
    for cut in 0..text.len() {
        let lines = text[..cut].iter().filter(|byte| **byte == b'\n').count();
        let read = ascii(&text[..cut]);
        match text[..cut].last() {
            None | Some(b'\n') => assert_eq!(read.unwrap().len(), lines),
            _ => assert!(matches!(read, Err(ListError::Cut(_))), "{cut}"),
        }
    }
}

/// All that can be read of a list that comes in these pieces.
fn pieces<'a>(growing: &mut Growing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Record> {
    let mut records = Vec::new();
    for piece in pieces {
        growing.push(piece);
        while let Some(record) = growing.record().unwrap() {
            records.push(record);
        }
    }
    records
}

#[test]
fn a_list_that_grows_is_the_same_wherever_it_is_cut() {
    let whole = [
        encoded("ima-sig", &[SHA256, b"/a\0", b"\x03"], &[1; 20]),
        encoded("ima", &[&[7; 20], b"/b"], &[2; 20]),
        encoded("ima-ng", &[SHA256, b"/c\0"], &[3; 20]),
    ]
    .concat();
    let want = binary(&whole).unwrap();
    assert_eq!(want.len(), 3, "premise");
    for cut in 0..=whole.len() {
        let mut growing = Growing::new(DEFAULT);
        let (before, behind) = whole.split_at(cut);
        let first = pieces(&mut growing, [before]);
        let ends: usize = first.iter().map(encoded_length).sum();
        assert_eq!(growing.is_within(), ends < cut, "{cut}");
        let rest = pieces(&mut growing, [behind]);
        assert_eq!([first, rest].concat(), want, "{cut}");
        assert!(!growing.is_within() && growing.entries() == 3);
    }
    let mut growing = Growing::new(DEFAULT);
    assert_eq!(pieces(&mut growing, whole.chunks(1)), want);
}

fn encoded_length(record: &Record) -> usize {
    let fields: Vec<_> = record.fields().map(|(_, bytes)| bytes).collect();
    encoded(record.template.name(), &fields, record.digest.as_bytes()).len()
}

#[test]
fn a_record_that_cannot_be_read_hides_none_behind_it() {
    let bad = encoded("ima-next", &[b"x"], &[1; 20]);
    let good = encoded("ima-ng", &[SHA256, b"/a\0"], &[1; 20]);
    let mut growing = Growing::new(DEFAULT);
    growing.push(&[&bad[..], &good].concat());
    let error = growing.record().unwrap_err().to_string();
    assert_eq!(error, "entry 1: template `ima-next` is not known");
    assert_eq!(growing.record().unwrap().unwrap().name(), Some(&b"/a"[..]));
    assert!(growing.record().unwrap().is_none() && !growing.is_over());
    // A length that cannot be: where the next one begins nobody knows.
    for at in [24, 34] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut growing = Growing::new(DEFAULT);
        growing.push(&[&bytes[..], &good].concat());
        assert!(growing.record().is_err() && growing.is_over(), "{at}");
        assert!(growing.record().unwrap().is_none());
    }
}

#[test]
fn lengths_that_lie_allocate_nothing() {
    let good = encoded("ima-ng", &[SHA256, b"/a\0"], &[1; 20]);
    assert!(binary(&good).is_ok(), "premise");
    // Name of the template, data, first field.
    for at in [24, 34, 38] {
        for lie in [u32::MAX, 1 << 24, 257, 0] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&lie.to_le_bytes());
            assert!(binary(&bytes).is_err(), "{lie} at {at}");
        }
    }
    let mut bytes = good;
    bytes[0] = 24;
    let error = binary(&bytes).unwrap_err().to_string();
    assert_eq!(error, "entry 1: its PCR is 24");
}

#[test]
fn a_list_ends_with_its_first_error() {
    let bad = encoded("ima-next", &[b"x"], &[1; 20]);
    let good = encoded("ima-ng", &[SHA256, b"/a\0"], &[1; 20]);
    let bytes = [&good[..], &bad, &good].concat();
    let records: Vec<_> = Binary::new(&bytes[..], DEFAULT).collect();
    assert_eq!(records.len(), 2);
    let error = records[1].as_ref().unwrap_err().to_string();
    assert_eq!(error, "entry 2: template `ima-next` is not known");
    for line in ["", "10", "10 aa ima-ng x", "x aa", "10 \u{ff} ima-ng", "\n"] {
        assert!(ascii(format!("{line}\n").as_bytes()).is_err(), "{line:?}");
    }
}

#[test]
fn a_violation_is_all_ones_in_the_pcr() {
    let zeros = [&b"sha256:\0"[..], &[0; 32]].concat();
    let bytes = encoded("ima-ng", &[&zeros, b"/var/log/x\0"], &[0; 20]);
    let record = binary(&bytes).unwrap().remove(0);
    assert!(record.is_violation() && record.is_whole().unwrap());
    assert!(record.file_digest().unwrap().is_zero());
    let mut replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
    replay.add(&record).unwrap();
    let want = Algorithm::Sha256.hash(&[&[0; 32], &[0xff; 32]]).unwrap();
    assert_eq!(replay.value(PcrIndex::new(10).unwrap()), want);
    assert_eq!((replay.entries(), replay.violations(), replay.broken()), (1, 1, None));
}

#[test]
fn banks_are_filled_by_their_own_hash_or_with_zeros() {
    let record = of("ima-ng", &[SHA256, b"/a\0"]);
    let ten = PcrIndex::new(10).unwrap();
    let value = |algorithm, filling| {
        let mut replay = Replay::new(algorithm, filling);
        replay.add(&record).unwrap();
        replay.value(ten)
    };
    let start = [0; 32];
    let own = record.hash(Algorithm::Sha256).unwrap();
    let want = Algorithm::Sha256.hash(&[&start, own.as_bytes()]).unwrap();
    assert_eq!(value(Algorithm::Sha256, Filling::Hashed), want);
    let padded = [record.digest.as_bytes(), &[0; 12]].concat();
    let want = Algorithm::Sha256.hash(&[&start, &padded]).unwrap();
    assert_eq!(value(Algorithm::Sha256, Filling::Padded), want);
    let sha1 = [Filling::Hashed, Filling::Padded].map(|filling| value(Algorithm::Sha1, filling));
    assert_eq!(sha1[0], sha1[1]);
    let mut broken = record.clone();
    broken.digest = Digest::filled(Algorithm::Sha1, 1);
    let mut replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
    replay.add(&record).unwrap();
    replay.add(&broken).unwrap();
    assert_eq!(replay.broken(), Some(2));
}
