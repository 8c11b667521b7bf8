//! Arguments, and what each command answers.

mod explain;
mod input;
mod log;
mod pcrfile;
mod policy;
mod predict;
mod table;
mod verify_quote;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pcr_measure::{Algorithm, PcrBank};
use serde::Serialize;

/// Reads, predicts, replays and explains PCRs, without a TPM.
#[derive(Debug, Parser)]
#[command(name = "pcr-measure", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs, as the crate's README has it
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Event logs
    #[command(subcommand)]
    Log(LogCommand),
    /// The PCR values that a boot manifest leads to
    Predict {
        /// The boot manifest (manifest.json)
        manifest: PathBuf,
    },
    /// Which component of a boot is not as expected
    Explain(ExplainArgs),
    /// Policy digests as the TPM computes them
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Whether a TPM signed these PCR values, now and not before
    VerifyQuote(verify_quote::VerifyQuoteArgs),
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Every event in readable form
    Show {
        /// The log, for instance /sys/kernel/security/tpm0/binary_bios_measurements
        file: PathBuf,
        /// The bank whose digests the table shows [default: sha256 if the log has it]
        #[arg(long)]
        bank: Option<Algorithm>,
    },
    /// The PCR values that the events lead to
    Replay {
        /// The log
        file: PathBuf,
        /// Only this bank [default: every bank of the log]
        #[arg(long)]
        bank: Option<Algorithm>,
    },
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The event log of the boot
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The boot manifest of what should have booted
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// PCR values of the TPM, as tpm2_pcrread prints them or as {"0":"<hex>"}
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,
}

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Answer {
    /// For stdout.
    pub(crate) text: String,
    /// For stderr, line by line.
    pub(crate) notes: Vec<String>,
    /// Whether the answer is positive.
    pub(crate) yes: bool,
}

impl Answer {
    const fn yes(text: String) -> Self {
        Self { text, notes: Vec::new(), yes: true }
    }
}

/// Does what was asked.
pub(crate) fn run(cli: &Cli) -> Result<Answer> {
    match &cli.command {
        Command::Log(LogCommand::Show { file, bank }) => log::show(file, *bank, cli.format),
        Command::Log(LogCommand::Replay { file, bank }) => log::replay(file, *bank, cli.format),
        Command::Predict { manifest } => predict::predict(manifest, cli.format),
        Command::Explain(args) => explain::run(args, cli.format),
        Command::Policy(command) => policy::run(command, cli.format),
        Command::VerifyQuote(args) => verify_quote::run(args, cli.format),
    }
}

fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// A bank as tpm2_pcrread prints it, so that one may stand for the other.
fn bank_text(bank: &PcrBank) -> String {
    let mut out = format!("  {}:\n", bank.algorithm());
    for (pcr, value) in bank.iter() {
        out.push_str(&format!("    {pcr:<2}: 0x{}\n", value.to_string().to_uppercase()));
    }
    out
}
