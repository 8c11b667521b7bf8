//! PCRs: event logs, prediction, explanation, policy digests.
//!
//! What it does: computes which values a set of artifacts leads to
//! ([`manifest`]), reads TCG event logs ([`eventlog`]), compares the two and
//! names the component that differs ([`explain`]), takes the firmware apart that U-Boot
//! measures ([`fip`]), reads and writes the log of
//! what userspace measured ([`userlog`]), computes policy digests as a TPM does
//! ([`policy`]), reads and writes files of signed ones ([`signed_policy`]), and
//! with the feature `signature` signs and verifies them and verifies quotes
//! (`quote`). What it knows beside measurements is how a boot partition holds two
//! images ([`slots`]), which image-builder writes and initramfs-unseal reads.
//!
//! What it never does: I/O (the binary reads files; [`userlog::append()`] alone
//! writes one, and the module `tpm` alone talks to a TPM), allocate by sizes that
//! foreign bytes claim, panic on foreign bytes, print them unescaped.
//!
//! What it trusts: digests, and of these only such as the PCRs confirm. Event
//! types and event data in a log can be forged without changing a PCR; they are
//! for display. A manifest or a [`manifest::Reference`] read from a disk is no
//! more trustworthy than that disk: it explains a refusal, it never decides one.

#[cfg(feature = "bundle")]
pub mod bundle;
#[cfg(feature = "cli")]
pub mod command;
pub mod digest;
pub mod eventlog;
pub mod explain;
pub mod fip;
#[cfg(feature = "signature")]
pub mod key;
pub mod manifest;
pub mod pcr;
pub mod policy;
#[cfg(feature = "signature")]
pub mod quote;
mod reader;
pub mod signed_policy;
pub mod slots;
pub mod structures;
pub mod stub;
pub mod text;
#[cfg(feature = "tpm")]
pub mod tpm;
pub mod userlog;

pub use digest::{Algorithm, Digest, Sha256Digest};
pub use pcr::{PcrBank, PcrIndex, PcrSelection};
