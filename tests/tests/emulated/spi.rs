//! A TPM on SPI0: the same chain, from power-on to the unlocked root.

use emulated_board::{Ended, TpmLink};
use image_builder::{
    demo::journey::provision,
    emu::{
        boot::{Boot, PATIENCE},
        device::Device,
    },
};
use msec_tests::{
    built::{built, scratch},
    slots,
};

use crate::check::{as_predicted, event_log_replays, no_shell, says};

/// A new device with this board on its SPI0, its card's image among its files.
fn device(name: &str, board: &str) -> Device {
    let dir = scratch(name);
    let image = built().small_image_with(&dir, |recipe| {
        let tpm = recipe["tpm"].as_table_mut().unwrap();
        tpm.insert("bus".to_owned(), "spi".into());
        tpm.insert("device".to_owned(), board.into());
    });
    let device = Device::new(&dir.join("device"), &image).unwrap();
    device.with_emulator(Some(built().emulator()))
}

/// Its TPM, which inserts so many wait states into each transaction.
fn with_wait_states(device: &Device, count: u32) -> TpmLink {
    let mut link = device.link().unwrap();
    let TpmLink::Spi(spi) = &mut link else { panic!("a TPM on SPI: {link:?}") };
    spi.behaviour.wait_states = count;
    link
}

/// The TIS lets a TPM insert wait states: one is what an ST33 and an SLB 9670 usually do,
/// and Linux gives up after 50.
fn provisions_and_unlocks(board: &str) {
    let device = device(&format!("spi-{board}"), board);
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &device.dir().join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    boot.userland().unwrap().power_off().unwrap();

    for wait_states in [0, 1, 20] {
        let name = format!("unlock-{wait_states}");
        let link = with_wait_states(&device, wait_states);
        let logs = device.dir().join(&name);
        let mut boot = Boot::start(&name, &device.card, link, &logs).unwrap();
        boot.expect("the TPM unlocks the root", "initramfs-unseal: unlocked by the TPM\n").unwrap();
        let mut shell = boot.userland().unwrap();
        let status = shell.status().unwrap();
        as_predicted(device.card.manifest(), &status.pcrs);
        event_log_replays(&mut shell, &status);
        shell.power_off().unwrap();
    }
}

#[test]
fn an_slb9670_on_ce1_unlocks_the_root_with_any_wait_states() {
    provisions_and_unlocks("slb9670");
}

#[test]
fn an_stpm4raspi_on_ce0_unlocks_the_root_with_any_wait_states() {
    provisions_and_unlocks("stpm4raspi");
}

/// U-Boot asks where its own device tree says, and nowhere else.
#[test]
fn a_tpm_on_the_other_chip_select_is_none() {
    let device = device("spi-other-ce", "slb9670");
    let mut link = device.link().unwrap();
    let TpmLink::Spi(spi) = &mut link else { panic!("a TPM on SPI: {link:?}") };
    spi.chip_select = emulated_board::ChipSelect::Ce0;
    refused(&device, link, "Measured boot: no TPM 2.0 found");
}

/// It answers each command after three seconds; the profile gives it two. Nothing that it
/// did not confirm counts as measured.
#[test]
fn a_tpm_that_answers_too_late_ends_the_boot() {
    let device = device("spi-late", "slb9670");
    let mut link = device.link().unwrap();
    let TpmLink::Spi(spi) = &mut link else { panic!("a TPM on SPI: {link:?}") };
    spi.behaviour.response_delay = std::time::Duration::from_secs(3);
    refused(&device, link, "Measured boot: the TPM does not start");
}

/// RST# falls and rises while Linux starts: the measurements are gone, and with them the
/// secret. The premise: the same boot without it unlocks.
#[test]
fn a_tpm_that_was_reset_behind_u_boot_gives_nothing_out() {
    let device = device("spi-reset", "slb9670");
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &device.dir().join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    boot.userland().unwrap().power_off().unwrap();

    let mut boot = device.boot("premise", &device.dir().join("premise")).unwrap();
    boot.expect("the TPM unlocks the root", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    boot.userland().unwrap().power_off().unwrap();

    let mut boot = device.boot("reset", &device.dir().join("reset")).unwrap();
    boot.expect("U-Boot has measured", "Starting kernel").unwrap();
    boot.board.hold_tpm_in_reset(true).unwrap();
    boot.board.hold_tpm_in_reset(false).unwrap();
    let refused = "initramfs-unseal: (the TPM did not release the key|unlocked by [^\n]*)";
    let said = boot.board.console.wait(refused, PATIENCE).unwrap();
    assert_eq!(said.text, "the TPM did not release the key");
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    let status = boot.userland().unwrap().status().unwrap();
    assert_eq!(status.sealed, "unreachable", "and nobody can have it later");
}

fn refused(device: &Device, link: TpmLink, why: &str) {
    let _slot = slots::slot();
    let mut boot = Boot::start("refused", &device.card, link, &device.dir().join("logs")).unwrap();
    boot.expect("U-Boot's refusal", why).unwrap();
    assert_eq!(boot.board.wait_off(PATIENCE).unwrap(), Ended::Reset);
    let lines = boot.lines();
    assert!(!says(&lines, "Starting kernel"), "no kernel was started");
    no_shell(&lines);
}
