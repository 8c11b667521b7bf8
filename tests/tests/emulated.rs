//! Tests on emulated boards: from power-on, with the built image.
//!
//! One program, so that they share one provisioned device. They need what
//! `image-builder build` makes, and the tools of the build root.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests may fail"
)]

#[path = "emulated/chains.rs"]
mod chains;
#[path = "emulated/check.rs"]
mod check;
#[path = "emulated/debian.rs"]
mod debian;
#[path = "emulated/debian_image.rs"]
mod debian_image;
#[path = "emulated/debian_integrity.rs"]
mod debian_integrity;
#[path = "emulated/debian_keylime.rs"]
mod debian_keylime;
#[path = "emulated/demo.rs"]
mod demo;
#[path = "emulated/emergency.rs"]
mod emergency;
#[path = "emulated/existing.rs"]
mod existing;
#[path = "emulated/firmware.rs"]
mod firmware;
#[path = "emulated/ima.rs"]
mod ima;
#[path = "emulated/integrity.rs"]
mod integrity;
#[path = "../../ima-policy/tests/keylime/install.rs"]
mod keylime_install;
#[path = "../../ima-policy/tests/keylime/services.rs"]
mod keylime_services;
#[path = "emulated/no_tpm.rs"]
mod no_tpm;
#[path = "emulated/op_tee.rs"]
mod op_tee;
#[path = "emulated/pin.rs"]
mod pin;
#[path = "emulated/provisioning.rs"]
mod provisioning;
#[path = "emulated/record.rs"]
mod record;
#[path = "emulated/recovery.rs"]
mod recovery;
#[path = "emulated/reseal.rs"]
mod reseal;
#[path = "emulated/sealing.rs"]
mod sealing;
#[path = "emulated/signatures.rs"]
mod signatures;
#[path = "emulated/signed.rs"]
mod signed;
#[path = "emulated/spi.rs"]
mod spi;
#[path = "emulated/spi_driver.rs"]
mod spi_driver;
#[path = "emulated/spi_emulator.rs"]
mod spi_emulator;
#[path = "emulated/srk.rs"]
mod srk;
#[path = "emulated/unseal_again.rs"]
mod unseal_again;
#[path = "emulated/update.rs"]
mod update;
#[path = "emulated/virt.rs"]
mod virt;
#[path = "emulated/volume.rs"]
mod volume;
#[path = "emulated/watched.rs"]
mod watched;
