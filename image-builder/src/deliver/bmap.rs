//! The block map: which blocks of an image `bmaptool copy` has to write, with their
//! checksums (bmap format 2.0, as bmaptool's `BmapCreate.py` describes it).
//!
//! What is left out is what the image's file systems do not use
//! ([`crate::image::unused`]), not what happens to be zero, and not what happens to be a
//! hole of the file: the same image gives the same map on every file system.

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use sha2::{Digest as _, Sha256};

use crate::image::card::Card;
use crate::image::unused;

/// Bytes of a block.
const BLOCK: u64 = 4096;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// The map of a card's image, in XML. `moved` is told how many bytes were read.
///
/// # Errors
/// If the image cannot be read.
pub(super) fn of(card: &Card, mut moved: impl FnMut(u64)) -> io::Result<String> {
    let unused = unused::unused(card.file(), &card.table, card.size)?;
    let mut ranges = Vec::new();
    let mut read = 0;
    for blocks in mapped(card.size, &unused) {
        let bytes = blocks.start * BLOCK..(blocks.end * BLOCK).min(card.size);
        let digest = digest(card.file(), &bytes)?;
        read += bytes.end - bytes.start;
        moved(read);
        ranges.push((blocks, digest));
    }
    Ok(text(card.size, &ranges))
}

/// The blocks that have to be written: all but those that lie in an unused stretch as a
/// whole. `unused` is in ascending order.
fn mapped(size: u64, unused: &[Range<u64>]) -> Vec<Range<u64>> {
    let blocks = size.div_ceil(BLOCK);
    let mut mapped = Vec::new();
    let mut next = 0;
    for stretch in unused {
        let start = stretch.start.div_ceil(BLOCK);
        let end = if stretch.end == size { blocks } else { stretch.end / BLOCK };
        if start >= end {
            continue;
        }
        if start > next {
            mapped.push(next..start);
        }
        next = end;
    }
    if next < blocks {
        mapped.push(next..blocks);
    }
    mapped
}

fn digest(file: &File, bytes: &Range<u64>) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = bytes.start;
    while at < bytes.end {
        let length = usize::try_from(bytes.end - at).unwrap_or(CHUNK).min(CHUNK);
        let part = buffer.get_mut(..length).unwrap_or_default();
        file.read_exact_at(part, at)?;
        hash.update(&*part);
        at += length as u64;
    }
    Ok(hex::encode(hash.finalize()))
}

fn text(size: u64, ranges: &[(Range<u64>, String)]) -> String {
    let count: u64 = ranges.iter().map(|(range, _)| range.end - range.start).sum();
    let mut map = String::new();
    for (range, digest) in ranges {
        let last = range.end - 1;
        let blocks =
            if last == range.start { last.to_string() } else { format!("{}-{last}", range.start) };
        // Writing to a string does not fail.
        let _ = writeln!(map, "        <Range chksum=\"{digest}\"> {blocks} </Range>");
    }
    let with = |checksum: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n\
             <!-- The blocks of an image that have to be written to a card: bmaptool copy -->\n\
             <bmap version=\"2.0\">\n    \
             <ImageSize> {size} </ImageSize>\n    \
             <BlockSize> {BLOCK} </BlockSize>\n    \
             <BlocksCount> {} </BlocksCount>\n    \
             <MappedBlocksCount> {count} </MappedBlocksCount>\n    \
             <ChecksumType> sha256 </ChecksumType>\n    \
             <BmapFileChecksum> {checksum} </BmapFileChecksum>\n    \
             <BlockMap>\n{map}    </BlockMap>\n</bmap>\n",
            size.div_ceil(BLOCK),
        )
    };
    // Its own checksum is taken over the file with zeros in that place.
    let checksum = hex::encode(Sha256::digest(with(&"0".repeat(64))));
    with(&checksum)
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "ranges are what is listed here")]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_left_out_when_nothing_in_it_is_used() {
        let kib = |n: u64| n << 10;
        type Case<'a> = (u64, &'a [Range<u64>], &'a [Range<u64>]);
        let cases: [Case<'_>; 6] = [
            (kib(16), &[], &[0..4]),
            (kib(16), &[kib(4)..kib(12)], &[0..1, 3..4]),
            // Parts of blocks are not left out.
            (kib(16), &[kib(3)..kib(7)], &[0..4]),
            (kib(16), &[kib(5)..kib(13)], &[0..2, 3..4]),
            (kib(16), &[0..kib(4), kib(8)..kib(16)], &[1..2]),
            // The last block may be a short one.
            (kib(14), &[kib(8)..kib(14)], &[0..2]),
        ];
        for (size, unused, want) in cases {
            assert_eq!(mapped(size, unused), want, "{unused:?}");
        }
    }

    #[test]
    fn the_map_carries_its_own_checksum() {
        let digest = "ab".repeat(32);
        let map = text(20_000, &[(0..2, digest.clone()), (4..5, digest)]);
        assert!(map.contains("<BlocksCount> 5 </BlocksCount>"), "{map}");
        assert!(map.contains("<MappedBlocksCount> 3 </MappedBlocksCount>"), "{map}");
        assert!(map.contains("> 0-1 </Range>") && map.contains("> 4 </Range>"), "{map}");
        let (_, rest) = map.split_once("<BmapFileChecksum> ").unwrap();
        let checksum = &rest[..64];
        let zeroed = map.replace(checksum, &"0".repeat(64));
        assert_eq!(checksum, hex::encode(Sha256::digest(zeroed)));
    }
}
