//! The command line. It needs nothing but clap, so that image-builder makes the
//! manual pages from this very file.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// The configuration inside an initramfs.
pub(crate) const CONFIG: &str = "/etc/initramfs-unseal.json";

/// Unlock a TPM-sealed LUKS2 root; as PID 1 of an initramfs, do it now.
#[derive(Debug, Parser)]
#[command(name = "initramfs-unseal", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does beside being `/init`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open the root from within an initramfs that is not ours, and end.
    ///
    /// The TPM opens it, or the recovery key, asked for on every console; then
    /// /dev/mapper/NAME is there to be mounted. Whatever happens, nothing sealed
    /// can be had after it in this boot. Exit code 0: open. 1: refused, or nobody
    /// had the key. 2: it could not be done. After 1 and 2 the caller restarts or
    /// powers off, and gives nobody a shell.
    Unlock {
        /// The configuration; part of the initramfs, and measured with it.
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Turn the power off instead of ending with 1 or 2.
        #[arg(long)]
        or_power_off: bool,
        /// Only read the configuration. If it can be used, print the device that will
        /// be open and end with 0, else with 2.
        #[arg(long, conflicts_with = "or_power_off")]
        check: bool,
    },
    /// Say what unlocked the running root and whether its secret can still be had.
    ///
    /// Exit code 0: the secret is out of reach, as it should be. 1: it can be
    /// unsealed. 2: that could not be found out.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Give a LUKS2 root that exists to the TPM, from the running system.
    ///
    /// Asks for a passphrase of the root, seals a new secret to the running boot, and
    /// shows a recovery key once. Its passphrases stay. Exit code 0: provisioned. 1:
    /// refused. 2: it could not be done.
    Provision {
        /// The configuration, as it lies in the initramfs.
        #[arg(long, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
    },
    /// Seal the root's key anew, before an update changes what is measured.
    ///
    /// Asks for the recovery key. The root is released from then on to the running
    /// boot and to the boots that the given manifests predict, at every instant to
    /// the old ones or to the new ones. Exit code 0: sealed. 1: refused. 2: it could
    /// not be done.
    Reseal {
        /// Boot manifest of an update that is to be installed; up to seven times.
        #[arg(long, value_name = "MANIFEST")]
        next: Vec<PathBuf>,
        /// Seal to the running boot although the recovery key opened it.
        #[arg(long)]
        trust_this_boot: bool,
        /// Leave all boots but the next one that the TPM unlocks; asks for no key.
        #[arg(long, conflicts_with_all = ["next", "trust_this_boot"])]
        retire: bool,
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Let the TPM verify the signature of an update before it is installed.
    ///
    /// For a root whose binding is `signed`. The first boot of the update then need not
    /// verify it again, and one that this board would not take is found while the old
    /// image still runs. Exit code 0: approved. 1: refused. 2: it could not be done.
    Approve {
        /// The boot manifest of the update.
        #[arg(long, value_name = "MANIFEST")]
        next: PathBuf,
        /// Its signed policies (tpm2-pcr-signature.json).
        #[arg(long, value_name = "FILE")]
        signatures: PathBuf,
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Move the rollback counter, so that images older than N unlock no more.
    ///
    /// For a root whose binding is `signed`, in a boot that the TPM unlocked.
    /// There is no way back. Exit code 0: the counter stands at N or beyond.
    /// 1: refused. 2: it could not be done.
    Rollback {
        /// The oldest version that shall still unlock; at most the running image's.
        #[arg(long, value_name = "N")]
        to: u64,
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

/// How results are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}
