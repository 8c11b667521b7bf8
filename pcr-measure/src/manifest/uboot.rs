//! What U-Boot measures, and in which order.

use super::build::{Builder, Measurement};
use super::{Manifest, ManifestEvent};
use crate::fip::{Fip, FipError};

/// Names of components, as they stand in manifests and on the console.
pub mod component {
    /// PCR 0: U-Boot's version string.
    pub const UBOOT_VERSION: &str = "U-Boot version";
    /// PCR 0: U-Boot itself, where nothing of TF-A holds it.
    pub const UBOOT: &str = "U-Boot";
    /// PCR 0: TF-A's first stage, where it lies in front of the FIP.
    pub const BL1: &str = "BL1";
    /// PCR 0: the table of contents of the FIP. Its images follow by their names
    /// ([`FipImage::name`](crate::fip::FipImage::name)).
    pub const FIP_TABLE: &str = "FIP table";
    /// PCR 8: the kernel as stored in the FIT.
    pub const KERNEL: &str = "kernel";
    /// PCR 9: the initramfs as stored in the FIT.
    pub const INITRAMFS: &str = "initramfs";
    /// PCR 1: the device tree out of the FIT, before fix-ups.
    pub const DEVICE_TREE: &str = "device tree";
    /// PCR 1: the kernel command line.
    pub const COMMAND_LINE: &str = "command line";
    /// PCRs 0 to 7: the end of the firmware's part.
    pub const SEPARATOR: &str = "separator";
}

/// The firmware that U-Boot was started from, as somebody measures it: U-Boot, with
/// `CONFIG_MEASURE_FIP` BL1, the FIP's table of contents, and every image, with
/// `CONFIG_MEASURE_SELF` itself; or TF-A, what it loads.
#[derive(Debug, Clone, Default)]
pub struct Firmware {
    parts: Vec<(String, Measurement)>,
    /// Whether it comes before U-Boot's own version.
    first: bool,
}

impl Firmware {
    /// What TF-A records with `MEASURED_BOOT` while it loads a FIP, and U-Boot extends
    /// before anything of its own: every image, in the order of loading, which is that
    /// of the FIP as TF-A's build makes it.
    ///
    /// # Errors
    /// [`FipError`].
    pub fn recorded_by_tf_a(fip: &[u8]) -> Result<Self, FipError> {
        let fip = Fip::parse(fip)?;
        Ok(Self { parts: images(&fip).collect(), first: true })
    }

    /// What U-Boot measures with `CONFIG_MEASURE_FIP` of a stub for the VideoCore: BL1,
    /// the FIP's table of contents, and every image. The stub is `bl1_size` bytes of BL1
    /// (`CONFIG_MEASURE_FIP_BL1_SIZE`), then the FIP.
    ///
    /// # Errors
    /// [`FipError`].
    pub fn of_armstub(stub: &[u8], bl1_size: usize) -> Result<Self, FipError> {
        let (bl1, rest) = stub.split_at_checked(bl1_size).ok_or(FipError::None)?;
        let fip = Fip::parse(rest)?;
        let head = [(component::BL1, bl1), (component::FIP_TABLE, fip.table)];
        let head = head.map(|(name, bytes)| (name.to_owned(), Measurement::of(bytes)));
        Ok(Self { parts: head.into_iter().chain(images(&fip)).collect(), first: false })
    }

    /// U-Boot alone: `u-boot.bin`, its device tree included, as it was loaded.
    #[must_use]
    pub fn of_uboot(image: &[u8]) -> Self {
        let parts = vec![(component::UBOOT.to_owned(), Measurement::of(image))];
        Self { parts, first: false }
    }

    /// Names and measurements, in the order in which they are measured.
    pub fn parts(&self) -> impl Iterator<Item = (&str, Measurement)> {
        self.parts.iter().map(|(name, measured)| (name.as_str(), *measured))
    }
}

impl Manifest {
    /// Whether an image expects to be started from this firmware, and no other: names,
    /// digests, sizes and their order. U-Boot's version, which is in it as well, is not
    /// looked at.
    #[must_use]
    pub fn expects(&self, firmware: &Firmware) -> bool {
        let is_part = |event: &&ManifestEvent| {
            event.pcr.get() == 0
                && ![component::UBOOT_VERSION, component::SEPARATOR]
                    .contains(&event.component.as_str())
        };
        let part = |event: &ManifestEvent| Measurement { digest: event.digest, size: event.size };
        let expected = self.events().iter().filter(is_part);
        expected.map(|event| (event.component.as_str(), part(event))).eq(firmware.parts())
    }
}

fn images(fip: &Fip<'_>) -> impl Iterator<Item = (String, Measurement)> {
    fip.images.iter().map(|image| (image.name(), Measurement::of(image.bytes)))
}

/// What U-Boot 2025.01 measures when `bootm` starts a FIT, with
/// `CONFIG_MEASURED_BOOT` and `CONFIG_MEASURE_DEVICETREE`.
#[derive(Debug, Clone)]
pub struct Uboot<'a> {
    /// The version string as it stands in the binary, its NUL included.
    pub version: &'a [u8],
    /// The firmware that it was started from; empty where nobody measures that.
    pub firmware: &'a Firmware,
    /// The kernel as stored in the FIT (compressed, if it is).
    pub kernel: Measurement,
    /// A note about the kernel, for instance its version.
    pub kernel_note: &'a str,
    /// The initramfs as stored in the FIT.
    pub initramfs: Measurement,
    /// The device tree out of the FIT, before fix-ups.
    pub device_tree: Measurement,
    /// The kernel command line without its NUL.
    pub command_line: &'a str,
}

impl Uboot<'_> {
    fn version_note(&self) -> String {
        let text = self.version.split(|byte| *byte == 0).next().unwrap_or_default();
        crate::text::printable(&String::from_utf8_lossy(text))
    }

    /// The order is that of `tcg2_measurement_init` and `tcg2_measurement_term`
    /// (lib/tpm_tcg2.c) around `bootm_measure` (boot/bootm.c).
    pub(super) fn add_to(&self, builder: Builder) -> Builder {
        let command_line = Measurement::of_c_string(self.command_line);
        let version = self.version_note();
        let own =
            |builder: Builder| builder.event(0, component::UBOOT_VERSION, self.version, version);
        let add = |builder: Builder, (name, measured)| builder.event(0, name, measured, "");
        let firmware = |builder| self.firmware.parts().fold(builder, add);
        let builder =
            if self.firmware.first { own(firmware(builder)) } else { firmware(own(builder)) };
        builder
            .event(8, component::KERNEL, self.kernel, self.kernel_note)
            .event(9, component::INITRAMFS, self.initramfs, "")
            .event(1, component::DEVICE_TREE, self.device_tree, "")
            .event(1, component::COMMAND_LINE, command_line, self.command_line)
            .separators(0..8)
    }
}
