//! U-Boot refuses what is not signed or cannot be measured: it says why and resets.

use emulated_board::{Ended, SoftTpm, TpmLink};
use image_builder::{
    demo::journey::refusal,
    emu::{boot::Boot, card::Card},
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    shared::shared,
    slots,
};

use crate::check::{no_shell, says};

/// Boots `card` and expects U-Boot to say `why` and to reset without a kernel.
fn refused(name: &str, card: &Card, tpm: TpmLink, why: &str) {
    let dir = scratch(name);
    let card = card.copy_to(&dir.join("card.img")).unwrap();
    let _slot = slots::slot();
    let mut boot = Boot::start(name, &card, tpm, &dir.join("logs")).unwrap();
    boot.expect("U-Boot's refusal", why).unwrap();
    // Keys on the console change nothing, if the board is still there to take them.
    let _ = boot.board.console.send("\x03\x03\r\r");
    boot.expect_off(&Ended::Reset).unwrap();
    let lines = boot.lines();
    assert!(!says(&lines, "Starting kernel"), "no kernel was started");
    no_shell(&lines);
}

fn tpm(name: &str, banks: &str) -> TpmLink {
    TpmLink::I2c(SoftTpm::create(&scratch(name).join("tpm"), banks).unwrap())
}

#[test]
fn without_a_tpm_nothing_boots() {
    refused("no-tpm", &built().image, TpmLink::None, "Measured boot: no TPM 2.0 found");
}

#[test]
fn a_tpm_without_a_sha256_bank_is_refused() {
    let why = "Measured boot: the TPM has no active SHA-2 bank";
    refused("sha1-bank", &built().image, tpm("sha1-bank-tpm", "sha1"), why);
}

#[test]
fn a_fit_with_one_bit_changed_is_refused() {
    let card = built().card(&Tamper::FlippedBit, &scratch("flipped-bit-image"), "flipped");
    let tpm = tpm("flipped-bit-tpm", "sha256");
    refused("flipped-bit", &card, tpm, "Bad Data Hash|Bad hash value");
}

#[test]
fn a_fit_without_a_signature_is_refused() {
    let card = built().card(&Tamper::Unsigned, &scratch("unsigned-image"), "unsigned");
    let tpm = tpm("unsigned-tpm", "sha256");
    let why = "Verification failed|Failed to verify required signature|Boot refused";
    refused("unsigned", &card, tpm, why);
}

/// Nobody could tell later what was measured. U-Boot is kept from its log's memory by one
/// letter of the property that names it.
#[test]
fn without_memory_for_the_event_log_nothing_boots() {
    let (component, text) = ("BL33".to_owned(), "memory-region".to_owned());
    let tamper = Tamper::Firmware { component, text };
    let card = built().card(&tamper, &scratch("no-log-image"), "no-log");
    let why = "Measured boot: no memory for the event log";
    refused("no-log", &card, tpm("no-log-tpm", "sha256"), why);
}

/// One letter in each image of the firmware that U-Boot was started from: it boots all the
/// same, the TPM refuses, and the console names the image. The last one is the premise:
/// the card as it was opens by itself.
#[test]
fn firmware_with_one_letter_changed_boots_and_unlocks_nothing() {
    let changes = [
        ("BL1", "Booting Trusted Firmware"),
        ("BL2", "VERBOSE: "),
        ("BL31", "VERBOSE: "),
        ("BL32 extra 1", "Primary CPU switching"),
        ("BL33", "boot application image stored in memory"),
    ];
    let dir = scratch("firmware");
    let mut device = shared().copy(&dir.join("device"), &built().image);
    let _slot = slots::slot();
    for (component, text) in changes {
        let name = component.replace(' ', "-");
        let tamper = Tamper::Firmware { component: component.to_owned(), text: text.to_owned() };
        let changed = built().card(&tamper, &dir, &name);
        device.card.take_boot_files_of(&changed).unwrap();
        let mut boot = device.boot(&name, &dir.join(&name)).unwrap();
        refusal(&mut boot, component).unwrap();
        boot.board.cut_power();
    }
    device.card.take_boot_files_of(&built().image).unwrap();
    let mut boot = device.boot("original", &dir.join("original")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
}

/// The development variant of U-Boot, on the card of a device that a release provisioned:
/// it boots, and PCR 0 says what it is. The premise comes last: the release opens by itself.
#[test]
fn a_u_boot_for_the_lab_unlocks_nothing_of_a_release() {
    let dir = scratch("lab-u-boot");
    let lab = built().small_image_with(&dir, |recipe| {
        let development = toml::Table::from_iter([("development".to_owned(), true.into())]);
        recipe.insert("u_boot".to_owned(), development.into());
    });
    let mut device = shared().copy(&dir.join("device"), &lab);
    let _slot = slots::slot();
    let mut boot = device.boot("lab", &dir.join("lab")).unwrap();
    boot.expect("the lab's U-Boot", "U-Boot [^\n]*-msec-development ").unwrap();
    boot.expect("a way to its shell", "Hit any key to stop autoboot").unwrap();
    refusal(&mut boot, "U-Boot version").unwrap();
    boot.expect("the prompt", "enter the recovery key for").unwrap();
    let lines = boot.lines();
    let differ = |what: &str| says(&lines, &format!("differs: PCR {what}"));
    assert!(differ("0, BL33"), "{lines:?}");
    for pcr in [1, 8, 9] {
        assert!(!differ(&format!("{pcr},")), "PCR 0 alone keeps the key: {lines:?}");
    }
    boot.board.cut_power();

    device.card.take_boot_files_of(&built().image).unwrap();
    let mut boot = device.boot("release", &dir.join("release")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    assert!(!says(&boot.lines(), "Hit any key"), "nobody can stop a release");
}
