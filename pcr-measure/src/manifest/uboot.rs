//! What U-Boot measures, and in which order.

use super::build::{Builder, Measurement};

/// Names of components, as they stand in manifests and on the console.
pub mod component {
    /// PCR 0: U-Boot's version string.
    pub const UBOOT_VERSION: &str = "U-Boot version";
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

/// What U-Boot 2025.01 measures when `bootm` starts a FIT, with
/// `CONFIG_MEASURED_BOOT` and `CONFIG_MEASURE_DEVICETREE`.
#[derive(Debug, Clone)]
pub struct Uboot<'a> {
    /// The version string as it stands in the binary, its NUL included.
    pub version: &'a [u8],
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
        builder
            .event(0, component::UBOOT_VERSION, self.version, self.version_note())
            .event(8, component::KERNEL, self.kernel, self.kernel_note)
            .event(9, component::INITRAMFS, self.initramfs, "")
            .event(1, component::DEVICE_TREE, self.device_tree, "")
            .event(1, component::COMMAND_LINE, command_line, self.command_line)
            .separators(0..8)
    }
}
