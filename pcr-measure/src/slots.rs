//! The two slots of a boot partition: which one boots, and which one is on trial.
//!
//! A slot is a FIT, the boot manifest that tells what it measures, and the policies
//! that are signed for it. An update goes into the slot that does not run. U-Boot's
//! `loadslot` (uboot-patches) reads one sector, [`STATE_FILE`], and loads the FIT of
//! the slot that it names: the good one, or as long as there are attempts left in the
//! TPM the one on trial.
//!
//! Nothing here is trusted by anybody: it chooses between images that are verified and
//! measured all the same. The files are as long as they will ever be from the day the
//! image is made, and are written over where they lie: a cut on the way can damage the
//! content of the slot that does not run, and never the file system.

use std::fmt;

use serde::Serialize;

/// One of the two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// What the image came with.
    A,
    /// Empty on a new card.
    B,
}

/// Name of the state's file. It has [`STATE_LEN`] bytes.
pub const STATE_FILE: &str = "boot.slot";
/// Bytes of the state: a sector, which a disk writes whole or not at all.
pub const STATE_LEN: usize = 512;
/// The most bytes that the file of a FIT has. How many it has on a card its image has
/// decided; the FIT may be shorter.
pub const FIT_MAX: u64 = 64 << 20;
/// Bytes of the files of boot manifest and signed policies. The JSON is followed by
/// white space.
pub const JSON_LEN: u64 = 64 << 10;

/// The NV index with the boot attempts that are left, which U-Boot counts down
/// (`CONFIG_BOOT_SLOTS_TPM_INDEX`): four bytes, big-endian.
pub const ATTEMPTS_INDEX: u32 = 0x0180_6d76;
/// Bytes of that index.
pub const ATTEMPTS_LEN: u16 = 4;

impl Slot {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of the FIT's file.
    #[must_use]
    pub const fn fit(self) -> &'static str {
        match self {
            Self::A => "boot-a.itb",
            Self::B => "boot-b.itb",
        }
    }

    /// Name of the boot manifest's file.
    #[must_use]
    pub const fn manifest(self) -> &'static str {
        match self {
            Self::A => "manifest-a.json",
            Self::B => "manifest-b.json",
        }
    }

    /// Name of the file of signed policies.
    #[must_use]
    pub const fn signatures(self) -> &'static str {
        match self {
            Self::A => "tpm2-pcr-signature-a.json",
            Self::B => "tpm2-pcr-signature-b.json",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|slot| slot.number() == number)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// What the sector says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Slots {
    /// The slot that is known to boot.
    pub good: Slot,
    /// The slot on trial: it is tried as long as there are attempts left.
    pub trial: Option<Slot>,
}

/// Why a sector says nothing. U-Boot boots slot A then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SlotsError {
    /// Too short, another magic word, or a checksum that does not fit.
    #[error("{STATE_FILE} is damaged, or no state of boot slots")]
    Damaged,
    /// Made by something newer.
    #[error("{STATE_FILE} has version {0}, this program knows 1")]
    Version(u32),
    /// A slot that does not exist.
    #[error("{STATE_FILE} names a slot that there is none of")]
    Slot,
}

const MAGIC: &[u8; 8] = b"BOOTSLOT";
const VERSION: u32 = 1;
/// What stands for no slot.
const NONE: u8 = 0xff;
/// Bytes under the checksum.
const CHECKED: usize = 16;

impl Default for Slots {
    /// As a new card has it.
    fn default() -> Self {
        Self { good: Slot::A, trial: None }
    }
}

impl Slots {
    /// The sector (U-Boot, doc/usage/cmd/loadslot.rst).
    #[must_use]
    pub fn encode(&self) -> [u8; STATE_LEN] {
        let trial = self.trial.map_or(NONE, Slot::number);
        let mut checked = Vec::with_capacity(CHECKED);
        checked.extend(MAGIC);
        checked.extend(VERSION.to_le_bytes());
        checked.extend([self.good.number(), trial, 0, 0]);
        let sum = crc32fast::hash(&checked);
        let mut sector = [0; STATE_LEN];
        for (to, from) in sector.iter_mut().zip(checked.into_iter().chain(sum.to_le_bytes())) {
            *to = from;
        }
        sector
    }

    /// Reads a sector, as strictly as U-Boot does.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn decode(sector: &[u8]) -> Result<Self, SlotsError> {
        let (checked, rest) = sector.split_at_checked(CHECKED).ok_or(SlotsError::Damaged)?;
        let sum = rest.first_chunk().map(|sum| u32::from_le_bytes(*sum));
        let (magic, fields) = checked.split_at_checked(MAGIC.len()).ok_or(SlotsError::Damaged)?;
        let [v0, v1, v2, v3, good, trial, _, _] = fields else { return Err(SlotsError::Damaged) };
        if magic != MAGIC || sum != Some(crc32fast::hash(checked)) {
            return Err(SlotsError::Damaged);
        }
        match u32::from_le_bytes([*v0, *v1, *v2, *v3]) {
            VERSION => {}
            other => return Err(SlotsError::Version(other)),
        }
        let slot = |number| Slot::of(number).ok_or(SlotsError::Slot);
        let trial = match *trial {
            NONE => None,
            number => Some(slot(number)?),
        };
        Ok(Self { good: slot(*good)?, trial })
    }

    /// The slot that U-Boot takes where so many attempts are left; `None` where the TPM
    /// has no such number.
    #[must_use]
    pub fn next(&self, left: Option<u32>) -> Slot {
        match (self.trial, left) {
            (Some(trial), Some(1..)) => trial,
            _ => self.good,
        }
    }
}

/// A JSON file of a slot, at its full length; `None` if it is too long.
#[must_use]
pub fn padded(json: &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(JSON_LEN).ok()?;
    (json.len() <= length).then(|| {
        let mut whole = json.to_vec();
        whole.resize(length, b'\n');
        whole
    })
}

/// What a JSON file of a slot holds: nothing, where there is white space alone.
#[must_use]
pub fn unpadded(file: &[u8]) -> Option<&[u8]> {
    let text = file.trim_ascii_end();
    (!text.is_empty()).then_some(text)
}

/// Bytes of the FIT in a slot's file, its padding left out. `None` where there is none:
/// the total size of a flattened device tree (Devicetree Specification 0.4, 5.2).
#[must_use]
pub fn fit_in(file: &[u8]) -> Option<&[u8]> {
    const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];
    const HEADER: usize = 40;
    let (magic, rest) = file.split_first_chunk::<4>()?;
    let size = rest.first_chunk().map(|size| u32::from_be_bytes(*size))?;
    let size = usize::try_from(size).ok().filter(|size| *magic == MAGIC && *size >= HEADER)?;
    file.get(..size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Slots = Slots { good: Slot::B, trial: Some(Slot::A) };

    #[test]
    fn a_sector_is_read_as_it_was_written() {
        for slots in [Slots::default(), TRIAL] {
            assert_eq!(Slots::decode(&slots.encode()), Ok(slots));
            assert_eq!(Slots::decode(&slots.encode()[..20]), Ok(slots));
        }
    }

    /// The bytes that U-Boot's own test makes (test/boot/boot_slots.c), with a checksum
    /// by zlib.
    #[test]
    fn the_bytes_are_those_of_u_boot() {
        let want = "424f4f54534c4f54 01000000 01 00 0000 b416a6a6";
        let want = hex::decode(want.replace(' ', "")).unwrap();
        assert_eq!(hex::encode(&TRIAL.encode()[..20]), hex::encode(want));
    }

    #[test]
    fn every_changed_bit_is_told() {
        let sector = TRIAL.encode();
        for bit in 0..20 * 8 {
            let mut changed = sector;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slots::decode(&changed), Err(SlotsError::Damaged), "bit {bit}");
        }
        assert_eq!(Slots::decode(&sector[..19]), Err(SlotsError::Damaged));
        assert_eq!(Slots::decode(&[]), Err(SlotsError::Damaged));
    }

    fn resealed(change: impl FnOnce(&mut [u8])) -> Result<Slots, SlotsError> {
        let mut sector = TRIAL.encode();
        change(&mut sector);
        let sum = crc32fast::hash(&sector[..CHECKED]).to_le_bytes();
        sector[CHECKED..CHECKED + 4].copy_from_slice(&sum);
        Slots::decode(&sector)
    }

    #[test]
    fn what_is_newer_or_names_no_slot_is_refused() {
        assert_eq!(resealed(|_| ()), Ok(TRIAL), "premise");
        assert_eq!(resealed(|s| s[8] = 2), Err(SlotsError::Version(2)));
        assert_eq!(resealed(|s| s[12] = 2), Err(SlotsError::Slot));
        assert_eq!(resealed(|s| s[13] = 2), Err(SlotsError::Slot));
        assert_eq!(resealed(|s| s[12] = NONE), Err(SlotsError::Slot));
    }

    #[test]
    fn a_trial_ends_with_its_attempts() {
        let slots = Slots { good: Slot::A, trial: Some(Slot::B) };
        let next = [None, Some(0), Some(1), Some(u32::MAX)].map(|left| slots.next(left));
        assert_eq!(next, [Slot::A, Slot::A, Slot::B, Slot::B]);
        assert_eq!(Slots::default().next(Some(1)), Slot::A);
    }

    #[test]
    fn files_have_one_length_and_their_content_is_found_again() {
        let file = padded(b"{\"a\": 1}\n").unwrap();
        assert_eq!(file.len() as u64, JSON_LEN);
        assert_eq!(unpadded(&file), Some(&b"{\"a\": 1}"[..]));
        assert_eq!(unpadded(&padded(b"").unwrap()), None);
        assert_eq!(padded(&vec![b'x'; 65_537]), None);

        let mut fit = vec![0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 48];
        fit.resize(100, 1);
        assert_eq!(fit_in(&fit).map(<[u8]>::len), Some(48));
        assert_eq!(fit_in(&fit[..47]), None);
        fit[7] = 39;
        assert_eq!(fit_in(&fit), None);
        assert_eq!(fit_in(&[0; 4096]), None);
        assert_eq!(fit_in(&[]), None);
    }
}
