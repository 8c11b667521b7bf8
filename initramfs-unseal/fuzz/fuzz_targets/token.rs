//! Any JSON as LUKS2 metadata with a token of ours: no panic, the token that is
//! found is the only one of its type, and it is written so that it is read the same.

#![no_main]

use initramfs_unseal::token::{TYPE, Token};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|bytes: &[u8]| {
    let Ok(metadata) = serde_json::from_slice::<Value>(bytes) else { return };
    find(&metadata);
    // Most of the corpus is a token alone.
    find(&json!({ "tokens": { "0": metadata } }));
});

fn find(metadata: &Value) {
    let Ok((number, token)) = Token::find(metadata) else { return };
    let tokens = metadata["tokens"].as_object().unwrap();
    let mut ours = tokens.iter().filter(|(_, token)| token["type"] == TYPE);
    assert_eq!(ours.next().unwrap().0.parse(), Ok(number));
    assert!(ours.next().is_none());
    let _ = token.guard(None);
    let written = serde_json::to_value(&token).unwrap();
    let again = json!({ "tokens": { number.to_string(): written } });
    assert_eq!(Token::find(&again).unwrap(), (number, token));
}
