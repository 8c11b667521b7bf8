//! Files: read whole, but never more than a bound.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
pub(super) use pcr_measure::command::read;
use pcr_measure::command::read_secret;
use pcr_measure::key::{MAX_KEY_FILE, PublicKey, SigningKey};
use pcr_measure::manifest::{MAX_JSON, Manifest};
use pcr_measure::signed_policy::{self, SignatureFile};
use pcr_measure::structures::TpmPublic;

/// Largest event log that is read, in bytes. Firmware reserves 64 KiB to a few
/// hundred; Linux exports them as they are.
pub(super) const MAX_LOG: usize = 16 * 1024 * 1024;

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

/// Reads signed policies.
pub(super) fn signatures(path: &Path) -> Result<SignatureFile> {
    let bytes = read(path, signed_policy::MAX_JSON)?;
    SignatureFile::from_json(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// Reads a public key.
pub(super) fn public_key(path: &Path) -> Result<PublicKey> {
    let bytes = read(path, MAX_KEY_FILE)?;
    PublicKey::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// The Name that a public key has in a TPM: a public area's own, or the one that
/// systemd gives PEM.
pub(super) fn key_name(path: &Path) -> Result<Vec<u8>> {
    let bytes = read(path, MAX_KEY_FILE)?;
    let name = match TpmPublic::parse(&bytes) {
        Ok(public) => Ok(public.name()?),
        Err(_) => PublicKey::parse(&bytes).and_then(|key| key.tpm_name()),
    };
    name.with_context(|| format!("cannot use {}", path.display()))
}

/// Reads a private key; the file's bytes are wiped.
pub(super) fn signing_key(path: &Path) -> Result<SigningKey> {
    let pem = read_secret(path, MAX_KEY_FILE)?;
    SigningKey::from_pem(&pem).with_context(|| format!("cannot use {}", path.display()))
}
