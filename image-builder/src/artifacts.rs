//! What the components deliver and the image is assembled from.

use std::path::{Path, PathBuf};

/// A directory with the key that signs boot images: `fit.key` (PEM, RSA-3072)
/// and `fit.crt` (self-signed certificate around the public key).
///
/// The directory goes to `mkimage -k`; the private key enters no image, no
/// cache key and no log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDir(PathBuf);

impl KeyDir {
    /// The file name stem of key and certificate, and the key name hint that
    /// U-Boot looks up in its control DTB.
    pub const HINT: &'static str = "fit";

    /// Names a directory; nothing is checked.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The directory itself, as `mkimage -k` wants it.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// The private key.
    pub fn key(&self) -> PathBuf {
        self.0.join("fit.key")
    }

    /// The private key that signs policies (PEM), where the recipe has the
    /// binding `signed` and names no key of its own.
    pub fn policy_key(&self) -> PathBuf {
        self.0.join("policy.key")
    }

    /// The certificate.
    pub fn certificate(&self) -> PathBuf {
        self.0.join("fit.crt")
    }
}

/// What a board starts from: TF-A with OP-TEE and U-Boot, and what has to lie around it.
#[derive(Debug, Clone)]
pub enum Firmware {
    /// A Raspberry Pi: the VideoCore loads it from the boot partition.
    VideoCore {
        /// Directory with `bootcode.bin`, `start.elf`, `fixup.dat` and
        /// `LICENCE.broadcom`.
        dir: PathBuf,
        /// `armstub8.bin`: BL1 and the FIP (BL2, BL31, OP-TEE, U-Boot).
        armstub: PathBuf,
        /// The DTB that the VideoCore firmware (in emulation: QEMU) loads at
        /// 0x01000000 for TF-A, OP-TEE and U-Boot.
        board_dtb: PathBuf,
    },
    /// `virt`: BL1 and the FIP, as they lie in the secure flash.
    Flash(PathBuf),
}

impl Firmware {
    /// BL1 and the FIP.
    pub fn image(&self) -> &Path {
        match self {
            Self::VideoCore { armstub, .. } => armstub,
            Self::Flash(flash) => flash,
        }
    }
}

/// Everything built from source or taken from a firmware package that an image
/// consists of, and the tools of the same build that the image is made with.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// Linux, as a raw arm64 `Image` (not compressed).
    pub kernel: PathBuf,
    /// What `uname -r` will say.
    pub kernel_version: String,
    /// The DTB for the FIT: board and overlay, what Linux is given.
    pub dtb: PathBuf,
    /// What the board starts from.
    pub firmware: Firmware,
    /// The bytes that U-Boot measures as its version, final NUL included.
    pub uboot_version: Vec<u8>,
    /// `initramfs-unseal`: static arm64 ELF.
    pub unseal: PathBuf,
    /// `mkimage` from the same U-Boot build.
    pub mkimage: PathBuf,
    /// `fit_check_sign` from the same U-Boot build.
    pub fit_check_sign: PathBuf,
    /// U-Boot's own control DTB, with the public key it demands.
    pub uboot_dtb: PathBuf,
    /// The key that signs the FIT.
    pub signing_key: KeyDir,
}
