//! A root that Debian's own initramfs opens: initramfs-tools and dracut as they are,
//! with our package installed.

use std::fs;

use emulated_board::Ended;
use image_builder::{
    demo::journey::{provision, refusal},
    emu::{card::Card, device::Device},
    image::{initramfs, tamper::Tamper},
};
use msec_tests::{
    built::{built, scratch},
    debian::Maker,
    slots,
};

use crate::check::{no_shell, says};

/// A key of the right form that opens nothing.
const WRONG: &str = "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc\r";

/// What is left of a device's life.
struct Life {
    device: Device,
    /// The image it was made from.
    image: Card,
}

/// One device: it provisions itself from within this initramfs, unlocks by itself,
/// refuses a boot that measures otherwise, and gives nobody a shell.
fn lives_with(maker: Maker, name: &str) -> Life {
    let dir = scratch(name);
    let initramfs = built().debian_initramfs(maker, &initramfs::config(&built().recipe));
    let image = built().small_image_with(&dir, |recipe| {
        let file = initramfs.to_str().unwrap().to_owned();
        recipe["initramfs"].as_table_mut().unwrap().insert("file".to_owned(), file.into());
        // An initramfs of Debian's is three times ours.
        let disk = recipe["disk"].as_table_mut().unwrap();
        disk.extend(
            [("boot_mib", 63), ("slot_mib", 24)].map(|(key, n)| (key.to_owned(), n.into())),
        );
    });
    let mut device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    boot.expect("the step ends", "initramfs-unseal: /dev/mapper/root is open\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().report.method, "provisioned");
    shell.power_off().unwrap();

    let mut boot = device.boot("unlock", &dir.join("unlock")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    assert_eq!((status.report.method.as_str(), status.sealed.as_str()), ("tpm", "unreachable"));
    shell.power_off().unwrap();

    let words = Tamper::CommandLine("ima_appraise=off".to_owned());
    let changed = Card::open(&built().variant(&image, &words, &dir, "changed")).unwrap();
    device.card.take_boot_files_of(&changed).unwrap();
    let mut boot = device.boot("wrong-keys", &dir.join("wrong-keys")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    for attempt in 1..=3 {
        boot.expect("the prompt", "enter the recovery key for /dev/mmcblk0p2: $").unwrap();
        boot.board.console.send(WRONG).unwrap();
        boot.expect("the count", &format!(r"wrong recovery key \(try {attempt} of 3\)")).unwrap();
    }
    boot.expect_off(&Ended::PoweredOff).unwrap();
    let lines = boot.lines();
    assert!(says(&lines, "the root stays closed: 3 wrong recovery keys"));
    assert!(!says(&lines, "is open"), "nothing was opened");
    no_shell(&lines);

    let mut boot = device.boot("by-hand", &dir.join("by-hand")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the key opens", "initramfs-unseal: unlocked by the recovery key\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    assert_eq!(
        (status.report.method.as_str(), status.sealed.as_str()),
        ("recovery", "unreachable")
    );
    shell.power_off().unwrap();
    Life { device, image }
}

/// Whether this kernel has binfmt_misc in a user namespace (Linux 6.7), without which
/// foreign programs run here only by changing the host's own table. Debian 12's has
/// not; its users hear of it.
fn runs_foreign_programs() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 7) {
        eprintln!("not run: Linux {} is older than 6.7", release.trim());
    }
    version >= (6, 7)
}

#[test]
fn initramfs_tools_of_debian_opens_the_root() {
    if !runs_foreign_programs() {
        return;
    }
    let name = "initramfs-tools";
    let Life { mut device, image } = lives_with(Maker::InitramfsTools, name);
    // Its words for a shell before the root is opened, where the TPM has shut nothing yet.
    let words = Tamper::CommandLine("break=premount".to_owned());
    let card = Card::open(&built().variant(&image, &words, device.dir(), "break")).unwrap();
    device.card.take_boot_files_of(&card).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("break", &device.dir().join("break")).unwrap();
    boot.expect("no shell", "Rebooting automatically due to panic= boot argument").unwrap();
    boot.board.cut_power();
    no_shell(&boot.lines());
}

#[test]
fn dracut_of_debian_opens_the_root() {
    if runs_foreign_programs() {
        lives_with(Maker::Dracut, "dracut");
    }
}
