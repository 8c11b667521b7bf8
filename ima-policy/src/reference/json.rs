//! The JSON of a reference (docs/reference.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use pcr_measure::text::printable;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Names, Reference, ReferenceError, name};
use crate::list::{FileDigest, Prefix};

/// The one schema that this crate reads and writes.
pub const SCHEMA: &str = "msec-boot/ima-reference/1";

/// Most bytes of JSON that are read: about two million files.
pub const MAX_JSON: usize = 512 << 20;

/// Most contents of one name.
const MAX_CONTENTS: usize = 4096;

/// Longest name: a path may have that many bytes (Linux, `PATH_MAX`).
const MAX_NAME: usize = 4096;

/// What stands in front of an algorithm whose digests are fs-verity's.
const VERITY: &str = "verity:";

#[derive(Deserialize)]
struct Head {
    schema: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "schema")]
    _schema: String,
    files: NamesJson,
    keyrings: NamesJson,
    buffers: NamesJson,
    excludes: BTreeSet<String>,
    ignored_keyrings: BTreeSet<String>,
}

#[derive(Serialize)]
struct Written<'a> {
    schema: &'static str,
    files: Sorted<'a>,
    keyrings: Sorted<'a>,
    buffers: Sorted<'a>,
    excludes: &'a BTreeSet<String>,
    ignored_keyrings: &'a BTreeSet<String>,
}

impl Reference {
    /// Reads a reference, strictly: another schema, unknown fields, a name that is there
    /// twice or is not written as it has to be, and digests of a wrong length are refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ReferenceError> {
        if bytes.len() > MAX_JSON {
            return Err(ReferenceError::TooLong(bytes.len()));
        }
        // First of all: a newer one has other fields.
        let head: Head = serde_json::from_slice(bytes)?;
        if head.schema != SCHEMA {
            return Err(ReferenceError::Schema(printable(&head.schema)));
        }
        let json: Read = serde_json::from_slice(bytes)?;
        let mut reference = Self {
            files: json.files.0,
            keyrings: json.keyrings.0,
            buffers: json.buffers.0,
            ignored_keyrings: json.ignored_keyrings,
            ..Self::default()
        };
        reference.exclude(json.excludes)?;
        Ok(reference)
    }

    /// The reference as JSON: names and digests sorted, two blanks of indentation, a newline
    /// at the end. Same reference, same bytes.
    ///
    /// # Errors
    /// None in practice; serde's signature has one.
    pub fn to_json(&self) -> Result<String, ReferenceError> {
        let json = Written {
            schema: SCHEMA,
            files: Sorted(&self.files),
            keyrings: Sorted(&self.keyrings),
            buffers: Sorted(&self.buffers),
            excludes: &self.excludes,
            ignored_keyrings: &self.ignored_keyrings,
        };
        Ok(serde_json::to_string_pretty(&json)? + "\n")
    }
}

struct Sorted<'a>(&'a Names);

impl Serialize for Sorted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut names: Vec<_> = self.0.iter().collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        let mut map = serializer.serialize_map(Some(names.len()))?;
        for (name, digests) in names {
            let mut contents: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for digest in digests {
                let prefix = if digest.prefix == Some(Prefix::Verity) { VERITY } else { "" };
                let algorithm = format!("{prefix}{}", digest.algorithm);
                contents.entry(algorithm).or_default().push(hex::encode(&digest.bytes));
            }
            map.serialize_entry(&name::escaped(name), &contents)?;
        }
        map.end()
    }
}

#[derive(Default)]
struct NamesJson(Names);

impl<'de> Deserialize<'de> for NamesJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamesVisitor)
    }
}

struct NamesVisitor;

impl<'de> Visitor<'de> for NamesVisitor {
    type Value = NamesJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with their digests")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamesJson, A::Error> {
        let mut names = Names::new();
        while let Some(text) = map.next_key::<String>()? {
            let wrong = |what| A::Error::custom(format!("`{}` {what}", printable(&text)));
            let name = name::unescaped(&text).ok_or_else(|| wrong("is not written as a name"))?;
            if name.len() > MAX_NAME {
                return Err(wrong("is too long"));
            }
            let Contents(digests) = map.next_value()?;
            if digests.is_empty() {
                return Err(wrong("has no digest"));
            }
            if names.insert(name.into(), digests).is_some() {
                return Err(wrong("is there twice"));
            }
        }
        Ok(NamesJson(names))
    }
}

/// The digests of one name, sorted.
struct Contents(Vec<FileDigest>);

impl<'de> Deserialize<'de> for Contents {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ContentsVisitor)
    }
}

struct ContentsVisitor;

impl<'de> Visitor<'de> for ContentsVisitor {
    type Value = Contents;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("digests by their algorithms")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Contents, A::Error> {
        let mut digests = Vec::new();
        while let Some(algorithm) = map.next_key::<String>()? {
            map.next_value_seed(Digests { algorithm: &algorithm, into: &mut digests })?;
        }
        digests.sort_unstable();
        if !digests.is_sorted_by(|a, b| a < b) {
            return Err(A::Error::custom("a digest is there twice"));
        }
        Ok(Contents(digests))
    }
}

/// The digests of one algorithm.
struct Digests<'a> {
    algorithm: &'a str,
    into: &'a mut Vec<FileDigest>,
}

impl<'de> DeserializeSeed<'de> for Digests<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Digests<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("digests in hexadecimal")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (prefix, algorithm) = match self.algorithm.strip_prefix(VERITY) {
            Some(algorithm) => (Some(Prefix::Verity), algorithm),
            None => (None, self.algorithm),
        };
        while let Some(text) = seq.next_element::<String>()? {
            let bytes = hex::decode(&text).map_err(A::Error::custom)?;
            let digest = FileDigest::new(prefix, algorithm, bytes).map_err(A::Error::custom)?;
            if self.into.len() == MAX_CONTENTS {
                return Err(A::Error::custom("a name has too many digests"));
            }
            self.into.push(digest);
        }
        Ok(())
    }
}
