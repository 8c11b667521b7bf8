//! Unlocks a TPM-sealed LUKS2 root from the initramfs, and seals it there on
//! the first boot.
//!
//! What it does: finds TPM, root and event log ([`init`] as PID 1, [`step`] in
//! somebody else's initramfs), decides what to do
//! ([`flow`]), unseals the key under the PCR policy ([`tpm`]), which is of one
//! boot or of every boot that the vendor signed ([`authority`]), opens the volume
//! ([`luks`]), shuts the door behind it (PCR 15), or asks for the recovery key
//! after having shut that door first. On a board whose TPM holds no root yet
//! it encrypts a plain root in place ([`provision`]) and writes down which board
//! it did that on ([`record`]).
//!
//! What it never does: start a shell, go on when a check fails, put a secret
//! into an argument, the environment, a log, a report or a file (but the recovery
//! key encrypted to its operator), or believe the card: everything on it may be an
//! attacker's.
//!
//! What it trusts: the TPM's answers as far as the pinned SRK vouches for
//! them, the kernel, and its own configuration, which is measured with it.

pub mod age;
pub mod approve;
pub mod authority;
pub mod blockdev;
pub mod board;
pub mod boot;
pub mod boot_partition;
pub mod config;
pub mod console;
pub mod disk_state;
pub mod evidence;
pub mod flow;
pub mod guard;
pub mod header;
pub mod init;
pub mod integrity;
pub mod luks;
pub mod mbr;
pub mod pin;
pub mod prompt;
pub mod provision;
pub mod qr;
pub mod record;
pub mod recovery;
pub mod report;
pub mod reseal;
pub mod rollback;
pub mod sealed;
pub mod secret;
pub mod staged;
pub mod status;
pub mod step;
pub mod switch_root;
pub mod sys;
pub mod token;
pub mod tpm;
pub mod update;
pub mod volume;
