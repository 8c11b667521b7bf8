//! The firmware of a card with two places for it, and its way back.
//!
//! A slot was built for one firmware, which its boot manifest lists. An update that brings
//! firmware puts it into the place that is not started, and has the card start it together
//! with the trial of its slot. U-Boot falls back to the good slot by itself and cannot
//! choose what it was started from: so the slot does, in a boot that the TPM does not unlock
//! because it was started from the other one's firmware.

use super::slot_files::{SlotFileError, SlotFiles};
use super::slots::manifest;
use crate::boot_partition::{BootPartition, MOUNT};
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrError, PcrSelection};
use pcr_measure::slots::Slot;
use pcr_measure::stub::{self, Stub};
use std::path::Path;

/// The card starts another firmware from now on: the board has to start again.
#[derive(Debug, thiserror::Error)]
#[error("slot {slot} was built for the firmware in {stub}, which the card starts from now on")]
pub struct PutBack {
    /// The slot that runs.
    slot: Slot,
    stub: Stub,
}

/// The place with the firmware that a boot was built for, where the card starts another
/// one.
#[must_use]
pub fn misplaced(files: &SlotFiles, expected: &Manifest) -> Option<Stub> {
    let named = files.stub().ok()??;
    let holds = |place| {
        let firmware = files.firmware(place).ok();
        let firmware = firmware.and_then(|bytes| stub::measured(&bytes).ok());
        firmware.is_some_and(|firmware| expected.expects(&firmware))
    };
    (!holds(named) && holds(named.other())).then(|| named.other())
}

/// The PCRs into which U-Boot measures what a slot holds.
///
/// # Errors
/// None in practice: they exist.
pub fn of_a_slot() -> Result<PcrSelection, PcrError> {
    PcrSelection::sha256(&[1, 8, 9])
}

/// Has the card start the firmware that the running slot was built for, if it starts another
/// one. Which slot runs, `live` says: the PCRs [`of_a_slot`]. Nothing is changed else.
///
/// It ends: after it the card starts what this slot was built for, and U-Boot takes the good
/// slot, or one on trial as often as it has attempts.
///
/// A claim of the card's that nothing secret hangs on: what is started is measured.
#[must_use]
pub fn put_back(device: &Path, live: &PcrBank) -> Option<PutBack> {
    let at = || SlotFiles::at(Path::new(MOUNT));
    let partition = BootPartition::for_reading(device).ok()?;
    let found = look(&at(), live);
    partition.close().ok()?;
    let (slot, stub) = found?;
    let partition = BootPartition::for_writing(device).ok()?;
    let done: Result<(), SlotFileError> = at().set_stub(stub);
    partition.close().ok()?;
    done.ok().map(|()| PutBack { slot, stub })
}

fn look(files: &SlotFiles, live: &PcrBank) -> Option<(Slot, Stub)> {
    let good = files.state().ok()?.good;
    let runs = |manifest: &Manifest| {
        let predicted = manifest.predict();
        !live.is_empty() && live.iter().all(|(pcr, value)| predicted.get(pcr) == Some(value))
    };
    // Of two that are alike the good one, whatever it wants: each would undo what the other
    // one does.
    let (slot, running) = [good, good.other()].into_iter().find_map(|slot| {
        let manifest = manifest(files, slot).ok()??;
        runs(&manifest).then_some((slot, manifest))
    })?;
    Some((slot, misplaced(files, &running)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcr_measure::manifest::Uboot;
    use pcr_measure::slots::{STATE_FILE, Slots, padded};
    use pcr_measure::stub::SWITCH_FILE;

    /// BL1 and a FIP with this BL31.
    fn firmware(bl31: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x1b; stub::BL1_LEN];
        bytes.extend(0xaa64_0001_u32.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend(0x47d4_086d_4cfe_9846_9b95_2950_cbbd_5a00_u128.to_be_bytes());
        for word in [96, bl31.len() as u64, 0] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend([0; 40]);
        bytes.extend(bl31);
        stub::padded(&bytes).unwrap()
    }

    fn boot(bl31: &[u8], kernel: &[u8]) -> Manifest {
        let firmware = stub::measured(&firmware(bl31)).unwrap();
        let measured = |bytes: &[u8]| pcr_measure::manifest::Measurement::of(bytes);
        let uboot = Uboot {
            version: b"U-Boot\0",
            firmware: &firmware,
            kernel: measured(kernel),
            kernel_note: "",
            initramfs: measured(b"initramfs"),
            device_tree: measured(b"tree"),
            command_line: "quiet",
        };
        Manifest::builder("i", "b").uboot(&uboot).seal(&[0, 8]).build().unwrap()
    }

    /// A card whose good slot is this boot, with two firmwares, of which it starts one.
    fn card(good: &Manifest, a: &[u8], b: &[u8], starts: Stub) -> (tempfile::TempDir, SlotFiles) {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        put(STATE_FILE, &Slots::default().encode());
        put(Slot::A.manifest(), &padded(good.to_json().unwrap().as_bytes()).unwrap());
        put(Slot::B.manifest(), &padded(b"").unwrap());
        put(Stub::A.file(), a);
        put(Stub::B.file(), b);
        put(SWITCH_FILE, &starts.encode());
        let files = SlotFiles::at(dir.path());
        (dir, files)
    }

    fn live(of: &Manifest) -> PcrBank {
        let pcrs = of_a_slot().unwrap();
        let predicted = of.predict();
        pcrs.iter().map(|pcr| (pcr, predicted.sha256(pcr).unwrap())).collect()
    }

    #[test]
    fn the_good_slot_takes_its_own_firmware_back() {
        let good = boot(b"old", b"kernel");
        let (old, new) = (firmware(b"old"), firmware(b"new"));
        let (_dir, files) = card(&good, &old, &new, Stub::B);
        assert_eq!(look(&files, &live(&good)), Some((Slot::A, Stub::A)));
        // Another boot runs, or nobody says which.
        assert_eq!(look(&files, &live(&boot(b"old", b"other"))), None);
        assert_eq!(look(&files, &std::iter::empty().collect()), None);
        // Its firmware is what the card starts.
        files.set_stub(Stub::A).unwrap();
        assert_eq!(look(&files, &live(&good)), None);
        // It is nowhere.
        let (_dir, files) = card(&good, &new, &vec![0; stub::STUB_LEN], Stub::B);
        assert_eq!(look(&files, &live(&good)), None);
        let (_dir, files) = card(&good, b"", b"short", Stub::B);
        assert_eq!(look(&files, &live(&good)), None);
    }

    #[test]
    fn of_two_slots_the_one_that_runs_is_looked_at() {
        let (good, trial) = (boot(b"old", b"kernel"), boot(b"new", b"other"));
        let (_dir, files) = card(&good, &firmware(b"old"), &firmware(b"new"), Stub::A);
        files.set_json(Slot::B.manifest(), trial.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(look(&files, &live(&trial)), Some((Slot::B, Stub::B)));
        files.set_stub(Stub::B).unwrap();
        assert_eq!(look(&files, &live(&trial)), None);
        assert_eq!(look(&files, &live(&good)), Some((Slot::A, Stub::A)));
        // Alike but for the firmware: under its own one the good slot changes nothing.
        let alike = boot(b"new", b"kernel");
        files.set_json(Slot::B.manifest(), alike.to_json().unwrap().as_bytes()).unwrap();
        assert_eq!(look(&files, &live(&alike)), Some((Slot::A, Stub::A)));
        files.set_stub(Stub::A).unwrap();
        assert_eq!(look(&files, &live(&alike)), None);
    }

    #[test]
    fn a_card_with_room_for_one_firmware_keeps_it() {
        let good = boot(b"old", b"kernel");
        let (dir, files) = card(&good, &firmware(b"old"), &firmware(b"new"), Stub::B);
        assert_eq!(misplaced(&files, &good), Some(Stub::A), "premise");
        std::fs::remove_file(dir.path().join(SWITCH_FILE)).unwrap();
        assert_eq!(misplaced(&files, &good), None);
    }
}
