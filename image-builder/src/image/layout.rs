//! What of a card's contents the board decides.

use super::config_txt;
use super::fit::Places;
use crate::recipe::Board;

/// The secure flash of `virt`: BL1, and the FIP behind it. It lies on the boot partition
/// for whoever starts the machine; the machine itself does not look for it there.
pub const FLASH: &str = "flash.bin";

/// What of a card's contents the board decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The board.
    pub board: Board,
    /// The file with BL1 and the FIP on the boot partition.
    pub firmware: &'static str,
    /// The board's DTB, where its firmware loads one from the boot partition.
    pub board_dtb: Option<&'static str>,
    /// Other files without which the board does not start.
    pub others: &'static [&'static str],
    /// Bytes in front of the FIP.
    pub fip_offset: usize,
    /// The most bytes that TF-A reads of the FIP.
    pub fip_max: usize,
    /// Where kernel and device tree are loaded to.
    pub places: Places,
    /// What Linux calls the card.
    pub disk: &'static str,
}

impl Layout {
    /// The layout for a board.
    pub const fn of(board: Board) -> Self {
        match board {
            Board::Rpi3 => Self {
                board,
                firmware: config_txt::ARMSTUB,
                board_dtb: Some(config_txt::BOARD_DTB),
                others: &["bootcode.bin", "start.elf", "fixup.dat", "config.txt"],
                // TF-A, plat/rpi/rpi3/include/platform_def.h: PLAT_RPI3_FIP_BASE,
                // PLAT_RPI3_FIP_MAX_SIZE. U-Boot's configuration says the same:
                // CONFIG_MEASURE_FIP_BL1_SIZE, CONFIG_MEASURE_FIP_MAX_SIZE.
                fip_offset: 0x2_0000,
                fip_max: 0x1e_0000,
                // Above the board's DTB at 16 MiB, below TF-A's memory at 256 MiB.
                places: Places { kernel: 0x0200_0000, fdt: 0x0700_0000 },
                disk: "/dev/mmcblk0",
            },
            Board::Virt => Self {
                board,
                firmware: FLASH,
                board_dtb: None,
                others: &[],
                // TF-A, plat/qemu/qemu/include/platform_def.h: PLAT_QEMU_FIP_BASE,
                // PLAT_QEMU_FIP_MAX_SIZE.
                fip_offset: 0x4_0000,
                fip_max: 0x3fc_0000,
                // Above OP-TEE's shared memory, below where the FIT is read to.
                places: Places { kernel: 0x4400_0000, fdt: 0x4900_0000 },
                disk: "/dev/vda",
            },
        }
    }

    /// The files that come with the firmware and are exchanged together with it.
    pub fn exchanged(self) -> impl Iterator<Item = &'static str> {
        [self.firmware].into_iter().chain(self.board_dtb)
    }

    /// All files of the boot partition besides FIT and manifest.
    pub fn files(self) -> impl Iterator<Item = &'static str> {
        self.others.iter().copied().chain(self.exchanged())
    }
}
