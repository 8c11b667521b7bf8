//! The image that the ARM cores start from: TF-A with everything in it, or U-Boot alone.
//! The other files of a boot partition follow from it.

use std::ops::Range;

use pcr_measure::fip::{Fip, FipError};
use pcr_measure::manifest::{Firmware, component};
use pcr_measure::stub::{self, SWITCH_FILE, Stub};

use super::card::{Card, CardError};
use super::config_txt;
use super::fit::Places;
use crate::recipe::{self, Board, Target};

/// What the VideoCore needs beside it, and the licence that goes along.
pub const VIDEO_CORE: [&str; 4] = ["bootcode.bin", "start.elf", "fixup.dat", "LICENCE.broadcom"];

/// What kind of image it is. Which file of the boot partition holds it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmImage {
    /// TF-A in place of the VideoCore's stub (`armstub8.bin`, or after an update that brought
    /// firmware `armstub8-b.bin`): BL1 and the FIP, in which U-Boot is. All cores enter it in
    /// EL3.
    Armstub,
    /// U-Boot in the kernel's place (`kernel8.img`). The VideoCore's own stub enters it in
    /// EL2 on one core; the others stay in the stub.
    Kernel,
    /// The secure flash of `virt` (`flash.bin`): BL1 and the FIP. It lies on the boot
    /// partition for whoever starts the machine; the machine does not look for it there.
    Flash,
}

/// Where TF-A's package is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Package {
    /// Bytes of BL1 in front of the FIP.
    bl1: usize,
    /// The most bytes that TF-A reads of the FIP.
    most: usize,
}

impl ArmImage {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Armstub, Self::Kernel, Self::Flash];

    /// The kind that a target's firmware is.
    #[must_use]
    pub fn of(target: &Target) -> Self {
        match (target.board, target.firmware) {
            (Board::Virt, _) => Self::Flash,
            (Board::Rpi3, recipe::Firmware::TfA(_)) => Self::Armstub,
            (Board::Rpi3, recipe::Firmware::UBoot) => Self::Kernel,
        }
    }

    /// The board that it is for.
    #[must_use]
    pub const fn board(self) -> Board {
        match self {
            Self::Armstub | Self::Kernel => Board::Rpi3,
            Self::Flash => Board::Virt,
        }
    }

    /// The device tree beside it on the boot partition, which an update takes along.
    #[must_use]
    pub const fn board_dtb(self) -> Option<&'static str> {
        match self.board() {
            Board::Rpi3 => Some(config_txt::BOARD_DTB),
            Board::Virt => None,
        }
    }

    /// Other files without which the board does not start.
    #[must_use]
    pub const fn others(self) -> &'static [&'static str] {
        match self.board() {
            Board::Rpi3 => &["bootcode.bin", "start.elf", "fixup.dat", "config.txt"],
            Board::Virt => &[],
        }
    }

    /// Where U-Boot loads kernel and device tree to.
    #[must_use]
    pub const fn places(self) -> Places {
        match self.board() {
            // Above the board's DTB at 16 MiB, below TF-A's memory at 256 MiB.
            Board::Rpi3 => Places { kernel: 0x0200_0000, fdt: 0x0700_0000 },
            // Above OP-TEE's shared memory, below where the FIT is read to.
            Board::Virt => Places { kernel: 0x4400_0000, fdt: 0x4900_0000 },
        }
    }

    const fn package(self) -> Option<Package> {
        match self {
            Self::Armstub => Some(Package { bl1: stub::BL1_LEN, most: stub::FIP_MAX }),
            // TF-A, plat/qemu/qemu/include/platform_def.h: PLAT_QEMU_FIP_BASE,
            // PLAT_QEMU_FIP_MAX_SIZE.
            Self::Flash => Some(Package { bl1: 0x4_0000, most: 0x3fc_0000 }),
            Self::Kernel => None,
        }
    }

    /// Its file on the boot partition of a new card.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Armstub => Stub::A.file(),
            Self::Kernel => "kernel8.img",
            Self::Flash => "flash.bin",
        }
    }

    /// Its file on the boot partition of this card.
    #[must_use]
    pub fn file_on(self, card: &Card) -> &'static str {
        match self {
            Self::Armstub => card.stub().unwrap_or_default().file(),
            Self::Kernel | Self::Flash => self.file_name(),
        }
    }

    /// As it lies on a card: a stub at its full length. `None` where there is not so much
    /// room.
    #[must_use]
    pub fn padded(self, bytes: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Armstub => stub::padded(&bytes),
            Self::Kernel | Self::Flash => Some(bytes),
        }
    }

    /// Whether a card has two places for it.
    #[must_use]
    pub const fn has_two_places(self) -> bool {
        matches!(self, Self::Armstub)
    }

    /// What a new card has beside it: room for a second one, and the sector that says which
    /// one is started.
    #[must_use]
    pub fn second_place(self) -> Vec<(&'static str, Vec<u8>)> {
        match self {
            Self::Armstub => vec![
                (SWITCH_FILE, Stub::A.encode().to_vec()),
                (Stub::B.file(), vec![0; stub::STUB_LEN]),
            ],
            Self::Kernel | Self::Flash => Vec::new(),
        }
    }

    /// The image on a card, and its bytes. Nothing is verified.
    ///
    /// # Errors
    /// If the card has none or several, or it cannot be read.
    pub fn on(card: &Card) -> Result<(Self, Vec<u8>), CardError> {
        let mut found: Option<(Self, Vec<u8>)> = None;
        for kind in Self::ALL {
            match card.boot_file(kind.file_on(card)) {
                Ok(bytes) => {
                    if let Some((one, _)) = found.replace((kind, bytes)) {
                        let (one, other) = (Self::file_name(one), kind.file_name());
                        let path = card.path().to_owned();
                        return Err(CardError::TwoArmImages { path, one, other });
                    }
                }
                Err(error) if error.is_missing_file() => {}
                Err(error) => return Err(error),
            }
        }
        found.ok_or_else(|| CardError::NoArmImage(card.path().to_owned()))
    }

    /// What is measured of it: on a Raspberry Pi U-Boot looks at what it was started from,
    /// on `virt` TF-A records what it loads.
    ///
    /// # Errors
    /// If it is to be TF-A's and is not, or is larger than what TF-A and U-Boot read.
    pub fn measured(self, bytes: &[u8]) -> Result<Firmware, FipError> {
        if self.package().is_some_and(|package| bytes.len() > package.bl1 + package.most) {
            return Err(FipError::Endless);
        }
        match (self, self.package()) {
            (Self::Flash, Some(package)) => {
                Firmware::recorded_by_tf_a(bytes.get(package.bl1..).ok_or(FipError::None)?)
            }
            (_, Some(package)) => Firmware::of_armstub(bytes, package.bl1),
            (_, None) => Ok(Firmware::of_uboot(bytes)),
        }
    }

    /// Where in it a component lies: `BL1` or an image of the FIP, or U-Boot.
    #[must_use]
    pub fn part(self, bytes: &[u8], name: &str) -> Option<Range<usize>> {
        let Some(package) = self.package() else {
            return (name == component::UBOOT).then_some(0..bytes.len());
        };
        let (bl1, rest) = bytes.split_at_checked(package.bl1)?;
        if name == component::BL1 {
            return Some(0..bl1.len());
        }
        let fip = Fip::parse(rest).ok()?;
        let image = *fip.images.iter().find(|image| image.name() == name)?;
        let start = bl1.len() + image.offset;
        Some(start..start + image.bytes.len())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// BL1 and a FIP with this BL31.
    pub(crate) fn armstub(bl31: &[u8]) -> Vec<u8> {
        image(BL1_SIZE, bl31)
    }

    const BL1_SIZE: usize = 0x2_0000;
    const FIP_MAX: usize = 0x1e_0000;

    /// So many bytes of BL1, and a FIP with this BL31.
    pub(crate) fn image(bl1: usize, bl31: &[u8]) -> Vec<u8> {
        let mut stub = vec![0x1b; bl1];
        stub.extend(0xaa64_0001_u32.to_le_bytes());
        stub.extend([0; 12]);
        stub.extend(0x47d4_086d_4cfe_9846_9b95_2950_cbbd_5a00_u128.to_be_bytes());
        for word in [96, bl31.len() as u64, 0] {
            stub.extend(word.to_le_bytes());
        }
        stub.extend([0; 40]);
        stub.extend(bl31);
        stub
    }

    fn names(firmware: &Firmware) -> Vec<&str> {
        firmware.parts().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_measured_follows_from_the_kind() {
        let stub = armstub(b"el3");
        let measured = ArmImage::Armstub.measured(&stub).unwrap();
        assert_eq!(names(&measured), ["BL1", "FIP table", "BL31"]);
        assert_eq!(names(&ArmImage::Kernel.measured(&stub).unwrap()), ["U-Boot"]);
        // TF-A records no BL1: that is what does the recording.
        let flash = ArmImage::Flash.measured(&image(0x4_0000, b"el3")).unwrap();
        assert_eq!(names(&flash), ["BL31"]);
        ArmImage::Flash.measured(&stub).unwrap_err();
        ArmImage::Flash.measured(&[0; 0x3_ffff]).unwrap_err();
        ArmImage::Armstub.measured(b"U-Boot").unwrap_err();
        ArmImage::Armstub.measured(&vec![0; BL1_SIZE + FIP_MAX + 1]).unwrap_err();
    }

    #[test]
    fn a_new_card_has_room_for_two_stubs() {
        let sizes = |kind: ArmImage| {
            let files = kind.second_place().into_iter();
            files.map(|(name, bytes)| (name, bytes.len())).collect::<Vec<_>>()
        };
        assert_eq!(sizes(ArmImage::Armstub), [("firmware.txt", 512), ("armstub8-b.bin", 2 << 20)]);
        assert!(sizes(ArmImage::Kernel).is_empty());
        let padded = |kind: ArmImage, size| kind.padded(vec![1; size]).map(|bytes| bytes.len());
        assert_eq!(padded(ArmImage::Armstub, 5), Some(2 << 20));
        assert_eq!(padded(ArmImage::Armstub, 2 << 20), Some(2 << 20));
        assert_eq!(padded(ArmImage::Armstub, (2 << 20) + 1), None);
        assert_eq!(padded(ArmImage::Kernel, 5), Some(5));
    }

    #[test]
    fn parts_are_where_they_are() {
        let stub = armstub(b"el3");
        let end = stub.len();
        for (kind, name, place) in [
            (ArmImage::Armstub, "BL1", Some(0..BL1_SIZE)),
            (ArmImage::Armstub, "BL31", Some(end - 3..end)),
            (ArmImage::Armstub, "BL33", None),
            (ArmImage::Armstub, "U-Boot", None),
            (ArmImage::Kernel, "U-Boot", Some(0..end)),
            (ArmImage::Kernel, "BL1", None),
        ] {
            assert_eq!(kind.part(&stub, name), place, "{kind:?} {name}");
        }
        assert_eq!(ArmImage::Armstub.part(b"short", "BL1"), None);
    }
}
