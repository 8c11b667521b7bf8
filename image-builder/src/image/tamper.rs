//! Variants of an image for tests: what an attacker, a mishap or an update
//! would make of its boot partition.
//!
//! A variant keeps the rest of the card, so that one made from a provisioned
//! card keeps its encrypted root. Whatever is signed again carries its own,
//! correct manifest; whatever is broken keeps the old one.

use std::path::{Path, PathBuf};

use pcr_measure::manifest::Manifest;

use super::arm_image::ArmImage;
use super::card::{Card, CardError};
use super::fit::{self, Contents, FitError};
use super::initramfs::{self, Entry};
use super::inventory::{self, Boot, Inventory};
use super::slots::Content;
use super::{ImageError, boot_manifest};
use crate::artifacts::{Artifacts, KeyDir};
use crate::recipe::{CommandLine, Compression};

/// What a FIT is signed with.
#[derive(Debug, Clone)]
pub struct Signing {
    /// `mkimage` of the U-Boot build.
    pub mkimage: PathBuf,
    /// The key.
    pub keys: KeyDir,
}

impl From<&Artifacts> for Signing {
    fn from(artifacts: &Artifacts) -> Self {
        Self { mkimage: artifacts.mkimage.clone(), keys: artifacts.signing_key.clone() }
    }
}

/// What is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tamper {
    /// Words are appended to the command line; signed again.
    CommandLine(String),
    /// A file is added to the initramfs; signed again.
    Initramfs {
        /// Its path, relative.
        path: String,
        /// Its content.
        content: Vec<u8>,
    },
    /// The kernel is the same but packed with another date; signed again.
    Kernel,
    /// The device tree has the same nodes and four bytes more; signed again.
    DeviceTree,
    /// The device tree describes no TPM that the kernel knows; signed again.
    DeviceTreeWithoutTpm,
    /// The FIT has no signature at all.
    Unsigned,
    /// One bit of the kernel in the FIT is flipped; the signature stays.
    FlippedBit,
    /// One letter of a text in the firmware that U-Boot was started from is in the other
    /// case; the manifest stays.
    Firmware {
        /// `BL1`, the name of an image of the FIP, or `U-Boot` where that is all there is.
        component: String,
        /// The text, of which the first letter changes.
        text: String,
    },
    /// One digit of the manifest is changed.
    ManifestDigit,
    /// The manifest is cut in half.
    ManifestCut,
    /// The manifest is that of another image.
    ManifestOf(PathBuf),
}

/// Why there is no variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TamperError {
    /// The command line cannot be extended by that.
    #[error(
        "cannot append `{0}` to the command line: printable ASCII, {max} bytes in all",
        max = CommandLine::MAX
    )]
    Words(String),
    /// The kernel of the image is not packed with gzip.
    #[error("the kernel in boot.itb is no gzip file")]
    NoGzip,
    /// The device tree of the image is none.
    #[error("the device tree in boot.itb is too short to be one")]
    NoTree,
    /// The firmware has no such text.
    #[error("there is no {component} with the text `{text}` in {file}")]
    NoText {
        /// The firmware.
        file: &'static str,
        /// The component.
        component: String,
        /// The text.
        text: String,
    },
    /// The device tree describes no TPM.
    #[error("the device tree in boot.itb describes no TPM")]
    NoTpmNode,
    /// The manifest on the card cannot be used.
    #[error("the manifest of {path} cannot be used: {source}")]
    Manifest {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: pcr_measure::manifest::ManifestError,
    },
    /// The image.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The FIT.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// Anything else on the way to an image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Makes a variant of `image` at `out`, which may be `image` itself: then it is
/// replaced when the variant is complete. Returns the manifest of what lies
/// there now, as far as that has one that can be read.
///
/// # Errors
/// If the image is none, or cannot be signed or written.
pub fn variant(
    image: &Path,
    tamper: &Tamper,
    signing: &Signing,
    out: &Path,
) -> Result<Option<Manifest>, TamperError> {
    let card = Card::open(image)?;
    let Content { fit, manifest, signatures } = card.good()?;
    let mut others = Vec::new();
    let mut is_whole = false;
    let (fit, manifest) = match tamper {
        Tamper::Firmware { component, text } => {
            let (kind, image) = ArmImage::on(&card)?;
            let name = kind.file_on(&card);
            others.push((name, change_text(kind, image, component, text)?));
            (fit, manifest)
        }
        Tamper::FlippedBit => (flip_in_kernel(fit)?, manifest),
        Tamper::ManifestDigit => (fit, change_digit(manifest)),
        Tamper::ManifestCut => {
            let half = manifest.len() / 2;
            (fit, manifest.into_iter().take(half).collect())
        }
        Tamper::ManifestOf(other) => (fit, Card::open(other)?.good()?.manifest),
        Tamper::Unsigned => {
            let contents = Contents::read(&fit)?;
            (fit::pack(&contents, &signing.mkimage, None)?, manifest)
        }
        Tamper::CommandLine(_)
        | Tamper::Initramfs { .. }
        | Tamper::Kernel
        | Tamper::DeviceTree
        | Tamper::DeviceTreeWithoutTpm => {
            let contents = changed(Contents::read(&fit)?, tamper)?;
            let old = read_manifest(image, &manifest)?;
            let new = boot_manifest::of_variant(&old, &contents, None).map_err(ImageError::from)?;
            let json = new.to_json().map_err(ImageError::from)?;
            let fit = fit::pack(&contents, &signing.mkimage, Some(&signing.keys))?;
            is_whole = true;
            (fit, json.into_bytes())
        }
    };
    let content = Content { fit, manifest, signatures };
    // Whoever signs again makes it an image of which nothing is amiss.
    if is_whole
        && let Ok(json) = card.boot_file(inventory::FILE)
        && let Ok(mut inventory) = Inventory::from_json(&json)
    {
        inventory.boot = Boot { firmware: inventory.boot.firmware, ..Boot::of(&content, &[]) };
        let json = inventory.to_json().map_err(|error| ImageError::Config(error.to_string()))?;
        others.push((inventory::FILE, json.into_bytes()));
    }
    let mut files = card.good_files(&content)?;
    files.extend(others);
    let files: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    card.with_boot_files(&files, out)?;
    Ok(Manifest::from_json(&content.manifest).ok())
}

fn read_manifest(image: &Path, json: &[u8]) -> Result<Manifest, TamperError> {
    Manifest::from_json(json)
        .map_err(|source| TamperError::Manifest { path: image.to_owned(), source })
}

/// The contents of a FIT after one change.
fn changed(mut contents: Contents, tamper: &Tamper) -> Result<Contents, TamperError> {
    match tamper {
        Tamper::CommandLine(words) => {
            let words = words.trim();
            let line = format!("{} {words}", contents.command_line);
            let printable = line.bytes().all(|byte| (0x20..0x7f).contains(&byte));
            if words.is_empty() || !printable || line.len() > CommandLine::MAX {
                return Err(TamperError::Words(words.escape_debug().to_string()));
            }
            contents.command_line = line;
        }
        Tamper::Initramfs { path, content } => {
            // A second archive behind the first: Linux unpacks both, the second
            // over the first (Documentation/driver-api/early-userspace/buffer-format.rst).
            let mut entries: Vec<Entry> = path
                .match_indices('/')
                .filter_map(|(end, _)| path.get(..end))
                .map(Entry::directory)
                .collect();
            entries.push(Entry::file(path, 0o755, content.clone()).map_err(ImageError::from)?);
            let archive = initramfs::archive(entries).map_err(ImageError::from)?;
            let packed =
                initramfs::compress(&archive, Compression::Gzip).map_err(ImageError::from)?;
            contents.ramdisk.extend(packed);
        }
        Tamper::Kernel => {
            // MTIME, which no decompressor looks at (RFC 1952, 2.3).
            match contents.kernel.get_mut(..8) {
                Some([0x1f, 0x8b, _, _, date, _, _, _]) => *date = date.wrapping_add(1),
                _ => return Err(TamperError::NoGzip),
            }
        }
        Tamper::DeviceTree => {
            // totalsize (Devicetree Specification 0.4, 5.2).
            let size = u32::try_from(contents.fdt.len() + 4).map_err(|_| TamperError::NoTree)?;
            contents.fdt.extend([0; 4]);
            contents
                .fdt
                .get_mut(4..8)
                .ok_or(TamperError::NoTree)?
                .copy_from_slice(&size.to_be_bytes());
        }
        Tamper::DeviceTreeWithoutTpm => hide_tpm(&mut contents.fdt)?,
        _ => {}
    }
    Ok(contents)
}

/// Takes every TPM out of a device tree: the kernel makes no device of a node without
/// `compatible`, which is called `ompatible` then.
fn hide_tpm(fdt: &mut [u8]) -> Result<(), TamperError> {
    /// How the bindings of TPMs begin (Linux, Documentation/devicetree/bindings/tpm).
    const TPM: &[u8] = b"tcg,tpm";
    /// Token, length and name of a property before its value, a word each (Devicetree
    /// Specification 0.4, 5.4.1).
    const HEAD: usize = 12;
    const PROP: u32 = 3;
    /// How far from its beginning a value is looked into.
    const FAR: usize = 256;
    let word = |fdt: &[u8], at: usize| {
        let bytes: Option<[u8; 4]> = fdt.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes)
    };
    let values: Vec<usize> =
        fdt.windows(TPM.len()).enumerate().filter(|(_, w)| *w == TPM).map(|(at, _)| at).collect();
    let mut hidden = 0;
    for value in values {
        let nearest = value.saturating_sub(HEAD) & !3;
        let head = (nearest.saturating_sub(FAR)..=nearest).rev().step_by(4).find(|&at| {
            let end = word(fdt, at + 4).map(|length| at + HEAD + length as usize);
            word(fdt, at) == Some(PROP) && end.is_some_and(|end| end > value)
        });
        let name = head.map(|at| at + 8);
        if let Some((at, name)) = name.and_then(|at| Some((at, word(fdt, at)?)))
            && let Some(place) = fdt.get_mut(at..at + 4)
        {
            place.copy_from_slice(&(name + 1).to_be_bytes());
            hidden += 1;
        }
    }
    if hidden > 0 { Ok(()) } else { Err(TamperError::NoTpmNode) }
}

/// Changes the case of a text's first letter in one component of the firmware.
fn change_text(
    kind: ArmImage,
    mut image: Vec<u8>,
    component: &str,
    text: &str,
) -> Result<Vec<u8>, TamperError> {
    let place = |image: &[u8]| -> Option<usize> {
        let part = kind.part(image, component)?;
        let bytes = image.get(part.clone())?;
        let at = bytes.windows(text.len().max(1)).position(|w| w == text.as_bytes())?;
        Some(part.start + at)
    };
    let at = place(&image);
    match at.and_then(|at| image.get_mut(at)).filter(|letter| letter.is_ascii_alphabetic()) {
        Some(letter) => *letter ^= 0x20,
        None => {
            let (component, text) = (component.into(), text.into());
            return Err(TamperError::NoText { file: kind.file_name(), component, text });
        }
    }
    Ok(image)
}

/// Flips the lowest bit of the byte in the middle of the kernel.
fn flip_in_kernel(mut fit: Vec<u8>) -> Result<Vec<u8>, TamperError> {
    let kernel = Contents::read(&fit)?.kernel;
    let at = fit
        .windows(kernel.len().max(1))
        .position(|window| window == kernel)
        .map(|start| start + kernel.len() / 2);
    match at.and_then(|at| fit.get_mut(at)) {
        Some(byte) => *byte ^= 1,
        None => return Err(TamperError::NoGzip),
    }
    Ok(fit)
}

/// Changes the first digit of the first digest.
fn change_digit(mut manifest: Vec<u8>) -> Vec<u8> {
    const KEY: &[u8] = b"\"digest\": \"";
    let at = manifest.windows(KEY.len()).position(|window| window == KEY);
    if let Some(digit) = at.and_then(|at| manifest.get_mut(at + KEY.len())) {
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents {
        Contents {
            kernel: initramfs::gzip(b"kernel").unwrap(),
            fdt: [&[0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 40][..], &[0; 32]].concat(),
            ramdisk: vec![1; 8],
            command_line: "quiet".to_owned(),
            description: String::new(),
            places: ArmImage::Armstub.places(),
        }
    }

    #[test]
    fn every_change_changes_one_part_alone() {
        let file = Tamper::Initramfs { path: "etc/evil".to_owned(), content: b"x".to_vec() };
        let cases = [
            (Tamper::CommandLine("rdinit=/bin/sh".to_owned()), [true, false, false, false]),
            (file, [false, true, false, false]),
            (Tamper::Kernel, [false, false, true, false]),
            (Tamper::DeviceTree, [false, false, false, true]),
        ];
        let old = contents();
        for (tamper, expected) in cases {
            let new = changed(contents(), &tamper).unwrap();
            let differs = [
                new.command_line != old.command_line,
                new.ramdisk != old.ramdisk,
                new.kernel != old.kernel,
                new.fdt != old.fdt,
            ];
            assert_eq!(differs, expected, "{tamper:?}");
        }
    }

    #[test]
    fn the_changed_kernel_still_unpacks() {
        let new = changed(contents(), &Tamper::Kernel).unwrap();
        let mut back = Vec::new();
        std::io::Read::read_to_end(
            &mut flate2::read::GzDecoder::new(new.kernel.as_slice()),
            &mut back,
        )
        .unwrap();
        assert_eq!(back, b"kernel");
    }

    #[test]
    fn the_changed_device_tree_says_its_size() {
        let new = changed(contents(), &Tamper::DeviceTree).unwrap();
        assert_eq!(new.fdt.len(), 44);
        assert_eq!(new.fdt[4..8], [0, 0, 0, 44]);
    }

    #[test]
    fn the_tpm_is_taken_out_of_the_device_tree() {
        let mut with = contents();
        let value = b"nuvoton,npct75x\0tcg,tpm-tis-i2c\0";
        for word in [3, value.len() as u32, 27] {
            with.fdt.extend(word.to_be_bytes());
        }
        let name = with.fdt.len() - 1;
        with.fdt.extend(value);
        let new = changed(with.clone(), &Tamper::DeviceTreeWithoutTpm).unwrap();
        with.fdt[name] = 28;
        assert_eq!(new.fdt, with.fdt);
        let none = changed(contents(), &Tamper::DeviceTreeWithoutTpm);
        assert!(matches!(none, Err(TamperError::NoTpmNode)));
    }

    #[test]
    fn what_cannot_be_appended_is_refused() {
        for words in ["", "  ", "a\nb", &"x".repeat(CommandLine::MAX)] {
            let tamper = Tamper::CommandLine(words.to_owned());
            assert!(matches!(changed(contents(), &tamper), Err(TamperError::Words(_))));
        }
    }

    #[test]
    fn a_digit_is_changed() {
        let manifest = b"{\"digest\": \"0a\", \"digest\": \"0b\"}".to_vec();
        assert_eq!(change_digit(manifest), b"{\"digest\": \"1a\", \"digest\": \"0b\"}");
    }
}
