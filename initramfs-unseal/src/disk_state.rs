//! What lies on the root partition, told from its bytes alone.

/// Bytes of each of the two looks that [`look`] takes.
pub const LOOK: usize = 4096;

/// LUKS magic of a primary header, and version 2 behind it
/// (LUKS2 On-Disk Format Specification 1.1.1, 2.1).
const LUKS2: &[u8; 8] = b"LUKS\xba\xbe\x00\x02";
/// Offset of the ext4 superblock, and within it of the fields used here
/// (Linux, Documentation/filesystems/ext4/super.rst).
const SUPERBLOCK: usize = 1024;
const S_LOG_BLOCK_SIZE: usize = SUPERBLOCK + 0x18;
const S_MAGIC: usize = SUPERBLOCK + 0x38;
const EXT_MAGIC: [u8; 2] = [0x53, 0xef];

/// An ext2/3/4 file system that was recognised by its superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ext4 {
    /// Block size in bytes: 1024, 2048 or 4096.
    pub block_size: u32,
}

/// What the two looks found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A plain file system at the start of the partition.
    Plain(Ext4),
    /// The partition begins in the reserve; the plain file system follows it.
    /// `header` tells whether a LUKS2 header stands there already.
    Moved {
        /// The file system behind the reserve.
        fs: Ext4,
        /// A LUKS2 header stands at the start.
        header: bool,
    },
    /// A LUKS2 header, and behind the reserve nothing in clear.
    Luks,
    /// None of these.
    Unknown,
}

/// Judges the first [`LOOK`] bytes of the partition and the [`LOOK`] bytes
/// behind the reserve. Missing bytes count as nothing recognised.
#[must_use]
pub fn look(start: &[u8], behind_reserve: &[u8]) -> Seen {
    let header = start.starts_with(LUKS2);
    match (ext4(start), ext4(behind_reserve)) {
        _ if header => match ext4(behind_reserve) {
            Some(fs) => Seen::Moved { fs, header },
            None => Seen::Luks,
        },
        (Some(fs), _) => Seen::Plain(fs),
        (None, Some(fs)) => Seen::Moved { fs, header },
        (None, None) => Seen::Unknown,
    }
}

fn ext4(bytes: &[u8]) -> Option<Ext4> {
    if bytes.get(S_MAGIC..S_MAGIC + 2)? != EXT_MAGIC {
        return None;
    }
    let log: [u8; 4] = bytes.get(S_LOG_BLOCK_SIZE..S_LOG_BLOCK_SIZE + 4)?.try_into().ok()?;
    match u32::from_le_bytes(log) {
        log @ 0..=2 => Some(Ext4 { block_size: 1024 << log }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fs(log: u8) -> Vec<u8> {
        let mut bytes = vec![0; LOOK];
        bytes[S_MAGIC..S_MAGIC + 2].copy_from_slice(&EXT_MAGIC);
        bytes[S_LOG_BLOCK_SIZE] = log;
        bytes
    }

    #[test]
    fn every_state_is_told() {
        let zero = vec![0; LOOK];
        let mut luks = zero.clone();
        luks[..8].copy_from_slice(LUKS2);
        let mut luks1 = luks.clone();
        luks1[7] = 1;
        let ext = Ext4 { block_size: 4096 };
        let cases: Vec<(&[u8], &[u8], Seen)> = vec![
            (&zero, &zero, Seen::Unknown),
            (&[], &[], Seen::Unknown),
            (&luks, &zero, Seen::Luks),
            (&luks, &[], Seen::Luks),
            (&luks1, &zero, Seen::Unknown),
        ];
        for (start, behind, want) in cases {
            assert_eq!(look(start, behind), want);
        }
        assert_eq!(look(&fs(2), &zero), Seen::Plain(ext));
        assert_eq!(look(&fs(2), &fs(2)), Seen::Plain(ext));
        assert_eq!(look(&zero, &fs(2)), Seen::Moved { fs: ext, header: false });
        assert_eq!(look(&luks, &fs(2)), Seen::Moved { fs: ext, header: true });
        assert_eq!(look(&fs(0), &zero), Seen::Plain(Ext4 { block_size: 1024 }));
        assert_eq!(look(&fs(7), &zero), Seen::Unknown);
        assert_eq!(look(&fs(2)[..1080], &zero), Seen::Unknown);
    }
}
