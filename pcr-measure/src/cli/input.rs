//! Files: read whole, but never more than a bound.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use pcr_measure::manifest::{MAX_JSON, Manifest};

/// Largest event log that is read, in bytes. Firmware reserves 64 KiB to a few
/// hundred; Linux exports them as they are.
pub(super) const MAX_LOG: usize = 16 * 1024 * 1024;

/// Reads a file of at most `limit` bytes. Its size is not asked for: files in
/// sysfs say 0 or 4096 whatever they hold.
pub(super) fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > limit {
        bail!("{} is longer than {limit} bytes, the most that is read here", path.display());
    }
    Ok(bytes)
}

/// Reads an event log; an empty file is refused, since nothing follows from it.
pub(super) fn log(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path, MAX_LOG)?;
    if bytes.is_empty() {
        bail!("the event log {} is empty: the firmware wrote none, or not here", path.display());
    }
    Ok(bytes)
}

/// Reads a boot manifest.
pub(super) fn manifest(path: &Path) -> Result<Manifest> {
    let bytes = read(path, MAX_JSON)?;
    Manifest::from_json(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// Reads the bytes that an option gives in hexadecimal digits.
pub(super) fn hex(option: &str, text: &str) -> Result<Vec<u8>> {
    hex::decode(text).map_err(|error| anyhow!("{option}: no hexadecimal digits: {error}"))
}
