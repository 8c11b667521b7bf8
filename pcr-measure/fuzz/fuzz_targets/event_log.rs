//! Any bytes as an event log: no panic, bounded memory, events that lie in the
//! log in order, and an explanation of whatever they say.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcr_measure::eventlog::{EventLog, LogEnd};
use pcr_measure::explain::{MeasuredLog, explain};
use pcr_measure::manifest::{Manifest, Measurement};
use pcr_measure::text::MAX_SHOWN;

fuzz_target!(|bytes: &[u8]| {
    let log = EventLog::parse(bytes);
    let mut end = 0;
    for event in &log.events {
        // PCR, type, size of the data: twelve bytes beside digests and data.
        let digests: usize = event.digests.iter().map(|digest| digest.bytes.len()).sum();
        assert!(event.offset >= end);
        end = event.offset + 12 + digests + event.data.len();
        let shown = event.description();
        assert!(shown.chars().all(|c| matches!(c, ' '..='~' | '…')));
        assert!(shown.chars().count() <= MAX_SHOWN + 40, "{shown}");
    }
    assert!(end <= bytes.len());
    match log.end {
        LogEnd::Padding { offset } => {
            let fill = bytes[offset];
            assert!(bytes[offset..].iter().all(|byte| *byte == fill));
        }
        LogEnd::Broken { offset, .. } => assert!(offset < bytes.len()),
        LogEnd::Complete => {}
    }
    for bank in log.banks() {
        if let Some(bank) = bank.known() {
            let values = log.replay(bank).unwrap();
            assert!(values.iter().all(|(_, value)| value.algorithm() == bank));
        }
    }
    // Without what is behind its last whole event a log has no event more.
    if let LogEnd::Broken { offset, .. } | LogEnd::Padding { offset } = log.end {
        assert!(EventLog::parse(&bytes[..offset]).events.len() <= log.events.len());
    }
    let measured = MeasuredLog::from_log(&log);
    let manifest = Manifest::builder("fuzz", "fuzz")
        .event(0, "a", Measurement::of(b"a"), "")
        .event(0, "b", Measurement::of(b"b"), "")
        .event(8, "c", Measurement::of(b"c"), "")
        .seal(&[0, 8, 15])
        .build()
        .unwrap();
    let live = manifest.sealed_values();
    let explanation = explain(&manifest.reference(), Some(&measured), &live);
    // The TPM's values decide, whatever the log says.
    assert!(explanation.is_as_expected());
    assert!(explanation.differences().is_empty());
});
