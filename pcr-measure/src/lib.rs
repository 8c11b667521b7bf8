//! PCRs: event logs, prediction, explanation, policy digests.
//!
//! What it does: computes which values a set of artifacts leads to
//! ([`manifest`]), reads TCG event logs ([`eventlog`]), compares the two and
//! names the component that differs ([`explain`]), computes policy digests
//! as a TPM does ([`policy`]), and verifies quotes (`quote`, with the feature
//! `signature`).
//!
//! What it never does: I/O (the binary reads files), talk to a TPM, allocate by
//! sizes that foreign bytes claim, panic on foreign bytes, print them unescaped.
//!
//! What it trusts: digests, and of these only such as the PCRs confirm. Event
//! types and event data in a log can be forged without changing a PCR; they are
//! for display. A manifest or a [`manifest::Reference`] read from a disk is no
//! more trustworthy than that disk: it explains a refusal, it never decides one.

pub mod digest;
pub mod eventlog;
pub mod explain;
#[cfg(feature = "signature")]
pub mod key;
pub mod manifest;
pub mod pcr;
pub mod policy;
#[cfg(feature = "signature")]
pub mod quote;
mod reader;
pub mod structures;
pub mod text;

pub use digest::{Algorithm, Digest, Sha256Digest};
pub use pcr::{PcrBank, PcrIndex, PcrSelection};
