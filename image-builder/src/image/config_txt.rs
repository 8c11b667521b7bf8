//! `config.txt`: what the VideoCore firmware does before the first ARM
//! instruction.
//!
//! Nothing in it is trusted or measured; it only brings the chain to life. Keys:
//! Raspberry Pi documentation, "config.txt"; addresses: TF-A,
//! docs/plat/rpi3.rst, "Placement of images".

use pcr_measure::stub::SWITCH_FILE;

use super::arm_image::ArmImage;

/// The board's DTB, under the name that the firmware itself would look for.
pub const BOARD_DTB: &str = "bcm2710-rpi-3-b.dtb";

/// Where the DTB goes: there TF-A looks for it (`RPI3_PRELOADED_DTB_BASE`), and it is in
/// nobody's way.
pub const DTB_ADDRESS: u32 = 0x0100_0000;

/// Where U-Boot alone is made for (`CONFIG_TEXT_BASE` in rpi3-u-boot.config).
pub const KERNEL_ADDRESS: u32 = 0x0008_0000;

/// The whole file; none where there is no VideoCore to read it.
#[must_use]
pub fn text(arm_image: ArmImage) -> Option<String> {
    let name = arm_image.file_name();
    let (start, tags) = match arm_image {
        ArmImage::Flash => return None,
        ArmImage::Armstub => (
            format!(
                "# TF-A (BL1 and the FIP with BL2, BL31, OP-TEE if there is one, and U-Boot) goes to\n\
             # address 0 and is entered in EL3. U-Boot comes out of the FIP: there is no kernel\n\
             # for the firmware to load. Which of two files it is says this sector, which an\n\
             # update writes over.\n\
             include {SWITCH_FILE}\n\
             \n\
             # The device tree for TF-A, OP-TEE and U-Boot goes where TF-A was told to find it.\n\
             # Linux is given another one, out of the signed FIT.\n"
            ),
            "BL1 lies there",
        ),
        ArmImage::Kernel => (
            format!(
                "# U-Boot takes the kernel's place. The firmware's own stub enters it in EL2.\n\
             kernel={name}\n\
             kernel_address=0x{KERNEL_ADDRESS:08x}\n\
             \n\
             # U-Boot has a device tree of its own, and Linux is given another one, out of the\n\
             # signed FIT. Of this one U-Boot takes the seed of the kernel's address layout, which\n\
             # the firmware adds.\n"
            ),
            "its stub lies there",
        ),
    };
    Some(format!(
        "# Made by image-builder. Neither trusted nor measured.\n\
         \n\
         # Start the ARM cores in AArch64; without it they start in AArch32 unless a\n\
         # kernel8.img lies here.\n\
         arm_64bit=1\n\
         \n\
         {start}\
         device_tree={BOARD_DTB}\n\
         device_tree_address=0x{DTB_ADDRESS:08x}\n\
         \n\
         # The firmware must not write its ATAGS to address 0x100: {tags}.\n\
         disable_commandline_tags=1\n\
         \n\
         # Keep the core clock fixed, so that the mini-UART (OP-TEE's console, if there is one)\n\
         # keeps its baud rate.\n\
         enable_uart=1\n"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arm_image: ArmImage) -> Vec<String> {
        let text = text(arm_image).unwrap();
        // The firmware reads 98 characters of a line and no more.
        assert!(text.lines().all(|line| line.len() <= 98));
        let said = |line: &&str| !line.is_empty() && !line.starts_with('#');
        text.lines().filter(said).map(str::to_owned).collect()
    }

    #[test]
    fn it_says_where_everything_goes() {
        assert_eq!(
            settings(ArmImage::Armstub),
            [
                "arm_64bit=1",
                "include firmware.txt",
                "device_tree=bcm2710-rpi-3-b.dtb",
                "device_tree_address=0x01000000",
                "disable_commandline_tags=1",
                "enable_uart=1",
            ]
        );
        assert_eq!(
            settings(ArmImage::Kernel),
            [
                "arm_64bit=1",
                "kernel=kernel8.img",
                "kernel_address=0x00080000",
                "device_tree=bcm2710-rpi-3-b.dtb",
                "device_tree_address=0x01000000",
                "disable_commandline_tags=1",
                "enable_uart=1",
            ]
        );
    }
}
