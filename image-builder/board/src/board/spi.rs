//! A TPM on SPI0, and what can be made wrong with it.
//!
//! The device is `tpm-tis-spi`, which no release of QEMU has: `tests/qemu/` holds the
//! patches, image-builder's component `qemu` is the emulator with them.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use crate::tpm::SoftTpm;

/// The TPM's name in QEMU, for settings at run time.
pub(super) const ID: &str = "tpm";

/// A TPM on SPI0 and the emulator that has one.
#[derive(Debug, Clone)]
pub struct SpiTpm {
    /// Its state.
    pub tpm: SoftTpm,
    /// The emulator with the device `tpm-tis-spi`.
    pub qemu: PathBuf,
    /// Which chip select it hangs on.
    pub chip_select: ChipSelect,
    /// How it behaves from power-on.
    pub behaviour: SpiBehaviour,
}

/// SPI0's chip selects on the header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ChipSelect {
    /// CE0, GPIO 8.
    #[default]
    Ce0,
    /// CE1, GPIO 7.
    Ce1,
}

impl ChipSelect {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Ce0 => 0,
            Self::Ce1 => 1,
        }
    }
}

/// How the TPM behaves on the bus. The default is one that answers at once, and right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpiBehaviour {
    /// Wait states after the header of each transaction (PC Client Platform TPM
    /// Profile, "SPI Hardware Protocol"). With `u32::MAX` it waits for ever.
    pub wait_states: u32,
    /// Bits that flip on the bus.
    pub bit_errors: Option<BitErrors>,
    /// How long each response to a command is held back, in the guest's time. Whole
    /// milliseconds, 49 days at most.
    pub response_delay: Duration,
    /// How long the TPM is silent after its reset, in the guest's time. Whole
    /// milliseconds, 49 days at most.
    pub startup_delay: Duration,
    /// It does not answer at all.
    pub silent: bool,
}

/// One bit in every so many bytes, on either data line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitErrors {
    /// Of this many bytes the last one is hit, counted from the TPM's reset.
    pub interval: NonZeroU32,
    /// Selects the bits; the same seed hits the same ones.
    pub seed: u32,
}

impl SpiBehaviour {
    /// The device's properties and their values, as QMP and the command line write them.
    pub(super) fn properties(&self) -> [(&'static str, String); 6] {
        let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        let (interval, seed) = self.bit_errors.map_or((0, 0), |e| (e.interval.get(), e.seed));
        [
            ("wait-states", self.wait_states.to_string()),
            ("x-bit-error-interval", interval.to_string()),
            ("x-bit-error-seed", seed.to_string()),
            ("x-response-delay", milliseconds(self.response_delay).to_string()),
            ("x-startup-delay", milliseconds(self.startup_delay).to_string()),
            ("x-silent", self.silent.to_string()),
        ]
    }
}

impl SpiTpm {
    /// The device on QEMU's command line. A property that has its default is left out.
    pub(super) fn device(&self) -> String {
        let mut device =
            format!("tpm-tis-spi,id={ID},tpmdev=tpm0,bus=spi,cs={}", self.chip_select.number());
        let defaults = SpiBehaviour::default().properties();
        for (property, default) in self.behaviour.properties().into_iter().zip(defaults) {
            if property != default {
                device.push_str(&format!(",{}={}", property.0, property.1));
            }
        }
        device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tpm(dir: &std::path::Path, behaviour: SpiBehaviour) -> SpiTpm {
        std::fs::write(dir.join("tpm2-00.permall"), [1]).unwrap();
        SpiTpm {
            tpm: SoftTpm::open(dir).unwrap(),
            qemu: "/q".into(),
            chip_select: ChipSelect::Ce1,
            behaviour,
        }
    }

    #[test]
    fn a_good_tpm_has_no_property_of_a_bad_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            tpm(dir.path(), SpiBehaviour::default()).device(),
            "tpm-tis-spi,id=tpm,tpmdev=tpm0,bus=spi,cs=1"
        );
    }

    #[test]
    fn every_fault_has_its_property() {
        let dir = tempfile::tempdir().unwrap();
        let behaviour = SpiBehaviour {
            wait_states: 3,
            bit_errors: Some(BitErrors { interval: NonZeroU32::new(1000).unwrap(), seed: 7 }),
            response_delay: Duration::from_millis(20),
            startup_delay: Duration::MAX,
            silent: true,
        };
        assert_eq!(
            tpm(dir.path(), behaviour).device(),
            "tpm-tis-spi,id=tpm,tpmdev=tpm0,bus=spi,cs=1,wait-states=3,\
             x-bit-error-interval=1000,x-bit-error-seed=7,x-response-delay=20,\
             x-startup-delay=4294967295,x-silent=true"
        );
    }
}
