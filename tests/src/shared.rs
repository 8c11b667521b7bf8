//! The device all tests of a run share: taken through the journey once, then
//! copied by whoever needs a provisioned one.

use std::{path::Path, sync::OnceLock};

use image_builder::{
    demo::{Images, Journey, journey},
    emu::{card::Card, device::Device, device::RecoveryKey},
    image::tamper::Tamper,
    progress::Progress,
};

use crate::{
    built::{built, scratch},
    slots,
};

/// What the journey left.
#[derive(Debug)]
pub struct Shared {
    /// What was seen on the way.
    pub journey: Journey,
    /// The images it used.
    pub images: Images,
    /// Its device, off. Copy it; never boot it.
    device: Device,
    /// The device's recovery key.
    pub recovery_key: RecoveryKey,
}

/// The journey's result. Whoever asks first runs it; the others wait.
///
/// # Panics
/// When the journey deviates; the message names boot, expectation and log.
#[must_use]
pub fn shared() -> &'static Shared {
    // A failure is kept too: nobody else need run into it for minutes.
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
    match SHARED.get_or_init(run) {
        Ok(shared) => shared,
        Err(error) => panic!("the journey did not go as told: {error}"),
    }
}

fn run() -> Result<Shared, String> {
    let dir = scratch("journey");
    let built = built();
    let command_line = Tamper::CommandLine("ima_appraise=off".to_owned());
    let initramfs = Tamper::Initramfs { path: "etc/added".to_owned(), content: b"x".to_vec() };
    let images = Images {
        original: built.image.clone(),
        command_line: built.card(&command_line, &dir, "command-line"),
        initramfs: built.card(&initramfs, &dir, "initramfs"),
        reference: Some(built.reference()),
        emulator: None,
    };
    let mut seen = Journey::default();
    let _slot = slots::slot();
    let done = journey(&images, &dir, &Progress::hidden(), &mut seen)
        .map_err(|error| format!("{error}\nseen until then:\n{seen}"))?;
    Ok(Shared { journey: seen, images, device: done.device, recovery_key: done.recovery_key })
}

impl Shared {
    /// A copy of the provisioned device, with the boot files of `boot`.
    #[must_use]
    pub fn copy(&self, dir: &Path, boot: &Card) -> Device {
        let mut device = self.device.copy_to(dir).expect("a copy of the device");
        device.card.take_boot_files_of(boot).expect("the boot files");
        device
    }
}
