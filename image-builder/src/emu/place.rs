//! Where a board has its TPM, by the device tree that its card brings along.

use std::path::Path;

use emulated_board::{ChipSelect, SoftTpm, SpiBehaviour, SpiTpm, TpmLink};

use super::card::CardError;
use crate::image::fdt::Fdt;

/// Where the TPM of a board is, as far as the emulated one can have it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmPlace {
    /// I2C1, address 0x2e.
    I2c,
    /// SPI0, at this chip select.
    Spi(ChipSelect),
    /// The memory of `virt`.
    Mmio,
}

/// The nodes of `bcm283x.dtsi` and of our overlays.
const NODES: [(&str, TpmPlace); 3] = [
    ("/soc/i2c@7e804000/tpm@2e", TpmPlace::I2c),
    ("/soc/spi@7e204000/tpm@0", TpmPlace::Spi(ChipSelect::Ce0)),
    ("/soc/spi@7e204000/tpm@1", TpmPlace::Spi(ChipSelect::Ce1)),
];

impl TpmPlace {
    /// The place that a device tree names; none when it names none of these, or
    /// several.
    #[must_use]
    pub fn named_by(tree: &Fdt<'_>) -> Option<Self> {
        let mut places = NODES
            .iter()
            .filter(|(node, _)| tree.property(node, "compatible").is_some())
            .map(|(_, place)| *place);
        places.next().filter(|_| places.next().is_none())
    }

    /// This TPM at this place. `emulator` is our QEMU: Debian's has no TPM on
    /// SPI.
    ///
    /// # Errors
    /// [`CardError::NoEmulator`] when it is needed and there is none.
    pub fn link(self, tpm: SoftTpm, emulator: Option<&Path>) -> Result<TpmLink, CardError> {
        match self {
            Self::I2c => Ok(TpmLink::I2c(tpm)),
            Self::Mmio => Ok(TpmLink::Mmio(tpm)),
            Self::Spi(chip_select) => Ok(TpmLink::Spi(SpiTpm {
                tpm,
                qemu: emulator.ok_or(CardError::NoEmulator)?.to_owned(),
                chip_select,
                behaviour: SpiBehaviour::default(),
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::fdt::tests::with_nodes;

    #[test]
    fn the_place_is_the_one_that_the_tree_names() {
        let cases: [(&[&str], Option<TpmPlace>); 6] = [
            (&["/soc/i2c@7e804000/tpm@2e"], Some(TpmPlace::I2c)),
            (&["/soc/spi@7e204000/tpm@0"], Some(TpmPlace::Spi(ChipSelect::Ce0))),
            (&["/soc/spi@7e204000/tpm@1"], Some(TpmPlace::Spi(ChipSelect::Ce1))),
            (&["/soc/i2c@7e205000/tpm@2e", "/tpm@2e"], None),
            (&["/soc/spi@7e204000"], None),
            (&["/tpm@0"], None),
        ];
        for (nodes, place) in cases {
            let tree = with_nodes(nodes);
            assert_eq!(TpmPlace::named_by(&Fdt::new(&tree).unwrap()), place, "{nodes:?}");
        }
    }
}
