//! The emulator with a TPM on SPI: it takes what a test asks of its TPM.

use std::{num::NonZeroU32, time::Duration};

use emulated_board::{
    BitErrors, ChipSelect, Ended, SoftTpm, SpiBehaviour, SpiTpm, TpmLink, wire::command,
};
use image_builder::emu::boot::Boot;
use msec_tests::{
    built::{built, scratch},
    shared::shared,
    slots,
};

/// Every property that a fault has is one of the device's, from power-on and while the
/// board runs. This image's firmware has its TPM on I2C and finds none there.
#[test]
fn the_emulator_takes_every_fault_of_a_tpm_on_spi() {
    let dir = scratch("spi-emulator");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let behaviour = SpiBehaviour {
        wait_states: 3,
        bit_errors: Some(BitErrors { interval: NonZeroU32::new(1000).unwrap(), seed: 7 }),
        response_delay: Duration::from_millis(20),
        startup_delay: Duration::from_secs(1),
        silent: true,
    };
    let tpm = TpmLink::Spi(SpiTpm {
        tpm: SoftTpm::create(&dir.join("tpm"), "sha256").unwrap(),
        qemu: built().emulator(),
        chip_select: ChipSelect::Ce1,
        behaviour,
    });
    let _slot = slots::slot();
    let mut boot = Boot::start("spi-emulator", &device.card, tpm, &dir.join("logs")).unwrap();
    boot.board.set_spi_behaviour(&SpiBehaviour::default()).unwrap();
    boot.board.set_spi_behaviour(&behaviour).unwrap();
    boot.board.hold_tpm_in_reset(true).unwrap();
    boot.board.hold_tpm_in_reset(false).unwrap();
    boot.expect("U-Boot's refusal", "Measured boot: no TPM 2.0 found").unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    assert!(boot.board.wire.exchanges().iter().all(|e| e.code() != Some(command::PCR_EXTEND)));
}

/// A fault that the board's TPM cannot have is an error, and not a test that tests nothing.
#[test]
fn a_tpm_on_i2c_has_no_faults_of_one_on_spi() {
    let dir = scratch("i2c-faults");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let _slot = slots::slot();
    let mut boot = device.boot("i2c-faults", &dir.join("logs")).unwrap();
    boot.board.set_spi_behaviour(&SpiBehaviour::default()).unwrap_err();
    boot.board.hold_tpm_in_reset(true).unwrap_err();
}
