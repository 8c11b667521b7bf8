//! Two quotes of one TPM in time.
//!
//! A TPM counts its resets, the restarts (suspends) since the last reset, and
//! the milliseconds that it had power; it writes the last to its memory about
//! once in 70 minutes. So between an earlier and a later quote of the same key
//!
//! - the count of resets stays or grows: a reboot is reported, not refused;
//! - within one reset the count of restarts stays or grows, and so does the clock;
//! - after a reset the restarts begin at 0 again, and the clock goes on, except
//!   when power was cut: then it goes on from where it was last written, and the
//!   TPM says that it is not `safe`. That is reported, not refused: a board whose
//!   plug is pulled is not an attack.
//!
//! Anything else is a clock that went backwards: an old quote, a TPM that was
//! cleared, or another TPM.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{QuoteError, VerifiedQuote};
use crate::structures::{Attest, ClockInfo, StructureError};

/// Largest [`Earlier`] that is read, in bytes.
pub const MAX_EARLIER: usize = 1024 * 1024;

/// What lies between two quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum ClockChange {
    /// The same boot, some milliseconds later.
    Onwards {
        /// How many.
        milliseconds: u64,
    },
    /// The same boot after suspends.
    Restarted {
        /// How many.
        restarts: u32,
    },
    /// Reboots.
    Rebooted {
        /// How many.
        resets: u32,
        /// Power was cut: the clock went back to where it was last written.
        power_cut: bool,
    },
    /// Refused: fewer resets.
    ResetsBackwards,
    /// Refused: fewer restarts within the same reset.
    RestartsBackwards,
    /// Refused: an earlier clock, though power was not cut.
    ClockBackwards,
}

impl ClockChange {
    /// Whether the later quote cannot be later.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        matches!(self, Self::ResetsBackwards | Self::RestartsBackwards | Self::ClockBackwards)
    }
}

impl fmt::Display for ClockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Onwards { milliseconds } => write!(f, "{milliseconds} ms, the same boot"),
            Self::Restarted { restarts } => write!(f, "the same boot, restarts: {restarts}"),
            Self::Rebooted { resets, power_cut: false } => write!(f, "reboots: {resets}"),
            Self::Rebooted { resets, power_cut: true } => write!(
                f,
                "reboots: {resets}; power was cut, the clock went back to where it was kept"
            ),
            Self::ResetsBackwards => f.write_str("FEWER RESETS than before"),
            Self::RestartsBackwards => f.write_str("FEWER RESTARTS than before"),
            Self::ClockBackwards => f.write_str("AN EARLIER CLOCK than before"),
        }
    }
}

/// Signer and clock of an earlier quote that was verified then, and is not again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    signer: Vec<u8>,
    clock: ClockInfo,
}

/// What is wrong with an earlier quote.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EarlierError {
    /// Neither a message nor an answer.
    #[error("neither what a TPM signed nor the JSON of an answer: {0}")]
    Json(#[from] serde_json::Error),
    /// An answer that refused.
    #[error("it was refused then")]
    Refused,
    /// No hexadecimal digits.
    #[error("qualified_signer: {0}")]
    Signer(hex::FromHexError),
    /// A message that cannot be read.
    #[error(transparent)]
    Message(#[from] StructureError),
    /// A message that no TPM made.
    #[error(transparent)]
    Quote(Box<QuoteError>),
    /// Another TPM's.
    #[error("it is of another key ({}): clocks of two TPMs cannot be compared", hex::encode(.0))]
    OtherKey(Vec<u8>),
}

/// What is taken from an earlier answer.
#[derive(Deserialize)]
struct AnswerJson {
    quote: Option<QuoteJson>,
}

#[derive(Deserialize)]
struct QuoteJson {
    qualified_signer: String,
    clock: ClockInfo,
}

impl Earlier {
    /// Reads a quote's message (`TPMS_ATTEST`), or the JSON that `verify-quote` and
    /// `attest ask` answer with.
    ///
    /// # Errors
    /// [`EarlierError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EarlierError> {
        if bytes.trim_ascii_start().starts_with(b"{") {
            let json: AnswerJson = serde_json::from_slice(bytes)?;
            let quote = json.quote.ok_or(EarlierError::Refused)?;
            let signer = hex::decode(quote.qualified_signer).map_err(EarlierError::Signer);
            return Ok(Self { signer: signer?, clock: quote.clock });
        }
        let attest = Attest::parse(bytes)?;
        if attest.magic != Attest::GENERATED {
            return Err(EarlierError::Quote(Box::new(QuoteError::Magic(attest.magic))));
        }
        Ok(Self { signer: attest.qualified_signer.to_vec(), clock: attest.clock })
    }

    /// What lies between it and a later quote.
    ///
    /// # Errors
    /// [`EarlierError::OtherKey`].
    pub fn until(&self, later: &VerifiedQuote) -> Result<ClockChange, EarlierError> {
        if self.signer != later.qualified_signer() {
            return Err(EarlierError::OtherKey(self.signer.clone()));
        }
        Ok(compare(&self.clock, later.clock()))
    }
}

/// Compares the clock of a quote with that of an earlier one of the same key.
#[must_use]
pub fn compare(earlier: &ClockInfo, later: &ClockInfo) -> ClockChange {
    let (Some(resets), restarts) = (
        grown(earlier.reset_count, later.reset_count),
        grown(earlier.restart_count, later.restart_count),
    ) else {
        return ClockChange::ResetsBackwards;
    };
    let milliseconds = later.clock.checked_sub(earlier.clock);
    match (resets, restarts, milliseconds) {
        (0, None, _) => ClockChange::RestartsBackwards,
        (0, _, None) => ClockChange::ClockBackwards,
        (0, Some(0), Some(milliseconds)) => ClockChange::Onwards { milliseconds },
        (0, Some(restarts), Some(_)) => ClockChange::Restarted { restarts },
        (_, _, None) if later.safe => ClockChange::ClockBackwards,
        (resets, ..) => ClockChange::Rebooted { resets, power_cut: milliseconds.is_none() },
    }
}

/// By how much a count has grown. A TPM may add a number of the key's to its
/// counts (see [`ClockInfo`]), which can carry them past their end: what is less
/// than half of the range ahead lies ahead.
fn grown(earlier: u32, later: u32) -> Option<u32> {
    Some(later.wrapping_sub(earlier)).filter(|by| by >> 31 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_or_is_refused() {
        use ClockChange::{
            ClockBackwards, Onwards, Rebooted, ResetsBackwards, Restarted, RestartsBackwards,
        };
        // (resets, restarts, clock, safe) of the earlier and of the later quote.
        type Clock = (u32, u32, u64, bool);
        let cases: [(Clock, Clock, ClockChange); 12] = [
            ((1, 0, 5, true), (1, 0, 5, true), Onwards { milliseconds: 0 }),
            ((1, 0, 5, true), (1, 0, 9, false), Onwards { milliseconds: 4 }),
            ((1, 0, 5, true), (1, 2, 9, true), Restarted { restarts: 2 }),
            ((1, 3, 5, true), (2, 0, 9, true), Rebooted { resets: 1, power_cut: false }),
            ((1, 0, 5, true), (3, 0, 4, false), Rebooted { resets: 2, power_cut: true }),
            ((u32::MAX, 0, 5, true), (0, 0, 9, true), Rebooted { resets: 1, power_cut: false }),
            ((2, 0, 5, true), (1, 0, 9, true), ResetsBackwards),
            ((0, 0, 5, true), (u32::MAX, 9, 9, true), ResetsBackwards),
            ((1, 1, 5, true), (1, 0, 9, true), RestartsBackwards),
            ((1, 0, 5, true), (1, 0, 4, true), ClockBackwards),
            ((1, 0, 5, true), (1, 1, 4, false), ClockBackwards),
            ((1, 0, 5, true), (2, 0, 4, true), ClockBackwards),
        ];
        let info = |(reset_count, restart_count, clock, safe): Clock| ClockInfo {
            clock,
            reset_count,
            restart_count,
            safe,
        };
        for (earlier, later, want) in cases {
            let got = compare(&info(earlier), &info(later));
            assert_eq!(got, want, "{earlier:?} {later:?}");
            let refused = [ResetsBackwards, RestartsBackwards, ClockBackwards].contains(&want);
            assert_eq!(got.is_refusal(), refused);
        }
    }
}
