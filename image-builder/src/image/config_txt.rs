//! `config.txt`: what the VideoCore firmware does before the first ARM
//! instruction.
//!
//! Nothing in it is trusted or measured; it only brings the chain to life. Keys:
//! Raspberry Pi documentation, "config.txt"; addresses: TF-A,
//! docs/plat/rpi3.rst, "Placement of images".

/// TF-A's BL1 and the FIP.
pub const ARMSTUB: &str = "armstub8.bin";

/// The board's DTB, under the name that the firmware itself would look for.
pub const BOARD_DTB: &str = "bcm2710-rpi-3-b.dtb";

/// Where TF-A looks for the DTB (`RPI3_PRELOADED_DTB_BASE`).
pub const DTB_ADDRESS: u32 = 0x0100_0000;

/// The whole file.
pub fn text() -> String {
    format!(
        "# Made by image-builder. Neither trusted nor measured.\n\
         \n\
         # Start the ARM cores in AArch64; without it they start in AArch32 unless a\n\
         # kernel8.img lies here.\n\
         arm_64bit=1\n\
         \n\
         # TF-A (BL1 and the FIP with BL2, BL31, OP-TEE and U-Boot) goes to address 0 and is\n\
         # entered in EL3. U-Boot comes out of the FIP: there is no kernel for the firmware\n\
         # to load.\n\
         armstub={ARMSTUB}\n\
         \n\
         # The device tree for TF-A, OP-TEE and U-Boot goes where TF-A was told to find it.\n\
         # Linux is given another one, out of the signed FIT.\n\
         device_tree={BOARD_DTB}\n\
         device_tree_address=0x{DTB_ADDRESS:08x}\n\
         \n\
         # The firmware must not write its ATAGS to address 0x100: BL1 lies there.\n\
         disable_commandline_tags=1\n\
         \n\
         # Keep the core clock fixed, so that the mini-UART (OP-TEE's console) keeps its baud\n\
         # rate.\n\
         enable_uart=1\n"
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_says_where_everything_goes() {
        let text = super::text();
        let settings: Vec<&str> =
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert_eq!(
            settings,
            [
                "arm_64bit=1",
                "armstub=armstub8.bin",
                "device_tree=bcm2710-rpi-3-b.dtb",
                "device_tree_address=0x01000000",
                "disable_commandline_tags=1",
                "enable_uart=1",
            ]
        );
        // The firmware reads 98 characters of a line and no more.
        assert!(text.lines().all(|line| line.len() <= 98));
    }
}
