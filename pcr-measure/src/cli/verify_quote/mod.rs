//! `verify-quote`: a quote, and what else is known of the boot.

mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use pcr_measure::explain::MeasuredLog;
use pcr_measure::key::MAX_KEY_FILE;
use pcr_measure::manifest::Manifest;
use pcr_measure::quote::boot::{self, LogCheck, ManifestCheck};
use pcr_measure::quote::clock::{ClockChange, Earlier, MAX_EARLIER};
use pcr_measure::quote::{self, AttestationKey, Expected, QuoteError, VerifiedQuote};
use pcr_measure::{Algorithm, PcrBank, PcrSelection};

use super::{Answer, Format, input, log, pcrfile};

/// Largest message or signature that is read, in bytes: a TPM's sizes have 16 bits.
const MAX_STRUCTURE: usize = 64 * 1024;

/// A quote, and what it has to be.
#[derive(Debug, Args)]
pub(crate) struct VerifyQuoteArgs {
    /// What the TPM signed, as tpm2_quote -m writes it
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// The signature, as tpm2_quote -s writes it
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// The attestation key that is trusted: a TPM's public area (of which it is checked that the
    /// key is restricted), PEM or DER
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The nonce that was sent to the TPM
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// The PCRs, exactly, as 0-9,15 or sha384:0-9; once per bank, or joined by +
    #[arg(long, required = true, value_delimiter = '+', value_name = "LIST")]
    pcrs: Vec<PcrSelection>,
    /// Their values, as tpm2_quote -o writes them (with -F values in the order of --pcrs) or
    /// tpm2_pcrread prints them, or as {"0":"<hex>"} [default: those that the log leads to]
    #[arg(long, required_unless_present = "log", value_name = "FILE")]
    values: Option<PathBuf>,
    /// The event log of the boot: whether it leads to the quoted values
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// The boot manifest of what should have booted: which component differs
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// An earlier quote of the same key, verified then: its message, or what this command said
    /// of it as JSON; whether the TPM's clock went on
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
}

/// All that is known of a quote that was accepted.
struct Findings {
    quote: VerifiedQuote,
    since: Option<ClockChange>,
    log: Option<LogCheck>,
    manifest: Option<ManifestCheck>,
}

impl Findings {
    fn is_good(&self) -> bool {
        !self.since.is_some_and(ClockChange::is_refusal)
            && self.log.as_ref().is_none_or(|log| log.agrees)
            && self.manifest.as_ref().is_none_or(|check| check.as_expected)
    }
}

/// Verifies a quote and compares it with what else is known.
pub(super) fn run(args: &VerifyQuoteArgs, format: Format) -> Result<Answer> {
    let nonce = hex::decode(&args.nonce)
        .map_err(|error| anyhow!("--nonce: no hexadecimal digits: {error}"))?;
    let message = input::read(&args.message, MAX_STRUCTURE)?;
    let signature = input::read(&args.signature, MAX_STRUCTURE)?;
    let key = key(&args.key)?;
    let manifest = args.manifest.as_deref().map(|path| manifest(path, &args.pcrs)).transpose()?;
    let earlier = args.previous.as_deref().map(earlier).transpose()?;
    let log_bytes = args.log.as_deref().map(input::log).transpose()?;
    let log = match (&args.log, &log_bytes) {
        (Some(path), Some(bytes)) => Some((path.as_path(), log::parse(path, bytes)?)),
        _ => None,
    };
    let mut notes = Vec::new();
    let replayed = match &log {
        Some((path, log)) => Some(replay(path, log, &args.pcrs, &mut notes)?),
        None => None,
    };
    let values = match (&args.values, &replayed) {
        (Some(path), _) => {
            let bytes = pcrfile::read(path)?;
            pcrfile::quoted_values(&bytes, &args.pcrs)
                .with_context(|| format!("cannot take PCR values from {}", path.display()))
        }
        (None, Some(replayed)) => Ok(replayed.clone()),
        (None, None) => bail!("give --values or --log"),
    };
    // A quote that is bad without any values is refused, whatever they are.
    let (values, unusable) = match values {
        Ok(values) => (values, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    let expected = Expected { nonce: &nonce, selections: &args.pcrs, values: &values };
    let quote = match quote::verify(&message, &signature, &key, &expected) {
        Ok(quote) => quote,
        Err(error) if error.is_refusal() => {
            return report::refused(args, &key, &error, notes, format);
        }
        Err(error @ QuoteError::Values(_)) => {
            let source = args.values.as_ref().or(args.log.as_ref());
            let lacking = || {
                let from = source.map(|path| path.display().to_string()).unwrap_or_default();
                anyhow!(error).context(format!("cannot use {from}"))
            };
            return Err(unusable.unwrap_or_else(lacking));
        }
        Err(error) => return Err(error.into()),
    };
    notes.extend(remarks(args, &key, &nonce));
    let measured = log.as_ref().map(|(_, log)| MeasuredLog::from_log(log));
    let findings = Findings {
        since: earlier
            .map(|(path, earlier)| {
                earlier.until(&quote).with_context(|| path.display().to_string())
            })
            .transpose()?,
        log: log
            .as_ref()
            .zip(replayed.as_deref())
            .map(|((_, log), replayed)| LogCheck::new(log, replayed, &quote)),
        manifest: manifest.map(|manifest| ManifestCheck::new(&manifest, measured.as_ref(), &quote)),
        quote,
    };
    let text = match format {
        Format::Text => report::text(args, &key, &findings),
        Format::Json => report::accepted(args, &key, &nonce, &findings)?,
    };
    Ok(Answer { text, notes, yes: findings.is_good() })
}

fn key(path: &Path) -> Result<AttestationKey> {
    let bytes = input::read(path, MAX_KEY_FILE)?;
    AttestationKey::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

/// Reads a manifest, which can say nothing about other banks than SHA-256.
fn manifest(path: &Path, pcrs: &[PcrSelection]) -> Result<Manifest> {
    if !pcrs.iter().any(|selection| selection.bank() == Algorithm::Sha256) {
        bail!("{} is about the sha256 bank: have PCRs of it quoted", path.display());
    }
    input::manifest(path)
}

/// An earlier quote. It is not verified again.
fn earlier(path: &Path) -> Result<(&Path, Earlier)> {
    let bytes = input::read(path, MAX_EARLIER)?;
    let unusable = || format!("cannot use {} as an earlier quote", path.display());
    Ok((path, Earlier::parse(&bytes).with_context(unusable)?))
}

/// The values that a log leads to, for every selected PCR.
fn replay(
    path: &Path,
    log: &pcr_measure::eventlog::EventLog<'_>,
    pcrs: &[PcrSelection],
    notes: &mut Vec<String>,
) -> Result<Vec<PcrBank>> {
    notes.extend(log::broken(path, log));
    let banks = boot::replay(log, pcrs);
    let banks = banks.with_context(|| format!("cannot use {}", path.display()))?;
    notes.extend(pcrs.iter().filter_map(|pcrs| log::without_digest(log, pcrs.bank())));
    Ok(banks)
}

/// What the one who asked should know of an accepted quote.
fn remarks(args: &VerifyQuoteArgs, key: &AttestationKey, nonce: &[u8]) -> Vec<String> {
    let mut notes = Vec::new();
    if !key.has_attributes() {
        notes.push(format!(
            "{} does not say whether the key is restricted; only of a TPM's public area (tpm2_readpublic -o) it is checked",
            args.key.display()
        ));
    }
    if nonce.is_empty() {
        notes.push("without a nonce the quote may be of any age".to_owned());
    }
    notes
}
