use super::*;
use crate::digest::Sha256Digest;

/// `TCG_PCClientPCREvent`.
fn old_event(pcr: u32, event_type: u32, digest: [u8; 20], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(pcr.to_le_bytes());
    out.extend(event_type.to_le_bytes());
    out.extend(digest);
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

/// The header event, as U-Boot's `tcg2_log_init` writes it but for the vendor data.
fn header(algorithms: &[(u16, u16)], vendor: &[u8]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 2, 2]);
    data.extend((algorithms.len() as u32).to_le_bytes());
    for (id, size) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(vendor.len() as u8);
    data.extend(vendor);
    old_event(0, 3, [0; 20], &data)
}

/// `TCG_PCR_EVENT2`.
fn event(pcr: u32, event_type: u32, digests: &[(u16, &[u8])], data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(pcr.to_le_bytes());
    out.extend(event_type.to_le_bytes());
    out.extend((digests.len() as u32).to_le_bytes());
    for (id, digest) in digests {
        out.extend(id.to_le_bytes());
        out.extend(*digest);
    }
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

const SHA256: &[(u16, u16)] = &[(0x0b, 32)];

fn sha256_event(pcr: u32, event_type: u32, measured: &[u8], data: &[u8]) -> Vec<u8> {
    event(pcr, event_type, &[(0x0b, Sha256Digest::of(measured).as_bytes())], data)
}

fn small_log() -> Vec<u8> {
    let version = b"U-Boot 2025.01\0";
    [
        header(SHA256, b""),
        sha256_event(0, 8, version, version),
        sha256_event(8, 12, b"the kernel", b"linux\0"),
        sha256_event(0, 4, &[0xff; 4], &[0xff; 4]),
    ]
    .concat()
}

fn reason(bytes: &[u8]) -> (usize, Option<BrokenEvent>) {
    let log = EventLog::parse(bytes);
    match log.end {
        LogEnd::Broken { reason, .. } => (log.events.len(), Some(reason)),
        _ => (log.events.len(), None),
    }
}

#[test]
fn a_log_of_uboot_form_is_read() {
    let bytes = small_log();
    let log = EventLog::parse(&bytes);
    assert_eq!(log.end, LogEnd::Complete);
    let Format::CryptoAgile(spec) = &log.format else { panic!("{:?}", log.format) };
    assert_eq!((spec.version, spec.uintn_size, spec.vendor), ((2, 0, 2), 2, &b""[..]));
    assert_eq!(log.banks(), [AlgorithmId(0x0b)]);
    let seen: Vec<_> = log
        .events
        .iter()
        .map(|e| (e.extended_pcr().map(PcrIndex::get), e.event_type.to_string(), e.description()))
        .collect();
    let want = [
        (None, "EV_NO_ACTION", "Spec ID Event03"),
        (Some(0), "EV_S_CRTM_VERSION", "U-Boot 2025.01"),
        (Some(8), "EV_COMPACT_HASH", "linux"),
        (Some(0), "EV_SEPARATOR", "end of firmware"),
    ];
    let want = want.map(|(pcr, kind, text)| (pcr, kind.to_owned(), text.to_owned()));
    assert_eq!(seen, want);
    let values = log.replay(Algorithm::Sha256).unwrap();
    let kernel = Sha256Digest::ZERO.extended_by(&Sha256Digest::of(b"the kernel"));
    assert_eq!(values.sha256(PcrIndex::new(8).unwrap()), Some(kernel));
    assert_eq!(values.iter().count(), 2);
}

#[test]
fn fill_behind_the_last_event_is_padding() {
    let bytes = small_log();
    for (fill, count) in [(0, 1), (0, 8), (0, 12), (0, 65536), (0xff, 65536)] {
        let padded = [bytes.clone(), vec![fill; count]].concat();
        let log = EventLog::parse(&padded);
        let offset = bytes.len();
        assert_eq!(log.end, LogEnd::Padding { offset }, "{count} times {fill}");
        assert_eq!(log.events, EventLog::parse(&bytes).events);
    }
    // Zeros in front of something else are no padding.
    let more = [bytes, vec![0; 64], vec![1]].concat();
    assert!(matches!(EventLog::parse(&more).end, LogEnd::Broken { .. }));
}

#[test]
fn a_log_cut_anywhere_gives_the_events_before_the_cut() {
    let bytes = small_log();
    let whole = EventLog::parse(&bytes);
    let starts: Vec<usize> = whole.events.iter().map(|event| event.offset).collect();
    for cut in 1..bytes.len() {
        let log = EventLog::parse(&bytes[..cut]);
        let before = starts.iter().skip(1).chain([&bytes.len()]).filter(|end| **end <= cut).count();
        assert_eq!(log.events, whole.events[..before], "{cut}");
        match log.end {
            LogEnd::Complete => assert!(starts.contains(&cut), "{cut}"),
            // PCR 0 in little-endian: a cut event can begin with zeros.
            LogEnd::Padding { offset } => assert_eq!(offset, starts[before], "{cut}"),
            LogEnd::Broken { offset, reason } => {
                assert_eq!((offset, reason), (starts[before], BrokenEvent::Truncated), "{cut}");
            }
        }
    }
}

#[test]
fn broken_events_are_named() {
    let digest = [7; 32];
    let good: (u16, &[u8]) = (0x0b, &digest);
    let with = |bytes: Vec<u8>| [header(SHA256, b""), bytes].concat();
    let huge = {
        let mut bytes = sha256_event(8, 12, b"", b"");
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        bytes
    };
    let two = [(0x0b, 32), (0x0c, 48)];
    let cases: [(&str, Vec<u8>, usize, BrokenEvent); 11] = [
        ("4 GiB of data", with(huge), 1, BrokenEvent::Truncated),
        ("two digests", with(event(0, 1, &[good, good], b"")), 1, BrokenEvent::DigestCount(2)),
        (
            "2^32-1 digests",
            with([8u32, 12, u32::MAX].iter().flat_map(|n| n.to_le_bytes()).collect()),
            1,
            BrokenEvent::DigestCount(u32::MAX),
        ),
        (
            "a digest of another bank",
            with(event(0, 1, &[(0x04, &digest[..20])], b"")),
            1,
            BrokenEvent::UnknownBank(AlgorithmId(4)),
        ),
        (
            "one bank twice",
            [header(&two, b""), event(0, 1, &[good, good], b"")].concat(),
            1,
            BrokenEvent::DigestTwice(AlgorithmId(0x0b)),
        ),
        ("PCR 24", with(event(24, 1, &[good], b"")), 1, BrokenEvent::NoSuchPcr(24)),
        ("no banks", header(&[], b""), 0, BrokenEvent::BankCount(0)),
        ("17 banks", header(&[(1, 1); 17], b""), 0, BrokenEvent::BankCount(17)),
        (
            "SHA-256 of 20 bytes",
            header(&[(0x0b, 20)], b""),
            0,
            BrokenEvent::BankSize { algorithm: AlgorithmId(0x0b), size: 20 },
        ),
        (
            "a bank twice",
            header(&[(0x0b, 32), (0x0b, 32)], b""),
            0,
            BrokenEvent::BankTwice(AlgorithmId(0x0b)),
        ),
        ("text", b"hello, this is not an event log at all".to_vec(), 0, BrokenEvent::Truncated),
    ];
    for (name, bytes, events, want) in cases {
        assert_eq!(reason(&bytes), (events, Some(want)), "{name}");
    }
}

#[test]
fn events_that_are_not_extended_may_claim_any_pcr() {
    let zero = [0; 32];
    let bytes = [header(SHA256, b""), event(u32::MAX, 3, &[(0x0b, &zero)], b"x\0")].concat();
    let log = EventLog::parse(&bytes);
    assert_eq!((log.events.len(), log.end), (2, LogEnd::Complete));
    assert!(log.replay(Algorithm::Sha256).unwrap().is_empty());
}

#[test]
fn a_bank_that_we_do_not_know_is_stepped_over_by_its_size() {
    let banks = [(0x0b, 32), (0x7777, 5)];
    let digest = Sha256Digest::of(b"x");
    let bytes = [
        header(&banks, b"vendor"),
        event(3, 1, &[(0x7777, b"five!"), (0x0b, digest.as_bytes())], b""),
    ]
    .concat();
    let log = EventLog::parse(&bytes);
    assert_eq!(log.end, LogEnd::Complete);
    assert_eq!(log.banks()[1].to_string(), "0x7777");
    assert_eq!(log.events[1].digest(Algorithm::Sha256), Some(digest.into()));
    let Format::CryptoAgile(spec) = &log.format else { panic!("{:?}", log.format) };
    assert_eq!(spec.vendor, b"vendor");
}

#[test]
fn startup_locality_is_what_pcr_0_starts_from() {
    let zero = [0; 32];
    let start = event(0, 3, &[(0x0b, &zero)], b"StartupLocality\0\x03");
    let bytes = [header(SHA256, b""), start.clone(), sha256_event(0, 8, b"v", b"v")].concat();
    let log = EventLog::parse(&bytes);
    assert_eq!(log.startup_locality(), Some(3));
    let mut first = [0; 32];
    first[31] = 3;
    let want = Sha256Digest::from(first).extended_by(&Sha256Digest::of(b"v"));
    let pcr0 = PcrIndex::new(0).unwrap();
    assert_eq!(log.replay(Algorithm::Sha256).unwrap().sha256(pcr0), Some(want));
    // As an extended event it is a measurement like others.
    let bytes = [header(SHA256, b""), sha256_event(0, 8, b"v", b"StartupLocality\0\x03")].concat();
    assert_eq!(EventLog::parse(&bytes).startup_locality(), None);
}

#[test]
fn an_h_crtm_is_measured_on_top_of_locality_4() {
    // PFP 1.06, 10.4.5.3: _TPM_Hash_Start leaves 0...04 in PCR 0, into which
    // the H-CRTM is extended.
    let zero = [0; 32];
    let h_crtm = sha256_event(0, 0x8000_0010, b"the H-CRTM", b"HCRTM");
    for (locality, pcr0) in [(0, 0), (3, 3), (4, 4)] {
        let data = [b"StartupLocality\0".as_slice(), &[locality]].concat();
        let start = event(0, 3, &[(0x0b, &zero)], &data);
        let bytes = [header(SHA256, b""), start, h_crtm.clone()].concat();
        let log = EventLog::parse(&bytes);
        assert_eq!((log.end, log.startup_locality()), (LogEnd::Complete, Some(locality)));
        let mut first = [0; 32];
        first[31] = pcr0;
        let want = Sha256Digest::from(first).extended_by(&Sha256Digest::of(b"the H-CRTM"));
        let values = log.replay(Algorithm::Sha256).unwrap();
        assert_eq!(values.sha256(PcrIndex::new(0).unwrap()), Some(want), "{locality}");
    }
}

#[test]
fn what_is_no_startup_locality_changes_no_pcr() {
    let zero = [0; 32];
    let no_action = |pcr, data: &[u8]| event(pcr, 3, &[(0x0b, &zero)], data);
    let cases = [
        ("of another PCR", no_action(1, b"StartupLocality\0\x03")),
        ("without its byte", no_action(0, b"StartupLocality\0")),
        ("without its NUL", no_action(0, b"StartupLocality\x03")),
        ("with another name", no_action(0, b"startupLocality\0\x03")),
    ];
    for (name, start) in cases {
        let bytes = [header(SHA256, b""), start, sha256_event(0, 8, b"v", b"v")].concat();
        let log = EventLog::parse(&bytes);
        assert_eq!((log.end, log.startup_locality()), (LogEnd::Complete, None), "{name}");
        let want = Sha256Digest::ZERO.extended_by(&Sha256Digest::of(b"v"));
        let values = log.replay(Algorithm::Sha256).unwrap();
        assert_eq!(values.sha256(PcrIndex::new(0).unwrap()), Some(want), "{name}");
    }
}

#[test]
fn vendor_data_is_as_long_as_its_byte_says() {
    for size in [0, 1, 4, 255] {
        let vendor = vec![0x5a; size];
        let bytes = [header(SHA256, &vendor), sha256_event(0, 8, b"v", b"v")].concat();
        let log = EventLog::parse(&bytes);
        let Format::CryptoAgile(spec) = &log.format else { panic!("{:?}", log.format) };
        assert_eq!((log.end, spec.vendor), (LogEnd::Complete, vendor.as_slice()), "{size}");
        assert_eq!(log.events.len(), 2);
    }
    // A byte that promises more than the header event has.
    let mut bytes = header(SHA256, b"");
    *bytes.last_mut().unwrap() = 1;
    assert_eq!(reason(&bytes), (0, Some(BrokenEvent::Truncated)));
}

#[test]
fn events_that_are_not_extended_change_no_pcr_whatever_digest_they_have() {
    let loud = event(8, 3, &[(0x0b, &[7; 32])], b"looks like a measurement");
    let bytes = [small_log(), loud.clone(), loud].concat();
    let log = EventLog::parse(&bytes);
    assert_eq!((log.end, log.events.len()), (LogEnd::Complete, 6));
    let quiet = small_log();
    let quiet = EventLog::parse(&quiet);
    assert_eq!(log.replay(Algorithm::Sha256), quiet.replay(Algorithm::Sha256));
    assert_eq!(log.without_digest(Algorithm::Sha256), 0);
}

#[test]
fn forged_types_and_data_decide_nothing() {
    let bytes = small_log();
    let log = EventLog::parse(&bytes);
    let honest = log.replay(Algorithm::Sha256).unwrap();
    for (number, honest_event) in log.events.iter().enumerate().skip(1) {
        for forged_type in (0..0x14).chain(0x8000_0000..0x8000_0011).filter(|t| *t != 3) {
            for data in [b"".as_slice(), b"StartupLocality\0\x03", b"Spec ID Event03\0", &[0xff; 4]]
            {
                let mut forged = log.clone();
                let event = &mut forged.events[number];
                (event.event_type, event.data) = (EventType(forged_type), data);
                assert_eq!(forged.replay(Algorithm::Sha256).unwrap(), honest);
            }
        }
        // The one type that says "not extended" hides a measurement, and the PCR tells.
        let mut forged = log.clone();
        forged.events[number].event_type = EventType::NO_ACTION;
        assert_ne!(forged.replay(Algorithm::Sha256).unwrap(), honest, "{honest_event:?}");
    }
}

#[test]
fn nothing_is_allocated_by_what_a_field_claims() {
    let first = [header(SHA256, b"vendor"), small_log()[header(SHA256, b"").len()..].to_vec()];
    let mut bytes = first.concat();
    let offsets: Vec<usize> = EventLog::parse(&bytes).events.iter().map(|e| e.offset).collect();
    while bytes.len() < 64 * 1024 {
        bytes.extend(sha256_event(9, 13, b"x", b"some data"));
    }
    // Every field of the header, of two events, and of the last ones.
    let changed = (0..offsets[3]).chain(bytes.len() - 200..bytes.len() - 3);
    for at in changed {
        let mut lying = bytes.clone();
        lying[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let log = EventLog::parse(&lying);
        // A vector doubles; an event has 32 bytes at least.
        let held: usize = log.events.iter().map(|event| event.digests.capacity()).sum();
        assert!(log.events.capacity() <= 2 * lying.len() / 32, "{at}");
        assert!(held <= 4 * log.events.len(), "{at}");
        assert!(log.banks().len() <= 16, "{at}");
    }
}

#[test]
fn a_confidential_vm_log_leads_to_the_runtime_registers() {
    // The CCEL log of a TDX guest (UEFI 2.10, 38.4.1), made by hand: SHA-384 alone, and in
    // the field of the PCR the number of the measurement register: 0 is MRTD, 1 to 4 are
    // RTMR[0] to RTMR[3].
    let sha384 = |measured: &[u8]| Algorithm::Sha384.hash(&[measured]).unwrap();
    let measure = |register, event_type, measured: &[u8], data: &[u8]| {
        event(register, event_type, &[(0x0c, sha384(measured).as_bytes())], data)
    };
    let bytes = [
        header(&[(0x0c, 48)], b""),
        measure(1, 0x8000_000b, b"td hob", b"TdxTable\0"),
        measure(1, 0x8000_000a, b"cfv", b"CFV"),
        measure(2, 0x8000_0003, b"shim", b"shim"),
        measure(1, 4, &[0; 4], &[0; 4]),
        measure(2, 0x8000_0007, b"Exit Boot Services", b"Exit Boot Services"),
        measure(3, 13, b"initrd", b"LOADED_IMAGE::LoadOptions"),
        vec![0xff; 4096],
    ]
    .concat();
    let log = EventLog::parse(&bytes);
    assert_eq!(log.end, LogEnd::Padding { offset: bytes.len() - 4096 });
    assert_eq!((log.banks(), log.startup_locality()), (vec![AlgorithmId(0x0c)], None));
    // An RTMR is extended as a PCR is: SHA-384 of old value and digest.
    let rtmr = |measured: &[&[u8]]| {
        measured.iter().fold(Digest::filled(Algorithm::Sha384, 0), |old, measured| {
            let digest = sha384(measured);
            Algorithm::Sha384.hash(&[old.as_bytes(), digest.as_bytes()]).unwrap()
        })
    };
    let values: Vec<_> = log.replay(Algorithm::Sha384).unwrap().iter().collect();
    let want = [
        (1, rtmr(&[b"td hob", b"cfv", &[0; 4]])),
        (2, rtmr(&[b"shim", b"Exit Boot Services"])),
        (3, rtmr(&[b"initrd"])),
    ];
    assert_eq!(values, want.map(|(register, value)| (PcrIndex::new(register).unwrap(), value)));
    assert!(log.replay(Algorithm::Sha256).is_err());
    // The header may name a register as well.
    let mut with_register = bytes.clone();
    with_register[0] = 1;
    let other = EventLog::parse(&with_register);
    assert_eq!(other.replay(Algorithm::Sha384), log.replay(Algorithm::Sha384));
}

#[test]
fn a_log_of_tcg_1_2_has_the_sha1_bank_alone() {
    let bytes =
        [old_event(0, 3, [0; 20], b"Spec ID Event02\0rest"), old_event(4, 13, [9; 20], b"grub")]
            .concat();
    let log = EventLog::parse(&bytes);
    assert_eq!((&log.format, log.events.len(), log.end), (&Format::Sha1, 2, LogEnd::Complete));
    assert!(matches!(
        log.replay(Algorithm::Sha256),
        Err(ReplayError::NoSuchBank { wanted: Algorithm::Sha256, .. })
    ));
    #[cfg(feature = "all-banks")]
    {
        let value = log.replay(Algorithm::Sha1).unwrap().get(PcrIndex::new(4).unwrap());
        let want = Algorithm::Sha1.hash(&[&[0; 20], &[9; 20]]).unwrap();
        assert_eq!(value, Some(want));
    }
}

#[test]
fn descriptions_are_one_safe_line() {
    let name: Vec<u8> = "BootOrder".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut variable = vec![0; 16];
    variable.extend(9u64.to_le_bytes());
    variable.extend(2u64.to_le_bytes());
    variable.extend(&name);
    variable.extend([1, 0]);
    let mut lying = variable.clone();
    lying[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    let cases: [(u32, &[u8], &str); 9] = [
        (8, &name, "BootOrder"),
        (8, b"\x1b[2J", "4 bytes"),
        (13, b"a\nb", "a?b"),
        (13, b"", "no data"),
        (13, &[0xff; 9], "9 bytes"),
        (4, &[0, 0, 0, 0], "end of firmware"),
        (4, &[1, 0, 0, 0], "the firmware reports an error"),
        (0x8000_0002, &variable, "BootOrder (2 bytes)"),
        (0x8000_0002, &lying, "52 bytes"),
    ];
    for (event_type, data, want) in cases {
        let event =
            Event { offset: 0, pcr: 1, event_type: EventType(event_type), digests: vec![], data };
        assert_eq!(event.description(), want);
    }
}
