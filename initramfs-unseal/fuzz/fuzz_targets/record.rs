//! A device record of whatever firmware and token say: no panic, JSON that reads
//! back, and no character in it that a console would act on.

#![no_main]

use initramfs_unseal::board::{Board, text};
use initramfs_unseal::record::{Created, DeviceRecord, TpmRecord};
use initramfs_unseal::token::Token;
use libfuzzer_sys::fuzz_target;
use pcr_measure::manifest::Manifest;
use serde_json::Value;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

static MANIFEST: LazyLock<Manifest> = LazyLock::new(|| {
    let builder = Manifest::builder("image", "rpi3").event(0, "x", b"x".as_slice(), "");
    builder.seal(&[0, 15]).build().unwrap()
});

/// A token as provisioning writes it; fields are taken from the input where it fits.
const TOKEN: &str = r#"{"type":"msec-boot","keyslots":["1"],"version":1,"phase":"sealed","binding":"pcr",
"nv_index":"0x01806d73","srk":"0x81000001","srk_name":"000b","pcrs":[0,15],
"policy":"0000000000000000000000000000000000000000000000000000000000000000",
"reference":{"seal":[0,15],"events":[[0,"x","0000000000000000000000000000000000000000000000000000000000000000"]]}}"#;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(4, |byte| *byte == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let device = Board { model: text(part()), serial: text(part()) };
    for said in [&device.model, &device.serial].into_iter().flatten() {
        assert!(said.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && !said.is_empty());
    }
    let seconds = part().iter().fold(0u64, |n, byte| n.rotate_left(8) ^ u64::from(*byte));
    let now = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds >> 4));
    let mut token: Value = serde_json::from_str(TOKEN).unwrap();
    if let Ok(Value::Object(foreign)) = serde_json::from_slice(part()) {
        token.as_object_mut().unwrap().extend(foreign);
    }
    let Ok(token) = serde_json::from_value::<Token>(token) else { return };
    let created = Created::at(None, now.unwrap_or(SystemTime::UNIX_EPOCH));
    let tpm = TpmRecord::new(&token, None, None);
    let record = DeviceRecord::new(created, &MANIFEST, device.clone(), tpm, "uuid".into());
    let json: Value = serde_json::from_slice(&record.to_json().unwrap()).unwrap();
    assert_eq!(json["device"]["model"].as_str(), device.model.as_deref());
    assert_eq!(json["tpm"]["policy"], token.policy.to_string());
});
