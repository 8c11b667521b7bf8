//! The boards.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::components::{Firmware, SecureWorld};
use super::target::Purpose;
use super::tpm::TpmBus;
use super::values::ValueError;

/// A board that images can be made for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Board {
    /// Raspberry Pi 3 Model B (BCM2837).
    #[default]
    Rpi3,
    /// QEMU's arm64 machine `virt`, with a secure world. It exists in emulation alone.
    Virt,
}

impl Board {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Rpi3, Self::Virt];

    /// Its name in recipes and boot manifests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rpi3 => "rpi3",
            Self::Virt => "virt",
        }
    }

    /// The board of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|board| board.name() == name)
    }

    /// What Linux calls the card that it starts from.
    pub fn disk(self) -> &'static str {
        match self {
            Self::Rpi3 => "/dev/mmcblk0",
            Self::Virt => "/dev/vda",
        }
    }

    /// Where its TPM is unless a recipe says otherwise.
    pub fn usual_bus(self) -> TpmBus {
        match self {
            Self::Rpi3 => TpmBus::I2c,
            Self::Virt => TpmBus::Mmio,
        }
    }

    /// Whether it can have its TPM there.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn check_bus(self, bus: TpmBus) -> Result<(), ValueError> {
        let instead = match (self, bus) {
            (Self::Rpi3, TpmBus::I2c | TpmBus::Spi(_)) | (Self::Virt, TpmBus::Mmio) => {
                return Ok(());
            }
            (Self::Rpi3, TpmBus::Mmio) => "its header: bus = \"i2c\" or bus = \"spi\"",
            (Self::Virt, TpmBus::I2c | TpmBus::Spi(_)) => "its memory: bus = \"mmio\"",
        };
        Err(ValueError(format!("[tpm] board = \"{self}\" has its TPM on {instead}")))
    }

    /// Whether it can start by this firmware, with this U-Boot.
    ///
    /// # Errors
    /// What to write instead.
    pub(super) fn check_firmware(
        self,
        firmware: Firmware,
        u_boot: Purpose,
    ) -> Result<(), ValueError> {
        match (self, firmware, u_boot) {
            (Self::Rpi3, ..) => Ok(()),
            (Self::Virt, Firmware::TfA(SecureWorld::OpTee), Purpose::Release) => Ok(()),
            (Self::Virt, _, Purpose::Development) => Err(ValueError(
                "[u_boot] development is for a Raspberry Pi's U-Boot; board = \"virt\" has none of \
                 its buses"
                    .to_owned(),
            )),
            (Self::Virt, ..) => Err(ValueError(
                "[components] board = \"virt\" has one chain: firmware = \"tf-a\" with secure_world = \
                 \"op-tee\""
                    .to_owned(),
            )),
        }
    }
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
