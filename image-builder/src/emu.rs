//! Images on the emulated board: what lies in the SD slot, and `run`.
//!
//! An image is started as a Raspberry Pi would start it: firmware and device tree
//! come from its own boot partition, nothing from the build.

pub mod boot;
pub mod card;
pub mod device;
pub mod place;
pub mod run;
pub mod shell;
mod terminal;
