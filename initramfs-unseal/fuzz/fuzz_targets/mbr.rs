//! Any sector as a DOS partition table: no panic, and a grown partition keeps its
//! end, gains the reserve, and neither covers a neighbour nor changes it.

#![no_main]

use initramfs_unseal::mbr::{SECTOR, find, grow_down};
use libfuzzer_sys::fuzz_target;

/// The four entries.
const ENTRIES: std::ops::Range<usize> = 446..510;

// Number of the partition, reserve, entries.
fuzz_target!(|bytes: &[u8]| {
    let Some((&[number, r0, r1, r2, r3], table)) = bytes.split_first_chunk() else { return };
    let reserve = u32::from_le_bytes([r0, r1, r2, r3]);
    let mut sector = [0x11; SECTOR];
    let entries = &mut sector[ENTRIES];
    let len = entries.len().min(table.len());
    entries[..len].copy_from_slice(&table[..len]);
    sector[SECTOR - 2..].copy_from_slice(&[0x55, 0xaa]);
    let Ok(table) = grow_down(&sector, number, reserve) else { return };
    let (old, new) = (find(&sector, number).unwrap(), find(&table, number).unwrap());
    assert!(new.start > 0 && new.start + reserve == old.start);
    assert_eq!(new.sectors, old.sectors + reserve);
    let entry = ENTRIES.start + 16 * usize::from(number - 1);
    for (at, (before, after)) in sector.iter().zip(&table).enumerate() {
        assert!(before == after || (entry..entry + 16).contains(&at), "byte {at}");
    }
    for other in (1..=4).filter(|other| *other != number) {
        let extent = find(&sector, other);
        assert_eq!(extent, find(&table, other));
        // What began before the partition still ends before it.
        if let Ok(extent) = extent
            && extent.start < old.start
        {
            let end = u64::from(extent.start) + u64::from(extent.sectors);
            assert!(end <= new.start.into(), "partition {other} is covered");
        }
    }
});
