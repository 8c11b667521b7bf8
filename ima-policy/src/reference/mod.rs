//! References: what is known to be good, by the names that IMA gives it.
//!
//! A reference has the digests of files, keys and buffers: of a root or an image (feature
//! `build`), or those that a good boot has measured ([`Reference::learn`]). A name may have
//! several, across an update or because the initramfs has the same path as the root.
//!
//! **Trust:** nothing authenticates a reference. Whoever writes it says what is good.

mod json;
mod name;

#[cfg(feature = "build")]
mod image;
#[cfg(feature = "build")]
pub mod keylime;
#[cfg(feature = "build")]
pub mod keylime_boot;
#[cfg(feature = "build")]
mod learn;
#[cfg(feature = "build")]
pub mod tree;

use std::collections::{BTreeSet, HashMap};

use regex::bytes::{Regex, RegexSet, RegexSetBuilder};

use crate::list::{Field, FileDigest, Prefix, Record};

pub use json::{MAX_JSON, SCHEMA};
#[cfg(feature = "signature")]
pub(crate) use name::escaped;
pub use name::of_path;

/// A reference that cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// More bytes than are read.
    #[error("the reference has {0} bytes, and {MAX_JSON} are the most")]
    TooLong(usize),
    /// A format of another version, or another format.
    #[error(
        "the reference's schema is {0:?}, and this program reads {SCHEMA:?}: take one that fits"
    )]
    Schema(String),
    /// No JSON, or other fields than it has.
    #[error("the reference cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A pattern that is none.
    #[error("`{pattern}` cannot be excluded: {cause}")]
    Exclude {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        cause: regex::Error,
    },
}

/// What a reference says of a name with a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Judgement {
    /// The name has this content.
    Known,
    /// The name has other contents only.
    Changed,
    /// The name is known, but by digests of other algorithms: nothing can be said.
    OtherHash,
    /// The name is not known.
    Unknown,
    /// It is not known with this content, and nobody asks.
    Excluded,
}

/// Digests by name; those of a name are sorted.
pub(crate) type Names = HashMap<Box<[u8]>, Vec<FileDigest>>;

/// What is known to be good.
#[derive(Debug, Clone, Default)]
pub struct Reference {
    files: Names,
    keyrings: Names,
    buffers: Names,
    excludes: BTreeSet<String>,
    excluded: RegexSet,
    ignored_keyrings: BTreeSet<String>,
}

impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        let all = |its: &Self| {
            let names = (its.files.clone(), its.keyrings.clone(), its.buffers.clone());
            (names, its.excludes.clone(), its.ignored_keyrings.clone())
        };
        all(self) == all(other)
    }
}

impl Reference {
    /// One that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a content of a file. The name is what IMA calls it ([`of_path`]).
    pub fn add_file(&mut self, name: &[u8], digest: FileDigest) {
        add(&mut self.files, name, digest);
    }

    /// Adds a key of a keyring.
    pub fn add_key(&mut self, keyring: &[u8], digest: FileDigest) {
        add(&mut self.keyrings, keyring, digest);
    }

    /// Adds a content of a buffer.
    pub fn add_buffer(&mut self, name: &[u8], digest: FileDigest) {
        add(&mut self.buffers, name, digest);
    }

    /// Excludes names: regular expressions that match from a name's beginning.
    ///
    /// # Errors
    /// A pattern that is none.
    pub fn exclude(
        &mut self,
        patterns: impl IntoIterator<Item = String>,
    ) -> Result<(), ReferenceError> {
        let mut excludes = self.excludes.clone();
        for pattern in patterns {
            // Each by itself, so that two halves do not make a whole.
            Regex::new(&pattern)
                .map_err(|cause| ReferenceError::Exclude { pattern: pattern.clone(), cause })?;
            excludes.insert(pattern);
        }
        self.excluded = compiled(&excludes).map_err(|cause| {
            let pattern = pcr_measure::text::listed(&excludes.iter().collect::<Vec<_>>());
            ReferenceError::Exclude { pattern, cause }
        })?;
        self.excludes = excludes;
        Ok(())
    }

    /// Keys of this keyring are not asked about; `*` is every keyring.
    pub fn ignore_keyring(&mut self, name: String) {
        self.ignored_keyrings.insert(name);
    }

    /// Takes over all that another one has.
    ///
    /// # Errors
    /// More patterns than can be.
    pub fn merge(&mut self, other: Self) -> Result<(), ReferenceError> {
        let maps = [
            (&mut self.files, other.files),
            (&mut self.keyrings, other.keyrings),
            (&mut self.buffers, other.buffers),
        ];
        for (into, from) in maps {
            for (name, digests) in from {
                digests.into_iter().for_each(|digest| add(into, &name, digest));
            }
        }
        self.ignored_keyrings.extend(other.ignored_keyrings);
        self.exclude(other.excludes)
    }

    /// How many files, keyrings and buffers have a name here.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        [&self.files, &self.keyrings, &self.buffers].map(HashMap::len)
    }

    /// Judges a file.
    #[must_use]
    pub fn judge(&self, name: &[u8], digest: &FileDigest) -> Judgement {
        let judgement = judge(self.files.get(name), digest);
        if judgement != Judgement::Known && self.excluded.is_match(name) {
            return Judgement::Excluded;
        }
        judgement
    }

    /// Judges a key or a buffer: the kernel calls a key by its keyring, and does not tell
    /// one from the other.
    #[must_use]
    pub fn judge_buffer(&self, name: &[u8], digest: &FileDigest) -> Judgement {
        let found = [&self.keyrings, &self.buffers].map(|names| judge(names.get(name), digest));
        let is_ignored = |its: &str| its == "*" || its.as_bytes() == name;
        if found.contains(&Judgement::Known) {
            Judgement::Known
        } else if self.excluded.is_match(name)
            || self.ignored_keyrings.iter().any(|its| is_ignored(its))
        {
            Judgement::Excluded
        } else {
            found.into_iter().find(|its| *its != Judgement::Unknown).unwrap_or(Judgement::Unknown)
        }
    }

    /// Judges a record by its name and digest; `None` if its template has not both. A
    /// violation has the digest of nothing: what it means is not asked here.
    #[must_use]
    pub fn judge_record(&self, record: &Record) -> Option<Judgement> {
        let (name, digest) = (record.name()?, record.file_digest()?);
        Some(match record.field(Field::Buffer) {
            Some(_) => self.judge_buffer(name, &digest),
            None => self.judge(name, &digest),
        })
    }
}

/// Patterns that match from the beginning.
fn compiled<T: AsRef<str>>(
    patterns: impl IntoIterator<Item = T>,
) -> Result<RegexSet, regex::Error> {
    let anchored = patterns.into_iter().map(|pattern| format!("^(?:{})", pattern.as_ref()));
    RegexSetBuilder::new(anchored).build()
}

fn add(names: &mut Names, name: &[u8], mut digest: FileDigest) {
    // `d-ngv2` says of a file's digest what the older ones do not have to.
    digest.prefix = digest.prefix.filter(|prefix| *prefix == Prefix::Verity);
    let digests = match names.get_mut(name) {
        Some(digests) => digests,
        None => names.entry(name.into()).or_default(),
    };
    if let Err(at) = digests.binary_search(&digest) {
        digests.insert(at, digest);
    }
}

fn judge(known: Option<&Vec<FileDigest>>, digest: &FileDigest) -> Judgement {
    let Some(known) = known else { return Judgement::Unknown };
    let is_verity = |its: &FileDigest| its.prefix == Some(Prefix::Verity);
    let mut comparable = known
        .iter()
        .filter(|its| its.algorithm == digest.algorithm && is_verity(its) == is_verity(digest));
    match comparable.clone().next() {
        None => Judgement::OtherHash,
        Some(_) if comparable.any(|its| its.bytes == digest.bytes) => Judgement::Known,
        Some(_) => Judgement::Changed,
    }
}

#[cfg(test)]
mod tests;
