//! PCR indices, selections, and banks of values.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Algorithm, Digest, DigestError, Sha256Digest};

/// PCRs of a platform TPM (PC Client Platform TPM Profile 1.05, 4.6: 24).
pub const PCR_COUNT: u8 = 24;

/// `sizeofSelect` of a selection over 24 PCRs, in bytes.
const SELECT_SIZE: u8 = PCR_COUNT / 8;

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
        if self.0 >= 17 && self.0 <= 22 {
            0xff
        } else {
            0
        }
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

/// Values of some PCRs of one bank.
///
/// In JSON an object `{"0":"<hex>", ...}`. It does not name the bank: reading one
/// gives SHA-256 values, and refuses a PCR that stands there twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrBank {
    algorithm: Algorithm,
    values: BTreeMap<PcrIndex, Digest>,
}

impl PcrBank {
    /// A bank without values.
    #[must_use]
    pub const fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            values: BTreeMap::new(),
        }
    }

    /// The bank's algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value of `pcr`, if the bank knows it.
    #[must_use]
    pub fn get(&self, pcr: PcrIndex) -> Option<Digest> {
        self.values.get(&pcr).copied()
    }

    /// The value of `pcr` if the bank knows it and is the SHA-256 bank.
    #[must_use]
    pub fn sha256(&self, pcr: PcrIndex) -> Option<Sha256Digest> {
        self.get(pcr).and_then(|value| value.as_sha256())
    }

    /// The value of `pcr`, or what a reset leaves in it.
    #[must_use]
    pub fn get_or_reset(&self, pcr: PcrIndex) -> Digest {
        self.get(pcr)
            .unwrap_or_else(|| Digest::filled(self.algorithm, pcr.reset_byte()))
    }

    /// Sets the value of `pcr`.
    ///
    /// # Errors
    /// [`PcrError::OtherBank`].
    pub fn set(&mut self, pcr: PcrIndex, value: impl Into<Digest>) -> Result<(), PcrError> {
        let value = value.into();
        if value.algorithm() != self.algorithm {
            return Err(PcrError::OtherBank {
                pcr,
                bank: self.algorithm,
                got: value.algorithm(),
            });
        }
        self.values.insert(pcr, value);
        Ok(())
    }

    /// Extends `pcr` as the TPM does: new = H(old || measured). A PCR without a
    /// value starts from zeros (those of a dynamic launch, 17 to 22, are zero
    /// too once something can be extended into them).
    ///
    /// # Errors
    /// [`PcrError::OtherBank`]; [`DigestError::NotBuilt`].
    pub fn extend(&mut self, pcr: PcrIndex, measured: impl Into<Digest>) -> Result<(), PcrError> {
        let measured = measured.into();
        let old = self
            .get(pcr)
            .unwrap_or_else(|| Digest::filled(self.algorithm, 0));
        if measured.algorithm() != self.algorithm {
            return Err(PcrError::OtherBank {
                pcr,
                bank: self.algorithm,
                got: measured.algorithm(),
            });
        }
        let new = self
            .algorithm
            .hash(&[old.as_bytes(), measured.as_bytes()])?;
        self.values.insert(pcr, new);
        Ok(())
    }

    /// The known values, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PcrIndex, Digest)> + '_ {
        self.values.iter().map(|(pcr, value)| (*pcr, *value))
    }

    /// Whether no value is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The selected values one behind the other, ascending: what a PolicyPCR
    /// and a quote hash.
    ///
    /// # Errors
    /// [`PcrError::NoValue`] if a selected PCR is not known, or the selection
    /// is of another bank.
    pub fn concatenated(&self, selection: &PcrSelection) -> Result<Vec<u8>, PcrError> {
        let mut out = Vec::new();
        for pcr in selection.iter() {
            let value = Some(self)
                .filter(|bank| bank.algorithm == selection.bank)
                .and_then(|bank| bank.get(pcr))
                .ok_or(PcrError::NoValue {
                    pcr,
                    bank: selection.bank,
                })?;
            out.extend_from_slice(value.as_bytes());
        }
        Ok(out)
    }
}

impl FromIterator<(PcrIndex, Sha256Digest)> for PcrBank {
    fn from_iter<I: IntoIterator<Item = (PcrIndex, Sha256Digest)>>(values: I) -> Self {
        let values = values
            .into_iter()
            .map(|(pcr, value)| (pcr, value.into()))
            .collect();
        Self {
            algorithm: Algorithm::Sha256,
            values,
        }
    }
}

impl Serialize for PcrBank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (pcr, value) in &self.values {
            map.serialize_entry(pcr, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PcrBank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BankVisitor)
    }
}

struct BankVisitor;

impl<'de> Visitor<'de> for BankVisitor {
    type Value = PcrBank;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from PCR numbers to SHA-256 values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PcrBank, A::Error> {
        let mut bank = PcrBank::new(Algorithm::Sha256);
        while let Some((pcr, value)) = map.next_entry::<PcrIndex, Sha256Digest>()? {
            if bank.values.insert(pcr, value.into()).is_some() {
                return Err(A::Error::custom(format_args!("PCR {pcr} has two values")));
            }
        }
        Ok(bank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pcr(index: u32) -> PcrIndex {
        PcrIndex::new(index).unwrap()
    }

    #[test]
    fn there_are_24_pcrs() {
        assert_eq!(PcrIndex::all().count(), 24);
        assert_eq!(PcrIndex::new(24), Err(PcrError::NoSuchPcr(24)));
        assert_eq!(PcrIndex::new(256), Err(PcrError::NoSuchPcr(256)));
        assert!(serde_json::from_str::<PcrIndex>("24").is_err());
        assert_eq!(serde_json::from_str::<PcrIndex>("23").unwrap(), pcr(23));
    }

    #[test]
    fn selections_are_read_and_written() {
        let cases = [
            ("0", Some("sha256:0")),
            ("0-9,15", Some("sha256:0,1,2,3,4,5,6,7,8,9,15")),
            ("9,0,9", Some("sha256:0,9")),
            ("sha1:23", Some("sha1:23")),
            ("sha256:", None),
            ("", None),
            ("24", None),
            ("0-24", None),
            ("9-0", None),
            ("+1", None),
            ("0,,1", None),
            ("99999999999999999999", None),
            ("md5:0", None),
        ];
        for (text, want) in cases {
            let got = text.parse::<PcrSelection>().ok().map(|s| s.to_string());
            assert_eq!(got.as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn a_selection_marshals_as_tpm2_tools_does() {
        // tpm2_policypcr -l sha256:0,1,8,9,15 sends exactly these bytes.
        let selection = PcrSelection::sha256(&[0, 1, 8, 9, 15]).unwrap();
        assert_eq!(hex::encode(selection.to_tpml()), "00000001000b03038300");
        let two = [
            PcrSelection::sha256(&[16]).unwrap(),
            "sha1:0".parse().unwrap(),
        ];
        assert_eq!(
            hex::encode(marshal_selections(&two)),
            "00000002000b03000001000403010000"
        );
    }

    #[test]
    fn json_selections_are_strict() {
        let read = |text| serde_json::from_str::<PcrSelection>(text);
        assert_eq!(
            read("[0,15]").unwrap(),
            PcrSelection::sha256(&[0, 15]).unwrap()
        );
        for bad in ["[]", "[0,0]", "[24]", "[-1]", "[\"0\"]", "0"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn extending_hashes_old_and_new() {
        let mut bank = PcrBank::new(Algorithm::Sha256);
        let measured = Sha256Digest::of(b"event");
        bank.extend(pcr(4), measured).unwrap();
        assert_eq!(
            bank.sha256(pcr(4)),
            Some(Sha256Digest::ZERO.extended_by(&measured))
        );
        let other = Digest::filled(Algorithm::Sha384, 0);
        assert!(matches!(
            bank.extend(pcr(4), other),
            Err(PcrError::OtherBank { .. })
        ));
        assert!(matches!(
            bank.set(pcr(4), other),
            Err(PcrError::OtherBank { .. })
        ));
    }

    #[test]
    fn a_missing_value_is_an_error_and_not_zero() {
        let bank: PcrBank = [(pcr(0), Sha256Digest::ZERO)].into_iter().collect();
        assert_eq!(
            bank.concatenated(&"0".parse().unwrap()).unwrap(),
            vec![0; 32]
        );
        assert!(bank.concatenated(&"0,1".parse().unwrap()).is_err());
        assert!(bank.concatenated(&"sha1:0".parse().unwrap()).is_err());
    }
}
