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

use crate::check::{no_shell, put};

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

    // Nobody tells the device of the update but its boot partition: its TPM verifies the
    // signature now, which takes four commands more than ever after.
    device.card.take_boot_files_of(&second).unwrap();
    let mut boot = device.boot("update", &dir.join("update")).unwrap();
    boot.expect("the TPM unlocks the update", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().report.tpm_commands, 16);
    shell.power_off().unwrap();

    // The premise of what follows: until the counter moves, the old image unlocks too.
    device.card.take_boot_files_of(&first).unwrap();
    let mut boot = device.boot("fall-back", &dir.join("fall-back")).unwrap();
    boot.expect("the TPM unlocks the old image", "initramfs-unseal: unlocked by the TPM\n")
        .unwrap();
    let mut shell = boot.userland().unwrap();
    // What was verified at provisioning serves here.
    assert_eq!(shell.status().unwrap().report.tpm_commands, 12);
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

/// Puts what tells the boot of an image on a card, under a name of its own.
fn stage(card: &Card, name: &str, image: &Card, dir: &Path) {
    let content = image.good().unwrap();
    put(card, &format!("{name}.json"), &content.manifest, dir);
    put(card, &format!("{name}-sig.json"), &content.signatures, dir);
}

#[test]
fn an_update_that_was_approved_beforehand_costs_no_more_than_any_boot() {
    let dir = scratch("approved");
    let (first, second) = (release(&dir, 1), release(&dir, 2));
    let mut device = Device::new(&dir.join("device"), &first).unwrap();
    stage(&device.card, "next", &second, &dir);
    stage(&device.card, "old", &first, &dir);
    let mut changed = second.good().unwrap().signatures;
    let sig = changed.windows(7).position(|bytes| bytes == b"\"sig\":\"").unwrap();
    let base64 = &mut changed[sig + 20];
    *base64 = if *base64 == b'A' { b'B' } else { b'A' };
    put(&device.card, "evil-sig.json", &changed, &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let mount = "mkdir -p /run/b; mount -t vfat -o ro /dev/mmcblk0p1 /run/b";
    assert_eq!(shell.run(mount).unwrap().code, 0);
    let mut approve = |next: &str, signatures: &str, code: i32, says: &str| {
        let files = format!("--next /run/b/{next}.json --signatures /run/b/{signatures}.json");
        let done = shell.run(&format!("initramfs-unseal approve {files} 2>&1")).unwrap();
        assert_eq!(done.code, code, "{}", done.text);
        assert!(done.text.contains(says), "{}", done.text);
    };
    approve("next", "evil-sig", 1, "the TPM refuses the signature in /run/b/evil-sig.json");
    approve("old", "next-sig", 1, "are for other values");
    approve("next", "absent", 2, "cannot be read");
    approve("next", "next-sig", 0, "the TPM takes the signature of this update, version 2");
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&second).unwrap();
    let mut boot = device.boot("update", &dir.join("update")).unwrap();
    boot.expect("the TPM unlocks the update", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().report.tpm_commands, 12);
    assert_eq!(shell.run("initramfs-unseal rollback --to 2").unwrap().code, 0);
    assert_eq!(shell.run(mount).unwrap().code, 0);
    let older = "initramfs-unseal approve --next /run/b/old.json --signatures /run/b/old-sig.json";
    let refused = shell.run(older).unwrap();
    assert_eq!(refused.code, 1, "{}", refused.text);
    assert!(refused.text.contains("older than this board allows"), "{}", refused.text);
    assert_eq!(shell.run("umount /run/b").unwrap().code, 0);
    // Sealing anew wants the vendor's word for this boot, or nothing would open it.
    let reseal = format!("echo {} | initramfs-unseal reseal 2>&1", key.expose());
    let mut rename = |from: &str, to: &str| {
        let mv = format!("mv /run/b/{from} /run/b/{to}");
        let line = format!("mount -t vfat /dev/mmcblk0p1 /run/b && {mv} && umount /run/b");
        assert_eq!(shell.run(&line).unwrap().code, 0);
        shell.run(&reseal).unwrap()
    };
    let signatures = "tpm2-pcr-signature-a.json";
    let refused = rename(signatures, "gone.json");
    assert_eq!(refused.code, 2, "{}", refused.text);
    assert!(refused.text.contains("has no signed policies"), "{}", refused.text);
    let sealed = rename("gone.json", signatures);
    assert_eq!(sealed.code, 0, "{}", sealed.text);
    shell.power_off().unwrap();
    let mut boot = device.boot("anew", &dir.join("anew")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    assert_eq!(boot.userland().unwrap().status().unwrap().report.tpm_commands, 12);
}
