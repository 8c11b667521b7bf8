//! Boot manifests, as arguments name them.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use pcr_measure::command::read;
use pcr_measure::manifest::{MAX_JSON, Manifest};
use pcr_measure::slots::unpadded;

/// Reads each of them. A boot partition has them padded.
pub(super) fn manifests(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let one = |path: &PathBuf| {
        let bytes = read(path, MAX_JSON)?;
        let manifest = Manifest::from_json(unpadded(&bytes).unwrap_or_default());
        manifest.with_context(|| format!("cannot use {}", path.display()))
    };
    paths.iter().map(one).collect()
}
