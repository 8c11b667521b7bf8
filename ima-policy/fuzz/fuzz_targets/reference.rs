//! Any bytes as a reference: no panic; one that is read comes back from its JSON, and judges.

#![no_main]

use ima_policy::list::FileDigest;
use ima_policy::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(reference) = Reference::from_json(bytes) else { return };
    let text = reference.to_json().unwrap();
    assert_eq!(Reference::from_json(text.as_bytes()).unwrap(), reference);
    let digest = FileDigest::new(None, "sha256", vec![1; 32]).unwrap();
    let _ = (reference.judge(b"/bin/sh", &digest), reference.judge_buffer(b".ima", &digest));
});
