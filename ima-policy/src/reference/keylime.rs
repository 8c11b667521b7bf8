//! Keylime's runtime policy, equal to what its own tool makes of the same input:
//! `keylime-policy create runtime` of Keylime 7.14, with `--keyrings` and `--ima-buf`.
//!
//! Source: Keylime 7.14.3, keylime/ima/ima.py (`RUNTIME_POLICY_SCHEMA`) and
//! keylime/policy/create_runtime_policy.py.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use pcr_measure::text::printable;

use super::{Names, Reference};
use crate::list::{Field, FileDigest, Prefix, Record};
use crate::signature::is_certificate;

/// Directories below a root that Keylime's tool leaves out (`BASE_EXCLUDE_DIRS`).
const SKIPPED: [&str; 10] =
    ["sys", "run", "proc", "lost+found", "dev", "media", "snap", "mnt", "var", "tmp"];

/// Digests that its schema takes, in bytes.
const SIZES: std::ops::RangeInclusive<usize> = 20..=64;

/// A digest that no policy can have.
#[derive(Debug, thiserror::Error)]
#[error("{name} has a {algorithm} digest of {size} bytes: Keylime takes 20 to 64")]
pub struct PolicyError {
    name: String,
    algorithm: String,
    size: usize,
}

type Digests = BTreeMap<Vec<u8>, BTreeSet<String>>;

/// A runtime policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    digests: Digests,
    keyrings: Digests,
    buffers: Digests,
    excludes: BTreeSet<String>,
    ignored_keyrings: BTreeSet<String>,
}

/// The directories that the tool leaves out of a root, beside files that are not root's.
#[must_use]
pub fn skipped() -> BTreeSet<PathBuf> {
    SKIPPED.iter().map(PathBuf::from).collect()
}

impl Policy {
    /// One that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a content of a file.
    ///
    /// # Errors
    /// A digest that Keylime does not take.
    pub fn add_file(&mut self, name: &[u8], digest: &FileDigest) -> Result<(), PolicyError> {
        add(&mut self.digests, name, digest)
    }

    /// Excludes names, as [`Reference::exclude`].
    pub fn exclude(&mut self, patterns: impl IntoIterator<Item = String>) {
        self.excludes.extend(patterns);
    }

    /// Keys of this keyring are not asked about, nor learnt.
    pub fn ignore_keyring(&mut self, name: String) {
        self.ignored_keyrings.insert(name);
    }

    /// Takes over what the tool takes of a record (`get_hashes_from_measurement_list`,
    /// `process_ima_buf_in_measurement_list`): of three templates, violations among them,
    /// which its verifier passes over.
    ///
    /// # Errors
    /// A digest that Keylime does not take.
    pub fn learn(&mut self, record: &Record) -> Result<(), PolicyError> {
        let (Some(name), Some(digest)) = (record.name(), record.file_digest()) else {
            return Ok(());
        };
        // The number has a width of two, and the tool takes a line apart at its blanks.
        if record.pcr.get() < 10 {
            return Ok(());
        }
        let blank = name.iter().position(|byte| *byte == b' ');
        match (record.template.name(), record.field(Field::Buffer)) {
            ("ima-ng" | "ima-sig", _) => {
                // No kernel since 3.14 writes a blank.
                let name = blank.and_then(|at| name.get(..at)).unwrap_or(name);
                add(&mut self.digests, name, &digest)
            }
            ("ima-buf", Some(_)) if blank.is_some() => Ok(()),
            ("ima-buf", Some(buffer)) if is_certificate(buffer) => {
                if self.ignored_keyrings.iter().any(|its| its.as_bytes() == name) {
                    return Ok(());
                }
                add(&mut self.keyrings, name, &digest)
            }
            ("ima-buf", Some(_)) => add(&mut self.buffers, name, &digest),
            _ => Ok(()),
        }
    }

    /// Takes over a reference. Digests of fs-verity are left out: Keylime knows no template
    /// that has them.
    ///
    /// # Errors
    /// A digest that Keylime does not take.
    pub fn add_reference(&mut self, reference: &Reference) -> Result<(), PolicyError> {
        let maps: [(&mut Digests, &Names); 3] = [
            (&mut self.digests, &reference.files),
            (&mut self.keyrings, &reference.keyrings),
            (&mut self.buffers, &reference.buffers),
        ];
        for (into, from) in maps {
            for (name, digests) in from {
                for digest in digests.iter().filter(|its| its.prefix != Some(Prefix::Verity)) {
                    add(into, name, digest)?;
                }
            }
        }
        self.excludes.extend(reference.excludes.iter().cloned());
        self.ignored_keyrings.extend(reference.ignored_keyrings.iter().cloned());
        Ok(())
    }

    /// How many files, keyrings and buffers have a name here.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        [&self.digests, &self.keyrings, &self.buffers].map(BTreeMap::len)
    }

    /// The policy as JSON, on one line. It has no time of its making: same policy, same
    /// bytes.
    #[must_use]
    pub fn to_json(&self) -> String {
        // As the tool's, for of one that it does not know (0) or an empty one (1) its verifier
        // says that there is no policy, and asks a device that attests by itself for no list.
        let mut out =
            r#"{"meta": {"version": 1, "generator": 3}, "release": 0, "digests": "#.to_owned();
        object(&mut out, &self.digests);
        out.push_str(r#", "excludes": "#);
        array(&mut out, &self.excludes);
        out.push_str(r#", "keyrings": "#);
        object(&mut out, &self.keyrings);
        out.push_str(r#", "ima": {"ignored_keyrings": "#);
        array(&mut out, &self.ignored_keyrings);
        // Of the list that its agent reads, whose template digests are SHA-1.
        out.push_str(r#", "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": "#);
        object(&mut out, &self.buffers);
        out.push_str(r#", "verification-keys": ""}"#);
        out.push('\n');
        out
    }
}

fn add(names: &mut Digests, name: &[u8], digest: &FileDigest) -> Result<(), PolicyError> {
    let size = digest.bytes.len();
    if !SIZES.contains(&size) {
        let name = printable(&String::from_utf8_lossy(name));
        return Err(PolicyError { name, algorithm: digest.algorithm.clone(), size });
    }
    names.entry(name.to_vec()).or_default().insert(hex::encode(&digest.bytes));
    Ok(())
}

fn object(out: &mut String, names: &Digests) {
    out.push('{');
    for (at, (name, digests)) in names.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        string(out, name);
        out.push_str(": ");
        array(out, digests);
    }
    out.push('}');
}

fn array(out: &mut String, items: &BTreeSet<String>) {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { ", " });
        string(out, item.as_bytes());
    }
    out.push(']');
}

/// A string as Python has it: a byte that is no UTF-8 is a lone surrogate (PEP 383), which
/// no JSON library of Rust writes.
fn string(out: &mut String, bytes: &[u8]) {
    out.push('"');
    // Into a string: it cannot fail.
    let unit = |out: &mut String, unit: u16| write!(out, "\\u{unit:04x}").unwrap_or_default();
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '"' | '\\' => out.extend(['\\', letter]),
                ' '..='~' => out.push(letter),
                _ => letter.encode_utf16(&mut [0; 2]).iter().for_each(|its| unit(out, *its)),
            }
        }
        chunk.invalid().iter().for_each(|byte| unit(out, 0xdc00 + u16::from(*byte)));
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_pythons() {
        let mut out = String::new();
        string(&mut out, b"/a\"\\\n\xc3\xa4\xf0\x9f\x98\x80\xff~\x7f");
        assert_eq!(out, r#""/a\"\\\u000a\u00e4\ud83d\ude00\udcff~\u007f""#);
    }

    #[test]
    fn what_its_schema_refuses_is_named() {
        let md5 = FileDigest::new(None, "md5", vec![1; 16]).unwrap();
        let error = Policy::new().add_file(b"/a\x1b", &md5).unwrap_err().to_string();
        assert_eq!(error, "/a? has a md5 digest of 16 bytes: Keylime takes 20 to 64");
    }
}
