//! The root's volume replaced or rewritten by someone who has the card.

use emulated_board::Ended;
use image_builder::{demo::journey::tpm2_tools_refused, emu::boot::PATIENCE, emu::device::Device};
use msec_tests::{
    attacker::{Volume, replace_root, root_partition},
    built::{built, scratch},
    shared::shared,
    slots,
};

use crate::check::no_shell;

/// Where the data begins in the grown partition, in bytes.
fn reserve() -> usize {
    let config = image_builder::image::initramfs::config(&built().recipe);
    usize::try_from(config["reserve_mib"].as_u64().unwrap()).unwrap() << 20
}

/// A provisioned device whose root is the attacker's: the file system of the image as
/// it was built, under a key that the attacker knows.
fn attacked(name: &str, cipher: &str) -> (Device, Volume) {
    let dir = scratch(name);
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let plain = root_partition(&shared().images.original);
    let volume = Volume::like(&device.card, reserve(), &plain, cipher, &dir);
    replace_root(&device.card, &volume.bytes());
    (device, volume)
}

/// Same UUID, same token, a passphrase that the attacker knows: the TPM gives its
/// secret out to the right kernel, but the secret opens nothing, and the boot that the
/// attacker's own key then opens gets nothing more out of the TPM.
#[test]
fn a_substituted_volume_opens_only_a_boot_in_which_nothing_can_be_unsealed() {
    let (device, _) = attacked("substituted", "aes-xts-plain64");
    let _slot = slots::slot();
    let mut boot = device.boot("substituted", &device.dir().join("logs")).unwrap();
    let refusal = "initramfs-unseal: the TPM did not release the key: ([^\n]*)\n";
    let said = boot.board.console.wait(refusal, PATIENCE).unwrap();
    assert!(said.text.contains("key slot 1"), "it says which slot: {}", said.text);
    boot.type_recovery_key(&Volume::recovery_key()).unwrap();
    boot.expect("the attacker's key opens", "unlocked by the recovery key\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    assert_eq!(status.report.method, "recovery");
    assert_eq!(status.sealed, "unreachable");
    // The premise, that the same tools get the secret where the latch is open, is
    // `the_tpm_gives_the_secret_to_the_right_measurements_alone`.
    tpm2_tools_refused(&mut shell, &status).unwrap();
    shell.power_off().unwrap();
    // The victim's own card in the same board is none the worse for it.
    let mut back = shared().copy(&device.dir().join("back"), &shared().images.original);
    back.tpm = device.tpm.clone();
    let mut boot = back.boot("back", &device.dir().join("back-logs")).unwrap();
    boot.expect("unlocks by itself", "unlocked by the TPM\n").unwrap();
}

/// Boots a card whose header is refused: no prompt, no mount, power off.
fn refused(device: &Device, name: &str, why: &str) {
    let _slot = slots::slot();
    let mut boot = device.boot(name, &device.dir().join(name)).unwrap();
    let off = boot.board.console.wait(r"powering off: ([^\n]*)\n", PATIENCE).unwrap();
    assert!(off.text.contains(why), "{name}: {}", off.text);
    boot.expect_off(&Ended::PoweredOff).unwrap();
    let lines = boot.lines();
    assert!(!crate::check::says(&lines, "enter the recovery key"), "{name}: nobody is asked");
    no_shell(&lines);
}

/// The premise is the test above: the same volume without the change is asked for.
#[test]
fn a_header_that_provisioning_does_not_write_is_opened_by_nobody() {
    let (device, volume) = attacked("headers", "aes-xts-plain64");
    type Change = fn(&mut serde_json::Value);
    let cases: [(&str, Change, &str); 4] = [
        (
            "cipher-null",
            |json| json["segments"]["0"]["encryption"] = "cipher_null-ecb".into(),
            "segment 0 has cipher cipher_null-ecb",
        ),
        (
            "foreign-cipher",
            |json| json["segments"]["0"]["encryption"] = "serpent-xts-plain64".into(),
            "segment 0 has cipher serpent-xts-plain64",
        ),
        (
            "second-segment",
            |json| {
                let mut second = json["segments"]["0"].clone();
                let offset: u64 = second["offset"].as_str().unwrap().parse().unwrap();
                json["segments"]["0"]["size"] = (1 << 20).to_string().into();
                second["offset"] = (offset + (1 << 20)).to_string().into();
                second["iv_tweak"] = (1 << 11).to_string().into();
                json["segments"]["1"] = second;
                json["digests"]["0"]["segments"] = serde_json::json!(["0", "1"]);
            },
            "2 segments",
        ),
        (
            "reencryption",
            |json| {
                json["config"]["requirements"] =
                    serde_json::json!({"mandatory": ["online-reencrypt"]});
            },
            "the LUKS2 header is damaged or was tampered with",
        ),
    ];
    let pristine = volume.bytes();
    for (name, change, why) in cases {
        volume.edit(change);
        replace_root(&device.card, &volume.bytes());
        refused(&device, name, why);
        volume.restore(&pristine);
    }
}
