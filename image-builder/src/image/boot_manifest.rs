//! The boot manifest of an image: what U-Boot will measure, in its order.

use pcr_measure::manifest::{Firmware, Manifest, ManifestError, Measurement, Uboot, component};

use super::fit::Contents;
use crate::recipe::Recipe;

/// The manifest of a new image.
///
/// `uboot_version` is measured with its final NUL; `kernel_version` is a note
/// for people.
///
/// # Errors
/// If a name or note cannot stand in a manifest.
pub fn of_image(
    recipe: &Recipe,
    contents: &Contents,
    uboot_version: &[u8],
    firmware: &Firmware,
    kernel_version: &str,
) -> Result<Manifest, ManifestError> {
    Manifest::builder(recipe.name.as_str(), recipe.board.to_string())
        .uboot(&Uboot {
            version: uboot_version,
            firmware,
            kernel: Measurement::of(&contents.kernel),
            kernel_note: kernel_version,
            initramfs: Measurement::of(&contents.ramdisk),
            device_tree: Measurement::of(&contents.fdt),
            command_line: &contents.command_line,
        })
        .seal(&recipe.tpm.pcrs.as_slice().iter().map(|pcr| u32::from(*pcr)).collect::<Vec<_>>())
        .build()
}

/// What a FIT's parts are measured as, by the names of the manifest.
pub fn parts(contents: &Contents) -> [(&'static str, Measurement); 4] {
    [
        (component::KERNEL, Measurement::of(&contents.kernel)),
        (component::INITRAMFS, Measurement::of(&contents.ramdisk)),
        (component::DEVICE_TREE, Measurement::of(&contents.fdt)),
        (component::COMMAND_LINE, Measurement::of_c_string(&contents.command_line)),
    ]
}

/// The manifest of an image whose FIT was exchanged, or its firmware: the same events
/// in the same order, with the new parts' digests.
///
/// # Errors
/// If the new command line cannot stand in a manifest.
pub fn of_variant(
    old: &Manifest,
    contents: &Contents,
    firmware: Option<&Firmware>,
) -> Result<Manifest, ManifestError> {
    let firmware = firmware.into_iter().flat_map(Firmware::parts);
    let parts: Vec<(&str, Measurement)> = parts(contents).into_iter().chain(firmware).collect();
    let mut builder = Manifest::builder(old.image(), old.board());
    for event in old.events() {
        let new = parts.iter().find(|(name, _)| *name == event.component);
        let measurement = new
            .map_or(Measurement { digest: event.digest, size: event.size }, |(_, measurement)| {
                *measurement
            });
        let note = if event.component == component::COMMAND_LINE {
            &contents.command_line
        } else {
            &event.note
        };
        builder = builder.event(event.pcr.get().into(), &event.component, measurement, note);
    }
    let seal: Vec<u32> = old.seal().iter().map(|pcr| pcr.get().into()).collect();
    builder.seal(&seal).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::arm_image::{
        ArmImage,
        tests::{armstub, image},
    };

    fn contents(command_line: &str) -> Contents {
        Contents {
            kernel: b"kernel".to_vec(),
            fdt: b"fdt".to_vec(),
            ramdisk: b"ramdisk".to_vec(),
            command_line: command_line.to_owned(),
            description: "x".to_owned(),
            places: ArmImage::Armstub.places(),
        }
    }

    fn manifest(contents: &Contents) -> Manifest {
        let recipe = Recipe::parse(include_str!("../../recipes/rpi3-tiny.toml"), "rpi3").unwrap();
        let firmware = ArmImage::Armstub.measured(&armstub(b"el3")).unwrap();
        of_image(&recipe, contents, b"U-Boot 2025.01\0", &firmware, "6.12").unwrap()
    }

    #[test]
    fn everything_that_is_measured_is_listed_in_order() {
        let manifest = manifest(&contents("quiet"));
        let events: Vec<(u32, &str, u64)> = manifest
            .events()
            .iter()
            .map(|e| (e.pcr.get().into(), e.component.as_str(), e.size))
            .collect();
        let mut expected = vec![
            (0, "U-Boot version", 15),
            (0, "BL1", 0x20000),
            (0, "FIP table", 96),
            (0, "BL31", 3),
            (8, "kernel", 6),
            (9, "initramfs", 7),
            (1, "device tree", 3),
            (1, "command line", 6),
        ];
        expected.extend((0..8).map(|pcr| (pcr, "separator", 4)));
        assert_eq!(events, expected);
        assert_eq!(manifest.image(), "msec-rpi3-tiny");
        assert_eq!(manifest.board(), "rpi3");
    }

    #[test]
    fn on_virt_the_firmware_is_recorded_before_u_boot() {
        let recipe = Recipe::parse(include_str!("../../recipes/virt.toml"), "virt").unwrap();
        let firmware = ArmImage::Flash.measured(&image(0x4_0000, b"el3")).unwrap();
        let contents = contents("quiet");
        let manifest =
            of_image(&recipe, &contents, b"U-Boot 2025.01\0", &firmware, "6.12").unwrap();
        let events: Vec<&str> =
            manifest.events().iter().take(3).map(|e| e.component.as_str()).collect();
        assert_eq!(events, ["BL31", "U-Boot version", "kernel"]);
        assert_eq!(manifest.board(), "virt");
    }

    #[test]
    fn a_variant_has_the_manifest_that_a_build_would_give_it() {
        let old = manifest(&contents("quiet"));
        let mut changed = contents("quiet lockdown=none");
        changed.ramdisk.push(0);
        let new = of_variant(&old, &changed, None).unwrap();
        assert_eq!(new, manifest(&changed));
        assert_ne!(new, old);
        let firmware = ArmImage::Armstub.measured(&armstub(b"el4")).unwrap();
        let other = of_variant(&old, &contents("quiet"), Some(&firmware)).unwrap();
        let differs = |n: &usize| other.events()[*n] != old.events()[*n];
        let differing: Vec<_> = (0..old.events().len()).filter(differs).collect();
        assert_eq!(differing.len(), 1);
        assert_eq!(old.events()[differing[0]].component, "BL31");
        assert_eq!(of_variant(&old, &contents("quiet"), None).unwrap(), old);
    }
}
