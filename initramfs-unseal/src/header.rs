//! The allowlist for LUKS2 metadata: what a volume must look like before a key
//! is tried on it.
//!
//! The metadata lies on the card and anyone can write it. An attacker's header
//! could say `cipher_null`, add a second segment that maps other sectors, or
//! ask for a reencryption that decrypts. So nothing is looked for that is bad;
//! everything that is not as provisioning writes it is refused. The check is
//! of the metadata that libcryptsetup has loaded and will use, so that a card
//! which answers differently on a second read gains nothing.
//!
//! Source: LUKS2 On-Disk Format Specification 1.1.1, chapter 3.

use serde_json::{Map, Value};

/// Data ciphers that are taken: what provisioning writes, and the field's
/// default for CPUs with AES instructions.
const CIPHERS: [&str; 3] =
    ["xchacha12,aes-adiantum-plain64", "xchacha20,aes-adiantum-plain64", "aes-xts-plain64"];
/// Key slot area ciphers; libcryptsetup uses the data cipher where it can.
const AREA_CIPHERS: [&str; 3] = CIPHERS;
/// The requirement that a running LUKS2 encryption sets.
const REENCRYPT: [&str; 3] = ["online-reencrypt", "online-reencrypt-v2", "online-reencrypt-v3"];
/// Key sizes in bytes that are taken: 256 bits, and 512 for AES-XTS.
const KEY_SIZES: [u64; 2] = [32, 64];
/// Sector sizes of dm-crypt.
const SECTORS: [u64; 2] = [512, 4096];
/// Most memory an argon2id slot may ask for, in KiB: what a board with 1 GiB
/// has to spare in the initramfs.
const MAX_KDF_MEMORY: u64 = 256 * 1024;

/// What the allowlist lets through and the boot goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// An encryption of the volume has begun and is not finished.
    pub reencrypting: bool,
}

/// Metadata that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the LUKS2 header is not one that provisioning writes: {0}; if this card is not tampered with, write the image to it again"
)]
pub struct Refusal(String);

/// Checks loaded metadata (`crypt_dump_json`) against the allowlist.
/// `data_offset` is where the encrypted data must begin, in bytes.
///
/// # Errors
/// [`Refusal`] saying which part is not as it has to be.
pub fn check(metadata: &Value, data_offset: u64) -> Result<Facts, Refusal> {
    let reencrypting = requirements(metadata)?;
    segments(metadata, data_offset, reencrypting)?;
    keyslots(metadata, reencrypting)?;
    let digests = object(metadata, "digests")?;
    if digests.is_empty() || digests.values().any(|d| text(d, "type") != Some("pbkdf2")) {
        return refuse("a volume key digest that is not pbkdf2");
    }
    if digests.len() > 1 + usize::from(reencrypting) {
        return refuse(format!("{} volume keys", digests.len()));
    }
    Ok(Facts { reencrypting })
}

fn requirements(metadata: &Value) -> Result<bool, Refusal> {
    let Some(required) = metadata.pointer("/config/requirements") else { return Ok(false) };
    let Some(mandatory) = required.get("mandatory").and_then(Value::as_array) else {
        return refuse("requirements of an unknown form");
    };
    let mut reencrypting = false;
    for one in mandatory {
        match one.as_str() {
            Some(name) if REENCRYPT.contains(&name) => reencrypting = true,
            other => return refuse(format!("it requires {:?}", other.unwrap_or("?"))),
        }
    }
    Ok(reencrypting)
}

fn segments(metadata: &Value, data_offset: u64, reencrypting: bool) -> Result<(), Refusal> {
    let all = object(metadata, "segments")?;
    for (number, segment) in all {
        let kind = text(segment, "type");
        let backup = flags(segment).any(|f| f.starts_with("backup-"));
        match kind {
            Some("crypt") => crypt_segment(number, segment)?,
            Some("linear") if reencrypting => {}
            other => {
                return refuse(format!("segment {number} is of type {}", other.unwrap_or("?")));
            }
        }
        let moving = flags(segment).any(|f| f == "in-reencryption");
        if !reencrypting && (backup || moving || flags(segment).next().is_some()) {
            return refuse(format!("segment {number} carries flags"));
        }
        let offset = number_in_text(segment, "offset");
        if offset.is_none_or(|o| o < data_offset) {
            return refuse(format!("segment {number} begins inside the header"));
        }
    }
    if reencrypting {
        return Ok(());
    }
    let [(number, only)] = all.iter().collect::<Vec<_>>()[..] else {
        return refuse(format!("{} segments", all.len()));
    };
    if number != "0"
        || number_in_text(only, "offset") != Some(data_offset)
        || text(only, "size") != Some("dynamic")
        || text(only, "iv_tweak") != Some("0")
    {
        return refuse("the segment does not cover the whole volume");
    }
    Ok(())
}

fn crypt_segment(number: &str, segment: &Value) -> Result<(), Refusal> {
    let cipher = text(segment, "encryption").unwrap_or("?");
    if !CIPHERS.contains(&cipher) {
        return refuse(format!("segment {number} has cipher {cipher}"));
    }
    if !segment.get("sector_size").and_then(Value::as_u64).is_some_and(|s| SECTORS.contains(&s)) {
        return refuse(format!("segment {number} has an odd sector size"));
    }
    if segment.get("integrity").is_some() {
        return refuse(format!("segment {number} asks for dm-integrity"));
    }
    Ok(())
}

fn keyslots(metadata: &Value, reencrypting: bool) -> Result<(), Refusal> {
    for (number, slot) in object(metadata, "keyslots")? {
        match text(slot, "type") {
            Some("luks2") => luks2_slot(number, slot)?,
            Some("reencrypt") if reencrypting => {
                if text(slot, "mode") != Some("encrypt") {
                    return refuse("it is being decrypted or reencrypted, not encrypted");
                }
            }
            other => {
                return refuse(format!("key slot {number} is of type {}", other.unwrap_or("?")));
            }
        }
    }
    Ok(())
}

fn luks2_slot(number: &str, slot: &Value) -> Result<(), Refusal> {
    let size = slot.get("key_size").and_then(Value::as_u64);
    if !size.is_some_and(|s| KEY_SIZES.contains(&s)) {
        return refuse(format!("key slot {number} holds no 256 or 512 bit key"));
    }
    let area = slot.pointer("/area/encryption").and_then(Value::as_str).unwrap_or("?");
    if !AREA_CIPHERS.contains(&area) {
        return refuse(format!("key slot {number} is stored with cipher {area}"));
    }
    let memory = slot.pointer("/kdf/memory").and_then(Value::as_u64).unwrap_or(0);
    match slot.pointer("/kdf/type").and_then(Value::as_str) {
        Some("pbkdf2") => Ok(()),
        Some("argon2id") if memory <= MAX_KDF_MEMORY => Ok(()),
        Some("argon2id") => refuse(format!("key slot {number} wants {memory} KiB of memory")),
        other => refuse(format!("key slot {number} has key derivation {}", other.unwrap_or("?"))),
    }
}

fn refuse<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(what.into()))
}

fn object<'a>(metadata: &'a Value, name: &str) -> Result<&'a Map<String, Value>, Refusal> {
    match metadata.get(name).and_then(Value::as_object) {
        Some(object) => Ok(object),
        None => refuse(format!("it has no {name}")),
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// LUKS2 writes 64-bit numbers as text (specification, 3.1).
fn number_in_text(value: &Value, name: &str) -> Option<u64> {
    text(value, name).and_then(|t| t.parse().ok())
}

fn flags(segment: &Value) -> impl Iterator<Item = &str> {
    segment.get("flags").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const OFFSET: u64 = 16 << 20;

    fn sealed() -> Value {
        json!({
            "keyslots": {
                "0": {"type": "luks2", "key_size": 32,
                      "area": {"type": "raw", "encryption": "xchacha12,aes-adiantum-plain64"},
                      "kdf": {"type": "argon2id", "memory": 65536}},
                "1": {"type": "luks2", "key_size": 32,
                      "area": {"type": "raw", "encryption": "aes-xts-plain64"},
                      "kdf": {"type": "pbkdf2", "iterations": 1000}},
            },
            "tokens": {},
            "segments": {"0": {"type": "crypt", "offset": OFFSET.to_string(), "size": "dynamic",
                               "iv_tweak": "0", "encryption": "xchacha12,aes-adiantum-plain64",
                               "sector_size": 4096}},
            "digests": {"0": {"type": "pbkdf2"}},
            "config": {"json_size": "12288"},
        })
    }

    fn encrypting() -> Value {
        let mut m = sealed();
        m["config"]["requirements"] = json!({"mandatory": ["online-reencrypt-v2"]});
        m["keyslots"]["2"] = json!({"type": "reencrypt", "mode": "encrypt"});
        m["segments"] = json!({
            "0": {"type": "crypt", "offset": OFFSET.to_string(), "size": "4096", "iv_tweak": "0",
                  "encryption": "xchacha12,aes-adiantum-plain64", "sector_size": 4096},
            "1": {"type": "linear", "offset": (OFFSET + 4096).to_string(), "size": "dynamic"},
            "2": {"type": "linear", "offset": OFFSET.to_string(), "size": "dynamic",
                  "flags": ["backup-previous"]},
        });
        m
    }

    #[test]
    fn what_provisioning_writes_passes() {
        assert_eq!(check(&sealed(), OFFSET), Ok(Facts { reencrypting: false }));
        assert_eq!(check(&encrypting(), OFFSET), Ok(Facts { reencrypting: true }));
    }

    #[test]
    fn everything_else_is_refused() {
        let cases: Vec<(&str, Value, &str)> = vec![
            ("/segments/0/encryption", json!("cipher_null-ecb"), "cipher_null"),
            ("/segments/0/encryption", json!("aes-cbc-essiv:sha256"), "aes-cbc"),
            ("/segments/0/type", json!("linear"), "type linear"),
            ("/segments/0/offset", json!("4096"), "inside the header"),
            ("/segments/0/offset", json!((OFFSET + 4096).to_string()), "whole volume"),
            ("/segments/0/offset", json!(OFFSET), "inside the header"),
            ("/segments/0/size", json!("4096"), "whole volume"),
            ("/segments/0/iv_tweak", json!("8"), "whole volume"),
            ("/segments/0/sector_size", json!(1024), "sector size"),
            ("/segments/0/flags", json!(["backup-final"]), "flags"),
            ("/segments/0/integrity", json!({"type": "hmac(sha256)"}), "integrity"),
            ("/segments/1", sealed()["segments"]["0"].clone(), "2 segments"),
            ("/keyslots/1/key_size", json!(16), "256 or 512"),
            ("/keyslots/1/area/encryption", json!("cipher_null-ecb"), "stored with"),
            ("/keyslots/0/kdf/memory", json!(4_000_000), "KiB"),
            ("/keyslots/0/kdf/type", json!("argon3"), "key derivation"),
            ("/keyslots/0/type", json!("foreign"), "type foreign"),
            ("/keyslots/2", json!({"type": "reencrypt", "mode": "decrypt"}), "type reencrypt"),
            ("/digests/1", json!({"type": "pbkdf2"}), "2 volume keys"),
            ("/digests/0/type", json!("md5"), "not pbkdf2"),
            ("/config/requirements", json!({"mandatory": ["new-thing"]}), "requires"),
            ("/config/requirements", json!("x"), "unknown form"),
        ];
        for (path, value, want) in cases {
            let mut bad = sealed();
            set(&mut bad, path, value.clone());
            let err = check(&bad, OFFSET).expect_err(path).to_string();
            assert!(err.contains(want), "{path}={value}: {err}");
        }
        for missing in ["segments", "keyslots", "digests"] {
            let mut bad = sealed();
            bad.as_object_mut().unwrap().remove(missing);
            assert!(check(&bad, OFFSET).is_err(), "{missing}");
        }
        assert!(check(&json!(null), OFFSET).is_err());
        assert!(check(&json!({"segments": {}, "keyslots": {}, "digests": {}}), OFFSET).is_err());
    }

    #[test]
    fn a_running_decryption_is_refused() {
        let mut bad = encrypting();
        bad["keyslots"]["2"]["mode"] = json!("decrypt");
        assert!(check(&bad, OFFSET).is_err());
        let mut bad = encrypting();
        bad["segments"]["1"]["offset"] = json!("0");
        assert!(check(&bad, OFFSET).is_err());
    }

    fn set(target: &mut Value, path: &str, value: Value) {
        let (parent, leaf) = path.rsplit_once('/').unwrap();
        let parent = target.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().insert(leaf.to_string(), value);
    }
}
