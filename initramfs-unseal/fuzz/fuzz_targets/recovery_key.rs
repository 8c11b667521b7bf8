//! Any bytes as a typed recovery key: no panic, and what is taken is written in the
//! one form, which reads as itself and holds the letters that were typed.

#![no_main]

use initramfs_unseal::recovery::RecoveryKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(key) = RecoveryKey::parse(bytes) else { return };
    let text = key.expose();
    let groups: Vec<&str> = text.split('-').collect();
    assert_eq!((groups.len(), text.len()), (8, 71));
    for group in groups {
        assert!(group.len() == 8 && group.bytes().all(|b| b"cbdefghijklnrtuv".contains(&b)));
    }
    assert_eq!(RecoveryKey::parse(text.as_bytes()).unwrap().expose(), text);
    let letters = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().filter(|b| b.is_ascii_alphabetic()).map(u8::to_ascii_lowercase).collect()
    };
    assert_eq!(letters(text.as_bytes()), letters(bytes));
});
