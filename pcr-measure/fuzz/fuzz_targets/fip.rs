//! A package is taken apart within its bounds, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pcr_measure::fip::Fip;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(fip) = Fip::parse(bytes) {
        assert!(bytes.starts_with(fip.table));
        let inside = bytes.as_ptr_range();
        for image in &fip.images {
            let range = image.bytes.as_ptr_range();
            assert!(inside.start <= range.start && range.end <= inside.end);
            assert_eq!(bytes.get(image.offset..image.offset + image.bytes.len()), Some(image.bytes));
            assert!(!image.name().is_empty());
        }
    }
});
