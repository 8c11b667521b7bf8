//! Any bytes as a measurement list: no panic, no more data than there are bytes, an error
//! that ends it, and a replay of what was read.

#![no_main]

use ima_policy::list::binary::Binary;
use ima_policy::list::replay::{Filling, Replay};
use libfuzzer_sys::fuzz_target;
use pcr_measure::digest::Algorithm;

fuzz_target!(|bytes: &[u8]| {
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
        let mut replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
        let (mut size, mut is_over) = (0, false);
        for record in Binary::new(bytes, algorithm) {
            assert!(!is_over, "nothing follows an error");
            let Ok(record) = record else {
                is_over = true;
                continue;
            };
            size += 4 + algorithm.size() + record.fields().map(|(_, f)| f.len()).sum::<usize>();
            let _ = (record.name(), record.file_digest());
            replay.add(&record).unwrap();
        }
        assert!(size <= bytes.len());
    }
});
