//! A Debian as root file system: what mmdebstrap makes of the locked packages ([`base`]), and
//! on top of it what the recipe says about this image ([`settings`], [`accounts`]).
//!
//! The first takes minutes and is kept in the cache; the second takes seconds, and a
//! change of it does not ask for the first again.

pub mod accounts;
pub mod base;
pub mod ima_policy;
pub mod settings;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::root::Programs;
use super::tool::{Tool, ToolError};
use super::tree::TreeError;
use crate::recipe::{Features, Recipe};

use accounts::{AccountError, Accounts};

/// Why there is no Debian root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DebianError {
    /// The base could not be made.
    #[error(transparent)]
    Base(#[from] base::BaseError),
    /// A user does not fit into it.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// A tool failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// What is added cannot be written.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The base lacks a file that every Debian has.
    #[error("cannot read {path} of the Debian that mmdebstrap made: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A file of `/etc/skel`, with which a home directory begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skeleton {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Lays a Debian root out in `dir`, which is empty: the base as it was archived, with owners,
/// modes and attributes, and what the recipe adds. `disk_id` is the partition table's.
///
/// # Errors
/// If the base cannot be opened, or the recipe asks for what it does not have.
pub fn lay_out(
    base: &Path,
    recipe: &Recipe,
    features: &Features,
    disk_id: u32,
    programs: Programs,
    dir: &Path,
) -> Result<(), DebianError> {
    Tool::new("tar", format!("open {}", base.display()))
        .args(["--extract", "--numeric-owner", "--same-owner", "--same-permissions"])
        .args(["--xattrs", "--xattrs-include=*", "--file"])
        .arg(base)
        .arg("--directory")
        .arg(dir)
        .run()?;
    let accounts = Accounts::read(dir)?;
    let skeleton = skeleton(&dir.join("etc/skel"))?;
    let mut tree = settings::of(recipe, features, disk_id, programs);
    accounts::add(&mut tree, accounts, &skeleton, &recipe.users)?;
    Ok(tree.write_to(dir)?)
}

fn skeleton(dir: &Path) -> Result<Vec<Skeleton>, DebianError> {
    let error = |source| DebianError::File { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_type().map_err(error)?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(Skeleton { name, content: fs::read(entry.path()).map_err(error)? });
        }
    }
    Ok(files)
}
