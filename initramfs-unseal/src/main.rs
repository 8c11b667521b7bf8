//! `/init` of the initramfs when it is PID 1, a command line tool otherwise.

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use initramfs_unseal::reseal::request::{Request, RequestError};
use initramfs_unseal::rollback::RollbackError;
use std::path::PathBuf;
use std::process::ExitCode;

/// Unlock a TPM-sealed LUKS2 root; as PID 1 of an initramfs, do it now.
#[derive(Debug, Parser)]
#[command(name = "initramfs-unseal", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what unlocked the running root and whether its secret can still be had.
    ///
    /// Exit code 0: the secret is out of reach, as it should be. 1: it can be
    /// unsealed. 2: that could not be found out.
    Status {
        /// How to print it.
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    if std::process::id() == 1 {
        // The kernel hands words of the command line over as arguments: none
        // of them is looked at.
        initramfs_unseal::init::run()
    }
    let done = match Cli::parse().command {
        Command::Status { format } => status(format),
        Command::Rollback { to, format } => rollback(to, format),
        Command::Reseal { next, trust_this_boot, retire, format } => {
            let request =
                if retire { Request::Retire } else { Request::Seal { next, trust_this_boot } };
            reseal(&request, format)
        }
    };
    done.unwrap_or_else(|why| {
        eprintln!("initramfs-unseal: {why:#}");
        let refused = why.downcast_ref().is_some_and(RollbackError::is_refusal)
            || why.downcast_ref().is_some_and(RequestError::is_refusal);
        ExitCode::from(if refused { 1 } else { 2 })
    })
}

fn rollback(to: u64, format: Format) -> Result<ExitCode> {
    let moved = initramfs_unseal::rollback::rollback(to)?;
    match format {
        Format::Text => println!("{moved}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(&moved)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn reseal(request: &Request, format: Format) -> Result<ExitCode> {
    initramfs_unseal::sys::keep_secrets().context("keeping secrets in this process")?;
    let done = initramfs_unseal::reseal::request::reseal(request)?;
    match format {
        Format::Text => println!("{done}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(&done)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn status(format: Format) -> Result<ExitCode> {
    let status = initramfs_unseal::status::status()?;
    match format {
        Format::Text => print!("{status}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(&status)?),
    }
    Ok(ExitCode::from(match status.sealed.as_str() {
        "unreachable" => 0,
        "reachable" => 1,
        _ => 2,
    }))
}
