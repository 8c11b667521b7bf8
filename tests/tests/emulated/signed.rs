//! The binding `signed`: updates without a new seal, and no way back.

use std::path::Path;

use image_builder::{
    demo::journey::provision,
    emu::{boot::PATIENCE, card::Card, device::Device},
};
use msec_tests::{
    built::{built, scratch},
    slots,
};

use crate::check::no_shell;

/// An image of this version, which the vendor signed. Each has a command line of its
/// own, so that no two measure alike.
fn release(dir: &Path, version: i64) -> Card {
    let dir = dir.join(format!("release-{version}"));
    std::fs::create_dir_all(&dir).unwrap();
    built().small_image_with(&dir, |recipe| {
        let tpm = recipe["tpm"].as_table_mut().unwrap();
        tpm.insert("binding".to_owned(), "signed".into());
        tpm.insert("rollback".to_owned(), version.into());
        let line = recipe["kernel"]["command_line"].as_str().unwrap().to_owned();
        recipe["kernel"]["command_line"] = format!("{line} release={version}").into();
    })
}

#[test]
fn a_signed_update_unlocks_without_a_new_seal_and_the_old_image_never_again() {
    let dir = scratch("signed");
    let (first, second) = (release(&dir, 1), release(&dir, 2));
    let mut device = Device::new(&dir.join("device"), &first).unwrap();
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    boot.userland().unwrap().power_off().unwrap();

    // Nobody tells the device of the update but its boot partition.
    device.card.take_boot_files_of(&second).unwrap();
    let mut boot = device.boot("update", &dir.join("update")).unwrap();
    boot.expect("the TPM unlocks the update", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    boot.userland().unwrap().power_off().unwrap();

    // The premise of what follows: until the counter moves, the old image unlocks too.
    device.card.take_boot_files_of(&first).unwrap();
    let mut boot = device.boot("fall-back", &dir.join("fall-back")).unwrap();
    boot.expect("the TPM unlocks the old image", "initramfs-unseal: unlocked by the TPM\n")
        .unwrap();
    let mut shell = boot.userland().unwrap();
    let ahead = shell.run("initramfs-unseal rollback --to 2 2>&1").unwrap();
    assert_ne!(ahead.code, 0, "the old image does not lock itself out: {}", ahead.text);
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&second).unwrap();
    let mut boot = device.boot("retire", &dir.join("retire")).unwrap();
    boot.expect("the TPM unlocks the update", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let moved = shell.run("initramfs-unseal rollback --to 2 2>&1").unwrap();
    assert_eq!(moved.code, 0, "{}", moved.text);
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&first).unwrap();
    let mut boot = device.boot("rolled-back", &dir.join("rolled-back")).unwrap();
    let refusal = "initramfs-unseal: the TPM did not release the key: ([^\n]*)\n";
    let said = boot.board.console.wait(refusal, PATIENCE).unwrap();
    assert!(said.text.contains("this image is older than this board allows"), "{}", said.text);
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    no_shell(&boot.lines());
    boot.board.cut_power();

    device.card.take_boot_files_of(&second).unwrap();
    let mut boot = device.boot("again", &dir.join("again")).unwrap();
    boot.expect("the TPM unlocks the update", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    // What the TPM verified in the boot before serves in this one.
    let status = boot.userland().unwrap().status().unwrap();
    assert_eq!((status.report.tpm_commands, status.sealed.as_str()), (12, "unreachable"));
}
