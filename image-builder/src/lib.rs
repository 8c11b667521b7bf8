//! Builds, runs and checks measured-boot SD card images.
//!
//! From a recipe it makes one image: it fetches pinned sources ([`sources`]),
//! builds every component of the boot chain from them ([`component`]), keeps
//! each result under the hash of all its inputs ([`cache`]) and assembles the
//! image with the PCR values that it will produce ([`image`]).
//!
//! It never touches the host's package configuration, never writes a secret
//! into an image or a log, and leaves no half-written output: whatever it makes
//! gets its name when it is complete.
//!
//! It trusts the build root (its tools) and the lock file: a source is taken
//! only if its size and SHA-256 are the locked ones.

pub mod artifacts;
pub mod cache;
pub mod cli;
pub mod component;
pub mod deb;
pub mod deliver;
pub mod demo;
pub mod devices;
pub mod emu;
pub mod flash;
pub mod image;
pub mod keys;
mod logged;
pub mod progress;
pub mod recipe;
pub mod reproduce;
pub mod sources;
