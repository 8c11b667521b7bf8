//! `verify`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ima_policy::judge::{Judge, Reading};
use ima_policy::reference::{MAX_JSON, Reference};
use ima_policy::signature::Keyring;
use pcr_measure::PcrIndex;
use pcr_measure::command::{Answer, Format, Partly, json, read};
use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::key::MAX_KEY_FILE;

use super::list::{ListArgs, algorithm, records};

/// Faulty entries that are told one by one, unless another number is asked for.
pub(super) const SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The list, for instance /sys/kernel/security/ima/binary_runtime_measurements
    list: PathBuf,
    #[command(flatten)]
    written: ListArgs,
    /// What is known to be good (ima-policy reference); may be given several times
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Who may sign files: certificates or public keys, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
    /// The value of the PCR that the list leads to, from a quote that was verified; SHA-256
    /// unless the hash stands before it
    #[arg(long, value_name = "[HASH:]HEX", value_parser = digest)]
    pcr10: Option<Digest>,
    /// The PCR that the list extends
    #[arg(long, value_name = "PCR", value_parser = pcr, default_value = "10")]
    pcr: PcrIndex,
    /// The digest over PCR 0-9 that the first entry has to have
    #[arg(long, value_name = "[HASH:]HEX", value_parser = digest)]
    boot_aggregate: Option<Digest>,
    /// Tell at most this many faulty entries one by one; all are counted
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN)]
    show: usize,
}

pub(super) fn pcr(text: &str) -> Result<PcrIndex, String> {
    let number = text.parse().map_err(|_| "no number".to_owned())?;
    PcrIndex::new(number).map_err(|error| error.to_string())
}

/// `sha256:00ff...`, or without the hash's name.
fn digest(text: &str) -> Result<Digest, String> {
    let (hash, hex) = match text.split_once(':') {
        Some((name, hex)) => (algorithm(name)?, hex),
        None => (Algorithm::Sha256, text),
    };
    Digest::from_hex(hash, hex.trim_start_matches("0x")).map_err(|error| error.to_string())
}

/// Reads the list once, and tells what of it is not as it should be.
pub(super) fn run(args: &VerifyArgs, format: Format) -> Result<Answer> {
    let reference = reference(&args.reference)?;
    let keyring = keyring(&args.keyring)?;
    let judge = Judge {
        reference: reference.as_ref(),
        keyring: keyring.as_ref(),
        boot_aggregate: args.boot_aggregate.as_ref(),
    };
    let mut reading = Reading::new(judge, args.pcr, args.pcr10.as_ref(), args.show);
    let mut ended = Ok(());
    for record in records(&args.list, args.written.list_hash)? {
        ended = record.and_then(|record| reading.add(&record));
        if ended.is_err() {
            break;
        }
    }
    let found = reading.findings();
    let text = if format == Format::Json { json(&found)? } else { found.to_string() };
    let answer = Answer { text, notes: Vec::new(), yes: found.good };
    match ended {
        Ok(()) => Ok(answer),
        Err(error) => {
            let why = format!("{}: {error}; what stands behind was not read", args.list.display());
            Err(Partly { answer, why }.into())
        }
    }
}

/// What several references know together; `None` if there are none.
pub(super) fn reference(paths: &[PathBuf]) -> Result<Option<Reference>> {
    let mut reference: Option<Reference> = None;
    for path in paths {
        let next = Reference::from_json(&read(path, MAX_JSON)?);
        let next = next.with_context(|| path.display().to_string())?;
        match &mut reference {
            None => reference = Some(next),
            Some(reference) => reference.merge(next)?,
        }
    }
    Ok(reference)
}

/// The keys of several files; `None` if there are none.
pub(super) fn keyring(paths: &[PathBuf]) -> Result<Option<Keyring>> {
    let mut keyring = Keyring::new();
    for path in paths {
        keyring.add(&path.display().to_string(), &read(path, MAX_KEY_FILE)?)?;
    }
    Ok((!paths.is_empty()).then_some(keyring))
}
