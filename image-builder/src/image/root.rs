//! What a root file system is made from, and its files in a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::debian::{self, base};
use super::packages::{self, Package};
use super::{ImageError, userland};
use crate::component::plan::Context;
use crate::progress::Progress;
use crate::recipe::{Recipe, System};

/// Our programs for the running system: static arm64 ELF.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `initramfs-unseal`.
    pub unseal: Vec<u8>,
    /// `msec-update`.
    pub update: Vec<u8>,
    /// `ima-policy`; a busybox userland has none.
    pub ima_policy: Option<Vec<u8>>,
}

/// What a root file system is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Packages that are opened, for a busybox userland.
    Packages(Vec<Package>),
    /// The archive of an installed Debian ([`base::obtain`]).
    Debian(PathBuf),
}

impl Origin {
    /// What these packages are for this recipe. Installs them if that is asked for, and the
    /// cache has not got it.
    ///
    /// # Errors
    /// If they cannot be installed.
    pub fn of(
        recipe: &Recipe,
        context: &Context,
        packages: Vec<Package>,
        progress: &Progress,
    ) -> Result<Self, ImageError> {
        Ok(match recipe.root.system {
            System::Busybox(_) => Self::Packages(packages),
            System::Debian(_) => {
                let archive = base::obtain(context, &packages, progress);
                Self::Debian(archive.map_err(debian::DebianError::from)?)
            }
        })
    }

    /// Puts the files of the root into `dir`, which is empty. `disk_id` is the partition
    /// table's, `programs` ours.
    ///
    /// # Errors
    /// If the recipe asks for what is not there, or a file cannot be written.
    pub fn lay_out(
        &self,
        recipe: &Recipe,
        disk_id: u32,
        programs: Programs,
        dir: &Path,
    ) -> Result<(), ImageError> {
        match (self, &recipe.root.system) {
            (Self::Packages(packages), System::Busybox(busybox)) => {
                let mut tree = packages::open(packages)?;
                userland::complete(&mut tree, recipe, busybox, programs)?;
                tree.write_to(dir).map_err(packages::PackageError::from)?;
            }
            (Self::Debian(archive), System::Debian(features)) => {
                debian::lay_out(archive, recipe, features, disk_id, programs, dir)?;
            }
            (Self::Packages(_), System::Debian(_)) | (Self::Debian(_), System::Busybox(_)) => {
                return Err(ImageError::Config(
                    "the root was prepared for another system than the recipe's".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

/// An empty directory for the files of a root, as `/` is to be.
///
/// # Errors
/// The system's.
pub fn begin(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir(dir)?;
    // Whatever the umask says.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}
