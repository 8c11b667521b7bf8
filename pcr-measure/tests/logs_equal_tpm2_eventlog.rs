//! Logs of real firmware and random ones: events and values are those that
//! `tpm2_eventlog` finds.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "all-banks")]

mod common;
#[path = "common/yaml.rs"]
mod yaml;

use std::path::Path;

use common::Tpm;
use pcr_measure::eventlog::{EventLog, LogEnd};
use yaml::{Oracle, OracleEvent};

/// Compares value by value.
fn compare(name: &str, log: &EventLog<'_>, oracle: &Oracle) {
    assert_eq!(log.end, LogEnd::Complete, "{name}");
    let ours: Vec<OracleEvent> = log
        .events
        .iter()
        .map(|event| OracleEvent {
            pcr: event.pcr,
            event_type: event.event_type.to_string(),
            digests: event
                .digests
                .iter()
                .map(|digest| (digest.algorithm.to_string(), hex::encode(digest.bytes)))
                .collect(),
            size: event.data.len(),
        })
        .collect();
    assert_eq!(ours, oracle.events, "{name}");
    let mut values = Vec::new();
    for bank in log.banks() {
        for (pcr, value) in log.replay(bank.known().unwrap()).unwrap().iter() {
            values.push((bank.to_string(), u32::from(pcr.get()), value.to_string()));
        }
    }
    values.sort();
    let mut wanted = oracle.pcrs.clone();
    wanted.sort();
    assert_eq!(values, wanted, "{name}");
    assert!(!wanted.is_empty(), "{name}");
}

#[test]
fn logs_of_real_firmware() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut seen = 0;
    for entry in std::fs::read_dir(vectors).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "bin") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let yaml = std::fs::read_to_string(path.with_extension("bin.yaml")).unwrap();
        compare(&path.display().to_string(), &EventLog::parse(&bytes), &yaml::parse(&yaml));
        seen += 1;
    }
    assert_eq!(seen, 7);
}

/// The banks that tpm2_eventlog knows by size, as `TPM_ALG_ID` and bytes.
const BANKS: [(u16, usize); 4] = [(0x04, 20), (0x0b, 32), (0x0c, 48), (0x0d, 64)];

fn u32s(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// A log of TCG 1.2: SHA-1 alone, no header.
fn random_sha1_log(random: &mut impl FnMut(u32) -> u32) -> Vec<u8> {
    let mut log = Vec::new();
    for _ in 0..=random(12) {
        let data = b"some text\0";
        // Separator, compact hash, IPL.
        let event_type = [4, 12, 13][random(3) as usize];
        log.extend(u32s(&[random(24), event_type]));
        log.extend((0..20).map(|_| random(256) as u8));
        log.extend(u32s(&[data.len() as u32]));
        log.extend(data);
    }
    log
}

/// Types whose data tpm2_eventlog does not take apart.
#[rustfmt::skip]
const ANY_DATA: [u32; 15] = [
    0, 2, 5, 6, 9, 0xb, 0xe, 0xf, 0x10, 0x11, 0x12,
    0x8000_0007, 0x8000_0009, 0x8000_000a, 0x8000_000b,
];

/// `UEFI_VARIABLE_DATA`: GUID, two lengths, name, data.
fn uefi_variable(size: u8) -> Vec<u8> {
    let name: Vec<u8> = "Lang".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [4_u64, size.into()].map(u64::to_le_bytes).concat();
    [vec![0x11; 16], lengths, name, vec![0x22; size.into()]].concat()
}

/// A log with some of the banks, some vendor data and some events.
fn random_log(random: &mut impl FnMut(u32) -> u32) -> Vec<u8> {
    let set = random(15) + 1;
    let banks: Vec<_> =
        BANKS.iter().enumerate().filter(|(n, _)| set & 1 << n != 0).map(|(_, b)| *b).collect();
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    header.extend(u32s(&[banks.len() as u32]));
    for (id, size) in &banks {
        header.extend(id.to_le_bytes());
        header.extend((*size as u16).to_le_bytes());
    }
    let vendor = random(20) as u8;
    header.push(vendor);
    header.extend((0..vendor).map(|n| n ^ 0x55));
    let mut log = [u32s(&[0, 3]), vec![0; 20], u32s(&[header.len() as u32]), header].concat();
    if random(2) == 0 {
        log.extend(u32s(&[0, 3, banks.len() as u32]));
        for (id, size) in &banks {
            log.extend(id.to_le_bytes());
            log.extend(vec![0; *size]);
        }
        log.extend(u32s(&[17]));
        log.extend(b"StartupLocality\0");
        log.push([0, 3, 4][random(3) as usize]);
    }
    for _ in 0..=random(12) {
        // Data that tpm2_eventlog takes as it comes, and what it takes apart.
        let (event_type, data) = match random(8) {
            0 => (4, vec![0; 4]),
            1 => (12, b"linux\0".to_vec()),
            2 => (13, b"a command line\0".to_vec()),
            3 => (0x8000_0002, uefi_variable(random(40) as u8)),
            // An image of a file: address, length, link-time address, no device path.
            4 => (0x8000_0003, [0x4000_0000_u64, 4096, 0, 0].map(u64::to_le_bytes).concat()),
            // A firmware volume: address and length.
            5 => (
                [7, 0x8000_0008][random(2) as usize],
                [0x1000_u64, 8192].map(u64::to_le_bytes).concat(),
            ),
            6 => (ANY_DATA[random(ANY_DATA.len() as u32) as usize], b"any data\0".to_vec()),
            _ => (0xa, (0..random(40)).map(|n| n as u8).collect()),
        };
        log.extend(u32s(&[random(24), event_type, banks.len() as u32]));
        for (id, size) in &banks {
            log.extend(id.to_le_bytes());
            log.extend((0..*size).map(|_| random(256) as u8));
        }
        log.extend(u32s(&[data.len() as u32]));
        log.extend(data);
    }
    log
}

#[test]
fn random_logs() {
    let Some(tools) = Tpm::start() else { return };
    let mut state = 0x5eed_0002_u64;
    let mut random = move |bound: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((state >> 33) % u64::from(bound)) as u32
    };
    for round in 0..100 {
        let old = round % 5 == 4;
        let bytes = if old { random_sha1_log(&mut random) } else { random_log(&mut random) };
        tools.write("log", &bytes);
        let oracle = yaml::parse(&tools.tool("tpm2_eventlog log"));
        compare(&format!("round {round}"), &EventLog::parse(&bytes), &oracle);
    }
}

/// A log as a TDX guest has it: SHA-384 alone, measurement registers 1 to 4 for
/// PCRs. Some firmware puts a register into the header event too, which
/// tpm2_eventlog refuses.
fn confidential_vm_log(random: &mut impl FnMut(u32) -> u32) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0".to_vec();
    header.extend([0, 0, 0, 0, 0, 2, 105, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
    let mut log = [u32s(&[0, 3]), vec![0; 20], u32s(&[header.len() as u32]), header].concat();
    for register in [1, 1, 2, 1, 3, 2, 4] {
        log.extend(u32s(&[register, 13, 1]));
        log.extend([0x0c, 0]);
        log.extend((0..48).map(|_| random(256) as u8));
        log.extend(u32s(&[7]));
        log.extend(b"kernel\0");
    }
    log
}

#[test]
fn logs_of_confidential_vms() {
    let Some(tools) = Tpm::start() else { return };
    let mut state = 0_u32;
    let mut random = move |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % bound
    };
    for _ in 0..4 {
        let bytes = confidential_vm_log(&mut random);
        tools.write("log", &bytes);
        let oracle = yaml::parse(&tools.tool("tpm2_eventlog log"));
        assert_eq!(oracle.pcrs.len(), 4);
        compare("a confidential VM", &EventLog::parse(&bytes), &oracle);
    }
}
