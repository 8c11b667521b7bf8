//! A LUKS2 root that somebody made with cryptsetup is given to the TPM from the
//! running system.

use emulated_board::SoftTpm;
use image_builder::{demo::journey::refusal, emu::boot::Boot, image::initramfs};
use msec_tests::{
    attacker::{Volume, replace_root, root_partition},
    built::{built, scratch},
    shared::shared,
    slots,
};

use crate::check::{no_shell, put};

const PASSPHRASE: &str = "correct horse battery staple";
const CONFIG: &str = "unseal.json";

/// Types a line into the shell, then an answer to the question that it asks.
fn provision(boot: &mut Boot, passphrase: &str) {
    let line = format!("initramfs-unseal provision --config /run/b/{CONFIG}; echo @DONE''=$?\r");
    boot.board.console.send(&line).unwrap();
    boot.expect("the passphrase is asked for", "passphrase of the root: $").unwrap();
    boot.board.console.send(&format!("{passphrase}\r")).unwrap();
}

#[test]
fn a_root_that_exists_is_given_to_the_tpm() {
    let dir = scratch("existing");
    let mut device = shared().copy(&dir.join("device"), &shared().images.original);
    let config = initramfs::config(&built().recipe);
    let reserve = usize::try_from(config["reserve_mib"].as_u64().unwrap()).unwrap() << 20;
    let plain = root_partition(&shared().images.original);
    let volume = Volume::made_by_hand(reserve, &plain, PASSPHRASE, &dir);
    replace_root(&device.card, &volume.bytes());
    device.tpm = SoftTpm::create(&dir.join("tpm"), "sha256").unwrap();
    put(&device.card, CONFIG, config.to_string().as_bytes(), &dir);

    let _slot = slots::slot();
    let mut boot = device.boot("by-hand", &dir.join("by-hand")).unwrap();
    boot.expect("it is not the TPM's yet", "the LUKS2 header has no msec-boot token").unwrap();
    boot.expect("the prompt", "enter the recovery key for [^\n]*: $").unwrap();
    boot.board.console.send(&format!("{PASSPHRASE}\r")).unwrap();
    boot.expect("the passphrase opens", "unlocked by the recovery key\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let mounted = shell.run("mkdir -p /run/b; mount -t vfat -o ro /dev/mmcblk0p1 /run/b").unwrap();
    assert_eq!(mounted.code, 0, "{}", mounted.text);
    // Mounted by somebody else, for reading or for writing, it is in nobody's way.
    provision(&mut boot, "wrong");
    boot.expect("the refusal", "the passphrase opens no key slot\n@DONE=1\n").unwrap();
    let mut shell = boot.userland_again().unwrap();
    let again = "grep -q '/run/b vfat ro,' /proc/mounts && umount /run/b && \
                 mount -t vfat /dev/mmcblk0p1 /run/b";
    let again = shell.run(again).unwrap();
    assert_eq!(again.code, 0, "{}", again.text);
    provision(&mut boot, PASSPHRASE);
    let key = boot.recovery_key().unwrap();
    boot.expect("the end of it", "(?s)provisioned: .*@DONE=0\n").unwrap();
    let mut shell = boot.userland_again().unwrap();
    let twice = shell.run(&format!("initramfs-unseal provision --config /run/b/{CONFIG}")).unwrap();
    assert_eq!(twice.code, 1, "{}", twice.text);
    assert!(twice.text.contains("provisioned already"), "{}", twice.text);
    shell.power_off().unwrap();

    let mut boot = device.boot("unlock", &dir.join("unlock")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().sealed, "unreachable");
    shell.power_off().unwrap();

    device.card.take_boot_files_of(&shared().images.command_line).unwrap();
    let mut boot = device.boot("changed", &dir.join("changed")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the new recovery key opens", "unlocked by the recovery key\n").unwrap();
    no_shell(&boot.lines());
    boot.board.cut_power();
    let mut boot = device.boot("changed-too", &dir.join("changed-too")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.expect("the prompt", "enter the recovery key for [^\n]*: $").unwrap();
    boot.board.console.send(&format!("{PASSPHRASE}\r")).unwrap();
    boot.expect("and so does the passphrase", "unlocked by the recovery key\n").unwrap();
}
