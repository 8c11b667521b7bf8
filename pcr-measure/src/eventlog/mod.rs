//! TCG event logs: SHA-1 logs of TCG 1.2 and crypto-agile logs of any banks.
//!
//! [`EventLog::parse`] never fails: it gives the events up to the first broken
//! one and says where and why it ended. Whether a log tells the truth only the
//! PCRs know: compare [`EventLog::replay`] with live values (or use
//! [`crate::explain`]). Event type and event data can be forged without changing
//! a PCR and must never decide anything.

mod describe;
mod parse;
mod replay;
mod types;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::digest::{Algorithm, Digest};
use crate::pcr::PcrIndex;

pub use replay::ReplayError;
pub use types::EventType;

/// A parsed log. Borrows event data and digests from the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    /// What the log's header says.
    pub format: Format<'a>,
    /// The events up to the end, or up to the broken one.
    pub events: Vec<Event<'a>>,
    /// How the log ended.
    pub end: LogEnd,
}

/// The form of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format<'a> {
    /// One SHA-1 digest per event (TCG PC Client Implementation 1.21, 11.2.1).
    Sha1,
    /// Any banks, named in the header (PC Client Platform Firmware Profile
    /// 1.06, 10.2.2).
    CryptoAgile(SpecId<'a>),
}

/// The `Spec ID Event03` header of a crypto-agile log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecId<'a> {
    /// 0 client, 1 server.
    pub platform_class: u32,
    /// Version of the specification: major, minor, errata.
    pub version: (u8, u8, u8),
    /// 1 or 2: the firmware's native word in units of 32 bits.
    pub uintn_size: u8,
    /// The banks: identifier and digest size in bytes.
    pub algorithms: Vec<(AlgorithmId, u16)>,
    /// What the vendor put behind.
    pub vendor: &'a [u8],
}

/// A `TPM_ALG_ID` of a log, perhaps one that we do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AlgorithmId(pub u16);

impl AlgorithmId {
    /// The algorithm, if it is in our table.
    #[must_use]
    pub fn known(self) -> Option<Algorithm> {
        Algorithm::from_id(self.0)
    }
}

impl fmt::Display for AlgorithmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(algorithm) => f.pad(algorithm.name()),
            None => f.pad(&format!("{:#06x}", self.0)),
        }
    }
}

impl Serialize for AlgorithmId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One event. The header event of a log is the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Where it starts in the log, in bytes.
    pub offset: usize,
    /// The PCR it claims. Events that were extended are in 0 to 23; others may
    /// claim anything.
    pub pcr: u32,
    /// Its type; nothing authenticates it.
    pub event_type: EventType,
    /// One digest per bank, as long as the header says.
    pub digests: Vec<EventDigest<'a>>,
    /// Event data; nothing authenticates it. Never print it: see
    /// [`Event::description`].
    pub data: &'a [u8],
}

/// The digest of an event in one bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventDigest<'a> {
    /// The bank.
    pub algorithm: AlgorithmId,
    /// The digest.
    pub bytes: &'a [u8],
}

/// How a log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// With the last byte of the last event.
    Complete,
    /// With zeros, or bytes 0xff, behind the last event: the unused rest of the
    /// log's memory.
    Padding {
        /// First byte of it.
        offset: usize,
    },
    /// With an event that could not be read; those before it are given.
    Broken {
        /// Where the broken event starts.
        offset: usize,
        /// What is wrong with it.
        reason: BrokenEvent,
    },
}

/// What is wrong with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BrokenEvent {
    /// The bytes end inside it.
    #[error("the log ends inside the event")]
    Truncated,
    /// The header event names no banks, or too many.
    #[error("the header names {0} banks")]
    BankCount(u32),
    /// The header gives a known bank another digest size.
    #[error("the header gives bank {algorithm} digests of {size} bytes")]
    BankSize {
        /// The bank.
        algorithm: AlgorithmId,
        /// Size of its digests as the header has it, in bytes.
        size: u16,
    },
    /// The header names a bank twice.
    #[error("the header names bank {0} twice")]
    BankTwice(AlgorithmId),
    /// More digests than banks.
    #[error("the event has {0} digests, more than the log has banks")]
    DigestCount(u32),
    /// A digest of a bank that the header does not name.
    #[error("the event has a digest of bank {0}, which the header does not name")]
    UnknownBank(AlgorithmId),
    /// Two digests of one bank.
    #[error("the event has two digests of bank {0}")]
    DigestTwice(AlgorithmId),
    /// An extended event with a PCR that cannot be.
    #[error("the event claims PCR {0}, which does not exist")]
    NoSuchPcr(u32),
}

impl<'a> EventLog<'a> {
    /// Reads a log.
    ///
    /// The result is not to be trusted: see the module's documentation.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Self {
        parse::parse(bytes)
    }

    /// The banks that the log has digests for.
    #[must_use]
    pub fn banks(&self) -> Vec<AlgorithmId> {
        match &self.format {
            Format::Sha1 => vec![AlgorithmId(Algorithm::Sha1.id())],
            Format::CryptoAgile(spec) => spec.algorithms.iter().map(|(id, _)| *id).collect(),
        }
    }

    /// The locality that started the TPM, if the log says so (PFP 1.06,
    /// 10.4.5.3 StartupLocality): 0, 3, or 4 after an H-CRTM. Decides what PCR 0
    /// starts from; as everything in a log it proves itself by the replay alone.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        self.events.iter().find_map(Event::startup_locality)
    }
}

impl Event<'_> {
    /// Whether the event was extended into its PCR.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.event_type != EventType::NO_ACTION
    }

    /// The PCR it was extended into; `None` if it was not.
    #[must_use]
    pub fn extended_pcr(&self) -> Option<PcrIndex> {
        PcrIndex::new(self.pcr).ok().filter(|_| self.is_extended())
    }

    /// The digest in one bank.
    #[must_use]
    pub fn digest(&self, algorithm: Algorithm) -> Option<Digest> {
        let digest = self.digests.iter().find(|d| d.algorithm.0 == algorithm.id())?;
        Digest::new(algorithm, digest.bytes).ok()
    }

    /// What the event's data seems to say, for display only: one line, bounded,
    /// without control characters.
    #[must_use]
    pub fn description(&self) -> String {
        describe::describe(self)
    }
}

#[cfg(test)]
mod tests;
