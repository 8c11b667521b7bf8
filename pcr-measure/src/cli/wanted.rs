//! "These PCRs hold these values", as arguments name them.

use std::path::Path;

use anyhow::{Context, Result};
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
    checked(path, pcrs.unwrap_or(*manifest.seal()), bank)
}

/// The values of a file.
pub(super) fn of_values(path: &Path, pcrs: PcrSelection) -> Result<(PcrSelection, PcrBank)> {
    checked(path, pcrs, pcrfile::bank(path, pcrs.bank())?)
}

/// Every PCR has a value in the file, or the error names both.
fn checked(path: &Path, pcrs: PcrSelection, bank: PcrBank) -> Result<(PcrSelection, PcrBank)> {
    bank.concatenated(&pcrs).with_context(|| format!("cannot use {}", path.display()))?;
    Ok((pcrs, bank))
}
