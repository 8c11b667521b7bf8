//! Which slot runs, what is in the other one, and giving an update up.

use super::firmware::misplaced;
use super::slot_files::SlotFiles;
use super::{Access, Slotted, UpdateError};
use crate::evidence::{self, firmware_and, unlatched};
use crate::tpm::{SHARED_DEVICE, Tpm, TpmError};
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::{MeasuredLog, explain};
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrSelection};
use pcr_measure::signed_policy::SignatureFile;
use pcr_measure::slots::{Slot, Slots};
use pcr_measure::stub::Stub;
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// What is in a slot, as its files tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    /// The slot.
    pub slot: Slot,
    /// Name of its image; none in an empty slot.
    pub image: Option<String>,
    /// Its version, for the binding `signed`.
    pub version: Option<u64>,
}

/// What the card says of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotsStatus {
    schema: &'static str,
    /// The slot that runs, if one explains this boot.
    pub running: Option<Slot>,
    /// The slot that is known to boot.
    pub good: Slot,
    /// The slot on trial.
    pub trial: Option<Slot>,
    /// Attempts that are left for it.
    pub attempts: Option<u32>,
    /// The slot that boots next.
    pub next: Slot,
    /// What is in them.
    pub slots: Vec<SlotStatus>,
    /// The firmware that the card starts; none where there is one alone.
    pub firmware: Option<Stub>,
}

impl fmt::Display for SlotsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for slot in &self.slots {
            let image = slot.image.as_deref().unwrap_or("empty");
            let version = slot.version.map(|v| format!(", version {v}")).unwrap_or_default();
            let mut is = Vec::new();
            if self.running == Some(slot.slot) {
                is.push("running".to_owned());
            }
            if self.good == slot.slot {
                is.push("good".to_owned());
            }
            if self.trial == Some(slot.slot) {
                is.push(match self.attempts {
                    Some(0) => "on trial, its attempts are used up".to_owned(),
                    Some(left) => format!("on trial, attempts left: {left}"),
                    None => "on trial, and the TPM cannot count its attempts".to_owned(),
                });
            }
            if self.next == slot.slot {
                is.push("boots next".to_owned());
            }
            writeln!(f, "slot {}: {image}{version} ({})", slot.slot, is.join(", "))?;
        }
        match self.firmware {
            Some(stub) => writeln!(f, "firmware: {stub}"),
            None => Ok(()),
        }
    }
}

/// The PCRs of this boot, as they stood before its latch shut.
pub(super) fn live(tpm: &mut Tpm, pcrs: &PcrSelection) -> Result<PcrBank, UpdateError> {
    let all = firmware_and(pcrs).map_err(|e| TpmError::Library(e.to_string()))?;
    unlatched(&tpm.pcrs(&all)?).map_err(|_| UpdateError::Unknown)
}

/// The boot manifest of a slot; `None` in an empty one.
pub(super) fn manifest(files: &SlotFiles, slot: Slot) -> Result<Option<Manifest>, UpdateError> {
    let json = files.manifest(slot)?;
    let manifest = json.map(|json| Manifest::from_json(&json));
    manifest.transpose().map_err(|cause| UpdateError::Manifest { slot, cause })
}

/// The slot whose manifest predicts what the TPM holds; of two that are alike the good
/// one.
pub(super) fn running(
    files: &SlotFiles,
    state: &Slots,
    live: &PcrBank,
) -> Result<Option<(Slot, Manifest)>, UpdateError> {
    let log = evidence::event_log().unwrap_or_default();
    let log = EventLog::parse(&log);
    let measured = MeasuredLog::from_log(&log);
    for slot in [state.good, state.good.other()] {
        // One that is torn is not the one that runs.
        let Ok(Some(manifest)) = manifest(files, slot) else { continue };
        if explain(&manifest.reference(), Some(&measured), live).differences().is_empty() {
            return Ok(Some((slot, manifest)));
        }
    }
    Ok(None)
}

fn look(files: &SlotFiles, slot: Slot) -> SlotStatus {
    let manifest = manifest(files, slot).ok().flatten();
    let signed = files.signatures(slot).ok().flatten();
    let signed = signed.and_then(|json| SignatureFile::from_json(&json).ok());
    SlotStatus {
        slot,
        image: manifest.map(|manifest| manifest.image().to_owned()),
        version: signed.and_then(|file| file.entries().filter_map(|entry| entry.rollback).max()),
    }
}

/// Looks at the slots of this card.
///
/// # Errors
/// [`UpdateError`].
pub fn status() -> Result<SlotsStatus, UpdateError> {
    let Slotted { boot, files, .. } = &Slotted::open(Access::Read)?;
    let state = files.state()?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    let live = live(&mut tpm, &boot.objects.pcrs)?;
    let attempts = tpm.attempts()?;
    Ok(SlotsStatus {
        schema: "msec-boot/slots/1",
        running: running(files, &state, &live)?.map(|(slot, _)| slot),
        good: state.good,
        trial: state.trial,
        attempts,
        next: state.next(attempts),
        slots: Slot::ALL.map(|slot| look(files, slot)).to_vec(),
        firmware: files.stub()?,
    })
}

/// Gives the slot on trial up: the good one boots next, from its own firmware. Nothing else
/// is changed, so that the same bundle can be installed again. `if_running` refuses when what is on trial is
/// not what runs.
///
/// # Errors
/// [`UpdateError`].
pub fn cancel(if_running: bool) -> Result<Slots, UpdateError> {
    let Slotted { boot, files, .. } = &Slotted::open(Access::Write)?;
    let state = files.state()?;
    if if_running {
        let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
        let live = live(&mut tpm, &boot.objects.pcrs)?;
        let running = running(files, &state, &live)?.map(|(slot, _)| slot);
        if running.is_none() || running != state.trial {
            return Err(UpdateError::NotOnTrial);
        }
    }
    if let Ok(Some(good)) = manifest(files, state.good)
        && let Some(own) = misplaced(files, &good)
    {
        files.set_stub(own)?;
    }
    let state = Slots { trial: None, ..state };
    files.set_state(&state)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_is_told_with_what_it_is() {
        let slot = |slot, image: Option<&str>, version| SlotStatus {
            slot,
            image: image.map(str::to_owned),
            version,
        };
        let mut status = SlotsStatus {
            schema: "",
            running: Some(Slot::A),
            good: Slot::A,
            trial: Some(Slot::B),
            attempts: Some(2),
            next: Slot::B,
            slots: vec![slot(Slot::A, Some("card"), Some(1)), slot(Slot::B, Some("card"), Some(2))],
            firmware: None,
        };
        assert_eq!(
            status.to_string(),
            "slot A: card, version 1 (running, good)\n\
             slot B: card, version 2 (on trial, attempts left: 2, boots next)\n"
        );
        status.attempts = Some(0);
        status.next = Slot::A;
        assert!(status.to_string().contains("(on trial, its attempts are used up)"));
        status.trial = None;
        status.firmware = Some(Stub::B);
        assert!(status.to_string().ends_with("\nfirmware: armstub8-b.bin\n"));
        status.slots[1] = slot(Slot::B, None, None);
        assert!(status.to_string().contains("slot B: empty ()"));
    }
}
