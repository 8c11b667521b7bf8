//! Any bytes as the starts of partition and file system: no panic, and nothing is
//! taken for plain or for encrypted without the mark of it.

#![no_main]

use initramfs_unseal::disk_state::{Seen, look};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (start, behind) = bytes.split_at(bytes.len() / 2);
    let luks = start.starts_with(b"LUKS\xba\xbe\x00\x02");
    let ext4 = |bytes: &[u8]| bytes.get(1024 + 0x38..1024 + 0x3a) == Some(&[0x53, 0xef]);
    let fs = match look(start, behind) {
        Seen::Plain(fs) => {
            assert!(ext4(start) && !luks);
            fs
        }
        Seen::Moved { fs, header } => {
            assert!(ext4(behind) && header == luks);
            fs
        }
        Seen::Luks => return assert!(luks),
        Seen::Unknown => return assert!(!luks),
    };
    assert!([1024, 2048, 4096].contains(&fs.block_size));
});
