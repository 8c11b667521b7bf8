//! What systemd writes into its measurement log we read, what we write it reads,
//! and both lead to the values that the TPM holds.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "all-banks")]

mod common;
#[path = "common/systemd.rs"]
mod systemd;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::Tpm;
use pcr_measure::userlog::{Boot, Record, Systemd, UserLog, append};
use pcr_measure::{Algorithm, PcrIndex};

const NO_FIRMWARE: &str = "/dev/null";

/// The tools and a TPM, or nothing.
fn start() -> Option<Tpm> {
    let there = ["systemd-pcrextend", "systemd-pcrlock"].into_iter().all(systemd::has);
    there.then(Tpm::start).flatten()
}

/// Lets systemd measure `words` into a PCR, and log it.
fn extend(tpm: &Tpm, log: &Path, options: &[&str], words: &str) {
    let arguments = [&["systemd-pcrextend"], options, &[words]].concat();
    systemd::run(tpm, &arguments, Path::new(NO_FIRMWARE), log);
}

/// A record of ours of the same.
fn record(pcr: u32, words: &str, banks: &[Algorithm]) -> Record {
    let boot = Boot::now().unwrap();
    let digests = banks.iter().map(|bank| bank.hash(&[words.as_bytes()]).unwrap()).collect();
    let content = Systemd {
        string: Some(words.to_owned()),
        boot_id: boot.id,
        timestamp: boot.timestamp,
        event_type: Some("phase".to_owned()),
    };
    Record::new(PcrIndex::new(pcr).unwrap(), digests, content)
}

fn systemd_finds(tpm: &Tpm, log: &Path) -> Vec<systemd::Measured> {
    systemd::measured(&systemd::pcrlock(tpm, "cel", Path::new(NO_FIRMWARE), log))
}

fn we_find(log: &UserLog) -> Vec<systemd::Measured> {
    let measured = log.entries.iter().map(|entry| {
        let record = &entry.record;
        let digest = |d: &pcr_measure::Digest| (d.algorithm().to_string(), d.to_string());
        let mut digests: Vec<_> = record.digests.iter().map(digest).collect();
        digests.sort();
        (record.pcr.get().into(), digests)
    });
    measured.collect()
}

/// What systemd escapes itself, and every bank.
const WORDS: [(&[&str], &str); 4] = [
    (&["--bank=sha256", "--pcr=11"], "enter-initrd"),
    (&["--pcr=11"], "leave-initrd"),
    (&["--pcr=12"], "h\u{e4}llo \"x\"\\"),
    (&["--bank=sha1", "--bank=sha512", "--pcr=23"], "a\tb"),
];

#[test]
fn what_systemd_wrote_is_read_and_leads_to_what_the_tpm_holds() {
    let Some(tpm) = start() else { return };
    let log = tpm.path("log");
    for (options, words) in WORDS {
        extend(&tpm, &log, options, words);
    }
    let bytes = std::fs::read(&log).unwrap();
    let parsed = UserLog::parse(&bytes);
    assert_eq!((parsed.entries.len(), &parsed.broken), (4, &None));
    assert_eq!(we_find(&parsed), systemd_finds(&tpm, &log));
    // Byte by byte what we would have written.
    let again = parsed.entries.iter().flat_map(|entry| entry.record.to_bytes().unwrap());
    assert_eq!(String::from_utf8(again.collect()).unwrap(), String::from_utf8(bytes).unwrap());
    // A record of one PCR and one bank each is what that PCR holds.
    for (bank, pcrs) in [(Algorithm::Sha256, [11, 12]), (Algorithm::Sha512, [12, 23])] {
        let values = parsed.replay(bank).unwrap();
        for pcr in pcrs {
            let value = values.get(PcrIndex::new(pcr).unwrap()).unwrap();
            let held = tpm.tool(&format!("tpm2_pcrread {bank}:{pcr}"));
            assert!(held.contains(&format!("0x{}", value.to_string().to_uppercase())), "{held}");
        }
    }
}

#[test]
fn systemd_reads_what_we_wrote_and_goes_on_in_it() {
    let Some(tpm) = start() else { return };
    // One that systemd began, and one that we began.
    let theirs = tpm.path("theirs");
    extend(&tpm, &theirs, &["--bank=sha256", "--pcr=11"], "enter-initrd");
    let ours = tpm.write("ours", b"");
    std::fs::remove_file(&ours).unwrap();
    for log in [theirs, ours] {
        append(&log, &record(11, "sysinit", &[Algorithm::Sha256])).unwrap();
        append(&log, &record(12, "\u{1f600} \"\u{1}", &Algorithm::ALL[..4])).unwrap();
        extend(&tpm, &log, &["--bank=sha256", "--pcr=11"], "ready");
        append(&log, &record(15, "last", &[Algorithm::Sha384])).unwrap();
        let parsed = UserLog::parse(&std::fs::read(&log).unwrap());
        assert_eq!(parsed.broken, None);
        let found = systemd_finds(&tpm, &log);
        assert!(found.len() >= 4);
        assert_eq!(we_find(&parsed), found);
        assert_eq!(log.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }
}

#[test]
fn systemd_writes_no_more_into_a_log_that_we_left_marked() {
    let Some(tpm) = start() else { return };
    let log = tpm.path("log");
    append(&log, &record(11, "a", &[Algorithm::Sha256])).unwrap();
    drop(pcr_measure::userlog::Pending::open(&log).unwrap());
    // It measures all the same.
    extend(&tpm, &log, &["--bank=sha256", "--pcr=11"], "b");
    assert_eq!(UserLog::parse(&std::fs::read(&log).unwrap()).entries.len(), 1);
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o7777, 0o1600);
}
