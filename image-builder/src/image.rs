//! The SD card image: initramfs, FIT, root file system, disk, boot manifest.
