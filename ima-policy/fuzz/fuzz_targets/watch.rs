//! Any bytes as a list that grows: wherever it is cut it has the records that it has as a
//! whole, up to the first that cannot be read; and whatever they say, a report is one line.

#![no_main]

use ima_policy::judge::Judge;
use ima_policy::list::DEFAULT;
use ima_policy::list::binary::Binary;
use ima_policy::list::growing::Growing;
use ima_policy::watch::{Filter, Watch, of_proc, syslog};
use libfuzzer_sys::fuzz_target;
use pcr_measure::PcrIndex;

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else { return };
    let whole: Vec<_> = Binary::new(bytes, DEFAULT).map_while(Result::ok).collect();
    let mut watch = Watch::new(Judge::default(), PcrIndex::new(10).unwrap());
    let mut filter = Filter::default();
    let (mut growing, mut records, mut has_failed) = (Growing::new(DEFAULT), 0, false);
    for piece in bytes.chunks(usize::from(*size).max(1)) {
        growing.push(piece);
        loop {
            let reports = match growing.record() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    if !has_failed {
                        assert_eq!(whole.get(records), Some(&record));
                        records += 1;
                    }
                    watch.record(&record).unwrap()
                }
                Err(error) => {
                    has_failed = true;
                    vec![watch.unreadable(&error)]
                }
            };
            for report in reports {
                let _ = filter.takes(&report, std::time::Duration::ZERO);
                let message = syslog::message(&report, 1);
                assert!(message.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
                assert!(message.len() < 4096);
            }
        }
    }
    assert_eq!(records, whole.len());
    watch.is_read(&of_proc(bytes));
});
