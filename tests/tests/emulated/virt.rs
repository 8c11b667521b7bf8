//! QEMU's machine `virt`: the same chain on another board, with the TPM in memory.
//!
//! Its firmware lies in a flash that the normal world cannot read, so that it is TF-A and
//! not U-Boot that measures what was loaded: BL1, which nobody measures, is the root of
//! trust here.

use std::{path::Path, sync::OnceLock};

use emulated_board::{Ended, SoftTpm, TpmLink};
use image_builder::{
    demo::journey::{provision, refusal},
    emu::{
        boot::{Boot, PATIENCE},
        card::Card,
        device::{Device, RecoveryKey},
        shell::Status,
    },
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    slots,
};
use pcr_measure::manifest::component::{BL1, UBOOT_VERSION};

use crate::{
    check::{as_predicted, event_log_replays, no_shell, says},
    ima::list_begins_with_this_boot,
};

/// A provisioned device, off; copied by whoever boots it.
struct Provisioned {
    image: Card,
    device: Device,
    key: RecoveryKey,
}

/// Provisions it once in a run, and looks at what was measured on the way.
fn provisioned() -> &'static Provisioned {
    static PROVISIONED: OnceLock<Provisioned> = OnceLock::new();
    PROVISIONED.get_or_init(|| {
        let dir = scratch("virt");
        let image = built().small_image_with(&dir, |recipe| {
            recipe.insert("board".to_owned(), "virt".into());
            let tpm = recipe["tpm"].as_table_mut().unwrap();
            tpm.insert("bus".to_owned(), "mmio".into());
        });
        let device = Device::new(&dir.join("device"), &image).unwrap();
        let _slot = slots::slot();
        let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
        let key = provision(&mut boot, |_| ()).unwrap();
        let status = measured_as_predicted(boot, &image);
        assert_eq!(status.report.method, "provisioned");
        Provisioned { image, device, key }
    })
}

impl Provisioned {
    /// A copy of the device, with the boot files of `boot`.
    fn copy(&self, dir: &Path, boot: &Card) -> Device {
        let mut device = self.device.copy_to(dir).unwrap();
        device.card.take_boot_files_of(boot).unwrap();
        device
    }

    /// A variant of the image.
    fn variant(&self, tamper: &Tamper, dir: &Path, name: &str) -> Card {
        Card::open(&built().variant(&self.image, tamper, dir, name)).unwrap()
    }
}

/// Follows a boot into the userland, compares prediction, TPM, event log and IMA's list
/// there, and has it power off.
fn measured_as_predicted(mut boot: Boot, booted: &Card) -> Status {
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    as_predicted(booted.manifest(), &status.pcrs);
    event_log_replays(&mut shell, &status);
    list_begins_with_this_boot(&mut shell, &status);
    shell.power_off().unwrap();
    status
}

#[test]
fn virt_provisions_and_unlocks_and_measures_what_was_predicted() {
    let this = provisioned();
    let dir = scratch("virt-unlock");
    let device = this.copy(&dir.join("device"), &this.image);
    let _slot = slots::slot();
    let mut boot = device.boot("unlock", &dir.join("logs")).unwrap();
    boot.expect("the TPM unlocks the root", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let status = measured_as_predicted(boot, &this.image);
    assert_eq!((&*status.report.method, &*status.sealed), ("tpm", "unreachable"));
}

/// TF-A records what it loads before U-Boot measures anything; BL1 is no part of that.
#[test]
fn the_firmware_of_virt_is_measured_by_tf_a_and_first() {
    let events = provisioned().image.manifest().events();
    let names: Vec<&str> = events.iter().map(|event| event.component.as_str()).collect();
    let firmware = ["BL2", "BL31", "BL32", "BL32 extra 1", "BL33", UBOOT_VERSION];
    assert_eq!(names[..firmware.len()], firmware);
    assert!(!names.contains(&BL1));
}

/// What was changed is refused by the TPM and named, and the recovery key opens. The last
/// boot is the premise: the image as it was opens by itself.
#[test]
fn what_differs_on_virt_is_refused_by_the_tpm_and_named() {
    let this = provisioned();
    let dir = scratch("virt-changed");
    let mut device = this.copy(&dir.join("device"), &this.image);
    let initramfs = Tamper::Initramfs { path: "etc/added".to_owned(), content: b"x".to_vec() };
    let firmware = |component: &str, text: &str| Tamper::Firmware {
        component: component.to_owned(),
        text: text.to_owned(),
    };
    let cases = [
        ("command line", Tamper::CommandLine("ima_appraise=off".to_owned())),
        ("kernel", Tamper::Kernel),
        ("initramfs", initramfs),
        ("device tree", Tamper::DeviceTree),
        ("BL2", firmware("BL2", "BL2: %s")),
        ("BL31", firmware("BL31", "BL31: %s")),
        ("BL32 extra 1", firmware("BL32 extra 1", "Primary CPU switching")),
        ("BL33", firmware("BL33", "boot application image stored in memory")),
    ];
    let _slot = slots::slot();
    for (component, tamper) in cases {
        let name = component.replace(' ', "-");
        device.card.take_boot_files_of(&this.variant(&tamper, &dir, &name)).unwrap();
        let mut boot = device.boot(&name, &dir.join(&name)).unwrap();
        refusal(&mut boot, component).unwrap();
        if component == "command line" {
            boot.type_recovery_key(&this.key).unwrap();
            let opened = "initramfs-unseal: unlocked by the recovery key\n";
            boot.expect("the recovery key opens", opened).unwrap();
            let status = measured_as_predicted(boot, &device.card);
            assert_eq!((&*status.report.method, &*status.sealed), ("recovery", "unreachable"));
        }
    }
    device.card.take_boot_files_of(&this.image).unwrap();
    let mut boot = device.boot("original", &dir.join("original")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
}

#[test]
fn u_boot_on_virt_refuses_a_fit_with_one_bit_changed() {
    let this = provisioned();
    let dir = scratch("virt-flipped");
    let card = this.variant(&Tamper::FlippedBit, &dir, "flipped");
    refused(&card, &dir, "Bad Data Hash|Bad hash value");
}

/// U-Boot is kept from its log's memory by one letter of the property that names it.
#[test]
fn u_boot_on_virt_starts_nothing_without_memory_for_the_event_log() {
    let this = provisioned();
    let dir = scratch("virt-no-log");
    let (component, text) = ("BL33".to_owned(), "memory-region".to_owned());
    let card = this.variant(&Tamper::Firmware { component, text }, &dir, "no-log");
    refused(&card, &dir, "Measured boot: no memory for the event log");
}

/// Boots a new device with this card; U-Boot says `why`, and resets.
fn refused(card: &Card, dir: &Path, why: &str) {
    let device = Device::new(&dir.join("device"), card).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("refused", &dir.join("logs")).unwrap();
    boot.expect("U-Boot's refusal", why).unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    let lines = boot.lines();
    assert!(!says(&lines, "Starting kernel"), "no kernel was started");
    no_shell(&lines);
}

/// TF-A looks for the TPM whose event log it hands on, and goes no further without.
#[test]
fn without_a_tpm_virt_does_not_get_to_u_boot() {
    let this = provisioned();
    let dir = scratch("virt-no-tpm");
    let card = this.image.copy_to(&dir.join("card.img")).unwrap();
    let _slot = slots::slot();
    let mut boot = Boot::start("no-tpm", &card, TpmLink::None, &dir.join("logs")).unwrap();
    let said = "'tcg,tpm-tis-mmio' not found in the config";
    boot.board.console.wait(said, PATIENCE).unwrap();
    boot.board.cut_power();
    assert!(!says(&boot.lines(), "U-Boot 20"), "U-Boot was started");
}

/// A bank that TF-A's log is not for: PCR 0 has no word of the firmware then, and no such
/// TPM gets as far as a kernel.
#[test]
fn a_tpm_without_a_sha256_bank_is_refused_on_virt() {
    let this = provisioned();
    let dir = scratch("virt-sha1");
    let card = this.image.copy_to(&dir.join("card.img")).unwrap();
    let tpm = SoftTpm::create(&dir.join("tpm"), "sha1").unwrap();
    let _slot = slots::slot();
    let mut boot = Boot::start("sha1", &card, TpmLink::Mmio(tpm), &dir.join("logs")).unwrap();
    let why = "Measured boot: the TPM has no active SHA-2 bank";
    boot.expect("U-Boot's refusal", why).unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    assert!(!says(&boot.lines(), "Starting kernel"), "no kernel was started");
}
