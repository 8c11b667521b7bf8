//! From events to the PCR values they lead to.

use super::{AlgorithmId, Event, EventLog, EventType};
use crate::digest::{Algorithm, Digest, DigestError};
use crate::pcr::{PcrBank, PcrError, PcrIndex};
use crate::text::listed;

/// Signature of the StartupLocality event (PFP 1.06, 10.4.5.3).
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

/// Why a log could not be replayed in a bank.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The log's header does not name the bank.
    #[error("the log has no {wanted} bank; it has {}", listed(.has))]
    NoSuchBank {
        /// The bank that was asked for.
        wanted: Algorithm,
        /// The banks of the log.
        has: Vec<AlgorithmId>,
    },
    /// The algorithm is known, but this build cannot compute it.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A value could not be extended.
    #[error(transparent)]
    Pcr(#[from] PcrError),
}

impl Event<'_> {
    /// The locality this event reports, if it is a StartupLocality event.
    pub(super) fn startup_locality(&self) -> Option<u8> {
        let rest = self.data.strip_prefix(STARTUP_LOCALITY)?;
        (self.event_type == EventType::NO_ACTION && self.pcr == 0).then_some(())?;
        rest.first().copied()
    }
}

impl EventLog<'_> {
    /// The values that the events lead to in one bank, for the PCRs that occur.
    ///
    /// Events without a digest of this bank are passed over, as the firmware
    /// passed over the bank; [`EventLog::without_digest`] counts them.
    ///
    /// # Errors
    /// The log does not know the bank, or this build cannot compute its hash.
    pub fn replay(&self, bank: Algorithm) -> Result<PcrBank, ReplayError> {
        if !self.banks().contains(&AlgorithmId(bank.id())) {
            return Err(ReplayError::NoSuchBank { wanted: bank, has: self.banks() });
        }
        let mut values = PcrBank::new(bank);
        if let (Some(locality), Ok(zero)) = (self.startup_locality(), PcrIndex::new(0)) {
            values.set(zero, Digest::filled(bank, 0).with_last_byte(locality))?;
        }
        for event in &self.events {
            if let (Some(pcr), Some(digest)) = (event.extended_pcr(), event.digest(bank)) {
                values.extend(pcr, digest)?;
            }
        }
        Ok(values)
    }

    /// How many extended events have no digest in `bank`. More than zero, and
    /// fewer than all, means that the replay cannot be right.
    #[must_use]
    pub fn without_digest(&self, bank: Algorithm) -> usize {
        self.events.iter().filter(|e| e.is_extended() && e.digest(bank).is_none()).count()
    }
}
