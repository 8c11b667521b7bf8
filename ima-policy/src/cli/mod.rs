//! Arguments, and what each command answers.

mod attest;
mod check;
mod closure;
mod generate;
mod kernel;
mod list;
mod manifest;
mod quarantine;
mod reference;
mod sign;
mod verify;
mod watch;

use anyhow::Result;
use clap::{Parser, Subcommand};
use pcr_measure::command::{Answer, Format, docs};

/// IMA and EVM: what a running Linux measures, whether it may run, and what it was.
#[derive(Debug, Parser)]
#[command(name = "ima-policy", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A policy for a root: what is measured, and what may run, with the reason for each rule
    Generate(generate::GenerateArgs),
    /// Whether a kernel takes a policy, before it is given one
    Check(check::CheckArgs),
    /// The files that programs need to run: interpreters, libraries, kernel modules
    Closure(closure::ClosureArgs),
    /// What is known to be good: digests of a root, an image or a good boot, as our JSON or for
    /// Keylime
    Reference(reference::ReferenceArgs),
    /// Sign the files of a root for IMA, and their metadata for EVM
    Sign(sign::SignArgs),
    /// Whether a measurement list leads to PCR 10, and what in it is not as it should be
    Verify(verify::VerifyArgs),
    /// Follow this system's measurement list, and tell the log what is not as it should be
    Watch(watch::WatchArgs),
    /// What a device says of itself, and whether that is a healthy one
    #[command(subcommand)]
    Attest(attest::AttestCommand),
    /// Drop the network but for a few addresses, now and after each restart
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Write the manual pages, or print completions for a shell
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

/// Does what was asked.
pub(crate) fn run(cli: &Cli) -> Result<Answer> {
    match &cli.command {
        Command::Generate(args) => generate::run(args, cli.format),
        Command::Check(args) => check::run(args, cli.format),
        Command::Closure(args) => closure::run(args, cli.format),
        Command::Reference(args) => reference::run(args, cli.format),
        Command::Sign(args) => sign::run(args, cli.format),
        Command::Verify(args) => verify::run(args, cli.format),
        Command::Watch(args) => watch::run(args, cli.format),
        Command::Attest(command) => attest::run(command, cli.format),
        Command::Quarantine(command) => quarantine::run(command, cli.format),
        Command::Docs(args) => docs::run::<Cli>(args),
    }
}
