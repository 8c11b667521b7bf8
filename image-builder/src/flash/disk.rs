//! What a block device is, by sysfs and procfs, and whether it may be overwritten.
//!
//! The answers are for people: they say what is in the way. The defence is that the
//! device is opened for exclusive use ([`super::write::open`]), which the kernel grants
//! only while nothing on the disk is mounted, swapped to or held.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Bytes of a sector in sysfs, whatever the device's own are
/// (Linux, `Documentation/ABI/stable/sysfs-block`, `size`).
const SECTOR: u64 = 512;

/// How deep devices are looked for that stand on others.
const DEPTH: usize = 8;

/// Where the kernel tells about its devices.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `/sys`.
    pub sys: PathBuf,
    /// The text of `/proc/self/mountinfo`.
    pub mounts: String,
    /// The text of `/proc/swaps`.
    pub swaps: String,
}

impl Kernel {
    /// The running kernel.
    ///
    /// # Errors
    /// If procfs cannot be read.
    pub fn running() -> io::Result<Self> {
        Ok(Self {
            sys: "/sys".into(),
            mounts: fs::read_to_string("/proc/self/mountinfo")?,
            // A kernel without swap has no such file.
            swaps: fs::read_to_string("/proc/swaps").unwrap_or_default(),
        })
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's name: `sdb`, `mmcblk0`.
    pub name: String,
    /// Maker and model, as far as the device tells.
    pub model: String,
    /// In bytes.
    pub size: u64,
    /// The disk's name, when this is one of its partitions.
    pub partition_of: Option<String>,
    /// Set by a switch on the card, or by the kernel after errors.
    pub read_only: bool,
    /// Made to be taken out: a card, a stick, or a file that acts as one (loop).
    pub removable: bool,
    /// What of it is in use, and as what: `sdb1 on /media/boot`.
    pub used: BTreeSet<String>,
}

/// Why a device may not be overwritten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is none.
    NoDisk,
    /// It is a partition.
    Partition {
        /// The disk that it is a part of.
        of: String,
    },
    /// It is in use.
    Used(BTreeSet<String>),
    /// It cannot be written.
    ReadOnly,
    /// The image does not fit.
    TooSmall {
        /// The image's size in bytes.
        image: u64,
        /// The device's.
        disk: u64,
    },
    /// It is built in.
    Fixed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDisk => {
                f.write_str("this is no disk; the card is something like /dev/sdX or /dev/mmcblkX")
            }
            Self::Partition { of } => {
                write!(f, "this is a partition; an image takes the whole card: /dev/{of}")
            }
            Self::Used(used) => {
                let list: Vec<&str> = used.iter().map(String::as_str).collect();
                write!(
                    f,
                    "it is in use: {}. Unmount it first, if this is the card",
                    list.join(", ")
                )
            }
            Self::ReadOnly => {
                f.write_str("it is read-only: look for the switch on the card's edge")
            }
            Self::TooSmall { image, disk } => {
                write!(f, "the image has {image} bytes, the card only {disk}")
            }
            Self::Fixed => f.write_str(
                "it is not removable, so it may be this machine's own disk; if it is the right \
                 one, say --fixed-disk",
            ),
        }
    }
}

impl Disk {
    /// Looks at a device; none if the path is no block device.
    ///
    /// # Errors
    /// If sysfs does not know the device.
    pub fn of(device: &Path, kernel: &Kernel) -> io::Result<Option<Self>> {
        let meta = fs::metadata(device)?;
        if !meta.file_type().is_block_device() {
            return Ok(None);
        }
        let number = meta.rdev();
        let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
        Self::at(&kernel.sys.join("dev/block").join(number), kernel).map(Some)
    }

    /// Reads a device's directory in sysfs.
    fn at(dir: &Path, kernel: &Kernel) -> io::Result<Self> {
        let dir = dir.canonicalize()?;
        let name = name_of(&dir);
        let is_partition = dir.join("partition").exists();
        let whole = if is_partition { dir.parent().unwrap_or(&dir) } else { &dir };
        let word = |dir: &Path, file: &str| {
            fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned()
        };
        let sectors: u64 = word(&dir, "size").parse().map_err(|_| {
            io::Error::other(format!("the kernel does not say how large {name} is"))
        })?;
        let model = ["device/vendor", "device/model", "device/name"].map(|file| word(whole, file));
        let mut used = BTreeSet::new();
        uses(&dir, kernel, DEPTH, &mut used);
        for entry in fs::read_dir(&dir)?.flatten() {
            if entry.path().join("partition").exists() {
                uses(&entry.path(), kernel, DEPTH, &mut used);
            }
        }
        Ok(Self {
            model: model
                .iter()
                .filter(|word| !word.is_empty())
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
            size: sectors.saturating_mul(SECTOR),
            partition_of: is_partition.then(|| name_of(whole)),
            read_only: word(&dir, "ro") != "0",
            // An SD card in a built-in slot does not say that it can be taken out.
            removable: word(whole, "removable") == "1"
                || word(whole, "device/type") == "SD"
                || whole.join("loop").is_dir(),
            used,
            name,
        })
    }

    /// Whether an image of so many bytes may be written to it. A disk that is built in is
    /// taken only if the user has said so (`fixed`).
    ///
    /// # Errors
    /// The first thing in the way.
    pub fn may_take(&self, image: u64, fixed: bool) -> Result<(), Refusal> {
        if let Some(of) = &self.partition_of {
            return Err(Refusal::Partition { of: of.clone() });
        }
        if !self.used.is_empty() {
            return Err(Refusal::Used(self.used.clone()));
        }
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        if self.size < image {
            return Err(Refusal::TooSmall { image, disk: self.size });
        }
        if !self.removable && !fixed {
            return Err(Refusal::Fixed);
        }
        Ok(())
    }
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a device is used as, by itself and through devices that stand on it.
fn uses(dir: &Path, kernel: &Kernel, depth: usize, used: &mut BTreeSet<String>) {
    let name = name_of(dir);
    let number = fs::read_to_string(dir.join("dev")).unwrap_or_default();
    let mounts = mount_points(&kernel.mounts, number.trim());
    used.extend(mounts.map(|point| format!("{name} on {point}")));
    if swaps(&kernel.swaps).any(|device| device == name) {
        used.insert(format!("{name} as swap"));
    }
    let Some(depth) = depth.checked_sub(1) else { return };
    for holder in fs::read_dir(dir.join("holders")).into_iter().flatten().flatten() {
        let before = used.len();
        // A link to the holder's own directory.
        if let Ok(holder) = holder.path().canonicalize() {
            uses(&holder, kernel, depth, used);
        }
        if used.len() == before {
            used.insert(format!("{name} by {}", holder.file_name().to_string_lossy()));
        }
    }
}

/// Where the device with this number is mounted (proc_pid_mountinfo(5): fields 3 and 5,
/// blanks as octal escapes).
fn mount_points<'a>(mounts: &'a str, number: &'a str) -> impl Iterator<Item = String> + 'a {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        (device == number && !number.is_empty())
            .then(|| point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
    })
}

/// The names of the devices that are swapped to (proc_swaps(5)).
fn swaps(swaps: &str) -> impl Iterator<Item = &str> {
    swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysfs with a card reader's `sdb` of 8 GB and one partition, and a running system.
    struct Machine {
        dir: tempfile::TempDir,
        kernel: Kernel,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let machine = Self {
                kernel: Kernel {
                    sys: dir.path().to_owned(),
                    mounts: "25 1 8:2 / / rw - ext4 /dev/sda2 rw\n".to_owned(),
                    swaps: "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3 partition 1 0 -2\n"
                        .to_owned(),
                },
                dir,
            };
            for (file, text) in [
                ("block/sdb/dev", "8:16\n"),
                ("block/sdb/size", "15523840\n"),
                ("block/sdb/ro", "0\n"),
                ("block/sdb/removable", "1\n"),
                ("block/sdb/device/vendor", "Generic \n"),
                ("block/sdb/device/model", "SD/MMC\n"),
                ("block/sdb/sdb1/partition", "1\n"),
                ("block/sdb/sdb1/dev", "8:17\n"),
                ("block/sdb/sdb1/size", "96256\n"),
                ("block/sdb/sdb1/ro", "0\n"),
                ("block/dm-0/dev", "253:0\n"),
            ] {
                machine.put(file, text);
            }
            machine
        }

        fn put(&self, file: &str, text: &str) {
            let path = self.dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn disk(&self, name: &str) -> Disk {
            Disk::at(&self.dir.path().join("block").join(name), &self.kernel).unwrap()
        }

        fn refusal(&self) -> Refusal {
            self.disk("sdb").may_take(128 << 20, false).unwrap_err()
        }
    }

    fn used(what: &str) -> Refusal {
        Refusal::Used(BTreeSet::from([what.to_owned()]))
    }

    #[test]
    fn a_card_that_nobody_uses_is_taken() {
        let disk = Machine::new().disk("sdb");
        disk.may_take(7_948_206_080, false).unwrap();
        assert_eq!((disk.size, disk.model.as_str()), (7_948_206_080, "Generic SD/MMC"));
        let refusal = disk.may_take(7_948_206_081, false).unwrap_err();
        assert_eq!(refusal, Refusal::TooSmall { image: 7_948_206_081, disk: 7_948_206_080 });
    }

    #[test]
    fn a_partition_is_refused_and_its_disk_named() {
        let refusal = Machine::new().disk("sdb/sdb1").may_take(1, false).unwrap_err();
        assert_eq!(refusal, Refusal::Partition { of: "sdb".to_owned() });
    }

    #[test]
    fn a_mounted_card_is_refused() {
        let mut machine = Machine::new();
        machine.kernel.mounts.push_str("30 25 8:17 / /media/my\\040card rw - vfat /dev/sdb1 rw\n");
        assert_eq!(machine.refusal(), used("sdb1 on /media/my card"));
        let mut machine = Machine::new();
        machine.kernel.mounts.push_str("30 25 8:16 / /mnt rw - ext4 /dev/sdb rw\n");
        assert_eq!(machine.refusal(), used("sdb on /mnt"));
    }

    #[test]
    fn swap_is_a_use() {
        let mut machine = Machine::new();
        machine.kernel.swaps.push_str("/dev/sdb1 partition 1 0 -2\n");
        assert_eq!(machine.refusal(), used("sdb1 as swap"));
    }

    #[test]
    fn an_opened_volume_is_a_use_whether_it_is_mounted_or_not() {
        let mut machine = Machine::new();
        let holders = machine.dir.path().join("block/sdb/sdb1/holders");
        fs::create_dir_all(&holders).unwrap();
        std::os::unix::fs::symlink("../../../dm-0", holders.join("dm-0")).unwrap();
        assert_eq!(machine.refusal(), used("sdb1 by dm-0"));
        machine.kernel.mounts.push_str("40 25 253:0 / / rw - ext4 /dev/mapper/root rw\n");
        assert_eq!(machine.refusal(), used("dm-0 on /"));
    }

    #[test]
    fn holders_that_hold_each_other_end() {
        let machine = Machine::new();
        for (dir, holder, target) in [("sdb", "dm-0", "../../dm-0"), ("dm-0", "sdb", "../../sdb")] {
            let holders = machine.dir.path().join("block").join(dir).join("holders");
            fs::create_dir_all(&holders).unwrap();
            std::os::unix::fs::symlink(target, holders.join(holder)).unwrap();
        }
        assert!(matches!(machine.refusal(), Refusal::Used(_)));
    }

    #[test]
    fn a_disk_that_is_built_in_is_taken_only_on_demand() {
        let machine = Machine::new();
        machine.put("block/sdb/removable", "0\n");
        assert_eq!(machine.refusal(), Refusal::Fixed);
        machine.disk("sdb").may_take(1, true).unwrap();
        // A card in a slot of the machine's own, and a file.
        machine.put("block/sdb/device/type", "SD\n");
        machine.disk("sdb").may_take(1, false).unwrap();
        machine.put("block/sdb/device/type", "MMC\n");
        assert_eq!(machine.refusal(), Refusal::Fixed);
        machine.put("block/sdb/loop/backing_file", "/x.img\n");
        machine.disk("sdb").may_take(1, false).unwrap();
    }

    #[test]
    fn a_write_protected_card_is_refused() {
        let machine = Machine::new();
        machine.put("block/sdb/ro", "1\n");
        assert_eq!(machine.refusal(), Refusal::ReadOnly);
    }

    #[test]
    fn a_file_is_no_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Disk::of(file.path(), &Machine::new().kernel).unwrap(), None);
    }
}
