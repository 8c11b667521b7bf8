//! A whole list: replayed and judged in one reading.

use std::collections::BTreeMap;
use std::fmt;

use pcr_measure::PcrIndex;
use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::text::printable;
use serde::Serialize;

use super::{Fault, Judge};
use crate::list::replay::{Filling, Replay};
use crate::list::{ListError, Record};

/// What is known of a list so far. It does not grow with the list.
#[derive(Debug)]
pub struct Reading<'a> {
    judge: Judge<'a>,
    expected: Option<&'a Digest>,
    pcr: PcrIndex,
    /// As Linux fills a bank since 5.8; and as it did before, where it is about a PCR, since
    /// the list does not say which.
    replays: Vec<Replay>,
    entries: u64,
    vouched_for: Option<u64>,
    faults: BTreeMap<Fault, u64>,
    shown: Vec<FaultyEntry>,
    most: usize,
}

/// What was found in a list. `Display` tells it to people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListFindings {
    /// No fault, and the PCR as expected where one was given.
    pub good: bool,
    /// How many there are.
    pub entries: u64,
    /// How many of them are violations.
    pub violations: u64,
    /// Where it leads.
    pub pcr: PcrFindings,
    /// How many faults of each kind.
    pub faults: BTreeMap<Fault, u64>,
    /// The first of them, as many as were asked for.
    pub entries_with_faults: Vec<FaultyEntry>,
}

/// Where a list leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrFindings {
    /// The PCR.
    pub number: PcrIndex,
    /// The bank.
    pub hash: String,
    /// The value that the whole list leads to.
    pub replayed: String,
    /// The value that it should lead to.
    pub expected: Option<String>,
    /// Entries after which the value is the expected one.
    pub vouched_for: Option<u64>,
}

/// An entry that has a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultyEntry {
    /// Its place, counted from 1.
    pub entry: u64,
    /// What it is about, fit for a console.
    pub name: String,
    /// What is wrong.
    pub fault: Fault,
    /// The digest in it, its algorithm in front.
    pub digest: Option<String>,
}

impl<'a> Reading<'a> {
    /// Begins: `judge` says by what, `expected` the value of `pcr` that the list, or a part
    /// of it from its beginning, has to lead to; without one the SHA-256 bank is replayed.
    /// At most `most` faulty entries are kept one by one.
    #[must_use]
    pub fn new(judge: Judge<'a>, pcr: PcrIndex, expected: Option<&'a Digest>, most: usize) -> Self {
        let hash = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let fillings: &[Filling] = match expected {
            Some(_) => &[Filling::Hashed, Filling::Padded],
            None => &[Filling::Hashed],
        };
        Self {
            judge,
            expected,
            pcr,
            replays: fillings.iter().map(|filling| Replay::new(hash, *filling)).collect(),
            entries: 0,
            vouched_for: None,
            faults: BTreeMap::new(),
            shown: Vec::new(),
            most,
        }
    }

    /// Goes on by one record.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn add(&mut self, record: &Record) -> Result<(), ListError> {
        self.entries += 1;
        for replay in &mut self.replays {
            replay.add(record)?;
            if record.pcr == self.pcr && Some(&replay.value(self.pcr)) == self.expected {
                self.vouched_for = Some(replay.entries());
            }
        }
        let Some(fault) = self.judge.judge(self.entries, record)? else { return Ok(()) };
        *self.faults.entry(fault).or_default() += 1;
        if self.shown.len() < self.most {
            let digest = record.file_digest();
            self.shown.push(FaultyEntry {
                entry: self.entries,
                name: printable(&String::from_utf8_lossy(record.name().unwrap_or_default())),
                fault,
                digest: digest.map(|its| format!("{}:{}", its.algorithm, hex::encode(its.bytes))),
            });
        }
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn findings(self) -> ListFindings {
        let replay = self.replays.first();
        let value = replay.map(|replay| replay.value(self.pcr));
        ListFindings {
            good: self.faults.is_empty() && (self.expected.is_none() || self.vouched_for.is_some()),
            entries: self.entries,
            violations: replay.map_or(0, Replay::violations),
            pcr: PcrFindings {
                number: self.pcr,
                hash: value.as_ref().map(|value| value.algorithm().to_string()).unwrap_or_default(),
                replayed: value.as_ref().map(ToString::to_string).unwrap_or_default(),
                expected: self.expected.map(ToString::to_string),
                vouched_for: self.vouched_for,
            },
            faults: self.faults,
            entries_with_faults: self.shown,
        }
    }
}

impl fmt::Display for ListFindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for FaultyEntry { entry, name, fault, digest } in &self.entries_with_faults {
            let digest = digest.as_deref().unwrap_or("no digest");
            writeln!(f, "entry {entry}: {name}: {}\n    {digest}", fault.told())?;
        }
        let all: u64 = self.faults.values().sum();
        let shown = self.entries_with_faults.len() as u64;
        if all > shown {
            writeln!(f, "and {} other entries", all - shown)?;
        }
        let PcrFindings { number, hash, replayed, expected, vouched_for } = &self.pcr;
        writeln!(f, "{} entries, {all} with a fault", self.entries)?;
        writeln!(f, "PCR {number} ({hash}): {replayed}")?;
        match (expected, vouched_for) {
            (None, _) => {
                writeln!(f, "not compared with a PCR: whoever had the list could change it")
            }
            (Some(expected), None) => {
                writeln!(f, "    expected {expected}: this is not the list of that PCR")
            }
            (Some(_), Some(entries)) if *entries < self.entries => {
                let behind = self.entries - entries;
                writeln!(
                    f,
                    "    as expected after entry {entries}; for the {behind} behind it that PCR does not vouch"
                )
            }
            (Some(_), Some(_)) => writeln!(f, "    as expected"),
        }
    }
}
