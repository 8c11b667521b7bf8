//! A fleet's list: the records that provisioning left on the boards' cards
//! (docs/device-record.md), in one SQLite file.
//!
//! A record is foreign: whoever has a card can write one. What the list vouches for is
//! what it checked itself, and it keeps the record's bytes as they came. The recovery
//! keys in it stay encrypted to the operator; only [`escrow`] opens one, for whoever has
//! the identity.

pub mod certificate;
pub mod escrow;
pub mod export;
pub mod record;
pub mod store;
