//! The fs-verity digest of a file: what `FS_IOC_MEASURE_VERITY` tells of it once fs-verity is
//! enabled, with blocks of 4096 bytes and no salt.
//!
//! A Merkle tree over the file's blocks gives a root hash; the digest is the hash of a
//! descriptor that holds it and the file's size.
//!
//! Source: Linux, Documentation/filesystems/fsverity.rst ("Merkle tree", "fs-verity
//! descriptor"); include/uapi/linux/fsverity.h.

use std::io::{self, Read};

use pcr_measure::digest::{Algorithm, Digest};

/// Bytes of a block, of data and of the tree alike.
const BLOCK: usize = 4096;
/// Its logarithm, as the descriptor has it.
const LOG_BLOCK: u8 = 12;
/// Bytes of `struct fsverity_descriptor` in front of what follows the root hash.
const ROOT_HASH: usize = 64;
/// Salt (32) and what is reserved (144), all zero.
const REST: usize = 176;
/// Bytes that are read at a time: whole blocks.
const PIECE: usize = 64 * BLOCK;

/// Hashes all that `reader` gives. Memory does not grow with it.
///
/// # Errors
/// Those of `reader`; [`io::ErrorKind::Unsupported`] for an algorithm that fs-verity has not
/// (it has SHA-256 and SHA-512).
pub fn digest(algorithm: Algorithm, reader: &mut impl Read) -> io::Result<Digest> {
    let number = match algorithm {
        Algorithm::Sha256 => 1,
        Algorithm::Sha512 => 2,
        other => {
            let text = format!("fs-verity has no {other}: sha256 or sha512");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    let mut tree = Tree { algorithm, levels: Vec::new() };
    let (mut size, mut piece) = (0_u64, vec![0; PIECE]);
    loop {
        let filled = fill(reader, &mut piece)?;
        size += filled as u64;
        // Behind the end of the file a block is zero.
        let end = filled.next_multiple_of(BLOCK);
        piece.get_mut(filled..end).unwrap_or_default().fill(0);
        for block in piece.get(..end).unwrap_or_default().chunks_exact(BLOCK) {
            tree.add(0, &hash(algorithm, &[block])?)?;
        }
        if filled < PIECE {
            break;
        }
    }
    let mut root = tree.root()?;
    root.resize(ROOT_HASH, 0);
    // Version, algorithm, block size, no salt, reserved.
    let head = [1, number, LOG_BLOCK, 0, 0, 0, 0, 0];
    hash(algorithm, &[&head, &size.to_le_bytes(), &root, &[0; REST]])
}

/// Reads until the buffer is full or all is read; how much that was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> io::Result<Digest> {
    algorithm.hash(parts).map_err(io::Error::other)
}

/// A tree that grows from its leaves: of each level the block that is not full yet.
struct Tree {
    algorithm: Algorithm,
    levels: Vec<Level>,
}

#[derive(Default)]
struct Level {
    block: Vec<u8>,
    /// Hashes in the whole level.
    hashes: u64,
}

impl Tree {
    fn add(&mut self, level: usize, digest: &Digest) -> io::Result<()> {
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Level::default);
        }
        let Some(at) = self.levels.get_mut(level) else { return Ok(()) };
        at.block.extend(digest.as_bytes());
        at.hashes += 1;
        if at.block.len() < BLOCK {
            return Ok(());
        }
        let full = std::mem::take(&mut at.block);
        let next = hash(self.algorithm, &[&full])?;
        self.add(level + 1, &next)
    }

    /// The hash of the topmost block; none of an empty file.
    fn root(&mut self) -> io::Result<Vec<u8>> {
        let mut level = 0;
        while let Some(at) = self.levels.get_mut(level) {
            let mut block = std::mem::take(&mut at.block);
            if at.hashes == 1 {
                return Ok(block);
            }
            if !block.is_empty() {
                block.resize(BLOCK, 0);
                let next = hash(self.algorithm, &[&block])?;
                self.add(level + 1, &next)?;
            }
            level += 1;
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that gives little at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let take = buffer.len().min(777);
            self.0.read(&mut buffer[..take])
        }
    }

    #[test]
    fn digests_are_those_of_the_reference() {
        // Size, and what `fsverity digest` 1.6 says of bytes 0 to 250 over and over; sizes at
        // the edges of blocks, of levels and of what is read at a time.
        let known = include_str!("../tests/vectors/verity.txt");
        assert!(known.lines().count() > 10);
        for line in known.lines() {
            let [size, sha256, sha512] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            let size: usize = size.parse().unwrap();
            let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            for (algorithm, want) in [(Algorithm::Sha256, sha256), (Algorithm::Sha512, sha512)] {
                let found = digest(algorithm, &mut bytes.as_slice()).unwrap();
                assert_eq!(found.to_string(), want, "{algorithm} {size}");
                assert_eq!(digest(algorithm, &mut Slow(&bytes)).unwrap(), found);
            }
        }
    }

    #[test]
    fn other_hashes_are_refused() {
        let error = digest(Algorithm::Sha384, &mut &b"a"[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    }
}
