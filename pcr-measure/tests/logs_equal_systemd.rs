//! `systemd-pcrlock` reads our vectors as we do: the same measurements, and the
//! same PCR values out of them.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "all-banks")]

mod common;
#[path = "common/systemd.rs"]
mod systemd;

use std::path::{Path, PathBuf};

use common::Tpm;
use pcr_measure::eventlog::EventLog;
use pcr_measure::{Algorithm, PcrIndex};

/// Banks that systemd 257 knows.
const BANKS: [Algorithm; 4] =
    [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];

fn vectors() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect()
}

#[test]
fn firmware_logs_hold_the_measurements_that_pcrlock_finds() {
    if !systemd::has("systemd-pcrlock") {
        return;
    }
    let Some(tpm) = Tpm::start() else { return };
    let none = tpm.path("none");
    for path in vectors() {
        let bytes = std::fs::read(&path).unwrap();
        let log = EventLog::parse(&bytes);
        let extended = log.events.iter().filter(|event| event.is_extended());
        let ours: Vec<systemd::Measured> = extended
            .map(|event| {
                let digest = |d: &pcr_measure::eventlog::EventDigest<'_>| {
                    (d.algorithm.to_string(), hex::encode(d.bytes))
                };
                let mut digests: Vec<_> = event.digests.iter().map(digest).collect();
                digests.sort();
                (event.pcr.into(), digests)
            })
            .collect();
        let theirs = systemd::measured(&systemd::pcrlock(&tpm, "cel", &path, &none));
        assert_eq!(ours, theirs, "{}", path.display());
        assert!(!ours.is_empty());
    }
}

#[test]
fn firmware_logs_lead_to_the_values_that_pcrlock_computes() {
    if !systemd::has("systemd-pcrlock") {
        return;
    }
    let Some(tpm) = Tpm::start() else { return };
    // pcrlock asks a TPM for its values as well; any will do.
    tpm.tool("tpm2_pcrread sha256:0");
    let none = tpm.write("none", b"");
    for path in vectors() {
        let bytes = std::fs::read(&path).unwrap();
        let log = EventLog::parse(&bytes);
        let table = systemd::pcrlock(&tpm, "log", &path, &none);
        let mut compared = 0;
        for bank in BANKS {
            let Ok(values) = log.replay(bank) else { continue };
            for row in table["pcrs"].as_array().unwrap() {
                let pcr = PcrIndex::new(row["pcr"].as_u64().unwrap() as u32).unwrap();
                let key = format!("calculated{}", bank.name().to_uppercase());
                let want = values.get_or_reset(pcr).to_string();
                assert_eq!(row[&key].as_str(), Some(want.as_str()), "{} {key}", path.display());
                compared += 1;
            }
        }
        assert!(compared >= 24, "{}", path.display());
    }
}
