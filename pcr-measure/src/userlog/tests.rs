use super::*;
use crate::digest::Sha256Digest;

/// What systemd-pcrextend 257.13 wrote for `--bank=sha256 --pcr=11 enter-initrd`.
const ENTER_INITRD: &[u8] = b"\x1e{\"pcr\":11,\"digests\":[{\"hashAlg\":\"sha256\",\"digest\":\
\"51e6b92f405d1f98d96e3de343d61d420ad6923b25de21d766f9298192f14fed\"}],\
\"content_type\":\"systemd\",\"content\":{\"string\":\"enter-initrd\",\
\"bootId\":\"9a6ecf5a338e4846872676d25d0d251d\",\"timestamp\":1490217503,\
\"eventType\":\"phase\"}}\n";

fn record(pcr: u32, measured: &str) -> Record {
    let content =
        Systemd { string: None, boot_id: "ab".repeat(16), timestamp: 0, event_type: None };
    let digest = Sha256Digest::of(measured.as_bytes());
    Record::new(PcrIndex::new(pcr).unwrap(), vec![digest.into()], content)
}

/// A record of this JSON.
fn of(json: &str) -> Vec<u8> {
    [b"\x1e", json.as_bytes(), b"\n"].concat()
}

fn digests(digests: &str) -> Vec<u8> {
    of(&format!("{{\"pcr\":11,\"digests\":[{digests}]}}"))
}

fn digest(bank: &str, bytes: usize) -> String {
    format!("{{\"hashAlg\":\"{bank}\",\"digest\":\"{}\"}}", "ab".repeat(bytes))
}

#[test]
fn what_systemd_wrote_is_read_and_written_the_same() {
    let log = UserLog::parse(ENTER_INITRD);
    assert_eq!(log.broken, None);
    let [Entry { offset: 0, record }] = log.entries.as_slice() else { panic!("{log:?}") };
    assert_eq!(record.pcr.get(), 11);
    let measured = Sha256Digest::of(b"enter-initrd");
    assert_eq!(record.digest(Algorithm::Sha256), Some(measured.into()));
    assert_eq!(
        (record.event_type(), record.description()),
        ("phase".into(), "enter-initrd".into())
    );
    assert_eq!(record.to_bytes().unwrap(), ENTER_INITRD);
    let values = log.replay(Algorithm::Sha256).unwrap();
    let want = Sha256Digest::ZERO.extended_by(&measured);
    assert_eq!(values.sha256(record.pcr), Some(want));
}

#[test]
fn text_of_any_kind_comes_back() {
    for text in ["", "\"\\\n\u{1e}\u{0}\u{1b}", "h\u{e4}llo \u{1f600}"] {
        let content = Systemd {
            string: Some(text.to_owned()),
            boot_id: "ab".repeat(16),
            timestamp: u64::MAX,
            event_type: Some(text.to_owned()),
        };
        let record = Record { content: Content::Systemd(content), ..record(23, "x") };
        let log = UserLog::parse(&record.to_bytes().unwrap());
        assert_eq!((log.entries.len(), log.broken), (1, None), "{text:?}");
        assert_eq!(log.entries[0].record, record);
        assert!(record.description().chars().all(|c| matches!(c, ' '..='~')));
    }
}

#[test]
fn records_of_others_are_kept_as_they_are() {
    let json = "{\"recnum\":3,\"pcr\":10,\"digests\":[],\"content_type\":\"ima\",\"content\":[1,{\"a\":null}]}";
    let json = json.replace("[],", &format!("[{}],", digest("sha256", 32)));
    let log = UserLog::parse(&of(&json));
    let [Entry { record, .. }] = log.entries.as_slice() else { panic!("{log:?}") };
    assert_eq!(
        (record.event_type(), record.description()),
        ("ima".into(), "[1,{\"a\":null}]".into())
    );
    let again = UserLog::parse(&record.to_bytes().unwrap());
    assert_eq!(again.entries[0].record, *record);
    // systemd's fields in another's content are that one's.
    let json2 = json.replace("[1,{\"a\":null}]", "{\"bootId\":\"x\",\"timestamp\":1,\"more\":2}");
    let log = UserLog::parse(&of(&json2));
    assert!(log.entries[0].record.description().contains("\"more\":2"));
    // systemd's name on something else is no reason to refuse a measurement.
    let odd = json.replace("\"ima\"", "\"systemd\"");
    let log = UserLog::parse(&of(&odd));
    assert!(matches!(log.entries[0].record.content, Content::Other { .. }));
}

#[test]
fn a_log_is_read_up_to_the_first_broken_record() {
    let good = record(11, "a").to_bytes().unwrap();
    let at = 2 * good.len();
    let two = digest("sha256", 32);
    let many: Vec<String> = vec![two.clone(); MAX_DIGESTS + 1];
    let cases = [
        ("text", of("hello"), "no JSON of a measurement"),
        ("no record", of("{}"), "missing field `pcr`"),
        ("PCR 24", of(&format!("{{\"pcr\":24,\"digests\":[{two}]}}")), "no PCR 24"),
        ("two PCRs", of(&format!("{{\"pcr\":1,\"pcr\":2,\"digests\":[{two}]}}")), "duplicate"),
        ("no digests", digests(""), "has 0 digests"),
        ("17 digests", digests(&many.join(",")), "has 17 digests"),
        ("a bank twice", digests(&format!("{two},{two}")), "two digests of bank sha256"),
        ("a short digest", digests(&digest("sha256", 20)), "sha256 digest is none"),
        ("two on a line", [good.as_slice(), b"{}\n"].concat(), "trailing characters"),
        ("a NUL", of("{\"pcr\":11,\0}"), "no JSON"),
        ("too deep", of(&"[".repeat(60_000)), "no JSON"),
        ("too long", of(&" ".repeat(MAX_RECORD)), "more than the 65536"),
        ("an escape", of("{\"pcr\":\"\\u001b[2J\\u202e\"}"), "[2J"),
    ];
    for (name, broken, want) in cases {
        let bytes = [good.as_slice(), &good, &broken, &good].concat();
        let log = UserLog::parse(&bytes);
        assert_eq!(log.entries.len(), 2, "{name}");
        let (offset, reason) = log.broken.unwrap();
        assert_eq!(offset, at, "{name}");
        let reason = reason.to_string();
        assert!(reason.contains(want) && reason.is_ascii(), "{name}: {reason}");
    }
    assert_eq!(UserLog::parse(b"x").broken, Some((0, BrokenRecord::NoSeparator)));
    assert_eq!(UserLog::parse(b""), UserLog { entries: vec![], broken: None });
}

#[test]
fn a_log_cut_anywhere_gives_the_records_before_the_cut() {
    let one = record(11, "a").to_bytes().unwrap();
    let bytes = [one.as_slice(), &one, &one].concat();
    for cut in 1..bytes.len() {
        let log = UserLog::parse(&bytes[..cut]);
        // A record is whole without its newline, and one separator is no record.
        let whole = (cut + 1) / one.len();
        assert_eq!(log.entries.len(), whole, "{cut}");
        let between = matches!(cut % one.len(), 0 | 1) || (cut + 1) % one.len() == 0;
        assert_eq!(log.broken.map(|(at, _)| at), (!between).then_some(whole * one.len()), "{cut}");
    }
}

#[test]
fn a_bank_that_we_do_not_know_is_passed_over() {
    let both = format!("{},{}", digest("sha3_224", 28), digest("sha256", 32));
    let log = UserLog::parse(&digests(&both));
    assert_eq!((log.broken.clone(), log.banks()), (None, vec![Algorithm::Sha256]));
    assert_eq!(log.without_digest(Algorithm::Sha256), 0);
    let none = UserLog::parse(&digests(&digest("sha3_224", 28)));
    assert_eq!((none.entries.len(), none.without_digest(Algorithm::Sha256)), (1, 1));
    let error = none.replay(Algorithm::Sha256).unwrap_err();
    assert!(matches!(error, ReplayError::NoSuchBank { .. }));
}

#[test]
fn a_replay_goes_on_from_what_firmware_left() {
    let bytes = [record(11, "a").to_bytes().unwrap(), record(11, "b").to_bytes().unwrap()].concat();
    let log = UserLog::parse(&bytes);
    let stub = Sha256Digest::ZERO.extended_by(&Sha256Digest::of(b"kernel"));
    let pcr = PcrIndex::new(11).unwrap();
    let mut values: PcrBank = [(pcr, stub)].into_iter().collect();
    log.extend(&mut values).unwrap();
    let step = |old: Sha256Digest, m: &str| old.extended_by(&Sha256Digest::of(m.as_bytes()));
    assert_eq!(values.sha256(pcr), Some(step(step(stub, "a"), "b")));
}

#[test]
fn what_cannot_be_read_again_is_not_written() {
    let digest = Sha256Digest::of(b"x").into();
    let long = Systemd {
        string: Some("x".repeat(MAX_RECORD)),
        boot_id: String::new(),
        timestamp: 0,
        event_type: None,
    };
    let pcr = PcrIndex::new(11).unwrap();
    let records = [
        Record { digests: vec![], ..record(11, "x") },
        Record { digests: vec![digest, digest], ..record(11, "x") },
        Record::new(pcr, vec![digest], long),
    ];
    for record in records {
        assert!(record.to_bytes().is_err());
    }
}
