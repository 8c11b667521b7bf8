//! The SD card image: initramfs, FIT, root file system, disk, boot manifest.
//!
//! [`assemble`] makes one from a recipe and built artifacts, [`verify`] holds
//! one against its manifest, [`tamper`] makes the variants that tests boot.

pub mod arm_image;
mod assemble;
pub mod boot_manifest;
pub mod bundle;
pub mod card;
pub mod cli;
pub mod config_txt;
pub mod debian;
pub mod ext4;
pub mod fat;
pub mod fdt;
pub mod fit;
pub mod initramfs;
pub mod inspect;
pub mod integrity;
pub mod inventory;
pub mod logging;
pub mod mbr;
mod modules;
pub mod packages;
pub mod policy;
pub mod root;
pub mod slots;
pub mod tamper;
pub mod tool;
pub mod tree;
pub mod unused;
pub mod userland;
pub mod verify;

use std::path::PathBuf;

use pcr_measure::manifest::ManifestError;

use crate::recipe::RecipeError;

pub use assemble::{Image, Sizes, assemble};

/// Why an image could not be made or changed. Each step has its own error; this
/// says which step it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// An artifact is missing.
    #[error("cannot read the artifact {path}: {source}")]
    Artifact {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// TF-A's output is not what U-Boot expects to have been started from.
    #[error("{path} is not BL1 and a package behind it: {source}")]
    ArmImage {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pcr_measure::fip::FipError,
    },
    /// A part could not be put into its form.
    #[error("cannot pack a part of the image: {0}")]
    Config(String),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] initramfs::InitramfsError),
    /// The FIT.
    #[error(transparent)]
    Fit(#[from] fit::FitError),
    /// The boot manifest.
    #[error("the boot manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// The binding `signed`.
    #[error(transparent)]
    Policy(#[from] policy::PolicyError),
    /// The packages.
    #[error(transparent)]
    Packages(#[from] packages::PackageError),
    /// The userland.
    #[error(transparent)]
    Userland(#[from] userland::UserlandError),
    /// The update key.
    #[error(transparent)]
    Bundle(#[from] bundle::BundleError),
    /// A slot of the boot partition.
    #[error(transparent)]
    Slot(#[from] slots::TooLarge),
    /// The Debian.
    #[error(transparent)]
    Debian(#[from] debian::DebianError),
    /// What the running system is held to.
    #[error(transparent)]
    Integrity(#[from] integrity::IntegrityError),
    /// The root file system.
    #[error(transparent)]
    Root(#[from] ext4::Ext4Error),
    /// The partition table.
    #[error("the partition table: {0}")]
    Mbr(#[from] mbr::MbrError),
    /// The image file.
    #[error(transparent)]
    Card(#[from] card::CardError),
}
