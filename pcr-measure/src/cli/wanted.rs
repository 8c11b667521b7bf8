//! "These PCRs hold these values", as arguments name them.

use std::path::Path;

use anyhow::Result;
use pcr_measure::{PcrBank, PcrSelection};

use super::{input, pcrfile};

/// What a boot manifest leads to: its seal, or the PCRs that were named.
pub(super) fn of_manifest(
    path: &Path,
    pcrs: Option<PcrSelection>,
) -> Result<(PcrSelection, PcrBank)> {
    let manifest = input::manifest(path)?;
    let mut bank = manifest.sealed_values();
    for (pcr, value) in manifest.predict().iter() {
        bank.set(pcr, value)?;
    }
    Ok((pcrs.unwrap_or(*manifest.seal()), bank))
}

/// The values of a file.
pub(super) fn of_values(path: &Path, pcrs: PcrSelection) -> Result<(PcrSelection, PcrBank)> {
    Ok((pcrs, pcrfile::bank(path, pcrs.bank())?))
}
