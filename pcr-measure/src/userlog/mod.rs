//! The log of what userspace measured: `/run/log/systemd/tpm2-measure.log`.
//!
//! A JSON text sequence (RFC 7464), one record per measurement, as systemd 257
//! writes it (src/shared/tpm2-util.c, `tpm2_userspace_log`): a subset of the TCG
//! Canonical Event Log's JSON form, without record numbers.
//!
//! [`UserLog::parse`] never fails: it gives the records up to the first broken
//! one. As with firmware's logs only the PCRs know whether a record is true.
//! [`append()`] and what belongs to it is the only code of this crate that writes.

mod append;
mod json;

use crate::digest::{Algorithm, Digest};
use crate::eventlog::ReplayError;
use crate::pcr::{PcrBank, PcrIndex};
use crate::text::printable;

pub use append::{AppendError, Boot, Pending, append, is_marked};

/// Where systemd keeps it.
pub const PATH: &str = "/run/log/systemd/tpm2-measure.log";

/// What stands before every record (RFC 7464, 2.2).
pub const RECORD_SEPARATOR: u8 = 0x1e;

/// Longest record that is read or written, in bytes, its separator not counted.
/// systemd's have less than 1 KiB.
pub const MAX_RECORD: usize = 64 * 1024;

/// Most digests of a record. No TPM has more banks.
pub const MAX_DIGESTS: usize = 16;

/// One measurement that userspace made.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Where it was extended.
    pub pcr: PcrIndex,
    /// What was extended, once per bank. Digests of banks that this crate does
    /// not know are passed over when a record is read, as systemd does.
    pub digests: Vec<Digest>,
    /// What it says it is; nothing authenticates it.
    pub content: Content,
}

/// What a record says about itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Content {
    /// `content_type` "systemd".
    Systemd(Systemd),
    /// Another type, or none.
    Other {
        /// `content_type`.
        content_type: Option<String>,
        /// `content`, of any form.
        content: Option<serde_json::Value>,
    },
}

/// What systemd writes about a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Systemd {
    /// For people: the words that were measured, or what the key was of.
    pub string: Option<String>,
    /// The kernel's boot ID: 32 hexadecimal digits.
    pub boot_id: String,
    /// `CLOCK_BOOTTIME` in microseconds.
    pub timestamp: u64,
    /// `phase`, `filesystem`, `volume-key`, `machine-id`, or what is new.
    pub event_type: Option<String>,
}

/// A record of a log, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Offset of its separator, in bytes.
    pub offset: usize,
    /// The record.
    pub record: Record,
}

/// A parsed log.
#[derive(Debug, Clone, PartialEq)]
pub struct UserLog {
    /// The records up to the end, or up to the broken one.
    pub entries: Vec<Entry>,
    /// Where the broken record stands, and what is wrong with it; `None` if
    /// there is none.
    pub broken: Option<(usize, BrokenRecord)>,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenRecord {
    /// The log does not begin with a separator.
    #[error("no record separator (0x1e) stands there")]
    NoSeparator,
    /// More bytes than any record has.
    #[error("the record has {0} bytes, more than the {MAX_RECORD} that one may have")]
    TooLong(usize),
    /// Not JSON, not JSON of a record, or cut off in the middle.
    #[error("the record is no JSON of a measurement: {0}")]
    Json(String),
    /// No digests, or too many.
    #[error("the record has {0} digests; 1 to {MAX_DIGESTS} can be")]
    DigestCount(usize),
    /// Not a digest of the bank that stands beside it.
    #[error("the record's {0} digest is none")]
    Digest(Algorithm),
    /// Two digests of one bank.
    #[error("the record has two digests of bank {0}")]
    DigestTwice(Algorithm),
}

impl Record {
    /// A record as systemd writes them.
    #[must_use]
    pub const fn new(pcr: PcrIndex, digests: Vec<Digest>, content: Systemd) -> Self {
        Self { pcr, digests, content: Content::Systemd(content) }
    }

    /// The record as it stands in a log: separator, one line of JSON, newline.
    /// What systemd wrote comes out byte by byte as it was.
    ///
    /// # Errors
    /// The record has no digests, too many, two of one bank, or is too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BrokenRecord> {
        if self.digests.is_empty() {
            return Err(BrokenRecord::DigestCount(0));
        }
        check_digests(&self.digests)?;
        let mut bytes = vec![RECORD_SEPARATOR];
        bytes.extend(json::write(self)?);
        bytes.push(b'\n');
        match bytes.len() - 1 {
            length if length > MAX_RECORD => Err(BrokenRecord::TooLong(length)),
            _ => Ok(bytes),
        }
    }

    fn from_text(text: &[u8]) -> Result<Self, BrokenRecord> {
        if text.len() > MAX_RECORD {
            return Err(BrokenRecord::TooLong(text.len()));
        }
        let record = json::read(text)?;
        check_digests(&record.digests)?;
        Ok(record)
    }

    /// The digest in one bank.
    #[must_use]
    pub fn digest(&self, algorithm: Algorithm) -> Option<Digest> {
        self.digests.iter().find(|digest| digest.algorithm() == algorithm).copied()
    }

    /// The type that the record gives itself, for display only: one line,
    /// bounded, without control characters.
    #[must_use]
    pub fn event_type(&self) -> String {
        let name = match &self.content {
            Content::Systemd(Systemd { event_type, .. }) => event_type.as_deref(),
            Content::Other { content_type, .. } => content_type.as_deref(),
        };
        printable(name.unwrap_or("-"))
    }

    /// What the record says it is, for display only, as
    /// [`Record::event_type`].
    #[must_use]
    pub fn description(&self) -> String {
        match &self.content {
            Content::Systemd(Systemd { string: Some(string), .. }) => printable(string),
            Content::Other { content: Some(content), .. } => printable(&content.to_string()),
            _ => String::new(),
        }
    }
}

fn check_digests(digests: &[Digest]) -> Result<(), BrokenRecord> {
    if digests.len() > MAX_DIGESTS {
        return Err(BrokenRecord::DigestCount(digests.len()));
    }
    for (n, digest) in digests.iter().enumerate() {
        let algorithm = digest.algorithm();
        if digests.iter().take(n).any(|other| other.algorithm() == algorithm) {
            return Err(BrokenRecord::DigestTwice(algorithm));
        }
    }
    Ok(())
}

impl UserLog {
    /// Whether `bytes` may be such a log and no other.
    #[must_use]
    pub fn is(bytes: &[u8]) -> bool {
        bytes.first() == Some(&RECORD_SEPARATOR)
    }

    /// Reads a log. No bytes are a log without records.
    ///
    /// The result is not to be trusted: see the module's documentation.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut log = Self { entries: Vec::new(), broken: None };
        if !bytes.is_empty() && !Self::is(bytes) {
            log.broken = Some((0, BrokenRecord::NoSeparator));
            return log;
        }
        let mut offset = 0;
        // Nothing stands before the first separator.
        for text in bytes.split(|byte| *byte == RECORD_SEPARATOR).skip(1) {
            // Separators one behind the other are one (RFC 7464, 2.1).
            if !text.is_empty() {
                match Record::from_text(text) {
                    Ok(record) => log.entries.push(Entry { offset, record }),
                    Err(reason) => {
                        log.broken = Some((offset, reason));
                        break;
                    }
                }
            }
            offset += 1 + text.len();
        }
        log
    }

    /// The banks that records have digests for, in the order of their first
    /// digest.
    #[must_use]
    pub fn banks(&self) -> Vec<Algorithm> {
        let mut banks = Vec::new();
        for digest in self.entries.iter().flat_map(|entry| &entry.record.digests) {
            if !banks.contains(&digest.algorithm()) {
                banks.push(digest.algorithm());
            }
        }
        banks
    }

    /// The values that the records lead to in one bank, for the PCRs that occur,
    /// if nothing was measured into these before.
    ///
    /// # Errors
    /// No record has a digest of the bank, or this build cannot compute its hash.
    pub fn replay(&self, bank: Algorithm) -> Result<PcrBank, ReplayError> {
        let banks = self.banks();
        if !banks.contains(&bank) {
            let has = banks.iter().map(|bank| crate::eventlog::AlgorithmId(bank.id())).collect();
            return Err(ReplayError::NoSuchBank { wanted: bank, has });
        }
        let mut values = PcrBank::new(bank);
        self.extend(&mut values)?;
        Ok(values)
    }

    /// Extends `values` by the records: what firmware's log leads to, for
    /// instance, on which userspace went on.
    ///
    /// # Errors
    /// This build cannot compute the bank's hash.
    pub fn extend(&self, values: &mut PcrBank) -> Result<(), ReplayError> {
        for Entry { record, .. } in &self.entries {
            if let Some(digest) = record.digest(values.algorithm()) {
                values.extend(record.pcr, digest)?;
            }
        }
        Ok(())
    }

    /// How many records have no digest in `bank`. More than zero means that the
    /// replay cannot be right.
    #[must_use]
    pub fn without_digest(&self, bank: Algorithm) -> usize {
        self.entries.iter().filter(|entry| entry.record.digest(bank).is_none()).count()
    }
}

#[cfg(test)]
mod tests;
