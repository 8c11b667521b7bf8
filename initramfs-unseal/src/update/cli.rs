//! The command line of `msec-update`. It needs nothing but clap, so that image-builder
//! makes the manual page from this very file.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Update the boot of this device: verify, install, try, confirm.
#[derive(Debug, Parser)]
#[command(name = "msec-update", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// How to print it.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub(crate) format: Format,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Install a signed bundle into the slot that does not run, to be tried at the next boot.
    ///
    /// The TPM verifies the vendor's signature, the slot is written and read back, and
    /// the root is made to open in the new boot too: by the vendor's signature, or for a
    /// root that is bound to single boots by the recovery key, which is asked for. Until
    /// the last step the old slot boots. Exit code 0: installed. 1: refused. 2: it could
    /// not be done.
    Install {
        /// The bundle; `-` reads it from standard input.
        bundle: PathBuf,
        /// How often the new boot is tried before the old one is taken again.
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        attempts: u32,
    },
    /// Say that the running boot is good, and retire the one that it replaces.
    ///
    /// In a boot that the TPM unlocked. The rollback counter goes to the running
    /// version; a root that is bound to single boots forgets the old one at the next
    /// boot. May be called at every boot. Exit code 0: good. 1: refused. 2: it could not
    /// be done.
    Confirm {
        /// Leave the old boot as it is: it still unlocks.
        #[arg(long)]
        keep: bool,
    },
    /// Give the slot on trial up: the good one boots next.
    Cancel {
        /// Only if it is the one that runs; else it is refused (exit code 1).
        #[arg(long)]
        if_running: bool,
    },
    /// Say what is in the slots, which one runs and which one boots next.
    Status,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}
