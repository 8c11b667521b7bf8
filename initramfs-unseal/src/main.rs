//! `/init` of the initramfs when it is PID 1, a command line tool otherwise.

mod cli;

use anyhow::{Context as _, Result};
use clap::Parser;
use cli::{Cli, Command, Format};
use initramfs_unseal::approve::{ApproveError, Update};
use initramfs_unseal::boot::Refused;
use initramfs_unseal::config::Config;
use initramfs_unseal::provision::existing::{self, ExistingError};
use initramfs_unseal::reseal::request::{Request, RequestError};
use initramfs_unseal::rollback::RollbackError;
use initramfs_unseal::{step, sys};
use serde::Serialize;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        // The kernel hands words of the command line over as arguments: none
        // of them is looked at.
        initramfs_unseal::init::run()
    }
    let done = match Cli::parse().command {
        Command::Unlock { config, check: true, .. } => check(&config),
        Command::Unlock { config, or_power_off, .. } => {
            let done = step::unlock(&config);
            if done.is_err() && or_power_off {
                // Everybody at a console was told why.
                sys::power_off()
            }
            done.map(|()| ExitCode::SUCCESS)
        }
        Command::Status { format } => status(format),
        Command::Approve { next, signatures, format } => {
            approve(&Update { manifest: next, signatures }, format)
        }
        Command::Rollback { to, format } => rollback(to, format),
        Command::Provision { config } => provision(&config),
        Command::Reseal { next, trust_this_boot, retire, format } => {
            let request =
                if retire { Request::Retire } else { Request::Seal { next, trust_this_boot } };
            reseal(&request, format)
        }
    };
    done.unwrap_or_else(|why| {
        eprintln!("initramfs-unseal: {why:#}");
        let refused = why.downcast_ref().is_some_and(RollbackError::is_refusal)
            || why.downcast_ref().is_some_and(RequestError::is_refusal)
            || why.downcast_ref().is_some_and(ExistingError::is_refusal)
            || why.downcast_ref().is_some_and(ApproveError::is_refusal)
            || why.is::<Refused>();
        ExitCode::from(if refused { 1 } else { 2 })
    })
}

fn check(config: &Path) -> Result<ExitCode> {
    println!("{}", Config::read(config)?.device().display());
    Ok(ExitCode::SUCCESS)
}

fn rollback(to: u64, format: Format) -> Result<ExitCode> {
    print(&initramfs_unseal::rollback::rollback(to)?, format)
}

fn approve(update: &Update, format: Format) -> Result<ExitCode> {
    print(&initramfs_unseal::approve::approve(update)?, format)
}

fn print(done: &(impl Display + Serialize), format: Format) -> Result<ExitCode> {
    match format {
        Format::Text => println!("{done}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(done)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn provision(config: &Path) -> Result<ExitCode> {
    sys::harden().context("keeping secrets in this process")?;
    existing::provision(&Config::read(config)?)?;
    Ok(ExitCode::SUCCESS)
}

fn reseal(request: &Request, format: Format) -> Result<ExitCode> {
    sys::harden().context("keeping secrets in this process")?;
    print(&initramfs_unseal::reseal::request::reseal(request)?, format)
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
