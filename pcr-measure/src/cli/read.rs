//! `read`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use clap::Args;
use pcr_measure::command::live::TpmArgs;
use pcr_measure::{Algorithm, PcrBank, PcrIndex, PcrSelection};
use serde::Serialize;

use super::{Answer, Format, bank_text, json};

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// Only this bank [default: every active bank]
    #[arg(long)]
    bank: Option<Algorithm>,
    /// Only these PCRs, as 0-9,15 [default: all]
    #[arg(long)]
    pcrs: Option<PcrSelection>,
    #[command(flatten)]
    tpm: TpmArgs,
}

#[derive(Serialize)]
struct ReadJson {
    banks: BTreeMap<String, PcrBank>,
}

/// PCR values of a live TPM.
pub(super) fn run(args: &ReadArgs, format: Format) -> Result<Answer> {
    let mut tpm = args.tpm.open()?;
    let banks = match (args.bank, args.pcrs) {
        // `--pcrs 0-9` is of the SHA-256 bank until another one is named.
        (Some(bank), Some(pcrs)) if ![bank, Algorithm::Sha256].contains(&pcrs.bank()) => {
            bail!("--bank {bank} and --pcrs {pcrs} name two banks")
        }
        (Some(bank), _) => vec![bank],
        (None, Some(pcrs)) => vec![pcrs.bank()],
        (None, None) => tpm.banks()?,
    };
    let mut values = Vec::new();
    for bank in banks {
        let all = || PcrSelection::new(bank, PcrIndex::all());
        let wanted = args.pcrs.map_or_else(all, |pcrs| PcrSelection::new(bank, pcrs.iter()))?;
        values.push(tpm.pcrs(&wanted)?);
    }
    Ok(Answer::yes(shown(values, format)?))
}

/// The values of banks.
pub(super) fn shown(values: Vec<PcrBank>, format: Format) -> Result<String> {
    Ok(match format {
        Format::Text => values.iter().map(bank_text).collect(),
        Format::Json => {
            let banks = values.into_iter().map(|bank| (bank.algorithm().to_string(), bank));
            json(&ReadJson { banks: banks.collect() })?
        }
    })
}
