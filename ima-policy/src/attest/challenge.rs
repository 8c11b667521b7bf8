//! What a verifier asks.

use pcr_measure::PcrSelection;
use pcr_measure::digest::Algorithm;
use serde::{Deserialize, Serialize};

/// The one schema that is read and written.
const SCHEMA: &str = "msec-boot/challenge/1";

/// Longest challenge that is read, in bytes.
pub const MAX_CHALLENGE: usize = 4096;

/// Bytes of a nonce: as many as SHA-256 has.
const NONCE: usize = 32;

/// What is wrong with a challenge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChallengeError {
    /// Another structure.
    #[error("this is no challenge: {0}")]
    Json(#[from] serde_json::Error),
    /// Another schema.
    #[error("the challenge's schema is {0:?}; this program reads {SCHEMA:?}")]
    Schema(String),
    /// Another bank.
    #[error("the challenge is about the bank {0:?}; only sha256 is quoted")]
    Bank(String),
    /// Too long.
    #[error("the challenge has more than {MAX_CHALLENGE} bytes")]
    TooLong,
}

/// What a verifier asks: these PCRs, and this nonce signed along with them, within a time.
///
/// The verifier keeps it until the answer comes; who could change it there could have an old
/// answer accepted. For the device it is foreign, and harmless: it makes the TPM sign nothing
/// but a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    nonce: [u8; NONCE],
    pcrs: PcrSelection,
    made: u64,
    seconds: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    schema: String,
    #[serde(with = "hex::serde")]
    nonce: [u8; NONCE],
    bank: String,
    pcrs: PcrSelection,
    made: u64,
    seconds: u32,
}

impl Challenge {
    /// A challenge with this nonce, which has to be random. `made`: seconds since 1970 by the
    /// verifier's clock; the answer is taken for so many `seconds`.
    ///
    /// # Errors
    /// [`ChallengeError::Bank`].
    pub fn new(
        nonce: [u8; NONCE],
        pcrs: PcrSelection,
        made: u64,
        seconds: u32,
    ) -> Result<Self, ChallengeError> {
        match pcrs.bank() {
            Algorithm::Sha256 => Ok(Self { nonce, pcrs, made, seconds }),
            other => Err(ChallengeError::Bank(other.to_string())),
        }
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// [`ChallengeError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ChallengeError> {
        if bytes.len() > MAX_CHALLENGE {
            return Err(ChallengeError::TooLong);
        }
        let json: Json = serde_json::from_slice(bytes)?;
        if json.schema != SCHEMA {
            return Err(ChallengeError::Schema(json.schema));
        }
        if json.bank != Algorithm::Sha256.to_string() {
            return Err(ChallengeError::Bank(json.bank));
        }
        Self::new(json.nonce, json.pcrs, json.made, json.seconds)
    }

    /// One line of JSON, with its end.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> Result<Vec<u8>, ChallengeError> {
        let mut line = serde_json::to_vec(&Json {
            schema: SCHEMA.to_owned(),
            nonce: self.nonce,
            bank: self.pcrs.bank().to_string(),
            pcrs: self.pcrs,
            made: self.made,
            seconds: self.seconds,
        })?;
        line.push(b'\n');
        Ok(line)
    }

    /// What is to be signed along.
    #[must_use]
    pub const fn nonce(&self) -> &[u8] {
        &self.nonce
    }

    /// The PCRs that are to be quoted.
    #[must_use]
    pub const fn pcrs(&self) -> &PcrSelection {
        &self.pcrs
    }

    /// How many seconds ago it was made; `None` if it is not valid `now`, in seconds since
    /// 1970: too old, or of a time that has not come.
    #[must_use]
    pub fn age(&self, now: u64) -> Option<u64> {
        now.checked_sub(self.made).filter(|age| *age <= self.seconds.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge() -> Challenge {
        Challenge::new([7; 32], "0-10".parse().unwrap(), 1000, 60).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let line = challenge().to_json().unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(Challenge::from_json(&line).unwrap(), challenge());
        let text = String::from_utf8(line).unwrap();
        for (from, to, why) in [
            ("challenge/1", "challenge/2", "schema"),
            ("sha256", "sha1", "bank"),
            ("\"made\"", "\"more\"", "no challenge"),
            ("0707", "07", "no challenge"),
            ("[0,", "[0,0,", "no challenge"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Challenge::from_json(changed.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        let long = text + &" ".repeat(MAX_CHALLENGE);
        assert!(matches!(Challenge::from_json(long.as_bytes()), Err(ChallengeError::TooLong)));
        let sha384 = "sha384:0".parse().unwrap();
        assert!(matches!(Challenge::new([7; 32], sha384, 0, 0), Err(ChallengeError::Bank(_))));
    }

    #[test]
    fn it_is_valid_for_its_seconds_and_not_before() {
        let ages = [999, 1000, 1060, 1061].map(|now| challenge().age(now));
        assert_eq!(ages, [None, Some(0), Some(60), None]);
    }
}
