//! What a list leads to: the values of the PCRs that the kernel has extended with it.

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::{PcrBank, PcrIndex};

use super::{ListError, Record};

/// How a kernel fills the banks that are not SHA-1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filling {
    /// With the record's digest in the bank's own algorithm: since Linux 5.8.
    Hashed,
    /// With the SHA-1 digest and zeros behind it: before.
    Padded,
}

/// A list that is being replayed, in one bank.
#[derive(Debug, Clone)]
pub struct Replay {
    bank: PcrBank,
    filling: Filling,
    entries: u64,
    violations: u64,
    broken: Option<u64>,
}

impl Replay {
    /// Begins with PCRs as a reset leaves them.
    #[must_use]
    pub const fn new(algorithm: Algorithm, filling: Filling) -> Self {
        let bank = PcrBank::new(algorithm);
        Self { bank, filling, entries: 0, violations: 0, broken: None }
    }

    /// Goes on by one record.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn add(&mut self, record: &Record) -> Result<(), ListError> {
        self.entries += 1;
        self.violations += u64::from(record.is_violation());
        if self.broken.is_none() && !record.is_whole()? {
            self.broken = Some(self.entries);
        }
        let algorithm = self.bank.algorithm();
        let by = match (self.filling, record.is_violation()) {
            (Filling::Padded, false) => {
                let sha1 = record.hash(Algorithm::Sha1)?;
                let mut bytes = sha1.as_bytes().to_vec();
                bytes.resize(algorithm.size(), 0);
                Digest::new(algorithm, &bytes)?
            }
            _ => record.extends_by(algorithm)?,
        };
        // Same algorithm: the one way in which a bank refuses.
        let _ = self.bank.extend(record.pcr, by);
        Ok(())
    }

    /// The value of a PCR now.
    #[must_use]
    pub fn value(&self, pcr: PcrIndex) -> Digest {
        self.bank.get_or_reset(pcr)
    }

    /// Records so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// How many of them are violations.
    #[must_use]
    pub const fn violations(&self) -> u64 {
        self.violations
    }

    /// The first record whose digest is not that of its data, counted from 1.
    #[must_use]
    pub const fn broken(&self) -> Option<u64> {
        self.broken
    }
}
