//! The operator's way into the root: latch, explain, ask.

use super::{Boot, Refused};
use crate::console::Answer;
use crate::evidence;
use crate::luks::{LuksError, Volume};
use crate::recovery::RecoveryKey;
use crate::token::{RECOVERY_SLOT, SPARE_SLOT, TPM_SLOT, Token};
use anyhow::{Result, bail};
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::{Difference, MeasuredLog, explain};
use pcr_measure::pcr::PcrBank;
use std::time::Duration;
use zeroize::Zeroizing;

/// What was entered where the recovery key was asked for.
enum Entered {
    RecoveryKey(RecoveryKey),
    Other(Zeroizing<Vec<u8>>),
}

/// Slots that an operator made: all but the TPM's and the recovery key's. A root that
/// was encrypted in place has none.
fn passphrases(slots: &[u32], token: Option<&Token>) -> Vec<u32> {
    let ours = |slot: u32| {
        token.is_some_and(|token| {
            slot == token.recovery_slot || [TPM_SLOT, SPARE_SLOT].contains(&slot)
        })
    };
    slots.iter().copied().filter(|slot| !ours(*slot)).collect()
}

impl Boot {
    /// The operator's way: latch, explain, ask.
    pub(super) fn recover(
        &mut self,
        volume: &mut Volume,
        token: Option<&Token>,
        why: &str,
        typed: Option<RecoveryKey>,
    ) -> Result<()> {
        self.report.refusal = Some(why.to_string());
        // Read before the latch changes PCR 15; needed for words alone.
        if let (None, Some(tpm)) = (&self.report.pcrs, self.tpm.as_mut()) {
            self.report.pcrs = tpm.pcrs(&self.config.pcrs).ok();
        }
        self.latch()?;
        self.consoles.say(&format!("the TPM did not release the key: {why}"));
        if let (Some(token), Some(live)) = (token, self.report.pcrs.as_ref()) {
            self.report.differences = differences(token, live);
        }
        for difference in &self.report.differences {
            self.consoles.say(&difference.to_string());
        }
        self.ask(volume, token, typed)
    }

    /// Asks for the recovery key, or takes the one that stands for the first try.
    fn ask(
        &mut self,
        volume: &mut Volume,
        token: Option<&Token>,
        mut given: Option<RecoveryKey>,
    ) -> Result<()> {
        let question = format!("enter the recovery key for {}", self.config.root().display());
        let patience = Duration::from_secs(self.config.prompt_seconds.into());
        let tries = self.config.recovery_tries;
        let recovery = token.map_or(RECOVERY_SLOT, |token| token.recovery_slot);
        let others = passphrases(&volume.slots()?, token);
        for attempt in 1..=tries {
            let typed = match given.take() {
                Some(key) => Entered::RecoveryKey(key),
                None => match self.consoles.ask(&question, patience) {
                    Answer::Line(line) => match RecoveryKey::parse(&line) {
                        Some(key) => Entered::RecoveryKey(key),
                        None => Entered::Other(line),
                    },
                    Answer::TimedOut => bail!(Refused("nobody entered the recovery key".into())),
                    Answer::NoConsole => bail!(
                        "there is no console to enter the recovery key on: connect one and boot again"
                    ),
                },
            };
            let result = match typed {
                Entered::RecoveryKey(key) => {
                    self.open(volume, recovery, key.expose().as_bytes(), None)
                }
                Entered::Other(line) => self.open_by_any(volume, &others, &line),
            };
            match result {
                Ok(key) => {
                    self.consoles.say("unlocked by the recovery key");
                    if let Some(token) = token.filter(|token| token.pin) {
                        match self.forgive_guesses(token, &key) {
                            Ok(()) => self.consoles.say("wrong PINs are forgiven"),
                            Err(why) => {
                                self.consoles.say(&format!("wrong PINs are not forgiven: {why}"))
                            }
                        }
                    }
                    return Ok(());
                }
                Err(e) if matches!(e.downcast_ref(), Some(LuksError::WrongKey(_))) => {
                    self.consoles.say(&format!("wrong recovery key (try {attempt} of {tries})"));
                }
                Err(e) => return Err(e),
            }
        }
        bail!(Refused(format!("{tries} wrong recovery keys")))
    }

    /// Tries a passphrase on the slots that are nobody's but the operator's.
    fn open_by_any(
        &mut self,
        volume: &mut Volume,
        slots: &[u32],
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        for slot in slots {
            match self.open(volume, *slot, passphrase, None) {
                Err(e) if matches!(e.downcast_ref(), Some(LuksError::WrongKey(_))) => {}
                other => return other,
            }
        }
        Err(LuksError::WrongKey(RECOVERY_SLOT).into())
    }
}

/// What differs from the boot that was sealed against, of several from the nearest;
/// advice for a person.
fn differences(token: &Token, live: &PcrBank) -> Vec<Difference> {
    let log = evidence::event_log().unwrap_or_default();
    let log = EventLog::parse(&log);
    let measured = MeasuredLog::from_log(&log);
    token
        .boots()
        .map(|boot| explain(boot, Some(&measured), live).sealed_differences())
        .min_by_key(Vec::len)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::tests::sample;

    #[test]
    fn passphrases_are_tried_on_the_operators_slots_alone() {
        let mut token = sample();
        let cases = [
            (vec![0, 1], 0, vec![]),
            (vec![0, 1, 2], 0, vec![]),
            (vec![0, 1, 3], 3, vec![0]),
            (vec![0, 1, 3, 5], 0, vec![3, 5]),
        ];
        for (slots, recovery, want) in cases {
            token.recovery_slot = recovery;
            assert_eq!(passphrases(&slots, Some(&token)), want, "{slots:?}");
        }
        assert_eq!(passphrases(&[0, 1], None), [0, 1], "nothing is ours without a token");
    }
}
