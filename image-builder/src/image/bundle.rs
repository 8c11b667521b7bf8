//! Update bundles: what is in an image's good slot, and the firmware it expects where that is
//! to go along, with a signed list in front.

use std::path::{Path, PathBuf};

use pcr_measure::bundle::{self, FIRMWARE, FIT, List, MANIFEST, POLICIES};
use pcr_measure::digest::Algorithm;
use pcr_measure::key::{KeyError, SigningKey};
use pcr_measure::manifest::{Manifest, ManifestError};
use pcr_measure::signed_policy::{SignatureFile, SignedPolicyError};

use super::arm_image::ArmImage;
use super::card::{Card, CardError, write_whole};
use crate::keys::KeysError;

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The image.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Its manifest.
    #[error("the manifest of {path} cannot be used: {source}")]
    Manifest {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Its signed policies.
    #[error("the signed policies of {path} cannot be used: {source}")]
    Policies {
        /// The image.
        path: PathBuf,
        /// What is wrong with them.
        source: SignedPolicyError,
    },
    /// The key cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The key cannot sign.
    #[error("the update key: {0}")]
    Key(#[from] KeyError),
    /// Packing.
    #[error("cannot pack the bundle: {0}")]
    Pack(#[from] std::io::Error),
    /// No firmware that an update could bring.
    #[error(
        "{0} starts by {1}, of which a card has one: firmware goes along in a bundle for TF-A on a \
         Raspberry Pi alone; write the image to the card"
    )]
    OneFirmware(PathBuf, &'static str),
    /// The list.
    #[error("cannot write the bundle's list: {0}")]
    List(#[from] serde_json::Error),
}

/// Makes a bundle of what is in the image's good slot, `with_firmware` also of what it is
/// started from, and returns its list.
///
/// # Errors
/// [`BundleError`]; nothing is left at `out` then that was not there.
pub fn make(
    image: &Path,
    with_firmware: bool,
    key: &SigningKey,
    out: &Path,
) -> Result<List, BundleError> {
    let card = Card::open(image)?;
    let content = card.good()?;
    let firmware = match with_firmware.then(|| ArmImage::on(&card)).transpose()? {
        Some((ArmImage::Armstub, stub)) => Some(stub),
        Some((kind, _)) => {
            return Err(BundleError::OneFirmware(image.to_owned(), kind.file_name()));
        }
        None => None,
    };
    let manifest = Manifest::from_json(&content.manifest)
        .map_err(|source| BundleError::Manifest { path: image.to_owned(), source })?;
    let mut files = vec![(FIT, &content.fit[..]), (MANIFEST, &content.manifest[..])];
    let mut version = None;
    if !content.signatures.is_empty() {
        let policies = SignatureFile::from_json(&content.signatures)
            .map_err(|source| BundleError::Policies { path: image.to_owned(), source })?;
        version = policies.entries().filter_map(|entry| entry.rollback).max();
        files.push((POLICIES, &content.signatures[..]));
    }
    if let Some(firmware) = &firmware {
        files.push((FIRMWARE, firmware));
    }
    let list = List::new(manifest.image(), manifest.board(), version, &files);
    let json = list.to_json()?;
    let signature = key.sign(Algorithm::Sha256, json.as_bytes())?;
    write_whole(out, &bundle::write(Vec::new(), &json, &signature, &files)?)?;
    Ok(list)
}
