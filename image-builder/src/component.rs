//! Components: what is built from source, from which inputs, and how.
//!
//! Each component has a file of its own below this module, with its
//! specification and its build. [`plan`] turns the specifications into keys,
//! [`engine`] builds what the cache has not, [`job`] runs the commands.

pub mod engine;
pub mod job;
pub mod kconfig;
pub mod plan;
pub mod provenance;

mod cryptsetup;
mod device_tree;
mod devmapper;
mod environment;
mod firmware;
mod ima_policy;
mod kernel;
mod kernel_key;
mod optee;
mod qemu;
mod source;
mod static_lib;
mod static_program;
mod tf_a;
mod tss;
mod u_boot;
mod u_boot_key;
mod unseal;

use std::fmt;
use std::path::PathBuf;

use crate::artifacts::{Artifacts, KeyDir, VideoCore};
use crate::cache::CacheError;
use crate::image::arm_image::ArmImage;
use crate::keys::Role;
use crate::recipe::{self, Board, Target};
use crate::sources::SourceError;
use job::Job;

pub use crate::keys::{ensure_fit as ensure_signing_key, ensure_policy as ensure_policy_key};
pub use optee::SAMPLE as SAMPLE_APPLICATION;
pub use qemu::PROGRAM as QEMU;
pub use static_program::linked::{Crate, Library, Linked};

/// Prefix of the cross tools.
pub(crate) const CROSS: &str = "aarch64-linux-gnu-";

/// Everything that is built. The order is the order of building where nothing
/// else decides: the kernel takes longest, so it starts first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// Linux.
    Kernel,
    /// Linux with the certificate that it trusts. Where an image needs one.
    KernelKey,
    /// Static tpm2-tss for the target.
    Tss,
    /// Static libdevmapper for the target.
    Devmapper,
    /// Static libcryptsetup for the target.
    Cryptsetup,
    /// `initramfs-unseal`, one static file.
    Unseal,
    /// `ima-policy`, one static file. For a Debian root.
    ImaPolicy,
    /// U-Boot without its control DTB, and its tools.
    UBoot,
    /// U-Boot's control DTB with the key that it demands.
    UBootKey,
    /// OP-TEE.
    Optee,
    /// TF-A with OP-TEE, if there is one, and U-Boot inside.
    TfA,
    /// The DTB that Linux is given.
    DeviceTree,
    /// What the VideoCore needs. For a Raspberry Pi alone.
    Firmware,
    /// The emulator of boards whose TPM is on SPI. Not part of an image.
    Qemu,
}

/// What a component is made from, and by which function.
pub(crate) struct Spec {
    /// Its name, in the cache and on the command line.
    name: &'static str,
    /// One line about it.
    about: &'static str,
    /// The text of the file that builds it.
    code: &'static str,
    /// Its sources, by their names in the lock file.
    sources: &'static [&'static str],
    /// The components that it is built with or from.
    needs: &'static [Component],
    /// The directory of its patch series.
    series: Option<&'static str>,
    /// Its inputs in the checkout.
    files: &'static [Files],
    /// The key whose certificate is an input.
    certificate: Option<Role>,
    /// What the recipe's choices add to all this.
    chosen: fn(&Target) -> Chosen,
    /// Builds it.
    build: fn(&Job<'_>) -> Result<(), BuildError>,
}

/// What a recipe's choices add to the inputs of a component. Its build makes the same
/// choices, from the same [`Target`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Chosen {
    /// More sources, by their names in the lock file.
    sources: Vec<&'static str>,
    /// More inputs in the checkout.
    files: Vec<Files>,
    /// More components that it is built with or from.
    needs: Vec<Component>,
    /// Choices that no file and no component stands for, by what they are about.
    words: Vec<(&'static str, String)>,
}

impl Chosen {
    /// For a component that is the same for every target.
    pub(crate) fn nothing(_: &Target) -> Self {
        Self::default()
    }
}

/// Inputs in the checkout. Hidden files are none, whatever they are called: they
/// are editors' and tools'.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Files {
    /// One file.
    One(&'static str),
    /// The files in a directory with this ending.
    Dir(&'static str, &'static str),
    /// The Rust crate in a directory: its manifest and its sources.
    Crate(&'static str),
}

impl Component {
    /// All of them: what an image is made of, and what it is tested with.
    pub const ALL: [Self; 14] = [
        Self::Kernel,
        Self::KernelKey,
        Self::Tss,
        Self::Devmapper,
        Self::Cryptsetup,
        Self::Unseal,
        Self::ImaPolicy,
        Self::UBoot,
        Self::UBootKey,
        Self::Optee,
        Self::TfA,
        Self::DeviceTree,
        Self::Firmware,
        Self::Qemu,
    ];

    /// What an image for this target is assembled from. What these are built from in turn,
    /// [`Component::needs`] says.
    pub fn of_image(target: &Target) -> Vec<Self> {
        let mut components =
            vec![Self::Kernel, Self::Unseal, Self::UBoot, Self::UBootKey, Self::DeviceTree];
        if target.has_kernel_key() {
            components.push(Self::KernelKey);
        }
        if target.ima_policy {
            components.push(Self::ImaPolicy);
        }
        match target.board {
            Board::Rpi3 => components.push(Self::Firmware),
            Board::Virt => {}
        }
        match target.firmware {
            recipe::Firmware::TfA(_) => components.push(Self::TfA),
            recipe::Firmware::UBoot => {}
        }
        components
    }

    pub(crate) fn spec(self) -> &'static Spec {
        match self {
            Self::Kernel => &kernel::SPEC,
            Self::KernelKey => &kernel_key::SPEC,
            Self::Tss => &tss::SPEC,
            Self::Devmapper => &devmapper::SPEC,
            Self::Cryptsetup => &cryptsetup::SPEC,
            Self::Unseal => &unseal::SPEC,
            Self::ImaPolicy => &ima_policy::SPEC,
            Self::UBoot => &u_boot::SPEC,
            Self::UBootKey => &u_boot_key::SPEC,
            Self::Optee => &optee::SPEC,
            Self::TfA => &tf_a::SPEC,
            Self::DeviceTree => &device_tree::SPEC,
            Self::Firmware => &firmware::SPEC,
            Self::Qemu => &qemu::SPEC,
        }
    }

    /// The component's name.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// One line about it.
    pub fn about(self) -> &'static str {
        self.spec().about
    }

    /// Its sources, by their names in the lock file, for this target.
    pub(crate) fn sources(self, target: &Target) -> Vec<&'static str> {
        let spec = self.spec();
        [spec.sources, &(spec.chosen)(target).sources].concat()
    }

    /// The components that it is built with or from, for this target.
    pub fn needs(self, target: &Target) -> Vec<Self> {
        let spec = self.spec();
        [spec.needs, &(spec.chosen)(target).needs].concat()
    }

    /// The component of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A component that could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The program runs outside the build root.
    #[error(
        "components are built in the build root only, and this is none (there is no {}).\n\
         Run `make image`, or enter it with `make shell`",
        plan::TOOLS
    )]
    NoBuildRoot,
    /// A command failed.
    #[error("{component}: {step} failed ({status}). The last lines of {}:\n{tail}", log.display())]
    Step {
        /// The component.
        component: Component,
        /// Which step of its build.
        step: String,
        /// How the command ended.
        status: String,
        /// Where all its words are.
        log: PathBuf,
        /// Its last words.
        tail: String,
    },
    /// What was built is not what it must be.
    #[error("{component}: {reason}")]
    Result {
        /// The component.
        component: Component,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// An input in the checkout cannot be read.
    #[error("{component}: cannot read its input {}: {source}", path.display())]
    Input {
        /// The component.
        component: Component,
        /// The input.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A source is missing or wrong.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The cache refused something.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Collects what the components that were built for this target deliver.
///
/// # Errors
/// When a component that was built lacks what it must have.
pub fn artifacts(
    plan: &plan::Plan,
    target: &Target,
    signing_key: KeyDir,
) -> Result<Artifacts, BuildError> {
    let dir = |component| plan.dir(component);
    let u_boot = dir(Component::UBoot);
    let read = |component, path: PathBuf| {
        std::fs::read(&path).map_err(|source| BuildError::Input { component, path, source })
    };
    let kernel = if target.has_kernel_key() { Component::KernelKey } else { Component::Kernel };
    let arm_image = ArmImage::of(target);
    let arm_image_file = match arm_image {
        ArmImage::Armstub | ArmImage::Flash => dir(Component::TfA).join(arm_image.file_name()),
        ArmImage::Kernel => dir(Component::UBootKey).join("u-boot.bin"),
    };
    let release = read(Component::Kernel, dir(Component::Kernel).join("release"))?;
    let uboot_version = read(Component::UBoot, u_boot.join("version"))?;
    Ok(Artifacts {
        kernel: dir(kernel).join("Image"),
        kernel_config: dir(Component::Kernel).join("config"),
        modules: target.modules.then(|| dir(Component::Kernel).join(kernel::MODULES)),
        trusted: target.has_kernel_key().then(|| dir(kernel).join("certificate.der")),
        kernel_version: String::from_utf8_lossy(&release).trim_end().to_owned(),
        dtb: dir(Component::DeviceTree).join("linux.dtb"),
        arm_image,
        arm_image_file,
        video_core: match target.board {
            Board::Rpi3 => Some(VideoCore {
                dir: dir(Component::Firmware),
                board_dtb: dir(Component::DeviceTree).join("linux.dtb"),
            }),
            Board::Virt => None,
        },
        uboot_version,
        unseal: dir(Component::Unseal).join("initramfs-unseal"),
        update: dir(Component::Unseal).join("msec-update"),
        ima_policy: target.ima_policy.then(|| dir(Component::ImaPolicy).join("ima-policy")),
        mkimage: u_boot.join("mkimage"),
        fit_check_sign: u_boot.join("fit_check_sign"),
        uboot_dtb: dir(Component::UBootKey).join("control.dtb"),
        signing_key,
    })
}
