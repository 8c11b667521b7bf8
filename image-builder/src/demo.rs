//! The demonstration: the whole life of a device on the emulated board.
//!
//! A boot that provisions, one that unlocks by itself, one with a changed command
//! line and one with a changed initramfs that the TPM refuses, and the original
//! again, which unlocks as before and in which a program is changed and started. What ran in
//! each is judged by the image's reference. [`journey()`] runs it and gives what was seen;
//! [`summary`] prints that. Tests assert on the same values. Another device watches itself
//! ([`watched()`]).

pub mod collector;
pub mod journey;
pub mod record;
pub mod summary;
pub mod watched;

pub use journey::{Done, Images, JourneyError, journey};
pub use record::{BootRecord, Journey};
pub use watched::{Watched, Watching, watched};
