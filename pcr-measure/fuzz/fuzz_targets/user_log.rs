//! Any bytes as a log of userspace's measurements: no panic, records in order,
//! and what was read is written so that it is read the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pcr_measure::text::MAX_SHOWN;
use pcr_measure::userlog::{Content, UserLog};

fuzz_target!(|bytes: &[u8]| {
    let log = UserLog::parse(bytes);
    let mut next = 0;
    for entry in &log.entries {
        assert!(entry.offset >= next && bytes[entry.offset] == 0x1e);
        next = entry.offset + 1;
        for shown in [entry.record.event_type(), entry.record.description()] {
            assert!(shown.chars().all(|c| matches!(c, ' '..='~' | '…')));
            assert!(shown.chars().count() <= MAX_SHOWN + 1);
        }
        // Banks that are not known may have been all; escapes may be longer.
        if let Ok(written) = entry.record.to_bytes() {
            let again = UserLog::parse(&written);
            assert_eq!((again.entries.len(), again.broken), (1, None));
            // Numbers that are no integers may be rounded in others' content.
            let again = &again.entries[0].record;
            assert_eq!((again.pcr, &again.digests), (entry.record.pcr, &entry.record.digests));
            if let Content::Systemd(_) = entry.record.content {
                assert_eq!(again.content, entry.record.content);
            }
        }
    }
    if let Some((offset, _)) = log.broken {
        assert!(offset < bytes.len());
        assert_eq!(UserLog::parse(&bytes[..offset]).entries, log.entries);
    }
    for bank in log.banks() {
        log.replay(bank).unwrap();
    }
});
