//! Arguments, and what each command answers.

mod change;
mod explain;
#[cfg(feature = "tpm")]
mod extend;
mod input;
mod log;
mod pcrfile;
mod policy;
mod predict;
#[cfg(feature = "tpm")]
mod quote;
#[cfg(feature = "tpm")]
mod read;
mod rollback;
mod sign;
mod userlog;
mod verify_quote;
mod verify_signature;
mod wanted;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
pub(crate) use pcr_measure::command::Answer;
use pcr_measure::command::{Format, docs, json};
use pcr_measure::{Algorithm, PcrBank};

/// PCRs: event logs, prediction, explanation, policies, signatures and quotes.
#[derive(Debug, Parser)]
#[command(name = "pcr-measure", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// PCR values of a live TPM
    #[cfg(feature = "tpm")]
    Read(read::ReadArgs),
    /// Measure a file into a PCR, or extend it with a digest
    #[cfg(feature = "tpm")]
    Extend(extend::ExtendArgs),
    /// PCR values that a key of the TPM vouches for
    #[cfg(feature = "tpm")]
    Quote(quote::QuoteArgs),
    /// Make a key for quotes, or find the one that is there
    #[cfg(feature = "tpm")]
    CreateAk(quote::CreateAkArgs),
    /// Event logs of firmware, and the log of what userspace measured
    #[command(subcommand)]
    Log(LogCommand),
    /// The PCR values that boot manifests and other artifacts lead to
    Predict(predict::PredictArgs),
    /// Which component of a boot is not as expected
    Explain(ExplainArgs),
    /// Policy digests as the TPM computes them
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Signs the policies of boot manifests, as systemd-measure does
    Sign(sign::SignArgs),
    /// Whether a key signed a policy
    VerifySignature(verify_signature::VerifyArgs),
    /// Whether a TPM signed these PCR values, now and not before
    VerifyQuote(verify_quote::VerifyQuoteArgs),
    /// Write the manual pages, or print completions for a shell
    #[command(hide = true)]
    Docs(docs::DocsArgs),
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
    /// PCR values of the TPM, as tpm2_pcrread prints them or as {"0":"<hex>"};
    /// `live` reads them from this machine's
    #[arg(long, value_name = "FILE|live")]
    pcrs: Option<PathBuf>,
    #[cfg(feature = "tpm")]
    #[command(flatten)]
    tpm: pcr_measure::command::live::TpmArgs,
}

/// Does what was asked.
pub(crate) fn run(cli: &Cli) -> Result<Answer> {
    match &cli.command {
        #[cfg(feature = "tpm")]
        Command::Read(args) => read::run(args, cli.format),
        #[cfg(feature = "tpm")]
        Command::Extend(args) => extend::run(args, cli.format),
        #[cfg(feature = "tpm")]
        Command::Quote(args) => quote::quote(args, cli.format),
        #[cfg(feature = "tpm")]
        Command::CreateAk(args) => quote::create_ak(args, cli.format),
        Command::Log(LogCommand::Show { file, bank }) => log::show(file, *bank, cli.format),
        Command::Log(LogCommand::Replay { file, bank }) => log::replay(file, *bank, cli.format),
        Command::Predict(args) => predict::predict(args, cli.format),
        Command::Explain(args) => explain::run(args, cli.format),
        Command::Policy(command) => policy::run(command, cli.format),
        Command::Sign(args) => sign::run(args),
        Command::VerifySignature(args) => verify_signature::run(args, cli.format),
        Command::VerifyQuote(args) => verify_quote::run(args, cli.format),
        Command::Docs(args) => docs::run::<Cli>(args),
    }
}

/// A bank as tpm2_pcrread prints it, so that one may stand for the other.
fn bank_text(bank: &PcrBank) -> String {
    let mut out = format!("  {}:\n", bank.algorithm());
    for (pcr, value) in bank.iter() {
        out.push_str(&format!("    {pcr:<2}: 0x{}\n", value.to_string().to_uppercase()));
    }
    out
}
