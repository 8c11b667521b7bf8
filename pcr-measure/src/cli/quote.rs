//! `quote` and `create-ak`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use pcr_measure::PcrSelection;
use pcr_measure::command::live::{AK, TpmArgs, handle};
use pcr_measure::key::PublicKey;
use pcr_measure::quote::check_selections;
use pcr_measure::structures::TpmPublic;
use serde::Serialize;

use super::{Answer, Format, bank_text, input, json, read};
use pcr_measure::command::replace;

#[derive(Debug, Args)]
pub(super) struct QuoteArgs {
    /// Persistent handle of the attestation key
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    ak: u32,
    /// What the verifier sent, so that no older quote can stand for this one
    #[arg(long, value_name = "HEX")]
    nonce: String,
    /// The PCRs, as 0-9,15 or sha384:0-9; once per bank, or joined by +
    #[arg(long, required = true, value_delimiter = '+', value_name = "LIST")]
    pcrs: Vec<PcrSelection>,
    /// Where the quote goes (TPMS_ATTEST)
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// Where its signature goes (TPMT_SIGNATURE)
    #[arg(long, value_name = "FILE")]
    signature: PathBuf,
    /// Where the values go that it is over [default: standard output]
    #[arg(long, value_name = "FILE")]
    values: Option<PathBuf>,
    #[command(flatten)]
    tpm: TpmArgs,
}

/// A quote, in three files that `verify-quote` and tpm2_checkquote take.
pub(super) fn quote(args: &QuoteArgs, format: Format) -> Result<Answer> {
    let nonce = input::hex("--nonce", &args.nonce)?;
    check_selections(&args.pcrs)?;
    let quote = args.tpm.open()?.quote(args.ak, &nonce, &args.pcrs)?;
    let text: String = quote.values.iter().map(bank_text).collect();
    let shown = match args.values {
        None => read::shown(quote.values, format)?,
        Some(_) => String::new(),
    };
    let mut files = vec![
        (args.message.as_path(), quote.message.as_slice()),
        (args.signature.as_path(), quote.signature.as_slice()),
    ];
    files.extend(args.values.as_deref().map(|path| (path, text.as_bytes())));
    replace::files(&files)?;
    Ok(Answer::yes(shown))
}

#[derive(Debug, Args)]
pub(super) struct CreateAkArgs {
    /// Persistent handle that the key is kept at
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    handle: u32,
    /// Where its public area goes (TPMT_PUBLIC), which says that it is restricted
    #[arg(long, value_name = "FILE")]
    public: Option<PathBuf>,
    /// Where its public key goes, as PEM
    #[arg(long, value_name = "FILE")]
    pem: Option<PathBuf>,
    #[command(flatten)]
    tpm: TpmArgs,
}

#[derive(Serialize)]
struct AkJson {
    handle: String,
    name: String,
    fingerprint: String,
}

/// Makes an attestation key, or finds the one that is there.
pub(super) fn create_ak(args: &CreateAkArgs, format: Format) -> Result<Answer> {
    let bytes = args.tpm.open()?.ensure_ak(args.handle)?;
    let public = TpmPublic::parse(&bytes)?;
    let key = PublicKey::from_tpm(&public)?;
    let pem = key.to_pem()?;
    let mut files = Vec::new();
    files.extend(args.public.as_deref().map(|path| (path, bytes.as_slice())));
    files.extend(args.pem.as_deref().map(|path| (path, pem.as_slice())));
    replace::files(&files)?;
    let answer = AkJson {
        handle: format!("{:#010x}", args.handle),
        name: hex::encode(public.name()?),
        fingerprint: key.fingerprint()?.to_string(),
    };
    Ok(Answer::yes(match format {
        Format::Json => json(&answer)?,
        Format::Text => format!("handle  {}\nname    {}\n", answer.handle, answer.name),
    }))
}
