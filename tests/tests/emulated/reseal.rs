//! Resealing from the running system: an update is staged, both boots unlock, then
//! the old one no more; and power cuts.

use std::{fs, path::Path, time::Duration};

use image_builder::{
    demo::journey::{provision, refusal},
    emu::{boot::Boot, card::Card, device::Device, device::RecoveryKey},
};
use msec_tests::{
    built::{built, scratch},
    instants::Instants,
    slots,
};

use crate::check::{no_shell, put};

const BY_TPM: &str = "initramfs-unseal: unlocked by the TPM\n";

/// An image; each has a command line of its own.
fn release(dir: &Path, name: &str) -> Card {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    built().small_image_with(&dir, |recipe| {
        let line = recipe["kernel"]["command_line"].as_str().unwrap().to_owned();
        recipe["kernel"]["command_line"] = format!("{line} release={name}").into();
    })
}

/// Puts an image's boot manifest on a card as `next.json`, as an operator would who
/// stages it as an update.
fn stage(card: &Card, update: &Card, dir: &Path) {
    put(card, "next.json", &update.good().unwrap().manifest, dir);
}

/// Begins to reseal to the staged update, up to and with the recovery key.
fn begin(boot: &mut Boot, key: &RecoveryKey) {
    let mut shell = boot.userland().unwrap();
    let mounted = shell.run("mkdir -p /run/b; mount -t vfat -o ro /dev/mmcblk0p1 /run/b").unwrap();
    assert_eq!(mounted.code, 0, "{}", mounted.text);
    let line = "initramfs-unseal reseal --next /run/b/next.json; echo @DONE''=$?\r";
    shell.boot().board.console.send(line).unwrap();
    boot.expect("the key is asked for", "recovery key: $").unwrap();
    boot.board.console.send(&key.typed()).unwrap();
}

fn reseal(boot: &mut Boot, key: &RecoveryKey) {
    begin(boot, key);
    let done = boot.expect("the end of it", "(?s)\n(the root is sealed .*)@DONE=0\n").unwrap();
    assert!(done.text.contains("to this boot and 1 more"), "{}", done.text);
}

#[test]
fn an_update_is_staged_and_then_the_old_image_is_retired() {
    let dir = scratch("reseal");
    let (old, new) = (release(&dir, "old"), release(&dir, "new"));
    let mut device = Device::new(&dir.join("device"), &old).unwrap();
    stage(&device.card, &new, &dir);
    let _slot = slots::slot();
    let logs = |name: &str| dir.join(name);

    let mut boot = device.boot("provision", &logs("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    reseal(&mut boot, &key);
    let mut shell = boot.userland_again().unwrap();
    let nothing = shell.run("initramfs-unseal status").unwrap();
    assert_eq!(nothing.code, 0, "the new secret is out of reach as well: {}", nothing.text);
    assert!(nothing.text.contains("pcr: 2 boots"), "{}", nothing.text);
    shell.power_off().unwrap();

    // The old boot unlocks, although it is not the one that the secret lies for now.
    let mut boot = device.boot("old", &logs("old")).unwrap();
    boot.expect("the TPM unlocks the old image", BY_TPM).unwrap();
    boot.userland().unwrap().power_off().unwrap();

    device.card.take_boot_files_of(&new).unwrap();
    let mut boot = device.boot("new", &logs("new")).unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    let asked = shell.run("initramfs-unseal reseal --retire --format json").unwrap();
    assert_eq!(asked.code, 0, "{}", asked.text);
    assert!(asked.text.contains("\"done\": \"retiring\""), "{}", asked.text);
    shell.power_off().unwrap();

    let mut boot = device.boot("retire", &logs("retire")).unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    boot.expect("and it alone from now on", "sealed to this boot alone from now on\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let twice = shell.run("initramfs-unseal reseal --retire").unwrap();
    assert_eq!(twice.code, 1, "{}", twice.text);
    assert!(twice.text.contains("nothing to retire"), "{}", twice.text);
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&old).unwrap();
    let mut boot = device.boot("retired", &logs("retired")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    no_shell(&boot.lines());
    // What the TPM refuses is not sealed to by mistake.
    let mut shell = boot.userland().unwrap();
    let by_hand = shell.run("initramfs-unseal reseal").unwrap();
    assert_eq!(by_hand.code, 1, "{}", by_hand.text);
    assert!(by_hand.text.contains("--trust-this-boot"), "{}", by_hand.text);
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&new).unwrap();
    let mut boot = device.boot("again", &logs("again")).unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    // A TPM that was reset behind the running system is not sealed to, though it has the
    // right measurements again.
    let mut shell = boot.userland().unwrap();
    let mut refused = |why: &str| {
        let said = shell.run("initramfs-unseal reseal </dev/null").unwrap();
        assert_eq!(said.code, 1, "{}", said.text);
        assert!(said.text.contains(why), "{}", said.text);
        shell.boot().board.reset_tpm().unwrap();
    };
    refused("this is not the recovery key"); // the premise: it got as far as that
    refused("the TPM was reset since this boot began");
}

/// Cuts at many instants of resealing: the next boot unlocks by itself, whichever of
/// the two images it is.
#[test]
#[ignore = "takes half an hour; make test-long"]
fn power_cuts_while_resealing_shut_nobody_out() {
    let cuts = std::env::var("MSEC_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(125);
    let dir = scratch("reseal-cuts");
    let (old, new) = (release(&dir, "old"), release(&dir, "new"));
    let mut device = Device::new(&dir.join("device"), &old).unwrap();
    stage(&device.card, &new, &dir);
    let _slot = slots::slot();
    let mut at = Instants::new();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    let mut finished = 0;
    for cut in 0..cuts {
        begin(&mut boot, &key);
        let after = at.within(Duration::from_secs(6));
        let done = boot.board.console.wait("@DONE=0\n", after).is_ok();
        finished += u32::from(done);
        boot.board.cut_power();
        drop(boot);
        eprintln!("cut {cut}: {after:?} after the key{}", if done { ", done" } else { "" });
        // Once resealing came to its end, either image boots: take the other one.
        if done {
            let next = if cut % 2 == 0 { &new } else { &old };
            device.card.take_boot_files_of(next).unwrap();
            stage(&device.card, if cut % 2 == 0 { &old } else { &new }, &dir);
        }
        let name = format!("cut-{}", cut % 2);
        boot = device.boot(&name, &dir.join(&name)).unwrap();
        boot.expect("the TPM unlocks after the cut", BY_TPM).unwrap();
    }
    assert!(finished < cuts, "some cuts came before the end");
}
