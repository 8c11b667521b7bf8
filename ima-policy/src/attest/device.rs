//! The device's side: a quote, and what stands behind it.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};

use pcr_measure::digest::Algorithm;
use pcr_measure::manifest::{MAX_JSON, Manifest};
use pcr_measure::pcr::{PcrBank, PcrError};
use pcr_measure::slots::unpadded;
use pcr_measure::tpm::{Tpm, TpmError};

use super::evidence::{EvidenceError, Head, MAX_HEAD};
use super::{Challenge, ima_pcr};

/// Where Linux shows the firmware's event log.
pub const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
/// Where Linux shows IMA's list, its template digests in SHA-1.
pub const LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";

/// Why there is no evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// A file.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A file that is longer than evidence may be.
    #[error("{0} is too long to send")]
    TooLong(PathBuf),
    /// The other side, or the file that is written.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// In practice never.
    #[error(transparent)]
    Pcr(#[from] PcrError),
}

/// What is sent beside the quote.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The firmware's event log; none is sent if there is no such file.
    pub event_log: PathBuf,
    /// IMA's list, binary.
    pub list: PathBuf,
    /// Boot manifests; the one that the quoted PCRs confirm is sent, else the first.
    pub manifests: Vec<PathBuf>,
}

/// Answers a challenge. The list is read after the quote: it may have grown since, and then
/// the quoted PCR is one in its middle.
///
/// # Errors
/// [`DeviceError`].
pub fn answer(
    tpm: &mut Tpm,
    ak: u32,
    challenge: &Challenge,
    sources: &Sources,
    out: &mut impl Write,
) -> Result<(), DeviceError> {
    let event_log = match read(&sources.event_log, MAX_HEAD) {
        Err(DeviceError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        log => log?,
    };
    let manifests: Vec<_> =
        sources.manifests.iter().map(|path| read(path, MAX_JSON)).collect::<Result<_, _>>()?;
    tpm.ensure_ak(ak)?;
    let quote = tpm.quote(ak, challenge.nonce(), &[*challenge.pcrs()])?;
    let mut values = PcrBank::new(Algorithm::Sha256);
    for (pcr, value) in quote.values.iter().flat_map(PcrBank::iter) {
        values.set(pcr, value)?;
    }
    let manifest = confirmed(&manifests, &values).unwrap_or_default().to_vec();
    let head =
        Head { message: quote.message, signature: quote.signature, values, event_log, manifest };
    if !challenge.pcrs().contains(ima_pcr()?) {
        return Ok(head.write(&mut io::empty(), out)?);
    }
    let path = &sources.list;
    let mut list = File::open(path).map_err(|error| DeviceError::Read(path.clone(), error))?;
    Ok(head.write(&mut list, out)?)
}

/// The manifest that leads to these values where it says anything about them; else the first.
fn confirmed<'a>(manifests: &'a [Vec<u8>], values: &PcrBank) -> Option<&'a [u8]> {
    let leads_there = |json: &&[u8]| {
        let Ok(manifest) = Manifest::from_json(json) else { return false };
        let predicted = manifest.predict();
        predicted.iter().all(|(pcr, value)| values.get(pcr).is_none_or(|found| found == value))
    };
    let mut all = manifests.iter().filter_map(|json| unpadded(json));
    all.clone().find(leads_there).or_else(|| all.next())
}

/// Reads a file whole; sizes in sysfs say nothing.
fn read(path: &Path, limit: usize) -> Result<Vec<u8>, DeviceError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| DeviceError::Read(path.to_owned(), error))?;
    if bytes.len() > limit { Err(DeviceError::TooLong(path.to_owned())) } else { Ok(bytes) }
}

/// `TPM2B_PUBLIC` of a `TPMT_PUBLIC`, as tpm2-tools and Keylime want it.
#[must_use]
pub fn sized(public: &[u8]) -> Vec<u8> {
    let size = u16::try_from(public.len()).unwrap_or(u16::MAX);
    [&size.to_be_bytes(), public].concat()
}
