//! The inventory of an image: digests of what it was built with. A boot manifest lists
//! what is measured; with the inventory one changed byte of the rest is told as well.
//!
//! It lies beside the image and on its boot partition. Nothing authenticates the latter:
//! whoever changes a file can change its line. One from a trusted build says what was
//! built (`verify --inventory`).

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;

use pcr_measure::Sha256Digest;
use serde::{Deserialize, Serialize};

use super::card::{Card, CardError, file_error};
use super::mbr;
use super::slots::Content;

/// Its name on the boot partition.
pub const FILE: &str = "inventory.json";

/// The one schema that is read and written.
const SCHEMA: &str = "msec-boot/inventory/1";

/// Bytes hashed at a time.
const BLOCK: usize = 1 << 20;

/// Why an inventory is none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InventoryError {
    /// No JSON of that form.
    #[error("it is no inventory: {0}")]
    Json(#[from] serde_json::Error),
    /// Another schema.
    #[error("its schema is {0:?}; this program reads {SCHEMA:?}")]
    Schema(String),
}

/// Length and digest of something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: Sha256Digest,
}

impl Item {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, sha256: Sha256Digest::of(bytes) }
    }
}

/// What a slot was built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The FIT: all of it, with what its signature leaves out.
    pub fit: Item,
    /// The boot manifest.
    pub manifest: Item,
    /// What the ARM cores start from, and the slot expects, as it lies there.
    pub firmware: Item,
}

impl Boot {
    /// Of this content, the padding of whose files does not count, and this firmware.
    #[must_use]
    pub fn of(content: &Content, firmware: &[u8]) -> Self {
        Self {
            fit: Item::of(&content.fit),
            manifest: Item::of(content.manifest.trim_ascii_end()),
            firmware: Item::of(firmware),
        }
    }
}

/// What an image was built with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    schema: String,
    /// The recipe's name.
    pub image: String,
    /// The first sector.
    pub partition_table: Item,
    /// The first sector as provisioning leaves it: the root reaches down over the reserve.
    pub provisioned_table: Item,
    /// Files of the boot partition that no update changes.
    pub files: BTreeMap<String, Item>,
    /// What slot A was built with. An update makes another boot the good one, whose manifest
    /// is then another one.
    pub boot: Boot,
    /// The root partition, plain as it was built. The first boot encrypts it.
    pub root: Item,
}

impl Inventory {
    /// An inventory.
    #[must_use]
    pub fn new(
        image: &str,
        [partition_table, provisioned_table]: [&[u8]; 2],
        files: &[(&'static str, Vec<u8>)],
        boot: Boot,
        root: Item,
    ) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), Item::of(bytes)));
        Self {
            schema: SCHEMA.to_owned(),
            image: image.to_owned(),
            partition_table: Item::of(partition_table),
            provisioned_table: Item::of(provisioned_table),
            files: files.collect(),
            boot,
            root,
        }
    }

    /// Reads one, strictly.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, InventoryError> {
        let inventory: Self = serde_json::from_slice(bytes)?;
        if inventory.schema == SCHEMA {
            Ok(inventory)
        } else {
            Err(InventoryError::Schema(inventory.schema))
        }
    }

    /// As JSON; the same inventory, the same bytes.
    ///
    /// # Errors
    /// None in practice; serde's signature has one.
    pub fn to_json(&self) -> Result<String, InventoryError> {
        Ok(format!("{}\n", serde_json::to_string_pretty(self)?))
    }
}

/// The first sector of a card.
///
/// # Errors
/// The system's.
pub fn partition_table(card: &Card) -> Result<Item, CardError> {
    let mut sector = [0; mbr::SIZE];
    card.file().read_exact_at(&mut sector, 0).map_err(file_error(card.path()))?;
    Ok(Item::of(&sector))
}

/// The root partition of a card.
///
/// # Errors
/// The system's.
pub fn root(card: &Card) -> Result<Item, CardError> {
    let part = card.table.root;
    let mut reader =
        io::BufReader::with_capacity(BLOCK, At { card, at: part.start }).take(part.size);
    let (sha256, size) = Sha256Digest::of_reader(&mut reader).map_err(file_error(card.path()))?;
    Ok(Item { size, sha256 })
}

/// Reads a card from an offset on.
struct At<'a> {
    card: &'a Card,
    at: u64,
}

impl io::Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.card.file().read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_and_read_strictly() {
        let inventory = Inventory::new(
            "card",
            [&[0; 512], &[1; 512]],
            &[("config.txt", b"x".to_vec())],
            Boot::of(&Content::default(), b"firmware"),
            Item::of(b"root"),
        );
        let json = inventory.to_json().unwrap();
        assert_eq!(Inventory::from_json(json.as_bytes()).unwrap(), inventory);
        for (from, to) in [("inventory/1", "inventory/2"), ("\"root\"", "\"roof\""), ("}", "")] {
            assert!(Inventory::from_json(json.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
