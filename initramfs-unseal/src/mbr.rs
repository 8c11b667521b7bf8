//! The DOS partition table, as far as provisioning needs it: the root
//! partition's start moves down into the reserve before it, so that the LUKS2
//! header gets room without moving a byte of the file system.
//!
//! Everything here is a pure function of one 512-byte sector. That sector is
//! the only thing written, and a disk writes a sector whole or not at all.

/// Size of a sector and of the whole table, in bytes.
pub const SECTOR: usize = 512;
/// Offset of the first of four entries, and the length of each
/// (UEFI Specification 2.10, 5.2.1, table 5.1 and 5.2).
const ENTRIES: usize = 446;
const ENTRY: usize = 16;
/// Type byte of a Linux partition.
const TYPE_LINUX: u8 = 0x83;
/// Types that make a table a protective or an extended one.
const FOREIGN: [u8; 4] = [0xee, 0x05, 0x0f, 0x85];

/// A partition in sectors of 512 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First sector.
    pub start: u32,
    /// Number of sectors.
    pub sectors: u32,
}

/// A partition table that cannot be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MbrError {
    /// No table, or not a DOS one.
    #[error("the disk has no plain DOS partition table; write the image to the card again")]
    NoTable,
    /// The wanted partition is not there or is of another type.
    #[error(
        "partition {0} is missing or is no Linux partition (type 83); write the image to the card again"
    )]
    NoPartition(u8),
    /// The reserve overlaps another partition or the table.
    #[error(
        "there is no free room of {0} sectors before partition {1} for the LUKS2 header; build the image with a reserve"
    )]
    NoReserve(u32, u8),
}

/// The extent of partition `number` (1 to 4), which has to be a Linux one.
///
/// # Errors
/// [`MbrError`] when the sector holds no DOS table or no such partition.
pub fn find(sector: &[u8; SECTOR], number: u8) -> Result<Extent, MbrError> {
    let entry = entry(sector, number)?;
    match (type_of(entry), extent_of(entry)) {
        (TYPE_LINUX, Some(extent)) => Ok(extent),
        _ => Err(MbrError::NoPartition(number)),
    }
}

/// The table with partition `number` grown downwards by `reserve` sectors,
/// everything else as it was.
///
/// # Errors
/// [`MbrError::NoReserve`] when the room is not free, else as [`find`].
pub fn grow_down(
    sector: &[u8; SECTOR],
    number: u8,
    reserve: u32,
) -> Result<[u8; SECTOR], MbrError> {
    let old = find(sector, number)?;
    let no_room = MbrError::NoReserve(reserve, number);
    let start = old.start.checked_sub(reserve).filter(|s| *s > 0).ok_or(no_room)?;
    let sectors = old.sectors.checked_add(reserve).ok_or(no_room)?;
    for other in (1..=4).filter(|n| *n != number) {
        let Some(extent) = extent_of(entry(sector, other)?) else { continue };
        let end = u64::from(extent.start) + u64::from(extent.sectors);
        if end > u64::from(start) && extent.start < old.start {
            return Err(no_room);
        }
    }
    let mut table = *sector;
    let (entries, _) = table.split_at_mut(510).0.split_at_mut(ENTRIES).1.as_chunks_mut::<ENTRY>();
    if let Some(entry) = entries.get_mut(usize::from(number - 1)) {
        let ([s0, s1, s2, s3], [n0, n1, n2, n3]) = (start.to_le_bytes(), sectors.to_le_bytes());
        let (status, kind) = (entry[0], type_of(entry));
        // CHS addresses say "use LBA", as every tool of today writes them.
        *entry = [status, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff, s0, s1, s2, s3, n0, n1, n2, n3];
    }
    Ok(table)
}

fn entry(sector: &[u8; SECTOR], number: u8) -> Result<&[u8; ENTRY], MbrError> {
    let entries: &[u8] = &sector[ENTRIES..ENTRIES + 4 * ENTRY];
    let (entries, _) = entries.as_chunks::<ENTRY>();
    if sector[510..] != [0x55, 0xaa] || entries.iter().any(|e| FOREIGN.contains(&type_of(e))) {
        return Err(MbrError::NoTable);
    }
    usize::from(number)
        .checked_sub(1)
        .and_then(|i| entries.get(i))
        .ok_or(MbrError::NoPartition(number))
}

fn type_of(entry: &[u8; ENTRY]) -> u8 {
    entry[4]
}

fn extent_of(entry: &[u8; ENTRY]) -> Option<Extent> {
    let start = u32::from_le_bytes([entry[8], entry[9], entry[10], entry[11]]);
    let sectors = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
    (type_of(entry) != 0 && sectors > 0).then_some(Extent { start, sectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 2048;

    fn table(parts: &[(u8, u32, u32)]) -> [u8; SECTOR] {
        let mut sector = [0x11; SECTOR];
        sector[ENTRIES..510].fill(0);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        for (i, (kind, start, sectors)) in parts.iter().enumerate() {
            let at = ENTRIES + ENTRY * i;
            sector[at + 4] = *kind;
            sector[at + 8..at + 12].copy_from_slice(&start.to_le_bytes());
            sector[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        sector
    }

    fn card() -> [u8; SECTOR] {
        table(&[(0x0c, MIB, 47 * MIB), (0x83, 64 * MIB, 64 * MIB)])
    }

    #[test]
    fn the_root_grows_down_and_nothing_else_changes() {
        let before = card();
        let after = grow_down(&before, 2, 16 * MIB).unwrap();
        assert_eq!(find(&after, 2), Ok(Extent { start: 48 * MIB, sectors: 80 * MIB }));
        let at = ENTRIES + ENTRY;
        let mut expected = before;
        expected[at..at + ENTRY].copy_from_slice(&after[at..at + ENTRY]);
        assert_eq!(after, expected);
    }

    #[test]
    fn it_does_not_grow_over_a_neighbour_or_the_table() {
        let table_only = table(&[(0x83, 16 * MIB, MIB)]);
        let close = table(&[(0x0c, MIB, 48 * MIB), (0x83, 64 * MIB, 64 * MIB)]);
        for (sector, number) in [(card(), 2), (close, 2), (table_only, 1)] {
            let reserve = 16 * MIB + u32::from(sector == card());
            let got = grow_down(&sector, number, reserve);
            assert_eq!(got, Err(MbrError::NoReserve(reserve, number)));
        }
        // A partition behind the root is no hindrance.
        let behind = table(&[(0x83, 64 * MIB, MIB), (0x83, 65 * MIB, MIB)]);
        assert!(grow_down(&behind, 1, 16 * MIB).is_ok());
    }

    #[test]
    fn what_is_no_dos_table_is_refused() {
        let mut unsigned = card();
        unsigned[511] = 0;
        let gpt = table(&[(0xee, 1, u32::MAX), (0x83, 64 * MIB, MIB)]);
        let extended = table(&[(0x05, MIB, MIB), (0x83, 64 * MIB, MIB)]);
        for sector in [[0; SECTOR], [0xff; SECTOR], unsigned, gpt, extended] {
            assert_eq!(find(&sector, 2), Err(MbrError::NoTable));
            assert_eq!(grow_down(&sector, 2, 1), Err(MbrError::NoTable));
        }
        for number in [0, 1, 3, 4, 5, 255] {
            assert_eq!(find(&card(), number), Err(MbrError::NoPartition(number)));
        }
    }
}
