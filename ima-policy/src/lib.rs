//! IMA and EVM of a running Linux: what the kernel has measured, and whether that is what an
//! image has.
//!
//! Everything here is a function of bytes. Lists, signatures and file systems are foreign:
//! none of them makes this crate panic, or allocate what it claims.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic))]

#[cfg(feature = "signature")]
pub mod attest;
pub mod closure;
pub mod evm;
#[cfg(feature = "signature")]
pub mod judge;
#[cfg(feature = "keylime")]
pub mod keylime;
pub mod list;
pub mod policy;
pub mod quarantine;
pub mod reference;
pub mod root;
#[cfg(feature = "signature")]
pub mod sign;
pub mod signature;
pub mod survey;
pub mod verity;
#[cfg(feature = "signature")]
pub mod watch;
