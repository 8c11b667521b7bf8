//! Any text as a measurement list: no panic, an error that ends it, a record for each line
//! before, and a replay of them.

#![no_main]

use ima_policy::list::ascii::Ascii;
use ima_policy::list::replay::{Filling, Replay};
use libfuzzer_sys::fuzz_target;
use pcr_measure::digest::Algorithm;

fuzz_target!(|bytes: &[u8]| {
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
        let mut replay = Replay::new(Algorithm::Sha1, Filling::Padded);
        let records: Vec<_> = Ascii::new(bytes, algorithm).collect();
        let (last, before) = records.split_last().map_or((None, &[][..]), |(l, b)| (Some(l), b));
        assert!(before.iter().all(Result::is_ok), "nothing follows an error");
        for record in before.iter().chain(last).flatten() {
            let _ = (record.name(), record.file_digest());
            replay.add(record).unwrap();
        }
        let lines = bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        assert!(replay.entries() <= lines);
    }
});
