//! `{"sha256":[{"pcrs":[0,1],"pkfp":"<hex>","pol":"<hex>","sig":"<base64>"}]}`,
//! and in an entry with a counter `"rollback":7` behind `sig`.
//!
//! Written as systemd-measure 257 writes it (src/measure/measure.c, `verb_sign`):
//! on one line, fields in this order. Read strictly where an entry's meaning is
//! at stake; unknown fields and banks are ignored, as systemd ignores them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{MAX_ENTRIES, MAX_JSON, MAX_SIGNATURE, SignatureFile, SignedPolicy, SignedPolicyError};
use crate::digest::{Algorithm, Sha256Digest};
use crate::pcr::{PcrIndex, PcrSelection};
use crate::text::printable;

/// An entry, field by field.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Of the SHA-256 bank as far as the type knows; the field it stands in
    /// tells the bank.
    pcrs: PcrSelection,
    pkfp: Sha256Digest,
    pol: Sha256Digest,
    sig: Signature,
    /// Ours, not systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollback: Option<u64>,
}

/// Base64 with padding (RFC 4648, 4).
struct Signature(Vec<u8>);

impl SignatureFile {
    /// Reads a file. An entry needs systemd's four fields, in their types and lengths,
    /// and PCRs that exist, none twice.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SignedPolicyError> {
        if bytes.len() > MAX_JSON {
            return Err(SignedPolicyError::TooLong(bytes.len()));
        }
        let file: Self = serde_json::from_slice(bytes)?;
        match file.entries().count() {
            count if count > MAX_ENTRIES => Err(SignedPolicyError::TooManyEntries(count)),
            _ => Ok(file),
        }
    }

    /// The file as JSON on one line: banks by their identifier, entries in order.
    ///
    /// # Errors
    /// None in practice; serde's signature has one.
    pub fn to_json(&self) -> Result<String, SignedPolicyError> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

impl Serialize for SignatureFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.banks.len()))?;
        for (bank, entries) in &self.banks {
            let entry = |entry: &SignedPolicy| Entry {
                pcrs: entry.pcrs,
                pkfp: entry.key,
                pol: entry.policy,
                sig: Signature(entry.signature.clone()),
                rollback: entry.rollback,
            };
            map.serialize_entry(bank.name(), &entries.iter().map(entry).collect::<Vec<_>>())?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for SignatureFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = SignatureFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object from banks to lists of signed policies")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SignatureFile, A::Error> {
        let mut banks = BTreeMap::new();
        let mut skipped = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            let Ok(bank) = name.parse::<Algorithm>() else {
                map.next_value::<IgnoredAny>()?;
                skipped.push(printable(&name));
                continue;
            };
            let entries: Vec<Entry> = map.next_value()?;
            let entries: Result<_, _> = entries.into_iter().map(|e| e.of_bank(bank)).collect();
            if banks.insert(bank, entries.map_err(A::Error::custom)?).is_some() {
                return Err(A::Error::custom(format_args!("the bank {bank} stands there twice")));
            }
        }
        Ok(SignatureFile { banks, skipped })
    }
}

impl Entry {
    fn of_bank(self, bank: Algorithm) -> Result<SignedPolicy, crate::pcr::PcrError> {
        let pcrs = PcrSelection::new(bank, self.pcrs.iter().collect::<Vec<PcrIndex>>())?;
        Ok(SignedPolicy {
            pcrs,
            key: self.pkfp,
            policy: self.pol,
            signature: self.sig.0,
            rollback: self.rollback,
        })
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let bytes = STANDARD
            .decode(text.as_bytes())
            .map_err(|error| D::Error::custom(format_args!("`sig` is no base64: {error}")))?;
        if bytes.is_empty() || bytes.len() > MAX_SIGNATURE {
            return Err(D::Error::custom(format_args!(
                "`sig` has {} bytes, a signature has 1 to {MAX_SIGNATURE}",
                bytes.len()
            )));
        }
        Ok(Self(bytes))
    }
}
