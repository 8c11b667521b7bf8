//! The files of the slots on the mounted boot partition, written over where they lie.
//!
//! Neither their length nor their clusters change: nothing is written but the content of
//! the file, and the sector of its directory entry with a new date. A power cut leaves a
//! file system that is whole, and at worst the file half new. That file belongs to the
//! slot that does not boot, or is the firmware that is not started, or it is one sector: the
//! state of the slots, or the name of the firmware.

use crate::boot_partition::read_bounded;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use pcr_measure::slots::{FIT_MAX, JSON_LEN, STATE_FILE, STATE_LEN, Slot, Slots, padded, unpadded};
use pcr_measure::stub::{STUB_LEN, SWITCH_FILE, SWITCH_LEN, Stub};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What is wrong with the files of a slot.
#[derive(Debug, thiserror::Error)]
#[error("{name} on the boot partition {what}: {cause}")]
pub struct SlotFileError {
    name: &'static str,
    what: &'static str,
    cause: io::Error,
}

fn failed(
    name: &'static str,
    what: &'static str,
) -> impl FnOnce(io::Error) -> SlotFileError + Copy {
    move |cause| SlotFileError { name, what, cause }
}

/// The boot partition's files.
#[derive(Debug)]
pub struct SlotFiles(PathBuf);

impl SlotFiles {
    /// Those in this directory, where the boot partition is mounted.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// The state, as U-Boot reads it: one that is damaged says slot A.
    ///
    /// # Errors
    /// If it cannot be read: then this card has no slots.
    pub fn state(&self) -> Result<Slots, SlotFileError> {
        let state = read_bounded(&self.0.join(STATE_FILE), STATE_LEN as u64);
        let state = state.map_err(failed(STATE_FILE, "cannot be read"))?;
        Ok(Slots::decode(&state).unwrap_or_default())
    }

    /// Writes the state: one sector, whole or not at all.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn set_state(&self, state: &Slots) -> Result<(), SlotFileError> {
        self.set_sector(STATE_FILE, &state.encode())
    }

    /// Writes a file of one sector, and reads it back.
    fn set_sector(&self, name: &'static str, sector: &[u8]) -> Result<(), SlotFileError> {
        let file = self.open(name, sector.len() as u64)?;
        file.write_all_at(sector, 0)
            .and_then(|()| file.sync_all())
            .map_err(failed(name, "cannot be written"))?;
        if self.read_back(name)? == sector {
            Ok(())
        } else {
            let cause = io::Error::other("it does not keep what was written: replace the card");
            Err(failed(name, "cannot be written")(cause))
        }
    }

    /// Which firmware the card starts; `None` on a card that has room for one alone. A
    /// damaged sector says what a new one says.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn stub(&self) -> Result<Option<Stub>, SlotFileError> {
        match read_bounded(&self.0.join(SWITCH_FILE), SWITCH_LEN as u64) {
            Ok(sector) => Ok(Some(Stub::decode(&sector).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(SWITCH_FILE, "cannot be read")(error)),
        }
    }

    /// Says which firmware the card starts: one sector, whole or not at all.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn set_stub(&self, stub: Stub) -> Result<(), SlotFileError> {
        self.set_sector(SWITCH_FILE, &stub.encode())
    }

    /// The firmware in one of its places.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn firmware(&self, stub: Stub) -> Result<Vec<u8>, SlotFileError> {
        let file = read_bounded(&self.0.join(stub.file()), STUB_LEN as u64);
        file.map_err(failed(stub.file(), "cannot be read"))
    }

    /// The file of a firmware, to be written from its beginning to its end.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn firmware_writer(&self, stub: Stub) -> Result<Writer, SlotFileError> {
        let room = STUB_LEN as u64;
        Ok(Writer { file: self.open(stub.file(), room)?, room })
    }

    /// The boot manifest of a slot; `None` where there is none.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn manifest(&self, slot: Slot) -> Result<Option<Vec<u8>>, SlotFileError> {
        self.json(slot.manifest())
    }

    /// The signed policies of a slot; `None` where there are none.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn signatures(&self, slot: Slot) -> Result<Option<Vec<u8>>, SlotFileError> {
        self.json(slot.signatures())
    }

    /// The path of a slot's file.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn json(&self, name: &'static str) -> Result<Option<Vec<u8>>, SlotFileError> {
        let file = read_bounded(&self.0.join(name), JSON_LEN);
        let file = file.map_err(failed(name, "cannot be read"))?;
        Ok(unpadded(&file).map(<[u8]>::to_vec))
    }

    /// Takes what a slot has: nobody finds a boot in it any more.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn clear(&self, slot: Slot) -> Result<(), SlotFileError> {
        for name in [slot.manifest(), slot.signatures()] {
            self.set_json(name, b"")?;
        }
        // Its first sector makes a FIT of it.
        let (file, _) = self.fit(slot)?;
        file.write_all_at(&[0; STATE_LEN], 0)
            .and_then(|()| file.sync_all())
            .map_err(failed(slot.fit(), "cannot be written"))
    }

    /// Writes a JSON file of a slot.
    ///
    /// # Errors
    /// [`SlotFileError`]; also that it is too long.
    pub fn set_json(&self, name: &'static str, json: &[u8]) -> Result<(), SlotFileError> {
        let whole = padded(json).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge));
        let file = self.open(name, JSON_LEN)?;
        whole
            .and_then(|whole| file.write_all_at(&whole, 0))
            .and_then(|()| file.sync_all())
            .map_err(failed(name, "cannot be written"))
    }

    /// Bytes that a slot's FIT may have.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn room(&self, slot: Slot) -> Result<u64, SlotFileError> {
        Ok(self.fit(slot)?.1)
    }

    /// The FIT's file, to be written from its beginning.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn fit_writer(&self, slot: Slot) -> Result<Writer, SlotFileError> {
        let (file, room) = self.fit(slot)?;
        Ok(Writer { file, room })
    }

    /// Reads a file from the card itself, not from memory that the kernel keeps of it.
    ///
    /// # Errors
    /// [`SlotFileError`].
    pub fn read_back(&self, name: &'static str) -> Result<Vec<u8>, SlotFileError> {
        let read = || {
            let mut file = File::open(self.0.join(name))?;
            // What is clean is forgotten, and everything was synced.
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            let mut bytes = Vec::new();
            file.rewind()?;
            file.take(FIT_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read().map_err(failed(name, "cannot be read back"))
    }

    /// Opens the FIT's file, and tells its length.
    fn fit(&self, slot: Slot) -> Result<(File, u64), SlotFileError> {
        self.open_if(slot.fit(), |found| match found {
            _ if found < STATE_LEN as u64 => {
                Err(format!("it has {found} bytes, no FIT is so small"))
            }
            _ if found > FIT_MAX => Err(format!("it has {found} bytes, more than {FIT_MAX}")),
            _ => Ok(()),
        })
    }

    /// Opens a file that has to have this length already.
    fn open(&self, name: &'static str, length: u64) -> Result<File, SlotFileError> {
        let (file, _) = self.open_if(name, |found| match found == length {
            true => Ok(()),
            false => Err(format!("it has {found} bytes and not {length}")),
        })?;
        Ok(file)
    }

    /// Opens a file, which is never made and never grows, if it may have its length.
    fn open_if(
        &self,
        name: &'static str,
        check: impl FnOnce(u64) -> Result<(), String>,
    ) -> Result<(File, u64), SlotFileError> {
        let open = || {
            let file = OpenOptions::new().read(true).write(true).open(self.0.join(name))?;
            let length = file.metadata()?.len();
            check(length).map_err(io::Error::other)?;
            Ok((file, length))
        };
        open().map_err(failed(name, "cannot be written"))
    }
}

/// Writes a file over, within its length.
#[derive(Debug)]
pub struct Writer {
    file: File,
    room: u64,
}

impl Writer {
    /// Waits until everything is on the card.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The list has said that it fits; a file that grew would take clusters.
        if self.file.stream_position()? + bytes.len() as u64 > self.room {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> (tempfile::TempDir, SlotFiles) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        file(STATE_FILE, &Slots::default().encode());
        for slot in Slot::ALL {
            file(slot.fit(), &vec![0; 8 << 20]);
            file(slot.manifest(), &padded(b"").unwrap());
            file(slot.signatures(), &padded(b"").unwrap());
        }
        let files = SlotFiles::at(dir.path());
        (dir, files)
    }

    #[test]
    fn the_state_is_written_and_read() {
        let (dir, files) = card();
        assert_eq!(files.state().unwrap(), Slots::default());
        let state = Slots { good: Slot::B, trial: Some(Slot::A) };
        files.set_state(&state).unwrap();
        assert_eq!(files.state().unwrap(), state);
        std::fs::write(dir.path().join(STATE_FILE), [0; 512]).unwrap();
        assert_eq!(files.state().unwrap(), Slots::default(), "as U-Boot takes it");
        std::fs::remove_file(dir.path().join(STATE_FILE)).unwrap();
        assert!(files.state().is_err());
        assert!(files.set_state(&state).is_err(), "it is never made");
    }

    #[test]
    fn the_card_starts_one_of_two_firmwares() {
        let (dir, files) = card();
        assert_eq!(files.stub().unwrap(), None, "there is room for one alone");
        assert!(files.set_stub(Stub::B).is_err(), "the sector is never made");
        std::fs::write(dir.path().join(SWITCH_FILE), Stub::A.encode()).unwrap();
        assert_eq!(files.stub().unwrap(), Some(Stub::A));
        files.set_stub(Stub::B).unwrap();
        assert_eq!(files.stub().unwrap(), Some(Stub::B));
        std::fs::write(dir.path().join(SWITCH_FILE), [0; 512]).unwrap();
        assert_eq!(files.stub().unwrap(), Some(Stub::A), "as of a new card");
        std::fs::write(dir.path().join(SWITCH_FILE), [0; 513]).unwrap();
        assert!(files.stub().is_err());

        std::fs::write(dir.path().join(Stub::B.file()), [0; 512]).unwrap();
        assert!(files.firmware_writer(Stub::B).is_err(), "it never grows");
        std::fs::write(dir.path().join(Stub::B.file()), vec![0; STUB_LEN]).unwrap();
        let mut writer = files.firmware_writer(Stub::B).unwrap();
        writer.write_all(&vec![3; STUB_LEN]).unwrap();
        assert!(writer.write_all(&[3]).is_err());
        writer.finish().unwrap();
        assert_eq!(files.firmware(Stub::B).unwrap(), vec![3; STUB_LEN]);
    }

    #[test]
    fn files_keep_their_length() {
        let (dir, files) = card();
        files.set_json(Slot::B.manifest(), b"{\"long\": true}").unwrap();
        files.set_json(Slot::B.manifest(), b"{}").unwrap();
        assert_eq!(files.manifest(Slot::B).unwrap().unwrap(), b"{}");
        assert_eq!(files.manifest(Slot::A).unwrap(), None);
        let mut fit = files.fit_writer(Slot::B).unwrap();
        fit.write_all(&[5; 1000]).unwrap();
        fit.finish().unwrap();
        assert_eq!(
            files.read_back(Slot::B.fit()).unwrap()[..1001],
            [&[5; 1000][..], &[0]].concat()
        );
        files.clear(Slot::B).unwrap();
        assert_eq!(files.manifest(Slot::B).unwrap(), None);
        assert_eq!(files.read_back(Slot::B.fit()).unwrap()[..513], [&[0; 512][..], &[5]].concat());
        for (name, length) in [(Slot::B.fit(), 8 << 20), (Slot::B.manifest(), 65536)] {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().len(), length);
        }
    }

    #[test]
    fn nothing_grows() {
        let (dir, files) = card();
        let mut fit = files.fit_writer(Slot::A).unwrap();
        fit.write_all(&vec![1; 8 << 20]).unwrap();
        assert!(fit.write_all(&[1]).is_err());
        assert!(files.set_json(Slot::A.manifest(), &vec![b' '; 65_537]).is_err());
        std::fs::write(dir.path().join(Slot::A.fit()), b"short").unwrap();
        let error = files.fit_writer(Slot::A).unwrap_err().to_string();
        assert!(error.contains("boot-a.itb on the boot partition cannot be written"), "{error}");
        std::fs::write(dir.path().join(Slot::A.fit()), [0; 4096]).unwrap();
        assert_eq!(files.room(Slot::A).unwrap(), 4096);
        let mut fit = files.fit_writer(Slot::A).unwrap();
        assert!(fit.write_all(&[1; 4097]).is_err());
        let file = File::options().write(true).open(dir.path().join(Slot::A.fit())).unwrap();
        file.set_len(FIT_MAX).unwrap();
        assert!(files.room(Slot::A).is_ok(), "premise");
        file.set_len(FIT_MAX + 1).unwrap();
        assert!(files.room(Slot::A).is_err());
    }
}
