//! The SD card image: initramfs, FIT, root file system, disk, boot manifest.

pub mod ext4;
pub mod fat;
pub mod fdt;
pub mod fit;
pub mod initramfs;
pub mod mbr;
pub mod tool;
pub mod tree;
pub mod userland;
