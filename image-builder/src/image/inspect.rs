//! What is in an image, and what differs between two.
//!
//! Everything read from a card is foreign and nothing of it is verified here: whether a
//! card is consistent with itself and signed, [`super::verify`] says. What will be measured
//! is computed from the parts that lie there, in the order that the card's manifest tells.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use indicatif::{BinaryBytes, HumanBytes};
use pcr_measure::manifest::component::SEPARATOR;
use pcr_measure::manifest::{Manifest, ManifestError, ManifestEvent};
use pcr_measure::slots::{STATE_FILE, Slot};
use pcr_measure::stub::{SWITCH_FILE, Stub};
use pcr_measure::{PcrBank, PcrIndex, Sha256Digest};
use serde::Serialize;

use super::arm_image::{ArmImage, VIDEO_CORE};
use super::card::{Card, CardError};
use super::fit::{Contents, FitError};
use super::inventory::{self, Item};
use super::verify::{RootState, root_state};
use super::{boot_manifest, config_txt, ext4};

/// Bytes compared at a time.
const BLOCK: usize = 1 << 20;

/// Why an image cannot be looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The file cannot be read, or is no image of ours.
    #[error(transparent)]
    Card(#[from] CardError),
    /// Its FIT is none.
    #[error("{path}: {source}")]
    Fit {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: FitError,
    },
    /// Its firmware is none.
    #[error("{path}: {source}")]
    Firmware {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: pcr_measure::fip::FipError,
    },
    /// Its manifest is none.
    #[error("{path}: {source}")]
    Manifest {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        source: ManifestError,
    },
    /// The root partition cannot be read.
    #[error("{path}: {source}")]
    Root {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub size: u64,
}

/// How full a plain root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RootUsage {
    /// Bytes of the file system.
    pub size: u64,
    /// Bytes in use.
    pub used: u64,
}

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// `msec-boot/inspection/1`.
    pub schema: &'static str,
    /// The image's file, or the card.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its name.
    pub image: String,
    /// The board that it is for.
    pub board: String,
    /// The boot partition.
    pub boot: Place,
    /// The root partition.
    pub root: Place,
    /// What stands in the root partition.
    pub root_state: RootState,
    /// How full it is, while it is plain.
    pub root_usage: Option<RootUsage>,
    /// The kernel's command line.
    pub command_line: String,
    /// Files of the boot partition, by name.
    pub files: BTreeMap<String, Item>,
    /// What will be measured, in order; separators left out.
    pub measured: Vec<ManifestEvent>,
    /// The PCRs that it will lead to.
    pub pcrs: PcrBank,
    /// The PCRs that the root's key is sealed against.
    pub sealed: Vec<u32>,
}

/// Looks into an image.
///
/// # Errors
/// If it cannot be read, or lacks what every image of ours has.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let card = Card::open(path)?;
    look(&card, path)
}

fn look(card: &Card, path: &Path) -> Result<Inspection, InspectError> {
    let at = || path.to_owned();
    let manifest = Manifest::from_json(&card.manifest_of(card.slots().good)?)
        .map_err(|source| InspectError::Manifest { path: at(), source })?;
    let (kind, arm_image) = ArmImage::on(card)?;
    let contents = Contents::read(&card.fit_of(card.slots().good)?)
        .map_err(|source| InspectError::Fit { path: at(), source })?;
    let firmware = kind
        .measured(&arm_image)
        .map_err(|source| InspectError::Firmware { path: at(), source })?;
    let real = boot_manifest::of_variant(&manifest, &contents, Some(&firmware))
        .map_err(|source| InspectError::Manifest { path: at(), source })?;

    let mut files = BTreeMap::new();
    let slots = Slot::ALL.into_iter().flat_map(slot_files);
    let fixed = [STATE_FILE, config_txt::BOARD_DTB, "config.txt", inventory::FILE];
    let firmware = match kind {
        ArmImage::Armstub => &[SWITCH_FILE, Stub::A.file(), Stub::B.file()][..],
        ArmImage::Kernel | ArmImage::Flash => &[kind.file_name()],
    };
    for name in slots.chain(fixed).chain(VIDEO_CORE).chain(firmware.iter().copied()) {
        match card.boot_file(name) {
            Ok(bytes) => {
                files.insert(name.to_owned(), Item::of(&bytes));
            }
            Err(error) if error.is_missing_file() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let place =
        |partition: super::mbr::Partition| Place { start: partition.start, size: partition.size };
    let root_state = root_state(card);
    let root_usage = match root_state {
        RootState::Plain => ext4::usage(card.file(), card.table.root.start)
            .map_err(|source| InspectError::Root { path: at(), source })?,
        RootState::Encrypted | RootState::Unknown => None,
    };
    let measured = real.events().iter().filter(|event| event.component != SEPARATOR).cloned();
    Ok(Inspection {
        schema: "msec-boot/inspection/1",
        path: at(),
        size: card.size,
        image: real.image().to_owned(),
        board: real.board().to_owned(),
        boot: place(card.table.boot),
        root: place(card.table.root),
        root_state,
        root_usage: root_usage.map(|usage| RootUsage { size: usage.size, used: usage.used }),
        command_line: contents.command_line,
        files,
        measured: measured.collect(),
        pcrs: real.predict(),
        sealed: real.seal().iter().map(|pcr| pcr.get().into()).collect(),
    })
}

impl Inspection {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.path.display());
        let mut line = |what: &str, value: String| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {what:<14} {value}");
        };
        line("image", format!("{} for {}, {}", self.image, self.board, BinaryBytes(self.size)));
        let place =
            |place: Place| format!("{} at {}", BinaryBytes(place.size), BinaryBytes(place.start));
        line("boot partition", format!("{}, FAT32", place(self.boot)));
        let state = match (self.root_state, self.root_usage) {
            (RootState::Plain, Some(usage)) => {
                format!("plain ext4, {} in use", BinaryBytes(usage.used))
            }
            (RootState::Plain, None) => "plain ext4".to_owned(),
            (RootState::Encrypted, _) => "encrypted (LUKS)".to_owned(),
            (RootState::Unknown, _) => "neither ext4 nor LUKS".to_owned(),
        };
        line("root partition", format!("{}, {state}", place(self.root)));
        line("command line", self.command_line.escape_debug().to_string());
        text += "  files of the boot partition:\n";
        for (name, file) in &self.files {
            let _ = writeln!(
                text,
                "    {name:<24} {:>10}  sha256 {}",
                HumanBytes(file.size).to_string(),
                file.sha256
            );
        }
        text += "  what will be measured, in this order:\n";
        for event in &self.measured {
            let note = event.note.escape_debug();
            let _ = writeln!(
                text,
                "    PCR {:<2} {:<15} {:>10}  {}  {note}",
                event.pcr.get(),
                event.component,
                HumanBytes(event.size).to_string(),
                event.digest.short()
            );
        }
        text += "  what that leads to (SHA-256):\n";
        for (pcr, value) in self.pcrs.iter() {
            let sealed = self.sealed.contains(&u32::from(pcr.get()));
            let sealed = if sealed { "  sealed against" } else { "" };
            let _ = writeln!(text, "    PCR {:<2} {value}{sealed}", pcr.get());
        }
        text
    }
}

/// Something that is measured, of which one image has another one or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is.
    pub component: String,
    /// Where it is measured.
    pub pcr: u32,
    /// What the first image has.
    pub from: Option<Part>,
    /// What the second one has.
    pub to: Option<Part>,
}

/// A measured part of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// SHA-256 of what is measured.
    pub digest: Sha256Digest,
    /// Its size in bytes.
    pub size: u64,
    /// A version, or the command line.
    pub note: String,
}

impl From<&ManifestEvent> for Part {
    fn from(event: &ManifestEvent) -> Self {
        Self { digest: event.digest, size: event.size, note: event.note.clone() }
    }
}

/// A PCR that the two images lead to different values of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrChange {
    /// Its number.
    pub pcr: u32,
    /// What the first image leads to.
    pub from: Option<Sha256Digest>,
    /// What the second one leads to.
    pub to: Option<Sha256Digest>,
    /// Whether a root of the first image is sealed against it.
    pub sealed: bool,
}

/// What differs between two images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `msec-boot/difference/1`.
    pub schema: &'static str,
    /// The first image's file.
    pub from: PathBuf,
    /// The second one's.
    pub to: PathBuf,
    /// Whether they are for the same board, and lie alike on the card: else one is no update
    /// of the other.
    pub same_layout: bool,
    /// What is measured and differs.
    pub measured: Vec<Change>,
    /// The PCRs that differ.
    pub pcrs: Vec<PcrChange>,
    /// Files of the boot partition that differ and are not measured.
    pub unmeasured: BTreeSet<String>,
    /// Whether the root partitions differ; not known where one of them is in use.
    pub root: bool,
}

impl Difference {
    /// Whether nothing differs that was looked at.
    pub fn is_none(&self) -> bool {
        self.same_layout
            && self.measured.is_empty()
            && self.pcrs.is_empty()
            && self.unmeasured.is_empty()
            && !self.root
    }

    /// Whether a root that is sealed to a boot of the first image stays closed in the second
    /// one, unless it is resealed.
    pub fn breaks_seal(&self) -> bool {
        self.pcrs.iter().any(|change| change.sealed)
    }
}

/// Compares two images.
///
/// # Errors
/// As [`inspect`].
pub fn difference(from: &Path, to: &Path) -> Result<Difference, InspectError> {
    let (one, other) = (Card::open(from)?, Card::open(to)?);
    let mut difference = compare(&look(&one, from)?, &look(&other, to)?);
    difference.root = roots_differ(&one, &other)
        .map_err(|source| InspectError::Root { path: to.to_owned(), source })?;
    Ok(difference)
}

fn compare(from: &Inspection, to: &Inspection) -> Difference {
    let find = |all: &[ManifestEvent], event: &ManifestEvent| {
        all.iter()
            .find(|other| other.component == event.component && other.pcr == event.pcr)
            .map(Part::from)
    };
    let mut measured = Vec::new();
    for event in &from.measured {
        let (one, other) = (Part::from(event), find(&to.measured, event));
        let same = other.as_ref().is_some_and(|other| other.digest == one.digest);
        if !same {
            measured.push(change(event, Some(one), other));
        }
    }
    for event in &to.measured {
        if find(&from.measured, event).is_none() {
            measured.push(change(event, None, Some(Part::from(event))));
        }
    }
    let numbers: BTreeSet<PcrIndex> =
        [from, to].into_iter().flat_map(|image| image.pcrs.iter().map(|(pcr, _)| pcr)).collect();
    let pcrs = numbers.into_iter().filter_map(|pcr| {
        let (one, other) = (from.pcrs.sha256(pcr), to.pcrs.sha256(pcr));
        let number = u32::from(pcr.get());
        let sealed = from.sealed.contains(&number);
        (one != other).then_some(PcrChange { pcr: number, from: one, to: other, sealed })
    });
    let names: BTreeSet<&String> = from.files.keys().chain(to.files.keys()).collect();
    let unmeasured = names
        .into_iter()
        .filter(|name| !is_measured(name) && from.files.get(*name) != to.files.get(*name));
    Difference {
        schema: "msec-boot/difference/1",
        from: from.path.clone(),
        to: to.path.clone(),
        same_layout: (&from.board, from.boot) == (&to.board, to.boot),
        measured,
        pcrs: pcrs.collect(),
        unmeasured: unmeasured.cloned().collect(),
        root: false,
    }
}

fn change(event: &ManifestEvent, from: Option<Part>, to: Option<Part>) -> Change {
    Change { component: event.component.clone(), pcr: event.pcr.get().into(), from, to }
}

/// The files of a slot.
fn slot_files(slot: Slot) -> [&'static str; 3] {
    [slot.fit(), slot.manifest(), slot.signatures()]
}

/// Files of which the parts are measured, or which follow from those.
fn is_measured(name: &str) -> bool {
    [STATE_FILE, SWITCH_FILE, Stub::B.file()].contains(&name)
        || Slot::ALL.into_iter().flat_map(slot_files).any(|file| file == name)
        || ArmImage::ALL.iter().any(|kind| kind.file_name() == name)
}

/// Compares what stands in the root partitions, byte by byte.
fn roots_differ(one: &Card, other: &Card) -> io::Result<bool> {
    let (first, second) = (one.table.root, other.table.root);
    if first.size != second.size {
        return Ok(true);
    }
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut at = 0;
    while at < first.size {
        let length = usize::try_from(first.size - at).unwrap_or(BLOCK).min(BLOCK);
        let (a, b) = (a.get_mut(..length), b.get_mut(..length));
        let (Some(a), Some(b)) = (a, b) else { break };
        one.file().read_exact_at(a, first.start + at)?;
        other.file().read_exact_at(b, second.start + at)?;
        if a != b {
            return Ok(true);
        }
        at += length as u64;
    }
    Ok(false)
}

impl Difference {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("from  {}\nto    {}\n", self.from.display(), self.to.display());
        if self.is_none() {
            return text + "They are the same.\n";
        }
        if !self.same_layout {
            text += "Board or partitions differ: the second is no update of the first.\n";
        }
        for change in &self.measured {
            let part = |part: &Option<Part>| match part {
                Some(part) if part.note.is_empty() => {
                    format!("{} ({})", part.digest.short(), HumanBytes(part.size))
                }
                Some(part) => format!(
                    "{} ({}, {})",
                    part.digest.short(),
                    HumanBytes(part.size),
                    part.note.escape_debug()
                ),
                None => "none".to_owned(),
            };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "  measured    PCR {:<2} {}: {} -> {}",
                change.pcr,
                change.component,
                part(&change.from),
                part(&change.to)
            );
        }
        for name in &self.unmeasured {
            let _ = writeln!(text, "  unmeasured  {name}");
        }
        if self.root {
            text += "  root        the root partitions differ\n";
        }
        for change in &self.pcrs {
            let value = |value: Option<Sha256Digest>| {
                value.map_or_else(|| "none".to_owned(), |value| value.short().to_string())
            };
            let sealed = if change.sealed { "  sealed against" } else { "" };
            let (from, to) = (value(change.from), value(change.to));
            let _ = writeln!(text, "  PCR {:<2}      {from}… -> {to}…{sealed}", change.pcr);
        }
        text += if self.breaks_seal() {
            "A root that is sealed to the first one's boot alone (binding \"pcr\") asks for the recovery \
             key in the second: before the update, `initramfs-unseal reseal --next` with its manifest \
             (docs/updates.md).\n"
        } else {
            "A root that is sealed to a boot of the first one opens in the second.\n"
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::arm_image::tests::armstub;
    use crate::recipe::Recipe;

    fn inspection(command_line: &str, bl31: &[u8], config: &[u8]) -> Inspection {
        let contents = Contents {
            kernel: b"kernel".to_vec(),
            fdt: b"fdt".to_vec(),
            ramdisk: b"ramdisk".to_vec(),
            command_line: command_line.to_owned(),
            description: "x".to_owned(),
            places: ArmImage::Armstub.places(),
        };
        let recipe = Recipe::parse(include_str!("../../recipes/rpi3-tiny.toml"), "rpi3").unwrap();
        let firmware = ArmImage::Armstub.measured(&armstub(bl31)).unwrap();
        let manifest =
            boot_manifest::of_image(&recipe, &contents, b"U-Boot 1\0", &firmware, "6.12").unwrap();
        let file = Item::of;
        let place = Place { start: 1 << 20, size: 47 << 20 };
        Inspection {
            schema: "",
            path: "x".into(),
            size: 128 << 20,
            image: manifest.image().to_owned(),
            board: manifest.board().to_owned(),
            boot: place,
            root: Place { start: 52 << 20, size: 52 << 20 },
            root_state: RootState::Plain,
            root_usage: None,
            command_line: command_line.to_owned(),
            files: [("config.txt", config), (Slot::A.fit(), command_line.as_bytes())]
                .map(|(name, bytes)| (name.to_owned(), file(bytes)))
                .into(),
            measured: manifest.events().to_vec(),
            pcrs: manifest.predict(),
            sealed: manifest.seal().iter().map(|pcr| pcr.get().into()).collect(),
        }
    }

    #[test]
    fn the_same_twice_is_no_difference() {
        let one = inspection("quiet", b"el3", b"c");
        let difference = compare(&one, &one);
        assert!(difference.is_none() && !difference.breaks_seal(), "{difference:?}");
        assert!(difference.text().contains("They are the same."));
    }

    #[test]
    fn what_changes_is_named_with_its_pcr_and_what_follows() {
        let from = inspection("quiet", b"el3", b"c");
        let difference = compare(&from, &inspection("quiet splash", b"el3", b"c"));
        let names: Vec<_> = difference.measured.iter().map(|c| c.component.as_str()).collect();
        assert_eq!(names, ["command line"]);
        let pcrs: Vec<_> = difference.pcrs.iter().map(|c| (c.pcr, c.sealed)).collect();
        assert_eq!(pcrs, [(1, true)]);
        assert!(difference.breaks_seal());
        let text = difference.text();
        assert!(text.contains("quiet splash") && text.contains("reseal --next"), "{text}");

        let difference = compare(&from, &inspection("quiet", b"el4", b"c"));
        assert_eq!(difference.measured[0].component, "BL31");
        assert_eq!(difference.pcrs.iter().map(|c| c.pcr).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn what_nobody_measures_is_named_too_and_breaks_no_seal() {
        let difference =
            compare(&inspection("quiet", b"el3", b"c"), &inspection("quiet", b"el3", b"d"));
        assert_eq!(difference.unmeasured, BTreeSet::from(["config.txt".to_owned()]));
        assert!(!difference.is_none() && !difference.breaks_seal());
        assert!(difference.text().contains("opens in the second"));
    }

    #[test]
    fn a_part_that_only_one_has_is_a_change() {
        let (from, mut to) = (inspection("q", b"el3", b"c"), inspection("q", b"el3", b"c"));
        to.measured.retain(|event| event.component != "BL31");
        let difference = compare(&from, &to);
        assert_eq!((&difference.measured[0].to, difference.measured.len()), (&None, 1));
        let difference = compare(&to, &from);
        assert_eq!((&difference.measured[0].from, difference.measured.len()), (&None, 1));
    }

    #[test]
    fn another_board_is_no_update() {
        let (from, mut to) = (inspection("q", b"el3", b"c"), inspection("q", b"el3", b"c"));
        to.board = "virt".to_owned();
        assert!(!compare(&from, &to).same_layout);
    }
}
