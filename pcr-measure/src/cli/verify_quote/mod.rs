//! `verify-quote`: a quote, and what else is known of the boot.

mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use pcr_measure::eventlog::Event;
use pcr_measure::explain::{Difference, Explanation, MeasuredLog, explain};
use pcr_measure::key::MAX_KEY_FILE;
use pcr_measure::manifest::Manifest;
use pcr_measure::quote::clock::{self, ClockChange};
use pcr_measure::quote::{self, AttestationKey, Expected, QuoteError, VerifiedQuote};
use pcr_measure::structures::{Attest, ClockInfo};
use pcr_measure::{Algorithm, Digest, PcrBank, PcrIndex, PcrSelection};
use serde::{Deserialize, Serialize};

use super::{Answer, Format, input, log, pcrfile};

/// Firmware and boot loaders measure up to PCR 9, and log it; an operating system and
/// its programs extend those above, and have logs of their own (UAPI group, Linux TPM
/// PCR Registry).
const LAST_FIRMWARE_PCR: u8 = 9;
/// Largest message or signature that is read, in bytes: a TPM's sizes have 16 bits.
const MAX_STRUCTURE: usize = 64 * 1024;
/// Largest earlier answer (JSON) that is read, in bytes.
const MAX_PREVIOUS: usize = 1024 * 1024;

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

/// What is taken from an earlier answer.
#[derive(Deserialize)]
struct PreviousJson {
    quote: Option<PreviousQuote>,
}

#[derive(Deserialize)]
struct PreviousQuote {
    qualified_signer: String,
    clock: ClockInfo,
}

/// A log beside the quoted values.
#[derive(Serialize)]
struct LogCheck {
    agrees: bool,
    contradictions: Vec<Contradiction>,
    /// Quoted PCRs that were extended after the firmware, of which its log knows
    /// nothing: neither for nor against it.
    silent: Vec<PcrIndex>,
}

#[derive(Serialize)]
struct Contradiction {
    bank: String,
    pcr: PcrIndex,
    log: Digest,
    quoted: Digest,
}

/// A manifest beside the quoted values.
struct ManifestCheck {
    /// PCRs of the seal that the quote is not over.
    not_quoted: Vec<PcrIndex>,
    /// Other PCRs of the manifest that the quote is not over.
    passed_over: Vec<PcrIndex>,
    differences: Vec<Difference>,
}

/// All that is known of a quote that was accepted.
struct Findings {
    quote: VerifiedQuote,
    since: Option<ClockChange>,
    log: Option<LogCheck>,
    manifest: Option<ManifestCheck>,
}

impl ManifestCheck {
    const fn is_as_expected(&self) -> bool {
        self.not_quoted.is_empty() && self.differences.is_empty()
    }
}

impl Findings {
    fn is_good(&self) -> bool {
        !self.since.is_some_and(ClockChange::is_refusal)
            && self.log.as_ref().is_none_or(|log| log.agrees)
            && self.manifest.as_ref().is_none_or(ManifestCheck::is_as_expected)
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
    let previous = args.previous.as_deref().map(previous).transpose()?;
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
        since: previous
            .map(|(path, signer, clock)| since(path, &signer, &clock, &quote))
            .transpose()?,
        log: log.as_ref().zip(replayed.as_deref()).map(|((_, log), replayed)| {
            let named: Vec<_> = log.events.iter().filter_map(Event::extended_pcr).collect();
            compare(replayed, &named, &quote)
        }),
        manifest: manifest.map(|manifest| judge(&manifest, measured.as_ref(), &quote)),
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

/// Signer and clock of an earlier quote. It is not verified again.
fn previous(path: &Path) -> Result<(&Path, Vec<u8>, ClockInfo)> {
    let bytes = input::read(path, MAX_PREVIOUS)?;
    let unusable = || format!("cannot use {} as an earlier quote", path.display());
    if bytes.trim_ascii_start().starts_with(b"{") {
        let json: PreviousJson = serde_json::from_slice(&bytes).with_context(unusable)?;
        let quote = json.quote.context("it was refused then").with_context(unusable)?;
        let signer = hex::decode(&quote.qualified_signer)
            .map_err(|error| anyhow!("qualified_signer: {error}"))
            .with_context(unusable)?;
        return Ok((path, signer, quote.clock));
    }
    let attest = Attest::parse(&bytes).with_context(unusable)?;
    if attest.magic != Attest::GENERATED {
        return Err(anyhow!(QuoteError::Magic(attest.magic))).with_context(unusable);
    }
    Ok((path, attest.qualified_signer.to_vec(), attest.clock))
}

fn since(
    path: &Path,
    signer: &[u8],
    clock: &ClockInfo,
    quote: &VerifiedQuote,
) -> Result<ClockChange> {
    if signer != quote.qualified_signer() {
        bail!(
            "{} is of another key ({}): clocks of two TPMs cannot be compared",
            path.display(),
            hex::encode(signer)
        );
    }
    Ok(clock::compare(clock, quote.clock()))
}

/// The values that a log leads to, for every selected PCR.
fn replay(
    path: &Path,
    log: &pcr_measure::eventlog::EventLog<'_>,
    pcrs: &[PcrSelection],
    notes: &mut Vec<String>,
) -> Result<Vec<PcrBank>> {
    notes.extend(log::broken(path, log));
    let mut banks = Vec::new();
    for selection in pcrs {
        let algorithm = selection.bank();
        let unusable = || format!("cannot use {}", path.display());
        let values = log.replay(algorithm).with_context(unusable)?;
        notes.extend(log::without_digest(log, algorithm));
        let mut bank = PcrBank::new(algorithm);
        for pcr in selection.iter() {
            bank.set(pcr, values.get_or_reset(pcr))?;
        }
        banks.push(bank);
    }
    Ok(banks)
}

/// Where the log leads elsewhere than to the quoted values.
/// `named` are the PCRs that it has events of.
fn compare(replayed: &[PcrBank], named: &[PcrIndex], quote: &VerifiedQuote) -> LogCheck {
    let (mut contradictions, mut silent) = (Vec::new(), Vec::new());
    for bank in replayed {
        let quoted = quote.bank(bank.algorithm());
        for (pcr, log) in bank.iter() {
            if let Some(quoted) = quoted.get(pcr).filter(|quoted| *quoted != log) {
                if pcr.get() > LAST_FIRMWARE_PCR && !named.contains(&pcr) {
                    silent.push(pcr);
                    continue;
                }
                let bank = bank.algorithm().to_string();
                contradictions.push(Contradiction { bank, pcr, log, quoted });
            }
        }
    }
    LogCheck { agrees: contradictions.is_empty(), contradictions, silent }
}

/// What of the manifest is not as expected. What the quote is not over nobody
/// attests: it counts against a PCR of the seal, and is passed over elsewhere. The
/// latch says nothing about what booted, quoted or not.
fn judge(manifest: &Manifest, log: Option<&MeasuredLog>, quote: &VerifiedQuote) -> ManifestCheck {
    let quoted = quote.bank(Algorithm::Sha256);
    let explanation: Explanation = explain(&manifest.reference(), log, &quoted);
    let is_quoted = |pcr: PcrIndex| quoted.get(pcr).is_some();
    let left_out = |sealed: bool| {
        let out = explanation.boot_pcrs().filter(|p| p.sealed == sealed && !is_quoted(p.pcr));
        out.map(|pcr| pcr.pcr).collect()
    };
    let (not_quoted, passed_over) = (left_out(true), left_out(false));
    let mut differences = explanation.boot_differences();
    differences.retain(|difference| is_quoted(difference.pcr));
    ManifestCheck { not_quoted, passed_over, differences }
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
