//! The boot manifest: everything that is measured, in order, and the PCR values
//! that follow from it.
//!
//! image-builder writes it ([`Manifest::builder`]), it lies beside the image and
//! on its boot partition, and provisioning keeps its short form ([`Reference`]).

mod build;
mod predict;
mod reference;
mod replace;
mod uboot;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::pcr::{PcrBank, PcrError, PcrIndex, PcrSelection};
use crate::text::{is_printable, printable};

pub use build::{Builder, Measurement};
pub use predict::{LATCH_PCR, replay};
pub use reference::{Reference, ReferenceEvent};
pub use replace::ReplaceError;
pub use uboot::{Firmware, Uboot, component};

/// The one schema this crate reads and writes.
pub const SCHEMA: &str = "msec-boot/boot-manifest/1";

/// Largest manifest that is read, in bytes.
pub const MAX_JSON: usize = 256 * 1024;
/// Most events in a manifest or a reference.
pub const MAX_EVENTS: usize = 256;
/// Longest image, board or component name, in bytes.
pub const MAX_NAME: usize = 64;
/// Longest note, in bytes: a kernel command line fits (arm64 `COMMAND_LINE_SIZE`
/// is 2048).
pub const MAX_NOTE: usize = 4096;

/// What is wrong with a manifest or a reference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// More bytes than any manifest has.
    #[error("the manifest has {0} bytes, more than the {MAX_JSON} that one may have")]
    TooLong(usize),
    /// Not JSON, or not JSON of a manifest; what is wrong, fit for a console.
    #[error("this is no boot manifest: {0}")]
    Json(String),
    /// Another schema.
    #[error("the manifest's schema is {0:?}; this program reads {SCHEMA:?}")]
    Schema(String),
    /// Another bank.
    #[error("the manifest is for the bank {0:?}; only sha256 is taken")]
    Bank(String),
    /// Nothing is measured.
    #[error("the manifest has no events")]
    NoEvents,
    /// Too many events.
    #[error("{0} events are more than the {MAX_EVENTS} that a manifest may have")]
    TooManyEvents(usize),
    /// A name that is empty, too long or not printable ASCII.
    #[error("the {what} {text:?} cannot stand: it needs 1 to {limit} printable ASCII characters")]
    Text {
        /// Which field.
        what: &'static str,
        /// What it holds (escaped and shortened).
        text: String,
        /// Longest that is taken, in bytes.
        limit: usize,
    },
    /// A component twice in one PCR.
    #[error("two events of PCR {pcr} have the name {component:?}")]
    Twice {
        /// The PCR.
        pcr: PcrIndex,
        /// The name.
        component: String,
    },
    /// One name for two things.
    #[error("two events with different digests have the name {component:?}")]
    Ambiguous {
        /// The name.
        component: String,
    },
    /// The values are not those that the events lead to.
    #[error("PCR {pcr}: the manifest says {said}, its events lead to {replayed}")]
    Contradiction {
        /// The PCR.
        pcr: PcrIndex,
        /// What stands in `pcrs`, or "nothing".
        said: String,
        /// What the replay gives, or "nothing".
        replayed: String,
    },
    /// A PCR that does not exist, or an empty selection.
    #[error(transparent)]
    Pcr(#[from] PcrError),
}

impl From<serde_json::Error> for ManifestError {
    /// serde repeats names of fields as they stand in the file.
    fn from(error: serde_json::Error) -> Self {
        Self::Json(printable(&error.to_string()))
    }
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestEvent {
    /// Where it is extended.
    pub pcr: PcrIndex,
    /// What it is: "kernel", "command line", ...
    pub component: String,
    /// SHA-256 of what is measured.
    pub digest: Sha256Digest,
    /// Bytes that are measured.
    pub size: u64,
    /// For people: a version, the command line itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// A boot manifest whose PCR values follow from its events: a value of this type
/// cannot hold anything else.
///
/// Nothing authenticates it. It says what an image will measure, not what this
/// boot measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    image: String,
    board: String,
    events: Vec<ManifestEvent>,
    pcrs: PcrBank,
    seal: PcrSelection,
}

/// The JSON, field by field.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    schema: String,
    image: String,
    board: String,
    bank: String,
    events: Vec<ManifestEvent>,
    pcrs: PcrBank,
    seal: PcrSelection,
}

impl Manifest {
    /// Starts a manifest for an image (the recipe's name) of a board.
    pub fn builder(image: impl Into<String>, board: impl Into<String>) -> Builder {
        Builder::new(image.into(), board.into())
    }

    /// Reads a manifest, strictly: unknown fields, another schema, doubled
    /// components and values that contradict the events are refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_JSON {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let json: Json = serde_json::from_slice(bytes)?;
        if json.schema != SCHEMA {
            return Err(ManifestError::Schema(printable(&json.schema)));
        }
        if json.bank != "sha256" {
            return Err(ManifestError::Bank(printable(&json.bank)));
        }
        let manifest = Self::checked(json.image, json.board, json.events, json.seal)?;
        compare(&json.pcrs, &manifest.pcrs)?;
        Ok(manifest)
    }

    /// The manifest as JSON: fields and events in a fixed order, two blanks of
    /// indentation, a newline at the end. Same manifest, same bytes.
    ///
    /// # Errors
    /// None in practice; serde's signature has one.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        let json = Json {
            schema: SCHEMA.to_owned(),
            image: self.image.clone(),
            board: self.board.clone(),
            bank: "sha256".to_owned(),
            events: self.events.clone(),
            pcrs: self.pcrs.clone(),
            seal: self.seal,
        };
        let mut text = serde_json::to_string_pretty(&json)?;
        text.push('\n');
        Ok(text)
    }

    fn checked(
        image: String,
        board: String,
        events: Vec<ManifestEvent>,
        seal: PcrSelection,
    ) -> Result<Self, ManifestError> {
        check_name("image", &image)?;
        check_name("board", &board)?;
        if events.is_empty() {
            return Err(ManifestError::NoEvents);
        }
        for event in &events {
            check_text("note", &event.note, 0, MAX_NOTE)?;
        }
        check_events(events.iter().map(|e| (e.pcr, e.component.as_str(), e.digest)))?;
        let pcrs = replay(events.iter().map(|e| (e.pcr, e.digest)));
        Ok(Self { image, board, events, pcrs, seal })
    }

    /// The recipe's name.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image
    }

    /// The board the image is for.
    #[must_use]
    pub fn board(&self) -> &str {
        &self.board
    }

    /// The measurements, in the order in which they are made.
    #[must_use]
    pub fn events(&self) -> &[ManifestEvent] {
        &self.events
    }

    /// The PCRs that the image's key is sealed to.
    #[must_use]
    pub const fn seal(&self) -> &PcrSelection {
        &self.seal
    }

    /// The short form that provisioning keeps.
    #[must_use]
    pub fn reference(&self) -> Reference {
        Reference::new(self)
    }
}

/// The rules that events of a manifest and of a reference share.
fn check_events<'a>(
    events: impl ExactSizeIterator<Item = (PcrIndex, &'a str, Sha256Digest)>,
) -> Result<(), ManifestError> {
    if events.len() > MAX_EVENTS {
        return Err(ManifestError::TooManyEvents(events.len()));
    }
    let mut seen: BTreeMap<&str, (Sha256Digest, Vec<PcrIndex>)> = BTreeMap::new();
    for (pcr, component, digest) in events {
        check_name("component", component)?;
        let (first, pcrs) = seen.entry(component).or_insert_with(|| (digest, Vec::new()));
        if pcrs.contains(&pcr) {
            return Err(ManifestError::Twice { pcr, component: component.to_owned() });
        }
        if *first != digest {
            return Err(ManifestError::Ambiguous { component: component.to_owned() });
        }
        pcrs.push(pcr);
    }
    Ok(())
}

fn check_name(what: &'static str, text: &str) -> Result<(), ManifestError> {
    check_text(what, text, 1, MAX_NAME)
}

fn check_text(
    what: &'static str,
    text: &str,
    least: usize,
    limit: usize,
) -> Result<(), ManifestError> {
    if text.len() < least || text.len() > limit || !is_printable(text) {
        return Err(ManifestError::Text { what, text: printable(text), limit });
    }
    Ok(())
}

fn compare(said: &PcrBank, replayed: &PcrBank) -> Result<(), ManifestError> {
    let show = |value: Option<Sha256Digest>| value.map_or("nothing".to_owned(), |v| v.to_string());
    for pcr in PcrIndex::all() {
        let (said, replayed) = (said.sha256(pcr), replayed.sha256(pcr));
        if said != replayed {
            return Err(ManifestError::Contradiction {
                pcr,
                said: show(said),
                replayed: show(replayed),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
