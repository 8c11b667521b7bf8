//! The values of a bank's PCRs.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{PcrError, PcrIndex, PcrSelection};
use crate::digest::{Algorithm, Digest, Sha256Digest};

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
        Self { algorithm, values: BTreeMap::new() }
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
        self.get(pcr).unwrap_or_else(|| Digest::filled(self.algorithm, pcr.reset_byte()))
    }

    /// Sets the value of `pcr`.
    ///
    /// # Errors
    /// [`PcrError::OtherBank`].
    pub fn set(&mut self, pcr: PcrIndex, value: impl Into<Digest>) -> Result<(), PcrError> {
        let value = value.into();
        if value.algorithm() != self.algorithm {
            return Err(PcrError::OtherBank { pcr, bank: self.algorithm, got: value.algorithm() });
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
        let old = self.get(pcr).unwrap_or_else(|| Digest::filled(self.algorithm, 0));
        if measured.algorithm() != self.algorithm {
            return Err(PcrError::OtherBank {
                pcr,
                bank: self.algorithm,
                got: measured.algorithm(),
            });
        }
        let new = self.algorithm.hash(&[old.as_bytes(), measured.as_bytes()])?;
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
                .filter(|bank| bank.algorithm == selection.bank())
                .and_then(|bank| bank.get(pcr))
                .ok_or(PcrError::NoValue { pcr, bank: selection.bank() })?;
            out.extend_from_slice(value.as_bytes());
        }
        Ok(out)
    }
}

impl FromIterator<(PcrIndex, Sha256Digest)> for PcrBank {
    fn from_iter<I: IntoIterator<Item = (PcrIndex, Sha256Digest)>>(values: I) -> Self {
        let values = values.into_iter().map(|(pcr, value)| (pcr, value.into())).collect();
        Self { algorithm: Algorithm::Sha256, values }
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
