//! The partition table of the card: a classic MBR, because the boot ROM and
//! the VideoCore firmware of a Raspberry Pi 3 want one.
//!
//! Own code: what a card needs is four entries of sixteen bytes.

use crate::recipe::Disk;

/// Bytes per sector, as every SD card has it.
pub const SECTOR: u64 = 512;

/// Size of the table in bytes.
pub const SIZE: usize = 512;

/// FAT32 with LBA addressing; what the VideoCore firmware looks for.
pub const TYPE_FAT32_LBA: u8 = 0x0c;

/// Linux.
pub const TYPE_LINUX: u8 = 0x83;

const ENTRIES: usize = 446;
const ENTRY_SIZE: usize = 16;
const DISK_SIGNATURE: usize = 440;
const BOOT_SIGNATURE: [u8; 2] = [0x55, 0xaa];

/// CHS values that mean "beyond what CHS can say: read the LBA fields".
const CHS_TOO_FAR: [u8; 3] = [0xfe, 0xff, 0xff];

/// Why a disk's first sector is no partition table of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MbrError {
    /// Shorter than a sector, or without the signature 55 aa.
    #[error("the first sector is no partition table")]
    NoTable,
    /// A GPT's protective entry.
    #[error("the disk has a GPT: an image of ours has an MBR")]
    Gpt,
    /// A partition is missing or of another type.
    #[error("partition {number} is missing or not of type 0x{expected:02x}")]
    Partition {
        /// Counted from 1.
        number: usize,
        /// The type that an image of ours has there.
        expected: u8,
    },
    /// A partition reaches beyond the disk.
    #[error("partition {number} ends beyond the disk: the file is cut short")]
    Beyond {
        /// Counted from 1.
        number: usize,
    },
}

/// One partition, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Type byte.
    pub kind: u8,
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
}

/// The partitions of a card of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// FAT32 with firmware and FIT.
    pub boot: Partition,
    /// The root file system, or its LUKS2 container once provisioned.
    pub root: Partition,
}

impl From<&Disk> for Table {
    fn from(disk: &Disk) -> Self {
        Self {
            boot: Partition {
                kind: TYPE_FAT32_LBA,
                start: disk.boot_start(),
                size: disk.boot_size(),
            },
            root: Partition { kind: TYPE_LINUX, start: disk.root_start(), size: disk.root_size() },
        }
    }
}

impl Table {
    /// The table as provisioning leaves it: the root grown down over the reserve of so many
    /// bytes (initramfs-unseal, `mbr`).
    #[must_use]
    pub const fn provisioned(self, reserve: u64) -> Self {
        let Self { boot, root } = self;
        let (start, size) = (root.start.saturating_sub(reserve), root.size.saturating_add(reserve));
        Self { boot, root: Partition { start, size, ..root } }
    }

    /// The first sector. `disk_id` makes PARTUUIDs; it comes from the recipe,
    /// so that the same recipe gives the same bytes.
    ///
    /// # Errors
    /// If a partition lies beyond 2 TiB; a recipe cannot say so.
    pub fn encode(&self, disk_id: u32) -> Result<[u8; SIZE], MbrError> {
        let mut sector = [0; SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            if let Some(room) = sector.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
        };
        put(DISK_SIGNATURE, &disk_id.to_le_bytes());
        for (index, (partition, active)) in
            [(self.boot, true), (self.root, false)].into_iter().enumerate()
        {
            let lba = |bytes: u64| {
                u32::try_from(bytes / SECTOR).map_err(|_| MbrError::Beyond { number: index + 1 })
            };
            let at = ENTRIES + index * ENTRY_SIZE;
            put(at, &[if active { 0x80 } else { 0 }]);
            put(at + 1, &CHS_TOO_FAR);
            put(at + 4, &[partition.kind]);
            put(at + 5, &CHS_TOO_FAR);
            put(at + 8, &lba(partition.start)?.to_le_bytes());
            put(at + 12, &lba(partition.size)?.to_le_bytes());
        }
        put(SIZE - 2, &BOOT_SIGNATURE);
        Ok(sector)
    }

    /// Reads the first sector of a disk of `disk_size` bytes.
    ///
    /// The values come from the disk and are not to be trusted further than
    /// that both partitions lie within it.
    ///
    /// # Errors
    /// If it is not a table as [`Table::encode`] makes it; other entries and
    /// other places and sizes are taken.
    pub fn decode(sector: &[u8], disk_size: u64) -> Result<Self, MbrError> {
        if sector.len() < SIZE || sector.get(SIZE - 2..SIZE) != Some(&BOOT_SIGNATURE) {
            return Err(MbrError::NoTable);
        }
        if sector.get(ENTRIES + 4) == Some(&0xee) {
            return Err(MbrError::Gpt);
        }
        let entry = |number: usize, expected: u8| {
            let missing = MbrError::Partition { number, expected };
            let at = ENTRIES + (number - 1) * ENTRY_SIZE;
            let bytes = sector.get(at..at + ENTRY_SIZE).ok_or(MbrError::NoTable)?;
            let word = |at: usize| {
                let word = bytes.get(at..at + 4)?.try_into().ok()?;
                Some(u64::from(u32::from_le_bytes(word)) * SECTOR)
            };
            let kind = bytes.get(4).copied().unwrap_or(0);
            let (Some(start), Some(size)) = (word(8), word(12)) else {
                return Err(missing);
            };
            if kind != expected || start == 0 || size == 0 {
                return Err(missing);
            }
            if start + size > disk_size {
                return Err(MbrError::Beyond { number });
            }
            Ok(Partition { kind, start, size })
        };
        Ok(Self { boot: entry(1, TYPE_FAT32_LBA)?, root: entry(2, TYPE_LINUX)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::MIB;

    fn table() -> Table {
        Table::from(&Disk::default())
    }

    #[test]
    fn a_table_survives_being_written_and_read() {
        let sector = table().encode(0x1234_5678).unwrap();
        assert_eq!(Table::decode(&sector, 128 * MIB), Ok(table()));
        assert_eq!(sector[440..444], [0x78, 0x56, 0x34, 0x12]);
        // Active, FAT32, 2048 sectors in, 47 MiB long.
        assert_eq!(
            sector[446..462],
            [0x80, 0xfe, 0xff, 0xff, 0x0c, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0x78, 1, 0]
        );
    }

    #[test]
    fn what_is_no_card_of_ours_is_refused() {
        let good = table().encode(0).unwrap();
        let with = |at: usize, byte: u8| {
            let mut sector = good;
            sector[at] = byte;
            Table::decode(&sector, 128 * MIB)
        };
        let missing = |number, expected| Err(MbrError::Partition { number, expected });
        assert_eq!(Table::decode(&[0; 512], 128 * MIB), Err(MbrError::NoTable));
        assert_eq!(Table::decode(&[], 128 * MIB), Err(MbrError::NoTable));
        assert_eq!(with(510, 0), Err(MbrError::NoTable));
        assert_eq!(with(450, 0xee), Err(MbrError::Gpt));
        assert_eq!(with(450, 0x83), missing(1, TYPE_FAT32_LBA));
        assert_eq!(with(466, 0x82), missing(2, TYPE_LINUX));
        assert_eq!(with(473, 0xff), Err(MbrError::Beyond { number: 2 }));
        assert_eq!(Table::decode(&good, 127 * MIB), Err(MbrError::Beyond { number: 2 }));
        assert_eq!(Table::decode(&[0xff; 512], u64::MAX), Err(MbrError::NoTable));
    }
}
