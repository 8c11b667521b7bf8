//! PCR indices, selections, and banks of values.

mod bank;
mod selection;

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{Algorithm, DigestError};

pub use bank::PcrBank;
pub use selection::{PcrSelection, marshal_selections};

/// PCRs of a platform TPM (PC Client Platform TPM Profile 1.05, 4.6: 24).
pub const PCR_COUNT: u8 = 24;

/// What can be wrong with a PCR, a selection or a bank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcrError {
    /// There is no such PCR.
    #[error("there is no PCR {0}: PCRs are 0 to 23")]
    NoSuchPcr(u32),
    /// The text names no PCRs.
    #[error("{0:?} is no list of PCRs: write it as 0-9,15")]
    NotAList(String),
    /// Nothing was selected.
    #[error("the PCR selection is empty: name at least one PCR, as in 0-9,15")]
    Empty,
    /// A value of another bank.
    #[error("PCR {pcr}: a {got} value cannot stand in the {bank} bank")]
    OtherBank {
        /// The PCR.
        pcr: PcrIndex,
        /// The bank.
        bank: Algorithm,
        /// The algorithm of the value.
        got: Algorithm,
    },
    /// A selected PCR has no value.
    #[error("the {bank} bank has no value for PCR {pcr}, which the selection names")]
    NoValue {
        /// The PCR.
        pcr: PcrIndex,
        /// The bank.
        bank: Algorithm,
    },
    /// Bad algorithm or digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// The number of a PCR, 0 to 23.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// PCR number `index`.
    ///
    /// # Errors
    /// [`PcrError::NoSuchPcr`] beyond 23.
    pub fn new(index: u32) -> Result<Self, PcrError> {
        u8::try_from(index)
            .ok()
            .filter(|i| *i < PCR_COUNT)
            .map(Self)
            .ok_or(PcrError::NoSuchPcr(index))
    }

    /// Every PCR, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PCR_COUNT).map(Self)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The byte that fills the PCR after TPM2_Startup(CLEAR) (PC Client Platform
    /// TPM Profile 1.05, 4.6.2): ones in 17 to 22, zeros elsewhere. A startup
    /// from another locality changes PCR 0; an event log says so.
    #[must_use]
    pub const fn reset_byte(self) -> u8 {
        if self.0 >= 17 && self.0 <= 22 { 0xff } else { 0 }
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u32> for PcrIndex {
    type Error = PcrError;

    fn try_from(index: u32) -> Result<Self, PcrError> {
        Self::new(index)
    }
}

impl<'de> Deserialize<'de> for PcrIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
