//! `verify-signature`: whether a key signed a policy, by systemd's rules.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use pcr_measure::signed_policy::{SignatureFile, SignedPolicy, Verdict, policy_with};
use pcr_measure::{PcrSelection, Sha256Digest};
use serde::Serialize;

use super::rollback::RollbackArgs;
use super::{Answer, Format, input, json, wanted};
use pcr_measure::command::table;

/// Arguments of `verify-signature`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The signed policies (tpm2-pcr-signature.json)
    file: PathBuf,
    /// The public key that is trusted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The policy of this boot manifest must be signed [default: every entry of the key is checked]
    #[arg(long, group = "of", value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The PCRs, as 0-9,15 or sha384:0-9; with --manifest, its seal
    #[arg(long, requires = "of", value_name = "LIST")]
    pcrs: Option<PcrSelection>,
    /// The policy of these values must be signed: as tpm2_pcrread prints them or as {"0":"<hex>"}
    #[arg(long, group = "of", requires = "pcrs", value_name = "FILE")]
    values: Option<PathBuf>,
    #[command(flatten)]
    rollback: RollbackArgs,
}

#[derive(Serialize)]
struct VerifyJson {
    signed: bool,
    reason: Option<&'static str>,
    pkfp: Sha256Digest,
    policy: Option<Sha256Digest>,
    entries: Vec<EntryJson>,
}

#[derive(Serialize)]
struct EntryJson {
    bank: &'static str,
    pcrs: PcrSelection,
    policy: Sha256Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    rollback: Option<u64>,
    valid: bool,
}

/// Checks, and lists the key's entries.
pub(super) fn run(args: &VerifyArgs, format: Format) -> Result<Answer> {
    let file = input::signatures(&args.file)?;
    let key = input::public_key(&args.key)?;
    let wanted = wanted(args)?;
    let entries = file.of_key(&key)?;
    let verdict = match &wanted {
        Some((pcrs, policy)) => file.verify_policy(&key, pcrs, *policy)?,
        None if entries.is_empty() => Verdict::OtherKey,
        None if entries.iter().all(|(_, valid)| *valid) => Verdict::Signed,
        None => Verdict::BadSignature,
    };
    let answer = VerifyJson {
        signed: verdict == Verdict::Signed,
        reason: reason(verdict).map(|(word, _)| word),
        pkfp: key.fingerprint()?,
        policy: wanted.map(|(_, policy)| policy),
        entries: entries.iter().map(|(entry, valid)| of_entry(entry, *valid)).collect(),
    };
    let text = match format {
        Format::Text => text(&answer, verdict, &entries),
        Format::Json => json(&answer)?,
    };
    Ok(Answer { text, notes: notes(args, &file), yes: answer.signed })
}

/// The PCRs, and the policy over them that must be signed; clap lets no other
/// combination pass.
fn wanted(args: &VerifyArgs) -> Result<Option<(PcrSelection, Sha256Digest)>> {
    let (pcrs, values) = match (&args.manifest, &args.values, args.pcrs) {
        (Some(path), _, pcrs) => wanted::of_manifest(path, pcrs)?,
        (None, Some(path), Some(pcrs)) => wanted::of_values(path, pcrs)?,
        _ => return Ok(None),
    };
    Ok(Some((pcrs, policy_with(&pcrs, &values, args.rollback.rollback().as_ref())?)))
}

/// In JSON, and for people.
const fn reason(verdict: Verdict) -> Option<(&'static str, &'static str)> {
    match verdict {
        Verdict::Signed => None,
        Verdict::OtherKey => Some(("other-key", "the file has no entry of this key")),
        Verdict::OtherPcrs => Some(("other-pcrs", "the key's entries are for other PCRs")),
        Verdict::OtherPolicy => {
            Some(("other-policy", "the key's entries for these PCRs are for other values"))
        }
        Verdict::BadSignature => Some(("bad-signature", "a signature is not the key's")),
    }
}

fn of_entry(entry: &SignedPolicy, valid: bool) -> EntryJson {
    let bank = entry.pcrs.bank().name();
    EntryJson { bank, pcrs: entry.pcrs, policy: entry.policy, rollback: entry.rollback, valid }
}

fn text(answer: &VerifyJson, verdict: Verdict, entries: &[(&SignedPolicy, bool)]) -> String {
    let mut out = String::new();
    if !entries.is_empty() {
        let rows: Vec<_> = entries.iter().map(|(entry, valid)| row(entry, *valid)).collect();
        out = table(["signature", "policy", "PCRs"], &[], &rows) + "\n";
    }
    let what = match answer.policy {
        Some(policy) => format!("policy {policy}"),
        None => "every entry of the key".to_owned(),
    };
    match reason(verdict) {
        None => out + &format!("Signed: {what}.\n"),
        Some((_, why)) => out + &format!("NOT signed: {what}: {why}.\n"),
    }
}

fn row(entry: &SignedPolicy, valid: bool) -> [String; 3] {
    let signature = if valid { "good" } else { "BAD" };
    let version = entry.rollback.map_or_else(String::new, |n| format!(", version {n}"));
    [signature.to_owned(), format!("{}…", entry.policy.short()), format!("{}{version}", entry.pcrs)]
}

fn notes(args: &VerifyArgs, file: &SignatureFile) -> Vec<String> {
    let note =
        |bank| format!("{}: the bank {bank:?} is not known, and not checked", args.file.display());
    file.skipped().iter().map(note).collect()
}
