//! Any JSON as LUKS2 metadata, and headers of libcryptsetup's with a few edits: no
//! panic, and whatever the allowlist lets through maps the whole volume with one of
//! our ciphers and nothing else.

#![no_main]

use initramfs_unseal::header::check;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// Where the data must begin; a corpus is written for it.
const OFFSET: u64 = 16 << 20;
const CIPHERS: [&str; 3] =
    ["xchacha12,aes-adiantum-plain64", "xchacha20,aes-adiantum-plain64", "aes-xts-plain64"];

/// Headers as provisioning writes them: finished, and under way.
const GOOD: [&str; 2] =
    [include_str!("../seeds/sealed.json"), include_str!("../seeds/encrypting.json")];
/// Keys and values that edits put in.
const WORDS: [&str; 36] = [
    "0",
    "1",
    "2",
    "4096",
    "16777216",
    "aes-cbc-essiv:sha256",
    "aes-xts-plain64",
    "area",
    "argon2id",
    "backup-final",
    "cipher_null-ecb",
    "config",
    "crypt",
    "decrypt",
    "digests",
    "dynamic",
    "encryption",
    "flags",
    "in-reencryption",
    "integrity",
    "iv_tweak",
    "kdf",
    "key_size",
    "keyslots",
    "linear",
    "mandatory",
    "memory",
    "mode",
    "offset",
    "online-reencrypt-v2",
    "pbkdf2",
    "reencrypt",
    "requirements",
    "sector_size",
    "size",
    "type",
];
const NUMBERS: [u64; 5] = [0, 16, 64, 512, u64::MAX];
/// More edits than this only make noise.
const MOST_EDITS: usize = 12;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(metadata) = serde_json::from_slice(bytes) {
        holds(&metadata);
    }
    if let Some((base, edits)) = bytes.split_first() {
        let mut metadata = serde_json::from_str(GOOD[usize::from(*base) % 2]).unwrap();
        if edits.is_empty() {
            assert!(check(&metadata, OFFSET).is_ok(), "a good header is refused");
        }
        for edit in edits.as_chunks().0.iter().take(MOST_EDITS) {
            apply(&mut metadata, *edit);
        }
        holds(&metadata);
    }
});

/// Changes the node that the first byte picks.
fn apply(metadata: &mut Value, [node, what, byte]: [u8; 3]) {
    let mut nodes = Vec::new();
    pointers(metadata, "", &mut nodes);
    let node = metadata.pointer_mut(&nodes[usize::from(node) % nodes.len()]).unwrap();
    let word = |byte: u8| WORDS[usize::from(byte) % WORDS.len()];
    match (what % 6, node) {
        (0, node) => *node = Value::from(word(byte)),
        (1, node) => *node = Value::from(NUMBERS[usize::from(byte) % NUMBERS.len()]),
        (2, Value::Object(object)) => {
            object.insert(word(byte).into(), word(what / 6).into());
        }
        (3, Value::Object(object)) => {
            // One more like those that are there.
            if let Some(first) = object.values().next().cloned() {
                object.insert(word(byte).into(), first);
            }
        }
        (4, Value::Object(object)) => {
            object.remove(word(byte));
        }
        (_, Value::Array(array)) => array.push(word(byte).into()),
        _ => {}
    }
}

fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    if let Value::Object(object) = value {
        for (key, value) in object {
            pointers(value, &format!("{at}/{key}"), all);
        }
    } else if let Value::Array(array) = value {
        for (index, value) in array.iter().enumerate() {
            pointers(value, &format!("{at}/{index}"), all);
        }
    }
}

fn holds(metadata: &Value) {
    let Ok(facts) = check(metadata, OFFSET) else { return };
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
}
