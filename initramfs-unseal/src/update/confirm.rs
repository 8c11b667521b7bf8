//! Confirming an update that has come up.

use super::slots::{live, running};
use super::{Access, Slotted, UpdateError};
use crate::report::this_boot::ThisBoot;
use crate::reseal::request::{self, Request, RequestError};
use crate::rollback;
use crate::tpm::{SHARED_DEVICE, Tpm};
use pcr_measure::slots::{Slot, Slots};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confirmed {
    /// The slot that runs, and boots from now on.
    pub slot: Slot,
    /// Whether it was on trial.
    pub was_on_trial: bool,
    /// Where the rollback counter stands, for the binding `signed`.
    pub counter: Option<u64>,
}

impl fmt::Display for Confirmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.was_on_trial {
            true => write!(f, "slot {} is good", self.slot)?,
            false => write!(f, "slot {} was good before", self.slot)?,
        }
        match self.counter {
            Some(counter) => write!(f, "; nothing older than version {counter} unlocks any more"),
            None => Ok(()),
        }
    }
}

/// Makes the running slot the good one, if the TPM unlocked it, and retires what it
/// replaces: for the binding `signed` the rollback counter goes to its version, for the
/// binding `pcr` the next boot that the TPM unlocks will be the only one. `keep` leaves
/// the old boot as it is.
///
/// It may be cut and called again, and it may be called at every boot.
///
/// # Errors
/// [`UpdateError`].
pub fn confirm(keep: bool) -> Result<Confirmed, UpdateError> {
    // Most boots confirm nothing new, and leave the boot partition as it is.
    let looked = look(&Slotted::open(Access::Read)?)?;
    let Looked { state, slot, was_on_trial } = looked;
    let boot = if was_on_trial {
        let slotted = Slotted::open(Access::Write)?;
        // Nobody holds the lock between the two.
        if look(&slotted)? != looked {
            return Err(UpdateError::Busy);
        }
        end_trial(&slotted, slot, keep)?;
        slotted.boot
    } else {
        ThisBoot::read()?
    };
    let counter = match &boot.objects.signed {
        Some(authority) if !keep && slot_is_good(&state, slot) => {
            Some(rollback::rollback(authority.version)?.to)
        }
        _ => None,
    };
    Ok(Confirmed { slot, was_on_trial, counter })
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Looked {
    state: Slots,
    /// The slot that runs.
    slot: Slot,
    was_on_trial: bool,
}

/// What there is to confirm.
fn look(Slotted { boot, files, .. }: &Slotted) -> Result<Looked, UpdateError> {
    boot.unlocked_by_tpm().map_err(|why| UpdateError::ByHand(why.to_owned()))?;
    let state = files.state()?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    let live = live(&mut tpm, &boot.objects.pcrs)?;
    let (slot, _) = running(files, &state, &live)?.ok_or(UpdateError::Unknown)?;
    let was_on_trial = state.trial == Some(slot) && state.good != slot;
    Ok(Looked { state, slot, was_on_trial })
}

/// Makes the slot on trial, which runs, the good one.
fn end_trial(
    Slotted { boot, files, .. }: &Slotted,
    slot: Slot,
    keep: bool,
) -> Result<(), UpdateError> {
    // Carried out by the next boot that the TPM unlocks, and asked for first: with power
    // cut before the state is written, that boot is this one again, or the old one, which
    // then is the only one.
    if boot.objects.signed.is_none() && !keep {
        match request::reseal(&Request::Retire) {
            Ok(_) | Err(RequestError::NothingPending) => {}
            Err(why) => return Err(why.into()),
        }
    }
    // A trial that failed and fell back to this slot is over as well, but what it left
    // says so to `status`: only a slot that comes up ends a trial.
    files.set_state(&Slots { good: slot, trial: None })?;
    Ok(())
}

/// Whether the slot is the good one, or has just become it.
fn slot_is_good(before: &Slots, slot: Slot) -> bool {
    before.good == slot || before.trial == Some(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_slot_that_boots_from_now_on_moves_the_counter() {
        let state = Slots { good: Slot::A, trial: Some(Slot::B) };
        assert!(slot_is_good(&state, Slot::A) && slot_is_good(&state, Slot::B));
        let state = Slots { good: Slot::A, trial: None };
        assert!(!slot_is_good(&state, Slot::B));
    }
}
