//! Selections of PCRs, as text, as JSON, and as a TPM marshals them.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PCR_COUNT, PcrError, PcrIndex};
use crate::digest::Algorithm;

/// `sizeofSelect` of a selection over 24 PCRs, in bytes.
const SELECT_SIZE: u8 = PCR_COUNT / 8;

/// Some PCRs of one bank. Not empty where it comes from text or JSON.
///
/// As text `0-9,15`, or with another bank `sha384:0-9,15`. In JSON a list of
/// numbers, always of the SHA-256 bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PcrSelection {
    bank: Algorithm,
    mask: u32,
}

impl PcrSelection {
    /// A selection of these PCRs; naming one twice is the same as once.
    ///
    /// # Errors
    /// [`PcrError::Empty`] if there are none.
    pub fn new(
        bank: Algorithm,
        pcrs: impl IntoIterator<Item = PcrIndex>,
    ) -> Result<Self, PcrError> {
        let mask = pcrs.into_iter().fold(0, |mask, pcr| mask | 1 << pcr.0);
        if mask == 0 {
            return Err(PcrError::Empty);
        }
        Ok(Self { bank, mask })
    }

    /// A selection of the SHA-256 bank, by numbers.
    ///
    /// # Errors
    /// [`PcrError::NoSuchPcr`], [`PcrError::Empty`].
    pub fn sha256(pcrs: &[u32]) -> Result<Self, PcrError> {
        let pcrs: Result<Vec<_>, _> = pcrs.iter().copied().map(PcrIndex::new).collect();
        Self::new(Algorithm::Sha256, pcrs?)
    }

    /// The bank.
    #[must_use]
    pub const fn bank(&self) -> Algorithm {
        self.bank
    }

    /// Whether `pcr` is selected.
    #[must_use]
    pub const fn contains(&self, pcr: PcrIndex) -> bool {
        self.mask & 1 << pcr.0 != 0
    }

    /// The selected PCRs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PcrIndex> + use<> {
        let this = *self;
        PcrIndex::all().filter(move |pcr| this.contains(*pcr))
    }

    /// The bit mask, bit n = PCR n.
    #[must_use]
    pub const fn mask(&self) -> u32 {
        self.mask
    }

    /// `TPML_PCR_SELECTION` of this one selection, as the TPM marshals it.
    #[must_use]
    pub fn to_tpml(&self) -> Vec<u8> {
        marshal_selections(&[*self])
    }
}

/// `TPML_PCR_SELECTION`: count, then for each bank `TPMS_PCR_SELECTION` (TPM
/// 2.0 Library 1.59, Part 2, 10.6.2 and 10.9.7); three bytes of bits each.
#[must_use]
pub fn marshal_selections(selections: &[PcrSelection]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + 6 * selections.len());
    // More banks than u32 counts cannot be in memory.
    out.extend_from_slice(&(selections.len() as u32).to_be_bytes());
    for selection in selections {
        out.extend_from_slice(&selection.bank.id().to_be_bytes());
        out.push(SELECT_SIZE);
        // Bit n of byte m is PCR 8m+n: the low three bytes, lowest first.
        out.extend(selection.mask.to_le_bytes().iter().take(SELECT_SIZE.into()));
    }
    out
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.bank)?;
        for (i, pcr) in self.iter().enumerate() {
            write!(f, "{}{pcr}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for PcrSelection {
    type Err = PcrError;

    fn from_str(text: &str) -> Result<Self, PcrError> {
        let (bank, list) = match text.split_once(':') {
            Some((bank, list)) => (bank.parse()?, list),
            None => (Algorithm::Sha256, text),
        };
        if list.is_empty() {
            return Err(PcrError::Empty);
        }
        let bad = || PcrError::NotAList(list.chars().take(80).collect());
        let number = |s: &str| -> Result<u32, PcrError> {
            if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
                return Err(bad());
            }
            let n = s.parse().map_err(|_| bad())?;
            PcrIndex::new(n).map(|_| n)
        };
        let mut pcrs = Vec::new();
        for item in list.split(',') {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            for pcr in first..=last {
                pcrs.push(PcrIndex::new(pcr)?);
            }
        }
        Self::new(bank, pcrs)
    }
}

impl Serialize for PcrSelection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for PcrSelection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pcrs = Vec::<PcrIndex>::deserialize(deserializer)?;
        let selection =
            Self::new(Algorithm::Sha256, pcrs.iter().copied()).map_err(D::Error::custom)?;
        if selection.mask.count_ones() as usize != pcrs.len() {
            return Err(D::Error::custom("a PCR is named twice in the selection"));
        }
        Ok(selection)
    }
}
