//! Which bytes of an image nothing reads before it writes them: what its file systems
//! say is free, and what lies behind the last partition.
//!
//! Zeros alone are no sign of that. An empty inode table, the rest of a FAT or a block of
//! zeros in a file have to be zeros on the card too, and so has the reserve before the
//! root: what an earlier life of a card left there could be a LUKS2 header.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::mbr::{Partition, SECTOR, Table};

/// Bytes of a file allocation table that are read at a time.
const CHUNK: usize = 64 << 10;

/// The stretches of an image of `size` bytes that need not be written to a card, in bytes,
/// in ascending order. A file system that is none of ours, or damaged, has none.
///
/// # Errors
/// If the file cannot be read.
pub fn unused(file: &File, table: &Table, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = free_of_fat(file, table.boot)?;
    ranges.extend(free_of_ext4(file, table.root)?);
    ranges.sort_unstable_by_key(|range| range.start);
    let end = (table.boot.start + table.boot.size).max(table.root.start + table.root.size);
    push(&mut ranges, end..size);
    Ok(ranges)
}

/// Appends a stretch that begins at or behind the end of the last one.
fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A little-endian number of `N` bytes; `None` behind the end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let field: [u8; N] = bytes.get(at..at.checked_add(N)?)?.try_into().ok()?;
    Some(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// What a FAT32's boot sector says of its layout (Microsoft FAT specification, 3.1 and
/// 3.3), in bytes from the partition's beginning.
#[derive(Debug, PartialEq, Eq)]
struct Fat {
    table: u64,
    data: u64,
    cluster: u64,
    clusters: u64,
}

impl Fat {
    fn decode(sector: &[u8], partition: u64) -> Option<Self> {
        // A field of 16 bits that is not 0 makes it another FAT than FAT32.
        let is_fat32 = number::<2>(sector, 0x16)? == 0 && number::<2>(sector, 0x11)? == 0;
        let marked = number::<2>(sector, 0x1fe)? == 0xaa55;
        if !is_fat32 || !marked || number::<2>(sector, 0x0b)? != SECTOR {
            return None;
        }
        let cluster = number::<1>(sector, 0x0d)? * SECTOR;
        let table = number::<2>(sector, 0x0e)? * SECTOR;
        let tables = number::<1>(sector, 0x10)? * number::<4>(sector, 0x24)? * SECTOR;
        let end = (number::<4>(sector, 0x20)? * SECTOR).min(partition);
        let data = table + tables;
        let clusters = end.checked_sub(data)?.checked_div(cluster)?;
        Some(Self { table, data, cluster, clusters })
    }
}

fn free_of_fat(file: &File, at: Partition) -> io::Result<Vec<Range<u64>>> {
    /// The number of the first cluster; before it stand two entries without one (4.1).
    const FIRST: u64 = 2;
    let mut free = Vec::new();
    let mut sector = [0; SECTOR as usize];
    file.read_exact_at(&mut sector, at.start)?;
    let Some(fat) = Fat::decode(&sector, at.size) else { return Ok(free) };
    let mut chunk = vec![0; CHUNK];
    let mut done = 0;
    while done < fat.clusters {
        let count = (fat.clusters - done).min(CHUNK as u64 / 4);
        let part = chunk.get_mut(..count as usize * 4).unwrap_or_default();
        file.read_exact_at(part, at.start + fat.table + (FIRST + done) * 4)?;
        for (entry, number) in part.chunks_exact(4).zip(done..) {
            // The upper four bits are reserved (4.1).
            if entry.iter().take(3).all(|byte| *byte == 0)
                && entry.last().is_some_and(|byte| byte & 0x0f == 0)
            {
                let start = at.start + fat.data + number * fat.cluster;
                push(&mut free, start..start + fat.cluster);
            }
        }
        done += count;
    }
    Ok(free)
}

/// What an ext4's superblock says of its layout (Linux, Documentation/filesystems/ext4,
/// super.rst). Blocks are counted from the file system's beginning.
#[derive(Debug, PartialEq, Eq)]
struct Ext4 {
    block: u64,
    blocks: u64,
    first: u64,
    per_group: u64,
    descriptor: u64,
    inode_blocks: u64,
    /// Blocks at the beginning of a group that has a copy of superblock and descriptors.
    copies: u64,
}

/// Incompatible features (super.rst) whose layout this module knows: FILETYPE, EXTENTS,
/// 64BIT, FLEX_BG, CSUM_SEED, LARGEDIR, INLINE_DATA. None of the others is mke2fs' default.
const KNOWN: u64 = 0x2 | 0x40 | 0x80 | 0x200 | 0x2000 | 0x4000 | 0x8000;
/// The file system has 64-bit block numbers.
const BITS_64: u64 = 0x80;
/// A bit of the bitmap stands for several blocks (read-only compatible).
const BIGALLOC: u64 = 0x200;
/// The block bitmap of this group was never written (group_descr.rst).
const BLOCK_UNINIT: u64 = 0x2;

impl Ext4 {
    const SUPERBLOCK: u64 = 1024;

    fn decode(superblock: &[u8], partition: u64) -> Option<Self> {
        let field = |at| number::<4>(superblock, at);
        let features = field(0x60)?;
        if number::<2>(superblock, 0x38)? != 0xef53
            || features & !KNOWN != 0
            || field(0x64)? & BIGALLOC != 0
        {
            return None;
        }
        let block = 1024_u64.checked_shl(u32::try_from(field(0x18)?).ok()?)?;
        let wide = features & BITS_64 != 0;
        let blocks = field(0x4)? + if wide { field(0x150)? << 32 } else { 0 };
        let descriptor = if wide { number::<2>(superblock, 0xfe)? } else { 32 };
        let inodes = field(0x28)?.checked_mul(number::<2>(superblock, 0x58)?)?;
        let first = field(0x14)?;
        let per_group = field(0x20)?;
        let sane = (1024..=65536).contains(&block)
            && (32..=1024).contains(&descriptor)
            && (1..=block * 8).contains(&per_group)
            && first < blocks
            && blocks.checked_mul(block)? <= partition;
        if !sane {
            return None;
        }
        let groups = (blocks - first).div_ceil(per_group);
        let copies = 1 + (groups * descriptor).div_ceil(block) + number::<2>(superblock, 0xce)?;
        let inode_blocks = inodes.div_ceil(block);
        Some(Self { block, blocks, first, per_group, descriptor, inode_blocks, copies })
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first).div_ceil(self.per_group)
    }
}

/// A group's descriptor (group_descr.rst).
struct Group {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    flags: u64,
}

impl Group {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let wide = bytes.len() >= 64;
        let place = |low, high| {
            let upper = if wide { number::<4>(bytes, high)? << 32 } else { 0 };
            Some(number::<4>(bytes, low)? | upper)
        };
        Some(Self {
            block_bitmap: place(0x0, 0x20)?,
            inode_bitmap: place(0x4, 0x24)?,
            inode_table: place(0x8, 0x28)?,
            flags: number::<2>(bytes, 0x12)?,
        })
    }
}

fn free_of_ext4(file: &File, at: Partition) -> io::Result<Vec<Range<u64>>> {
    let mut superblock = [0; 1024];
    file.read_exact_at(&mut superblock, at.start + Ext4::SUPERBLOCK)?;
    let Some(fs) = Ext4::decode(&superblock, at.size) else { return Ok(Vec::new()) };
    let mut free = Vec::new();
    // Not only a group's own: with flex_bg they lie in another one.
    let mut structures = Vec::new();
    let mut bitmap = vec![0; fs.block as usize];
    let mut descriptor = vec![0; fs.descriptor as usize];
    // The descriptors follow the superblock's block.
    let descriptors = at.start + (fs.first + 1) * fs.block;
    for index in 0..fs.groups() {
        file.read_exact_at(&mut descriptor, descriptors + index * fs.descriptor)?;
        let Some(group) = Group::decode(&descriptor) else { return Ok(Vec::new()) };
        for (block, count) in
            [(group.block_bitmap, 1), (group.inode_bitmap, 1), (group.inode_table, fs.inode_blocks)]
        {
            if block.saturating_add(count) > fs.blocks {
                return Ok(Vec::new());
            }
            structures.push(block..block + count);
        }
        let start = fs.first + index * fs.per_group;
        let end = (start + fs.per_group).min(fs.blocks);
        if group.flags & BLOCK_UNINIT != 0 {
            // All free but the structures; and not every group has those copies.
            push(&mut free, (start + fs.copies).min(end)..end);
            continue;
        }
        file.read_exact_at(&mut bitmap, at.start + group.block_bitmap * fs.block)?;
        let bits = bitmap.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
        for (bit, block) in bits.zip(start..end) {
            if bit == 0 {
                push(&mut free, block..block + 1);
            }
        }
    }
    structures.sort_unstable_by_key(|range| range.start);
    let bytes = |block: u64| at.start + block * fs.block;
    let free = without(free, &structures);
    Ok(free.into_iter().map(|range| bytes(range.start)..bytes(range.end)).collect())
}

/// What of these ranges none of the others covers. Both are sorted.
fn without(ranges: Vec<Range<u64>>, others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut rest = Vec::new();
    for range in ranges {
        let mut start = range.start;
        for other in others {
            if other.end <= start {
                continue;
            }
            if other.start >= range.end {
                break;
            }
            push(&mut rest, start..other.start.max(start));
            start = other.end;
        }
        push(&mut rest, start..range.end.max(start));
    }
    rest
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "ranges are what is listed here")]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_subtracted() {
        type Ranges<'a> = &'a [Range<u64>];
        let cases: [(Ranges<'_>, Ranges<'_>, Ranges<'_>); 5] = [
            (&[0..10], &[], &[0..10]),
            (&[0..10], &[3..5, 4..6], &[0..3, 6..10]),
            (&[0..10, 20..30], &[5..25], &[0..5, 25..30]),
            (&[5..10], &[0..20], &[]),
            (&[5..10], &[0..5, 10..20], &[5..10]),
        ];
        for (ranges, others, want) in cases {
            assert_eq!(without(ranges.to_vec(), others), want, "{ranges:?} {others:?}");
        }
    }

    #[test]
    fn what_is_no_file_system_of_ours_has_nothing_free() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(16 << 20).unwrap();
        let boot = Partition { kind: 0, start: 1 << 20, size: 4 << 20 };
        let root = Partition { kind: 0, start: 6 << 20, size: 8 << 20 };
        for fill in [0, 0xff, 0x55] {
            file.write_all_at(&vec![fill; 14 << 20], 0).unwrap();
            let ranges = unused(&file, &Table { boot, root }, 16 << 20).unwrap();
            assert_eq!(ranges, [(14 << 20)..(16 << 20)]);
        }
    }
}
