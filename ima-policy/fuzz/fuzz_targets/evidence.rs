//! Any bytes as evidence and as a challenge: no panic, what was read is written and read again
//! alike, and what stands behind the head is left alone.

#![no_main]

use ima_policy::attest::Challenge;
use ima_policy::attest::evidence::Head;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(challenge) = Challenge::from_json(bytes) {
        let line = challenge.to_json().unwrap();
        assert_eq!(Challenge::from_json(&line).unwrap(), challenge);
    }
    let mut rest = bytes;
    let Ok(head) = Head::read(&mut rest) else { return };
    assert!(bytes.ends_with(rest));
    let read = bytes.len() - rest.len();
    assert_eq!(bytes[read - 1], b'\n');
    let held = head.message.len() + head.signature.len() + head.event_log.len() + head.manifest.len();
    assert!(held <= read);
    let mut again = Vec::new();
    head.write(&mut rest, &mut again).unwrap();
    let mut left = &again[..];
    assert_eq!(Head::read(&mut left).unwrap(), head);
    assert!(bytes.ends_with(left));
});
