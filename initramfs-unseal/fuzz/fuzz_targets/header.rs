//! Any JSON as LUKS2 metadata: no panic, and whatever the allowlist lets through
//! maps the whole volume with one of our ciphers and nothing else.

#![no_main]

use initramfs_unseal::header::check;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Where the data must begin; a corpus is written for it.
const OFFSET: u64 = 16 << 20;
const CIPHERS: [&str; 3] =
    ["xchacha12,aes-adiantum-plain64", "xchacha20,aes-adiantum-plain64", "aes-xts-plain64"];

fuzz_target!(|bytes: &[u8]| {
    let Ok(metadata) = serde_json::from_slice::<Value>(bytes) else { return };
    let Ok(facts) = check(&metadata, OFFSET) else { return };
    let segments = metadata["segments"].as_object().unwrap();
    for segment in segments.values() {
        let offset: u64 = segment["offset"].as_str().unwrap().parse().unwrap();
        assert!(offset >= OFFSET, "a segment over the header");
        match segment["type"].as_str().unwrap() {
            "crypt" => {
                assert!(CIPHERS.contains(&segment["encryption"].as_str().unwrap()));
                assert!([512, 4096].contains(&segment["sector_size"].as_u64().unwrap()));
                assert!(segment.get("integrity").is_none());
            }
            "linear" => assert!(facts.reencrypting, "data in clear"),
            other => panic!("a segment of type {other}"),
        }
    }
    for slot in metadata["keyslots"].as_object().unwrap().values() {
        match slot["type"].as_str().unwrap() {
            "luks2" => {
                assert!([32, 64].contains(&slot["key_size"].as_u64().unwrap()));
                assert!(CIPHERS.contains(&slot["area"]["encryption"].as_str().unwrap()));
                match slot["kdf"]["type"].as_str().unwrap() {
                    "pbkdf2" => {}
                    "argon2id" => assert!(slot["kdf"]["memory"].as_u64().unwrap_or(0) <= 256 << 10),
                    other => panic!("key derivation {other}"),
                }
            }
            "reencrypt" => {
                assert!(facts.reencrypting && slot["mode"] == "encrypt");
            }
            other => panic!("a key slot of type {other}"),
        }
    }
    let digests = metadata["digests"].as_object().unwrap();
    assert!(!digests.is_empty() && digests.values().all(|digest| digest["type"] == "pbkdf2"));
    if facts.reencrypting {
        let required = metadata["config"]["requirements"]["mandatory"].as_array().unwrap();
        assert!(required.iter().all(|one| one.as_str().unwrap().starts_with("online-reencrypt")));
        return;
    }
    let [(number, only)] = segments.iter().collect::<Vec<_>>()[..] else {
        panic!("{} segments", segments.len());
    };
    assert!(number == "0" && only["type"] == "crypt" && only["size"] == "dynamic");
    assert_eq!(only["offset"].as_str().unwrap().parse(), Ok(OFFSET));
    assert!(only["iv_tweak"] == "0" && only["flags"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(digests.len(), 1);
});
