//! `extend`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use pcr_measure::command::live::TpmArgs;
use pcr_measure::digest::several;
use pcr_measure::text::printable;
use pcr_measure::tpm::{Tpm, TpmError};
use pcr_measure::userlog::{Boot, Content, Pending, Record, Systemd};
use pcr_measure::{Algorithm, Digest, PcrIndex};
use serde::Serialize;

use super::{Answer, Format, json};

#[derive(Debug, Args)]
#[group(id = "measured", required = true, multiple = false, args = ["file", "digest"])]
pub(super) struct ExtendArgs {
    /// The PCR
    #[arg(long, value_name = "N", value_parser = pcr)]
    pcr: PcrIndex,
    /// Measure this file, in every active bank
    #[arg(long)]
    file: Option<PathBuf>,
    /// Extend this digest, in one bank
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// The bank of --digest
    #[arg(long, default_value = "sha256", requires = "digest")]
    bank: Algorithm,
    /// Add a record to this log of userspace's measurements; made if it is not there
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
    /// What the record says it is [default: the file's name]
    #[arg(long, value_name = "TEXT", requires = "event_log")]
    description: Option<String>,
    #[command(flatten)]
    tpm: TpmArgs,
}

#[derive(Serialize)]
struct ExtendJson {
    pcr: PcrIndex,
    digests: BTreeMap<String, Digest>,
}

/// Extends a PCR, and says what was extended.
pub(super) fn run(args: &ExtendArgs, format: Format) -> Result<Answer> {
    let mut tpm = args.tpm.open()?;
    let digests = digests(args, &mut tpm)?;
    match &args.event_log {
        None => tpm.extend(args.pcr, &digests)?,
        Some(path) => {
            let record = record(args, &digests)?;
            let pending = Pending::open(path)?;
            match tpm.extend(args.pcr, &digests) {
                Ok(()) => pending.write(&record).with_context(|| {
                    format!("PCR {} was extended, but its record is not in the log", args.pcr)
                })?,
                // The TPM said no: nothing was measured. Otherwise nobody knows, and
                // the mark stays.
                Err(refused @ TpmError::Response(_)) => {
                    pending.withdraw()?;
                    return Err(refused.into());
                }
                Err(unknown) => return Err(unknown.into()),
            }
        }
    }
    Ok(Answer::yes(match format {
        Format::Text => digests.iter().map(|d| format!("{}: {d}\n", d.algorithm())).collect(),
        Format::Json => json(&ExtendJson {
            pcr: args.pcr,
            digests: digests.iter().map(|d| (d.algorithm().to_string(), *d)).collect(),
        })?,
    }))
}

fn digests(args: &ExtendArgs, tpm: &mut Tpm) -> Result<Vec<Digest>> {
    if let Some(hex) = &args.digest {
        let digest = Digest::from_hex(args.bank, hex).context("--digest")?;
        // A TPM passes over digests of banks that are not active, and says that all
        // is well (TPM 2.0 Library 1.59, Part 3, 22.2.1).
        let (bank, has) = (args.bank, tpm.banks()?);
        return if has.contains(&bank) {
            Ok(vec![digest])
        } else {
            Err(TpmError::NoBank { bank, has }.into())
        };
    }
    let path = args.file.as_deref().context("give --file or --digest")?;
    let banks = tpm.banks()?;
    File::open(path)
        .and_then(|mut file| several::of_reader(&banks, &mut file))
        .with_context(|| format!("cannot read {}", path.display()))
}

fn record(args: &ExtendArgs, digests: &[Digest]) -> Result<Record> {
    let Boot { id, timestamp } = Boot::now()?;
    let name = args.file.as_ref().map(|path| path.display().to_string());
    let content = Systemd {
        string: args.description.clone().or(name).map(|text| printable(&text)),
        boot_id: id,
        timestamp,
        event_type: None,
    };
    Ok(Record { pcr: args.pcr, digests: digests.to_vec(), content: Content::Systemd(content) })
}

fn pcr(text: &str) -> Result<PcrIndex, String> {
    let number = text.parse().map_err(|_| "a PCR is a number from 0 to 23".to_owned())?;
    PcrIndex::new(number).map_err(|error| error.to_string())
}
