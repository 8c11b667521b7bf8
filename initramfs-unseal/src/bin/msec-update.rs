//! `msec-update`: updates of the running device.

#[path = "../update/cli.rs"]
mod cli;

use anyhow::{Context as _, Result};
use clap::Parser;
use cli::{Cli, Command, Format};
use initramfs_unseal::sys;
use initramfs_unseal::update::{self, UpdateError};
use serde::Serialize;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { command, format } = Cli::parse();
    let done =
        sys::harden().context("keeping secrets in this process").and_then(|()| match command {
            Command::Install { bundle, attempts } => install(&bundle, attempts, format),
            Command::Confirm { keep } => print(&update::confirm(keep)?, format),
            Command::Cancel { if_running } => {
                let state = update::cancel(if_running)?;
                print(&Good(state.good), format)
            }
            Command::Status => print(&update::status()?, format),
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("msec-update: {why:#}");
            let refused = why.downcast_ref().is_some_and(UpdateError::is_refusal);
            ExitCode::from(if refused { 1 } else { 2 })
        }
    }
}

/// The slot that boots next.
#[derive(Serialize)]
struct Good<T>(T);

impl<T: Display> Display for Good<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nothing is on trial; slot {} boots next", self.0)
    }
}

fn install(bundle: &Path, attempts: u32, format: Format) -> Result<()> {
    let say = |line: &str| eprintln!("msec-update: {line}");
    let done = if bundle == Path::new("-") {
        update::install(io::stdin().lock(), attempts, say)?
    } else {
        let file = File::open(bundle).with_context(|| format!("{}", bundle.display()))?;
        update::install(file, attempts, say)?
    };
    print(&done, format)
}

fn print(done: &(impl Display + Serialize), format: Format) -> Result<()> {
    match format {
        Format::Text => print!("{}", with_end(&done.to_string())),
        Format::Json => println!("{}", serde_json::to_string_pretty(done)?),
    }
    Ok(())
}

fn with_end(text: &str) -> String {
    format!("{}\n", text.trim_end())
}
