//! An emulated Raspberry Pi 3, or a `virt`, with a software TPM, driven through its consoles.
//!
//! What it does: starts QEMU's `raspi3b` or `virt` from power-on with an SD card image and a
//! persistent software TPM ([`tpm`]), reads both serial lines with a time stamp on
//! every line ([`console`]), types into them, counts and keeps what passes between
//! board and TPM ([`wire`]), cuts the power ([`board`]) and tells from the console
//! how long each boot stage took ([`stages`]).
//!
//! What it never does: open a network connection, listen outside a private
//! directory, or leave a process behind. Every process is a child that ends with
//! the value that owns it, when a test panics too.
//!
//! What it trusts: the programs `qemu-system-aarch64`, `swtpm` and `swtpm_setup`
//! in `PATH`, and the emulator that it is given for a TPM on SPI. It does not trust the guest: whatever the guest writes is kept as
//! bytes, within bounds, and cannot make this crate panic.

pub mod board;
pub mod console;
pub mod process;
mod qmp;
pub mod stages;
pub mod tpm;
pub mod wire;

pub use board::{
    BitErrors, Board, BoardConfig, BoardError, ChipSelect, Clock, Disk, Ended, Firmware, Machine,
    Network, SpiBehaviour, SpiTpm, Tap, TpmLink, VIRT,
};
pub use console::{Console, ConsoleError, Line, Secret};
pub use tpm::{SoftTpm, TpmError};
