//! The image that the VideoCore starts on the ARM cores: TF-A with everything in it, or
//! U-Boot alone.

use std::ops::Range;

use pcr_measure::fip::{Fip, FipError};
use pcr_measure::manifest::{Firmware, component};

use super::card::{Card, CardError};
use crate::recipe;

/// Bytes of BL1 in front of the FIP (TF-A, plat/rpi/rpi3/include/platform_def.h,
/// `PLAT_RPI3_FIP_BASE`; `CONFIG_MEASURE_FIP_BL1_SIZE` in U-Boot's configuration).
pub const BL1_SIZE: usize = 0x20000;
/// Most bytes of the FIP (`PLAT_RPI3_FIP_MAX_SIZE`, `CONFIG_MEASURE_FIP_MAX_SIZE`).
const FIP_MAX: usize = 0x1e_0000;

/// What kind of image it is. Which file of the boot partition holds it follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmImage {
    /// TF-A in place of the VideoCore's stub (`armstub8.bin`): BL1 and the FIP, in which
    /// U-Boot is. All cores enter it in EL3.
    Armstub,
    /// U-Boot in the kernel's place (`kernel8.img`). The VideoCore's own stub enters it in
    /// EL2 on one core; the others stay in the stub.
    Kernel,
}

impl ArmImage {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Armstub, Self::Kernel];

    /// The kind that a recipe's firmware is.
    #[must_use]
    pub fn of(firmware: recipe::Firmware) -> Self {
        match firmware {
            recipe::Firmware::TfA(_) => Self::Armstub,
            recipe::Firmware::UBoot => Self::Kernel,
        }
    }

    /// Its file on the boot partition.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Armstub => "armstub8.bin",
            Self::Kernel => "kernel8.img",
        }
    }

    /// The image on a card, and its bytes. Nothing is verified.
    ///
    /// # Errors
    /// If the card has none or both, or it cannot be read.
    pub fn on(card: &Card) -> Result<(Self, Vec<u8>), CardError> {
        let mut found = None;
        for kind in Self::ALL {
            match card.boot_file(kind.file_name()) {
                Ok(_) if found.is_some() => {
                    return Err(CardError::TwoArmImages(card.path().to_owned()));
                }
                Ok(bytes) => found = Some((kind, bytes)),
                Err(error) if error.is_missing_file() => {}
                Err(error) => return Err(error),
            }
        }
        found.ok_or_else(|| CardError::NoArmImage(card.path().to_owned()))
    }

    /// What U-Boot measures of it.
    ///
    /// # Errors
    /// If it is to be TF-A's and is not, or is larger than what TF-A and U-Boot read.
    pub fn measured(self, bytes: &[u8]) -> Result<Firmware, FipError> {
        match self {
            Self::Armstub if bytes.len() > BL1_SIZE + FIP_MAX => Err(FipError::Endless),
            Self::Armstub => Firmware::of_armstub(bytes, BL1_SIZE),
            Self::Kernel => Ok(Firmware::of_uboot(bytes)),
        }
    }

    /// Where in it a component lies: `BL1` or an image of the FIP, or U-Boot.
    #[must_use]
    pub fn part(self, bytes: &[u8], name: &str) -> Option<Range<usize>> {
        match self {
            Self::Kernel => (name == component::UBOOT).then_some(0..bytes.len()),
            Self::Armstub => {
                let (bl1, rest) = bytes.split_at_checked(BL1_SIZE)?;
                if name == component::BL1 {
                    return Some(0..bl1.len());
                }
                let fip = Fip::parse(rest).ok()?;
                let image = *fip.images.iter().find(|image| image.name() == name)?;
                let start = bl1.len() + image.offset;
                Some(start..start + image.bytes.len())
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// BL1 and a FIP with this BL31.
    pub(crate) fn armstub(bl31: &[u8]) -> Vec<u8> {
        let mut stub = vec![0x1b; BL1_SIZE];
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
        ArmImage::Armstub.measured(b"U-Boot").unwrap_err();
        ArmImage::Armstub.measured(&vec![0; BL1_SIZE + FIP_MAX + 1]).unwrap_err();
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
