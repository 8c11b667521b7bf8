//! The TPM, and what the root's key is sealed against.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::values::{NvIndex, PcrList, PersistentHandle, ValueError};

/// The TPM and what the root's key is sealed against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Tpm {
    /// How the TPM is attached; the board's usual way where the recipe does not say
    /// ([`Recipe::bus`](super::Recipe::bus)).
    pub bus: Option<TpmBus>,
    /// PCRs that must hold their predicted values for the key to be released.
    pub pcrs: PcrList,
    /// NV index that keeps the secret.
    pub nv_index: NvIndex,
    /// NV index that resealing alternates with.
    pub spare_index: NvIndex,
    /// Persistent handle of the storage root key.
    pub srk: PersistentHandle,
    /// Which boots the key is released to.
    pub binding: Binding,
    /// Whether the TPM wants a PIN too, which is chosen at the first boot.
    pub pin: bool,
}

/// Which boots the key is released to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Binding {
    /// Exactly the boot that was sealed against.
    #[default]
    Pcr,
    /// Every boot whose policy the vendor's key signed.
    Signed(Signed),
}

/// The binding `signed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The vendor's public key, PEM; a path beside the recipe. Without it
    /// image-builder has a pair of its own, and signs the image with it.
    pub policy_key: Option<PathBuf>,
    /// Version of the image: it opens nothing once a board's counter is above.
    pub rollback: u64,
    /// NV index of the rollback counter.
    pub counter: NvIndex,
}

impl Default for Tpm {
    fn default() -> Self {
        let nv_index = NvIndex::default();
        Self {
            bus: None,
            pcrs: PcrList::default(),
            nv_index,
            spare_index: spare(nv_index).unwrap_or_default(),
            srk: PersistentHandle::default(),
            binding: Binding::Pcr,
            pin: false,
        }
    }
}

/// The spare index where the recipe names none: behind the index of the secret and
/// that of the counter.
fn spare(nv_index: NvIndex) -> Option<NvIndex> {
    nv_index.next()?.next()
}

/// How a TPM is attached to its board.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TpmBus {
    /// I2C1 (GPIO 2 and 3), address 0x2e.
    #[default]
    I2c,
    /// SPI0 (GPIO 7 to 11).
    Spi(SpiTpm),
    /// The register interface in the processor's memory.
    Mmio,
}

/// A board with a TPM on SPI0: its chip select, its reset line, its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpiTpm {
    /// ST's STPM4RasPI with an ST33: CE0, reset on GPIO 4.
    Stpm4raspi,
    /// Infineon's SLB 9670 or 9672 on an Iridium or LetsTrust board: CE1, reset on
    /// GPIO 24.
    Slb9670,
}

/// The buses by their names in a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BusName {
    I2c,
    Spi,
    Mmio,
}

/// The TOML table, key by key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    #[serde(skip_serializing_if = "Option::is_none")]
    bus: Option<BusName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<SpiTpm>,
    pcrs: PcrList,
    nv_index: NvIndex,
    #[serde(skip_serializing_if = "Option::is_none")]
    spare_index: Option<NvIndex>,
    srk: PersistentHandle,
    binding: Word,
    pin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counter: Option<NvIndex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Pcr,
    Signed,
}

impl Default for Table {
    fn default() -> Self {
        let mut table = Self::from(Tpm::default());
        // Where the spare index is follows from where the other one is.
        table.spare_index = None;
        table
    }
}

impl From<Tpm> for Table {
    fn from(tpm: Tpm) -> Self {
        let Tpm { bus, pcrs, nv_index, spare_index, srk, binding, pin } = tpm;
        let spare_index = Some(spare_index);
        let (bus, device) = match bus {
            None => (None, None),
            Some(TpmBus::I2c) => (Some(BusName::I2c), None),
            Some(TpmBus::Spi(device)) => (Some(BusName::Spi), Some(device)),
            Some(TpmBus::Mmio) => (Some(BusName::Mmio), None),
        };
        let (binding, signed) = match binding {
            Binding::Pcr => (Word::Pcr, None),
            Binding::Signed(signed) => (Word::Signed, Some(signed)),
        };
        let rollback = signed.as_ref().map(|signed| signed.rollback);
        let counter = signed.as_ref().map(|signed| signed.counter);
        let policy_key = signed.and_then(|signed| signed.policy_key);
        Self {
            bus,
            device,
            pcrs,
            nv_index,
            spare_index,
            srk,
            binding,
            pin,
            policy_key,
            rollback,
            counter,
        }
    }
}

impl TryFrom<Table> for Tpm {
    type Error = ValueError;

    fn try_from(table: Table) -> Result<Self, ValueError> {
        let Table { pcrs, nv_index, srk, pin, policy_key, rollback, counter, .. } = table;
        let binding = table.binding;
        let fail = |why: &str| Err(ValueError(why.to_owned()));
        let bus = match (table.bus, table.device) {
            (None, None) => None,
            (Some(BusName::I2c), None) => Some(TpmBus::I2c),
            (Some(BusName::Spi), Some(device)) => Some(TpmBus::Spi(device)),
            (Some(BusName::Mmio), None) => Some(TpmBus::Mmio),
            (Some(BusName::I2c | BusName::Mmio) | None, Some(_)) => {
                return fail("device belongs to bus = \"spi\": elsewhere all are wired alike");
            }
            (Some(BusName::Spi), None) => {
                return fail(
                    "bus = \"spi\" needs device, because boards differ in chip select and reset \
                     line: \"stpm4raspi\" or \"slb9670\"",
                );
            }
        };
        let binding = match (binding, rollback) {
            (Word::Pcr, None) if policy_key.is_none() && counter.is_none() => Binding::Pcr,
            (Word::Pcr, _) => {
                return fail(
                    "policy_key, rollback and counter belong to binding = \"signed\": without it \
                     the key is released to one boot alone",
                );
            }
            (Word::Signed, None) => {
                return fail(
                    "binding = \"signed\" needs rollback, the version of this image: begin with 1, \
                     and add 1 when older images must not boot any more",
                );
            }
            (Word::Signed, Some(0)) => {
                return fail("rollback is 0: a TPM's counter never stands there, begin with 1");
            }
            (Word::Signed, Some(rollback)) => {
                let Some(counter) = counter.or_else(|| nv_index.next()) else {
                    return fail("there is no NV index behind nv_index: name one as counter");
                };
                Binding::Signed(Signed { policy_key, rollback, counter })
            }
        };
        let Some(spare_index) = table.spare_index.or_else(|| spare(nv_index)) else {
            return fail("there are no two NV indices behind nv_index: name one as spare_index");
        };
        match &binding {
            _ if spare_index == nv_index => fail("spare_index and nv_index are the same"),
            Binding::Signed(signed) if [nv_index, spare_index].contains(&signed.counter) => {
                fail("counter is the same as nv_index or spare_index")
            }
            _ => Ok(Self { bus, pcrs, nv_index, spare_index, srk, binding, pin }),
        }
    }
}
