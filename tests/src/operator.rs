//! The operator of a fleet: an age identity, and what a device's record tells its
//! owner. Independent of the code under test: the `age` crate decrypts.

use age::x25519::Identity;
use image_builder::emu::{card::Card, device::RecoveryKey};
use serde_json::Value;

/// The record's name on the boot partition.
const RECORD: &str = "device-record.json";

/// An operator with a new identity.
pub struct Operator(Identity);

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Operator")
    }
}

/// A device's record, opened.
#[derive(Debug)]
pub struct Record {
    /// All of it.
    pub json: Value,
    /// The recovery key.
    pub recovery_key: RecoveryKey,
}

impl Operator {
    /// One who has just run `age-keygen`.
    #[must_use]
    pub fn new() -> Self {
        Self(Identity::generate())
    }

    /// What goes into the recipe.
    #[must_use]
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// Reads the record off a card's boot partition and decrypts the recovery key.
    #[must_use]
    pub fn record(&self, card: &Card) -> Record {
        let bytes = card.boot_file(RECORD).expect("the record is on the card");
        let json: Value = serde_json::from_slice(&bytes).expect("the record is JSON");
        let file = json["recovery_key"].as_str().expect("the record has a recovery key");
        let plain = age::decrypt(&self.0, file.as_bytes()).expect("it decrypts");
        let text = String::from_utf8(plain).expect("it is text");
        Record { json, recovery_key: RecoveryKey::new(text) }
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self::new()
    }
}
