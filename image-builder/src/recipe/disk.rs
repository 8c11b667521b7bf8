//! Sizes of the disk and its partitions, and where each of them begins.

use pcr_measure::slots::FIT_MAX;
use serde::{Deserialize, Serialize};

use super::values::ValueError;

/// Bytes in a mebibyte.
pub const MIB: u64 = 1 << 20;

/// Where the first partition begins, in MiB: the alignment that every
/// partitioning tool uses, and erase blocks of SD cards like.
const FIRST_MIB: u32 = 1;

/// FAT32 needs at least 65525 clusters (Microsoft FAT specification, 3.5); with
/// the smallest cluster, one sector, and both tables that is 33 MiB.
const BOOT_MIN_MIB: u32 = 34;

/// An upper bound for either file system of an image that is built as a file.
const PART_MAX_MIB: u32 = 32 * 1024;

/// The largest FIT that a slot may have room for, in MiB.
const SLOT_MAX_MIB: u32 = (FIT_MAX >> 20) as u32;

/// The smallest root: below it ext4 has no room for a journal worth its name.
const ROOT_MIN_MIB: u32 = 16;

/// Sizes of the disk and its partitions in MiB.
///
/// The order on the disk: partition table (1 MiB), boot partition, the reserve,
/// root partition. The reserve becomes the LUKS2 header: provisioning moves the
/// root partition's beginning down by it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Sizes", into = "Sizes")]
pub struct Disk(Sizes);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sizes {
    size_mib: u32,
    boot_mib: u32,
    slot_mib: u32,
    reserve_mib: u32,
    root_mib: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            size_mib: 128,
            boot_mib: 47,
            slot_mib: 8,
            reserve_mib: Disk::RESERVE_MIB,
            root_mib: 64,
        }
    }
}

impl From<Disk> for Sizes {
    fn from(disk: Disk) -> Self {
        disk.0
    }
}

impl Disk {
    /// The reserve where a recipe names none, in MiB: libcryptsetup's default
    /// data offset.
    pub const RESERVE_MIB: u32 = 16;
    /// The least that initramfs-unseal puts its header into, in MiB: 64 KiB of
    /// metadata and 2 MiB for key slots, aligned.
    const RESERVE_MIN_MIB: u32 = 4;
    /// More would only be wiped for nothing, in MiB.
    const RESERVE_MAX_MIB: u32 = 64;

    /// The whole disk in bytes; a power of two.
    pub fn size(&self) -> u64 {
        u64::from(self.0.size_mib) * MIB
    }

    /// Where the boot partition begins, in bytes.
    pub fn boot_start(&self) -> u64 {
        u64::from(FIRST_MIB) * MIB
    }

    /// The boot partition's size in bytes.
    pub fn boot_size(&self) -> u64 {
        u64::from(self.0.boot_mib) * MIB
    }

    /// Room for the FIT of a slot, in bytes.
    pub fn slot_size(&self) -> u64 {
        u64::from(self.0.slot_mib) * MIB
    }

    /// The size of the gap before the root partition, in MiB.
    pub fn reserve_mib(&self) -> u32 {
        self.0.reserve_mib
    }

    /// Where the root partition begins before provisioning, in bytes.
    pub fn root_start(&self) -> u64 {
        self.boot_start() + self.boot_size() + u64::from(self.0.reserve_mib) * MIB
    }

    /// The root file system's size in bytes.
    pub fn root_size(&self) -> u64 {
        u64::from(self.0.root_mib) * MIB
    }
}

impl TryFrom<Sizes> for Disk {
    type Error = ValueError;

    fn try_from(sizes: Sizes) -> Result<Self, ValueError> {
        let fail = |why: String| Err(ValueError(why));
        if !sizes.size_mib.is_power_of_two() {
            return fail(format!(
                "size_mib is {}: it must be a power of two (an emulated SD card takes no other \
                 size), for example {}",
                sizes.size_mib,
                sizes.size_mib.clamp(64, 1 << 30).next_power_of_two()
            ));
        }
        if !(BOOT_MIN_MIB..=PART_MAX_MIB).contains(&sizes.boot_mib) {
            return fail(format!(
                "boot_mib is {}: FAT32 takes {BOOT_MIN_MIB} to {PART_MAX_MIB}",
                sizes.boot_mib
            ));
        }
        if !(1..=SLOT_MAX_MIB).contains(&sizes.slot_mib) {
            return fail(format!(
                "slot_mib is {}: the FIT of a slot takes 1 to {SLOT_MAX_MIB} MiB",
                sizes.slot_mib
            ));
        }
        if 2 * sizes.slot_mib >= sizes.boot_mib {
            return fail(format!(
                "boot_mib is {}, but two slots of slot_mib {} leave no room for the firmware",
                sizes.boot_mib, sizes.slot_mib
            ));
        }
        if !(ROOT_MIN_MIB..=PART_MAX_MIB).contains(&sizes.root_mib) {
            return fail(format!(
                "root_mib is {}: {ROOT_MIN_MIB} to {PART_MAX_MIB}",
                sizes.root_mib
            ));
        }
        if !(Self::RESERVE_MIN_MIB..=Self::RESERVE_MAX_MIB).contains(&sizes.reserve_mib) {
            return fail(format!(
                "reserve_mib is {}: the LUKS2 header takes {} to {} MiB",
                sizes.reserve_mib,
                Self::RESERVE_MIN_MIB,
                Self::RESERVE_MAX_MIB
            ));
        }
        // No overflow: every term is bounded above.
        let needed = FIRST_MIB + sizes.boot_mib + sizes.reserve_mib + sizes.root_mib;
        if needed > sizes.size_mib {
            return fail(format!(
                "size_mib is {}, but {FIRST_MIB} + boot_mib {} + reserve_mib {} + root_mib {} \
                 make {needed}",
                sizes.size_mib, sizes.boot_mib, sizes.reserve_mib, sizes.root_mib
            ));
        }
        Ok(Self(sizes))
    }
}
