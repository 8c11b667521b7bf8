//! What the components deliver and the image is assembled from.

use std::path::{Path, PathBuf};

use crate::image::arm_image::ArmImage;
use crate::keys::Role;

/// A directory with the vendor's keys ([`crate::keys`]): `fit.key`, which signs boot images
/// (RSA-3072), `fit.crt` (self-signed certificate around its public half), and one
/// `ROLE.key` for every other role that is in use.
///
/// The directory goes to `mkimage -k`; a private key enters no image, no
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

    /// The private key of a role, or the URI of one in a token (PEM).
    pub fn private(&self, role: Role) -> PathBuf {
        self.0.join(format!("{role}.key"))
    }

    /// The certificate around a role's public half, where there is one.
    pub fn certificate_of(&self, role: Role) -> PathBuf {
        self.0.join(format!("{role}.crt"))
    }

    /// The private key that signs boot images.
    pub fn key(&self) -> PathBuf {
        self.private(Role::Fit)
    }

    /// The private key that signs policies, where the recipe has the
    /// binding `signed` and names no key of its own.
    pub fn policy_key(&self) -> PathBuf {
        self.private(Role::Policy)
    }

    /// The certificate of the key that signs boot images.
    pub fn certificate(&self) -> PathBuf {
        self.certificate_of(Role::Fit)
    }
}

/// What a Raspberry Pi's VideoCore wants on the boot partition, beside the image for the ARM
/// cores.
#[derive(Debug, Clone)]
pub struct VideoCore {
    /// Directory with its firmware ([`crate::image::arm_image::VIDEO_CORE`]).
    pub dir: PathBuf,
    /// The DTB that it (in emulation: QEMU) loads for TF-A, OP-TEE and U-Boot.
    pub board_dtb: PathBuf,
}

/// Everything built from source or taken from a firmware package that an image
/// consists of, and the tools of the same build that the image is made with.
#[derive(Debug, Clone)]
pub struct Artifacts {
    /// Linux, as a raw arm64 `Image` (not compressed).
    pub kernel: PathBuf,
    /// Its configuration (`.config`).
    pub kernel_config: PathBuf,
    /// Its modules, in `lib/modules/RELEASE`, if it has any: without a signature yet.
    pub modules: Option<PathBuf>,
    /// The certificate that it trusts (X.509, DER), if it has one.
    pub trusted: Option<PathBuf>,
    /// What `uname -r` will say.
    pub kernel_version: String,
    /// The DTB for the FIT: board and overlay, what Linux is given.
    pub dtb: PathBuf,
    /// What kind of image the ARM cores start from.
    pub arm_image: ArmImage,
    /// That image: BL1 and the FIP (BL2, BL31, OP-TEE if there is one, U-Boot), or U-Boot.
    pub arm_image_file: PathBuf,
    /// What the VideoCore wants beside it; `None` on a board without one.
    pub video_core: Option<VideoCore>,
    /// The bytes that U-Boot measures as its version, final NUL included.
    pub uboot_version: Vec<u8>,
    /// `initramfs-unseal`: static arm64 ELF.
    pub unseal: PathBuf,
    /// `msec-update`: static arm64 ELF.
    pub update: PathBuf,
    /// `ima-policy`: static arm64 ELF, for a Debian root.
    pub ima_policy: Option<PathBuf>,
    /// `mkimage` from the same U-Boot build.
    pub mkimage: PathBuf,
    /// `fit_check_sign` from the same U-Boot build.
    pub fit_check_sign: PathBuf,
    /// U-Boot's own control DTB, with the public key it demands.
    pub uboot_dtb: PathBuf,
    /// The key that signs the FIT.
    pub signing_key: KeyDir,
}
