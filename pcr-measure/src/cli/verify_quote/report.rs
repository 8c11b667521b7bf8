//! What `verify-quote` says, for people and for programs.

use std::collections::BTreeMap;

use anyhow::Result;
use pcr_measure::quote::boot::{Contradiction, ManifestCheck};
use pcr_measure::quote::clock::ClockChange;
use pcr_measure::quote::{AttestationKey, QuoteError, Step};
use pcr_measure::structures::ClockInfo;
use pcr_measure::text::listed;
use pcr_measure::{Digest, PcrBank};
use serde::Serialize;

use super::{Findings, LogCheck, VerifyQuoteArgs};
use crate::cli::{Answer, Format, json};

#[derive(Serialize)]
struct VerifyJson<'a> {
    good: bool,
    refused: Option<Refused>,
    key_restricted: Option<bool>,
    values_from: &'static str,
    quote: Option<QuoteJson>,
    clock_since_previous: Option<ClockChange>,
    log: Option<&'a LogCheck>,
    manifest: Option<&'a ManifestCheck>,
}

#[derive(Serialize)]
struct Refused {
    step: Step,
    reason: String,
}

#[derive(Serialize)]
struct QuoteJson {
    scheme: String,
    hash: String,
    qualified_signer: String,
    nonce: String,
    firmware_version: String,
    clock: ClockInfo,
    pcr_digest: Digest,
    pcrs: BTreeMap<String, PcrBank>,
}

const fn values_from(args: &VerifyQuoteArgs) -> &'static str {
    if args.values.is_some() { "values" } else { "log" }
}

pub(super) fn refused(
    args: &VerifyQuoteArgs,
    key: &AttestationKey,
    error: &QuoteError,
    mut notes: Vec<String>,
    format: Format,
) -> Result<Answer> {
    if let (QuoteError::Digest { .. }, None) = (error, &args.values) {
        let hint = "the values are those that the log leads to; with --values it can be said which PCR differs";
        notes.push(hint.to_owned());
    }
    let (step, reason) = (error.step(), error.to_string());
    let text = match format {
        Format::Text => format!("refused ({step}): {reason}\n"),
        Format::Json => json(&VerifyJson {
            good: false,
            refused: Some(Refused { step, reason }),
            key_restricted: restricted(key, Some(step)),
            values_from: values_from(args),
            quote: None,
            clock_since_previous: None,
            log: None,
            manifest: None,
        })?,
    };
    Ok(Answer { text, notes, yes: false })
}

/// What is known of the key; `None` if nothing is.
fn restricted(key: &AttestationKey, refused: Option<Step>) -> Option<bool> {
    key.has_attributes().then_some(refused != Some(Step::Key))
}

pub(super) fn accepted(
    args: &VerifyQuoteArgs,
    key: &AttestationKey,
    nonce: &[u8],
    findings: &Findings,
) -> Result<String> {
    let quote = &findings.quote;
    let pcrs = quote.values().iter().map(|bank| (bank.algorithm().to_string(), bank.clone()));
    json(&VerifyJson {
        good: findings.is_good(),
        refused: None,
        key_restricted: restricted(key, None),
        values_from: values_from(args),
        quote: Some(QuoteJson {
            scheme: quote.scheme().to_string(),
            hash: quote.hash().to_string(),
            qualified_signer: hex::encode(quote.qualified_signer()),
            nonce: hex::encode(nonce),
            firmware_version: format!("{:016x}", quote.firmware_version()),
            clock: *quote.clock(),
            pcr_digest: quote.pcr_digest(),
            pcrs: pcrs.collect(),
        }),
        clock_since_previous: findings.since,
        log: findings.log.as_ref(),
        manifest: findings.manifest.as_ref(),
    })
}

pub(super) fn text(args: &VerifyQuoteArgs, key: &AttestationKey, findings: &Findings) -> String {
    let quote = &findings.quote;
    let restricted = if key.has_attributes() { ", a restricted key" } else { "" };
    let pcrs: Vec<_> = args.pcrs.iter().map(ToString::to_string).collect();
    let clock = quote.clock();
    let safe = if clock.safe { "" } else { ", not safe: power was cut, times may come again" };
    let mut out = format!(
        "signature   {} over {}, by {}{restricted}\n",
        quote.scheme(),
        quote.hash(),
        args.key.display()
    );
    out.push_str(&format!("signer      {}\n", hex::encode(quote.qualified_signer())));
    out.push_str(&format!("PCRs        {}\n", pcrs.join("+")));
    out.push_str(&format!(
        "clock       resets: {}, restarts: {}, {} ms{safe}\n",
        clock.reset_count, clock.restart_count, clock.clock
    ));
    if let Some(change) = findings.since {
        out.push_str(&format!("since then  {}\n", change));
    }
    for Contradiction { bank, pcr, log, quoted } in
        findings.log.iter().flat_map(|log| &log.contradictions)
    {
        out.push_str(&format!(
            "{bank} PCR {pcr}: the log leads to {}, quoted is {}: the log is not believed\n",
            short(log),
            short(quoted)
        ));
    }
    if let Some(check) = &findings.manifest {
        if !check.passed_over.is_empty() {
            let pcrs = listed(&check.passed_over);
            out.push_str(&format!("not quoted  PCR {pcrs}: in the manifest, passed over\n"));
        }
        for pcr in &check.not_quoted {
            out.push_str(&format!("PCR {pcr}: in the manifest's seal, but not quoted\n"));
        }
        for difference in &check.differences {
            out.push_str(&format!("{difference}\n"));
        }
    }
    out + &verdict(findings) + "\n"
}

fn verdict(findings: &Findings) -> String {
    let mut against = Vec::new();
    if findings.since.is_some_and(ClockChange::is_refusal) {
        against.push("its clock is before that of the earlier quote (an old quote, a TPM that was cleared, or another one)");
    }
    if findings.log.as_ref().is_some_and(|log| !log.agrees) {
        against.push("the log does not lead to the quoted values");
    }
    if findings.manifest.as_ref().is_some_and(|check| !check.as_expected) {
        against.push("the boot is not that of the manifest");
    }
    if !against.is_empty() {
        return format!("The signature is good, but {}.", against.join("; "));
    }
    let with = match (&findings.log, &findings.manifest) {
        (Some(_), Some(_)) => ", and log and manifest agree with it",
        (Some(_), None) => ", and the log leads to its values",
        (None, Some(_)) => ", and the boot is that of the manifest",
        (None, None) => "",
    };
    format!("The quote is good{with}.")
}

fn short(digest: &Digest) -> String {
    digest.to_string().chars().take(16).chain(['…']).collect()
}
