//! A TPM that is not there, or that falls silent.
//!
//! The firmware starts nothing without a TPM, so that a kernel without one has either
//! been told of none (another device tree: another PCR 1) or has lost it on the way. In
//! both cases the TPM can come back in the running system: root makes the kernel look
//! again. The emulated board can do that too, for its TPM is there all the time.

use emulated_board::{Ended, TpmLink, wire::command};
use image_builder::{
    demo::journey::tpm2_tools_refused,
    emu::boot::{Boot, PATIENCE},
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    host_tpm::{HostTpm, selection},
    shared::shared,
    slots,
};
use pcr_measure::{PcrIndex, Sha256Digest};

use crate::{
    check::{before_the_userland, no_shell, says},
    unseal_again::must,
};

/// First without a TPM, then with one that only root makes the kernel know, then as
/// ever: nothing is lost, and no boot that was opened by hand unseals.
#[test]
fn a_boot_without_a_tpm_gives_nothing_away_and_costs_nothing() {
    let dir = scratch("without-tpm");
    let mut device = shared().copy(&dir.join("device"), &shared().images.original);
    let _slot = slots::slot();

    let before = std::fs::read(device.card.path()).unwrap();
    let mut boot =
        Boot::start("empty-header", &device.card, TpmLink::None, &dir.join("empty")).unwrap();
    boot.expect("U-Boot's refusal", "Measured boot: no TPM 2.0 found").unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    assert!(!says(&boot.lines(), "Starting kernel"), "no kernel was started");
    assert!(std::fs::read(device.card.path()).unwrap() == before, "the card was written to");

    let without = built().card(&Tamper::DeviceTreeWithoutTpm, &dir, "without");
    device.card.take_boot_files_of(&without).unwrap();
    let mut boot = device.boot("not-described", &dir.join("not-described")).unwrap();
    let refusal = "initramfs-unseal: the TPM did not release the key: ([^\n]*)\n";
    let said = boot.board.console.wait(refusal, PATIENCE).unwrap();
    assert!(said.text.contains("no TPM answers"), "{}", said.text);
    boot.type_recovery_key(&shared().recovery_key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    let mut shell = boot.userland().unwrap();
    must(&mut shell, "! ls /dev/tpm0");
    must(&mut shell, "echo tpm_tis_i2c 0x2e > /sys/bus/i2c/devices/i2c-1/new_device");
    must(&mut shell, "ls /dev/tpm0");
    let status = shell.status().unwrap();
    assert_eq!((&*status.report.method, &*status.sealed), ("recovery", "unreachable"));
    // The latch stands open: PCR 1 alone is what refuses.
    assert_eq!(status.pcrs.sha256(PcrIndex::new(15).unwrap()), Some(Sha256Digest::ZERO));
    tpm2_tools_refused(&mut shell, &status).unwrap();
    shell.power_off().unwrap();
    no_shell(before_the_userland(&boot.lines()));

    device.card.take_boot_files_of(&shared().images.original).unwrap();
    let mut boot = device.boot("as-ever", &dir.join("as-ever")).unwrap();
    boot.expect("unlocks by itself", "initramfs-unseal: unlocked by the TPM\n").unwrap();
}

/// Between U-Boot and the kernel the TPM stops to answer. It has the measurements of the
/// right boot, and nobody can shut its latch: so nobody gets this boot's root, whoever's
/// it is.
#[test]
fn a_tpm_that_falls_silent_behind_the_firmware_opens_nothing_to_anybody() {
    let dir = scratch("silent-tpm");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let before = std::fs::read(device.card.path()).unwrap();
    let slot = slots::slot();
    let mut boot = device.boot("silent", &dir.join("logs")).unwrap();
    boot.expect("the kernel starts", "Starting kernel").unwrap();
    boot.board.interposer.hold();
    let off = boot.board.console.wait(r"powering off: ([^\n]*)\n", PATIENCE).unwrap();
    assert!(off.text.contains("no TPM answers, but the firmware names one"), "{}", off.text);
    boot.expect_off(&Ended::PoweredOff).unwrap();
    let lines = boot.lines();
    assert!(!says(&lines, "enter the recovery key"), "nobody is asked");
    no_shell(&lines);
    assert!(std::fs::read(device.card.path()).unwrap() == before, "the card was written to");
    drop(slot);

    // The premise: what the TPM had been told by then is all that it asks for. Everything
    // that the image measures, and nothing into PCR 15.
    let manifest = built().image.manifest();
    let told: Vec<_> = boot
        .board
        .wire
        .exchanges()
        .into_iter()
        .filter(|e| e.code() == Some(command::PCR_EXTEND) && e.response_code() == Some(0))
        .collect();
    for event in manifest.events() {
        let pcr = u32::from(event.pcr.get());
        let same = |e: &&emulated_board::wire::Exchange| {
            let digest = event.digest.as_bytes();
            e.handles() == [pcr] && e.request.windows(digest.len()).any(|part| part == digest)
        };
        assert!(told.iter().any(|e| same(&e)), "PCR {pcr}: {}", event.component);
    }
    assert!(told.iter().all(|e| e.handles() != [15]), "PCR 15 was extended");
    let index = serde_json::to_value(built().recipe.tpm.nv_index).unwrap();
    let copy = HostTpm::power_on_copy(&device.tpm);
    copy.measure(manifest);
    let secret = copy.unseal(index.as_str().unwrap(), &selection(manifest));
    assert_eq!(secret.map_err(|refusal| refusal.0).unwrap().len(), 65);
}
