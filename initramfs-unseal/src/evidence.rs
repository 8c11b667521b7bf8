//! What vouches for a boot that is to be sealed against: the firmware's event log,
//! the boot manifest and the signed policies on the boot partition, and the PCRs.
//!
//! All but the PCRs is foreign. [`check_boot`] lets through what the PCRs confirm.

use crate::authority::{MAX_FILE, SignedError};
use crate::boot_partition::{BootPartition, read_bounded};
use crate::volume::LATCH;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::{MeasuredLog, explain};
use pcr_measure::manifest::{Manifest, ManifestError, Reference};
use pcr_measure::pcr::{PcrBank, PcrError, PcrIndex, PcrSelection};
use pcr_measure::slots::{Slot, unpadded};
use std::io;
use std::path::Path;

/// Where Linux shows the firmware's event log.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Largest event log that is read, in bytes. U-Boot's has room for 64 KiB.
const MAX_EVENT_LOG: u64 = 1 << 20;
/// Largest boot manifest that is read, in bytes.
pub const MAX_MANIFEST: u64 = 256 << 10;
/// The PCRs that firmware and boot loader measure into.
const FIRMWARE_PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Why a boot is not one to seal against.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No manifest on the boot partition.
    #[error("the boot partition has no boot manifest ({0}); write the image to the card again")]
    NoManifest(String),
    /// A manifest that is none.
    #[error("the boot manifest is broken ({0}); write the image to the card again")]
    BadManifest(#[from] ManifestError),
    /// No event log.
    #[error(
        "the firmware left no event log ({0}); check that U-Boot and the device tree reserve it"
    )]
    NoLog(String),
    /// The manifest was made for other PCRs.
    #[error(
        "the boot manifest seals {manifest}, the initramfs {config}; build both from one recipe"
    )]
    Selection {
        /// What the manifest says.
        manifest: PcrSelection,
        /// What the configuration says.
        config: PcrSelection,
    },
    /// Log and PCRs tell different stories.
    #[error(
        "the event log does not lead to the TPM's value of PCR {0}: the log is broken, or something else measured"
    )]
    Contradiction(PcrIndex),
    /// The manifest belongs to another image.
    #[error(
        "the boot manifest does not belong to what was booted ({0}); write the image to the card again"
    )]
    Manifest(String),
    /// A PCR without a measurement.
    #[error("PCR {0} is all zeros or all ones: nothing was measured into it")]
    Unmeasured(u8),
    /// The latch is already shut.
    #[error("PCR 15 is not zero any more: reset the board and boot again")]
    Latched,
    /// The latch is open where it must be shut.
    #[error(
        "PCR 15 is zero although the root is open: the TPM was reset since this boot began; reset the board and boot again"
    )]
    Reset,
    /// No policy can be computed.
    #[error("no policy for these PCRs: {0}")]
    Policy(String),
}

/// The files that vouch for this boot, unverified.
#[derive(Debug)]
pub struct Evidence {
    /// The boot manifests of the slots, as many as have one. Which slot was booted is
    /// not asked: its manifest is the one that the PCRs confirm.
    pub manifests: Vec<Vec<u8>>,
    /// The signed policies of the slots, or why there are none. Only the binding
    /// `signed` looks at them.
    pub signatures: Result<Vec<Vec<u8>>, String>,
    /// The event log.
    pub log: Vec<u8>,
}

impl Evidence {
    /// Reads them; `boot` is the boot partition.
    ///
    /// # Errors
    /// [`BootError::NoManifest`], [`BootError::NoLog`].
    pub fn read(boot: &Path) -> Result<Self, BootError> {
        let missing = |e: io::Error| BootError::NoManifest(e.to_string());
        let files = [
            (Slot::A.manifest(), MAX_MANIFEST),
            (Slot::B.manifest(), MAX_MANIFEST),
            (Slot::A.signatures(), MAX_FILE),
            (Slot::B.signatures(), MAX_FILE),
        ];
        let [a, b, signatures_a, signatures_b] =
            BootPartition::read_files(boot, files).map_err(missing)?;
        Ok(Self {
            manifests: filled([a, b]).map_err(missing)?,
            signatures: filled([signatures_a, signatures_b]).map_err(|e| e.to_string()),
            log: event_log().map_err(|e| BootError::NoLog(e.to_string()))?,
        })
    }
}

/// What the slots hold of a kind. One that is empty or cannot be read is passed over, as
/// long as there is another one.
fn filled<const N: usize>(files: [io::Result<Vec<u8>>; N]) -> io::Result<Vec<Vec<u8>>> {
    let mut kept = Vec::new();
    let mut why = io::Error::from(io::ErrorKind::UnexpectedEof);
    for file in files {
        match file {
            Ok(file) => kept.extend(unpadded(&file).map(<[u8]>::to_vec)),
            Err(error) => why = error,
        }
    }
    if kept.is_empty() { Err(why) } else { Ok(kept) }
}

/// The firmware's event log, unverified.
///
/// # Errors
/// The system's, or that it is too large.
pub fn event_log() -> io::Result<Vec<u8>> {
    read_bounded(Path::new(EVENT_LOG), MAX_EVENT_LOG)
}

/// What the firmware's event log leads to, for these PCRs; one that it does not mention
/// holds what a reset leaves. A claim: it costs no command of the TPM's, and the TPM has
/// the last word. `None` where the log is none.
#[must_use]
pub fn logged(log: &[u8], pcrs: &PcrSelection) -> Option<PcrBank> {
    let replayed = EventLog::parse(log).replay(pcrs.bank()).ok()?;
    let value = |pcr| replayed.get_or_reset(pcr).as_sha256();
    pcrs.iter().map(|pcr| Some((pcr, value(pcr)?))).collect()
}

/// The signed policies of the slots, as they lie on the boot partition.
///
/// # Errors
/// [`SignedError::NoFile`].
pub fn signatures(boot: &Path) -> Result<Vec<Vec<u8>>, SignedError> {
    let missing = |e: io::Error| SignedError::NoFile(e.to_string());
    let files = Slot::ALL.map(|slot| (slot.signatures(), MAX_FILE));
    filled(BootPartition::read_files(boot, files).map_err(missing)?).map_err(missing)
}

/// The PCRs that firmware and boot loader measure into, and these.
///
/// # Errors
/// None in practice: all of them exist.
pub fn firmware_and(pcrs: &PcrSelection) -> Result<PcrSelection, PcrError> {
    let firmware = PcrSelection::sha256(&FIRMWARE_PCRS)?;
    PcrSelection::new(firmware.bank(), firmware.iter().chain(pcrs.iter()))
}

/// PCRs as they stood before the latch of this boot shut: what a secret that is
/// sealed to a running boot is bound to.
///
/// # Errors
/// [`BootError::Reset`] where the latch is open: every boot of ours shuts it.
pub fn unlatched(live: &PcrBank) -> Result<PcrBank, BootError> {
    let values = || live.iter().filter_map(|(pcr, value)| Some((pcr, value.as_sha256()?)));
    if values().any(|(pcr, value)| pcr.get() == LATCH && value == Sha256Digest::ZERO) {
        return Err(BootError::Reset);
    }
    let open = |pcr: PcrIndex, value| if pcr.get() == LATCH { Sha256Digest::ZERO } else { value };
    Ok(values().map(|(pcr, value)| (pcr, open(pcr, value))).collect())
}

/// Checks that something was measured into every PCR of the selection but the latch,
/// and nothing into that.
///
/// # Errors
/// [`BootError::Unmeasured`], [`BootError::Latched`].
pub fn check_measured(selection: &PcrSelection, live: &PcrBank) -> Result<(), BootError> {
    for pcr in selection.iter() {
        let value = live.sha256(pcr).ok_or(BootError::Unmeasured(pcr.get()))?;
        let blank = [[0; 32], [0xff; 32]].contains(value.as_bytes());
        match pcr.get() {
            LATCH if value != Sha256Digest::ZERO => return Err(BootError::Latched),
            LATCH => {}
            measured if blank => return Err(BootError::Unmeasured(measured)),
            _ => {}
        }
    }
    Ok(())
}

/// Checks that a boot can be sealed against: the event log leads to the PCR
/// values, both are what one of the manifests predicts, and something was measured
/// into every PCR of the policy but the latch. Gives that manifest, and what is to be
/// recorded.
///
/// # Errors
/// [`BootError`] naming what is not so; of several manifests that of the last one.
pub fn check_boot(
    selection: &PcrSelection,
    manifests: &[Vec<u8>],
    log: &[u8],
    live: &PcrBank,
) -> Result<(Manifest, Reference), BootError> {
    let mut why = BootError::NoManifest("none is there".into());
    for json in manifests {
        let checked = Manifest::from_json(json).map_err(BootError::from).and_then(|manifest| {
            let reference = check_manifest(selection, &manifest, log, live)?;
            Ok((manifest, reference))
        });
        match checked {
            Ok(found) => return Ok(found),
            Err(error) => why = error,
        }
    }
    Err(why)
}

fn check_manifest(
    selection: &PcrSelection,
    manifest: &Manifest,
    log: &[u8],
    live: &PcrBank,
) -> Result<Reference, BootError> {
    let reference = manifest.reference();
    if reference.seal() != selection {
        return Err(BootError::Selection { manifest: *reference.seal(), config: *selection });
    }
    check_measured(selection, live)?;
    let log = EventLog::parse(log);
    let measured = MeasuredLog::from_log(&log);
    let explained = explain(&reference, Some(&measured), live);
    if let Some(first) = explained.contradictions().next() {
        return Err(BootError::Contradiction(first.pcr));
    }
    if let Some(first) = explained.differences().first() {
        return Err(BootError::Manifest(first.to_string()));
    }
    Ok(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bank(values: &[(u32, [u8; 32])]) -> PcrBank {
        let value = |(pcr, value): &(u32, [u8; 32])| {
            (PcrIndex::new(*pcr).unwrap(), Sha256Digest::from(*value))
        };
        values.iter().map(value).collect()
    }

    #[test]
    fn every_pcr_but_the_latch_was_measured_into() {
        let pcrs = PcrSelection::sha256(&[0, 8, 15]).unwrap();
        let check = |values: &[(u32, [u8; 32])]| check_measured(&pcrs, &bank(values));
        check(&[(0, [1; 32]), (8, [2; 32]), (15, [0; 32])]).unwrap();
        let cases = [
            (vec![(0, [0; 32]), (8, [2; 32]), (15, [0; 32])], "PCR 0 is all zeros"),
            (vec![(0, [1; 32]), (8, [0xff; 32]), (15, [0; 32])], "PCR 8 is all zeros or all ones"),
            (vec![(0, [1; 32]), (15, [0; 32])], "PCR 8"),
            (vec![(0, [1; 32]), (8, [2; 32]), (15, [3; 32])], "PCR 15 is not zero"),
        ];
        for (values, want) in cases {
            let why = check(&values).unwrap_err().to_string();
            assert!(why.contains(want), "{why}");
        }
    }

    #[test]
    fn a_tpm_that_was_reset_in_the_running_system_is_told_by_its_latch() {
        let shut = bank(&[(0, [1; 32]), (15, [3; 32])]);
        assert_eq!(unlatched(&shut).unwrap(), bank(&[(0, [1; 32]), (15, [0; 32])]));
        let open = bank(&[(0, [1; 32]), (15, [0; 32])]);
        assert!(matches!(unlatched(&open), Err(BootError::Reset)));
    }
}
