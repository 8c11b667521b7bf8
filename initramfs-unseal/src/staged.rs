//! Boots that are not there yet: what the boot manifest of an update predicts.

use crate::boot_partition::read_bounded;
use crate::evidence::MAX_MANIFEST;
use crate::volume::LATCH;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::{Manifest, ManifestError, Reference};
use pcr_measure::pcr::PcrSelection;
use std::io;
use std::path::{Path, PathBuf};

/// A boot manifest that predicts no boot to unlock in.
#[derive(Debug, thiserror::Error)]
pub enum StagedError {
    /// A file that cannot be read.
    #[error("{path} cannot be read: {cause}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that is none.
    #[error("{path} is no boot manifest: {cause}")]
    BadManifest {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: ManifestError,
    },
    /// A boot manifest for other PCRs.
    #[error(
        "{path} seals PCRs {manifest}, this root is sealed to {root}: build it from the recipe of this image"
    )]
    Selection {
        /// The file.
        path: PathBuf,
        /// What it seals.
        manifest: PcrSelection,
        /// What the root is sealed to.
        root: PcrSelection,
    },
    /// A boot manifest that predicts nothing for a PCR.
    #[error(
        "{path} measures nothing into PCR {pcr}: a boot that leaves it at zero must not be sealed to"
    )]
    Unmeasured {
        /// The file.
        path: PathBuf,
        /// The PCR.
        pcr: u8,
    },
}

impl StagedError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Selection { .. } | Self::Unmeasured { .. })
    }
}

/// What a boot manifest predicts, if that is a boot to unlock a root in that is sealed to
/// these PCRs.
///
/// # Errors
/// [`StagedError`].
pub fn staged(path: &Path, pcrs: &PcrSelection) -> Result<Reference, StagedError> {
    let bytes = read_bounded(path, MAX_MANIFEST);
    let bytes = bytes.map_err(|cause| StagedError::Unreadable { path: path.to_owned(), cause })?;
    let manifest = Manifest::from_json(&bytes);
    let manifest =
        manifest.map_err(|cause| StagedError::BadManifest { path: path.to_owned(), cause })?;
    sealable(path, manifest.reference(), pcrs)
}

fn sealable(
    path: &Path,
    reference: Reference,
    root: &PcrSelection,
) -> Result<Reference, StagedError> {
    let path = || path.to_owned();
    if reference.seal() != root {
        let manifest = *reference.seal();
        return Err(StagedError::Selection { path: path(), manifest, root: *root });
    }
    let values = reference.sealed_values();
    let blank = |pcr| values.sha256(pcr).is_none_or(|value| value == Sha256Digest::ZERO);
    match root.iter().find(|pcr| pcr.get() != LATCH && blank(*pcr)) {
        Some(pcr) => Err(StagedError::Unmeasured { path: path(), pcr: pcr.get() }),
        None => Ok(reference),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A boot of this kernel.
    pub(crate) fn boot(kernel: &[u8]) -> Reference {
        Manifest::builder("test", "test")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .event(8, "kernel", kernel, "")
            .seal(&[0, 8, 15])
            .build()
            .unwrap()
            .reference()
    }

    #[test]
    fn manifests_of_other_pcrs_and_blank_ones_are_refused() {
        let path = Path::new("next.json");
        let same = PcrSelection::sha256(&[0, 8, 15]).unwrap();
        assert_eq!(sealable(path, boot(b"k"), &same).unwrap(), boot(b"k"));
        let more = PcrSelection::sha256(&[0, 8, 9, 15]).unwrap();
        let refusal = sealable(path, boot(b"k"), &more).unwrap_err();
        assert!(matches!(refusal, StagedError::Selection { .. }), "{refusal}");
        let blank = Manifest::builder("test", "test")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .seal(&[0, 8, 15])
            .build()
            .unwrap()
            .reference();
        let refusal = sealable(path, blank, &same).unwrap_err();
        assert!(matches!(refusal, StagedError::Unmeasured { pcr: 8, .. }), "{refusal}");
        assert!(refusal.is_refusal());
    }
}
