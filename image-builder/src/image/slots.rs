//! What lies in a slot of the boot partition, and the files that it lies in.

use pcr_measure::slots::{JSON_LEN, STATE_FILE, Slot, Slots, fit_in, padded, unpadded};
use pcr_measure::stub::{SWITCH_FILE, Stub};

use super::card::{Card, CardError};

/// The FIT of a slot and what tells its boot; all empty in a slot that nothing was
/// installed in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// The FIT.
    pub fit: Vec<u8>,
    /// The boot manifest.
    pub manifest: Vec<u8>,
    /// The signed policies; empty for the binding `pcr`.
    pub signatures: Vec<u8>,
}

/// More bytes than a slot's file has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} has room for {room} bytes, {size} are to go into it: raise slot_mib in the recipe")]
pub struct TooLarge {
    name: &'static str,
    room: u64,
    size: u64,
}

impl Content {
    /// The files of `slot`, each as long as it will ever be; `room` is the FIT's, in bytes.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn files(&self, slot: Slot, room: u64) -> Result<Vec<(&'static str, Vec<u8>)>, TooLarge> {
        let too_large = |name, room, size: usize| TooLarge { name, room, size: size as u64 };
        let mut fit = self.fit.clone();
        match usize::try_from(room) {
            Ok(room) if fit.len() <= room => fit.resize(room, 0),
            _ => return Err(too_large(slot.fit(), room, fit.len())),
        }
        let json = |name, text: &[u8]| {
            let file = padded(text).ok_or_else(|| too_large(name, JSON_LEN, text.len()))?;
            Ok((name, file))
        };
        Ok(vec![
            (slot.fit(), fit),
            json(slot.manifest(), &self.manifest)?,
            json(slot.signatures(), &self.signatures)?,
        ])
    }

    /// The files of a new card: this in slot A, nothing in slot B, and the state. A FIT has
    /// room for `room` bytes.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn new_card(&self, room: u64) -> Result<Vec<(&'static str, Vec<u8>)>, TooLarge> {
        let mut files = vec![(STATE_FILE, Slots::default().encode().to_vec())];
        files.extend(self.files(Slot::A, room)?);
        files.extend(Self::default().files(Slot::B, room)?);
        Ok(files)
    }
}

impl Card {
    /// What the card says of its slots; a state that cannot be read says what U-Boot
    /// takes it for.
    pub fn slots(&self) -> Slots {
        let state = self.boot_file(STATE_FILE).ok();
        state.and_then(|state| Slots::decode(&state).ok()).unwrap_or_default()
    }

    /// Which firmware the card says that it starts; `None` where it does not say so, or
    /// has one alone.
    pub fn stub(&self) -> Option<Stub> {
        Stub::decode(&self.boot_file(SWITCH_FILE).ok()?)
    }

    /// The FIT of a slot, unverified.
    ///
    /// # Errors
    /// If the file cannot be read, or holds none.
    pub fn fit_of(&self, slot: Slot) -> Result<Vec<u8>, CardError> {
        let file = self.boot_file(slot.fit())?;
        let fit = fit_in(&file).map(<[u8]>::to_vec);
        fit.ok_or_else(|| CardError::NoFit { path: self.path().to_owned(), name: slot.fit() })
    }

    /// The boot manifest of a slot, unverified; empty where nothing is installed.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn manifest_of(&self, slot: Slot) -> Result<Vec<u8>, CardError> {
        Ok(unpadded(&self.boot_file(slot.manifest())?).unwrap_or_default().to_vec())
    }

    /// The signed policies of a slot, unverified; empty where there are none.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn signatures_of(&self, slot: Slot) -> Result<Vec<u8>, CardError> {
        Ok(unpadded(&self.boot_file(slot.signatures())?).unwrap_or_default().to_vec())
    }

    /// The slot that is known to boot, whole.
    ///
    /// # Errors
    /// If it cannot be read, or has no FIT.
    pub fn good(&self) -> Result<Content, CardError> {
        let slot = self.slots().good;
        Ok(Content {
            fit: self.fit_of(slot)?,
            manifest: self.manifest_of(slot)?,
            signatures: self.signatures_of(slot)?,
        })
    }

    /// The files that put other content into the slot that is known to boot.
    ///
    /// # Errors
    /// If that has no file, or [`CardError::TooLarge`].
    pub fn good_files(&self, content: &Content) -> Result<Vec<(&'static str, Vec<u8>)>, CardError> {
        let slot = self.slots().good;
        content
            .files(slot, self.boot_file(slot.fit())?.len() as u64)
            .map_err(|source| CardError::TooLarge { path: self.path().to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_card_has_room_for_two() {
        let content = Content { fit: vec![1; 100], manifest: b"{}".to_vec(), signatures: vec![] };
        let files = content.new_card(8 << 20).unwrap();
        let sizes: Vec<_> = files.iter().map(|(name, file)| (*name, file.len())).collect();
        assert_eq!(
            sizes,
            [
                ("boot.slot", 512),
                ("boot-a.itb", 8 << 20),
                ("manifest-a.json", 65536),
                ("tpm2-pcr-signature-a.json", 65536),
                ("boot-b.itb", 8 << 20),
                ("manifest-b.json", 65536),
                ("tpm2-pcr-signature-b.json", 65536),
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let content = |size| Content { fit: vec![0; size], ..Content::default() };
        let fit = |size| content(size).files(Slot::B, 8 << 20);
        assert!(fit(8 << 20).is_ok(), "premise");
        let error = fit((8 << 20) + 1).unwrap_err().to_string();
        assert!(error.contains("boot-b.itb has room for 8388608 bytes, 8388609"), "{error}");
    }
}
