//! `explain`.

use anyhow::{Context, Result};
#[cfg(feature = "tpm")]
use pcr_measure::PcrSelection;
use pcr_measure::explain::{
    Difference, Entry, Explanation, Latch, MeasuredLog, PcrVerdict, Verdict,
};
use pcr_measure::text::listed;
use pcr_measure::{Algorithm, PcrBank, PcrIndex, Sha256Digest, explain};
use serde::Serialize;

use super::{Answer, ExplainArgs, Format, input, json, log, pcrfile};
use pcr_measure::command::table;

#[derive(Serialize)]
struct ExplainJson<'a> {
    as_expected: bool,
    confirmed: bool,
    latch: Option<Latch>,
    events: &'a [Entry],
    pcrs: &'a [PcrVerdict],
    differences: Vec<Difference>,
}

/// Compares a boot with its manifest.
pub(super) fn run(args: &ExplainArgs, format: Format) -> Result<Answer> {
    let manifest = input::manifest(&args.manifest)?;
    let bytes = input::log(&args.log)?;
    let parsed = log::parse(&args.log, &bytes)?;
    let live = live(args)?;
    // Without SHA-256 digests every event would seem to be missing.
    parsed
        .replay(Algorithm::Sha256)
        .with_context(|| format!("cannot use {}", args.log.display()))?;
    let measured = MeasuredLog::from_log(&parsed);
    let explanation = explain::explain(&manifest.reference(), Some(&measured), &live);
    let text = match format {
        Format::Text => text(&explanation),
        Format::Json => json(&ExplainJson {
            as_expected: explanation.boot_is_as_expected(),
            confirmed: confirmed(&explanation),
            latch: explanation.latch(),
            events: &explanation.entries,
            pcrs: &explanation.pcrs,
            differences: explanation.boot_differences(),
        })?,
    };
    let mut notes: Vec<_> = log::broken(&args.log, &parsed).into_iter().collect();
    notes.extend(log::without_digest(&parsed, Algorithm::Sha256));
    notes.extend(parsed.startup_locality().filter(|locality| *locality != 0).map(|locality| {
        format!("PCR 0 started from locality {locality} by the log; manifests expect locality 0")
    }));
    Ok(Answer { text, notes, yes: explanation.boot_is_as_expected() })
}

/// The word that stands for a live TPM instead of a file.
const LIVE: &str = "live";

/// The TPM's values, as far as they were given.
fn live(args: &ExplainArgs) -> Result<PcrBank> {
    match &args.pcrs {
        None => Ok(PcrBank::new(Algorithm::Sha256)),
        Some(path) if path.as_os_str() == LIVE => of_tpm(args),
        Some(path) => pcrfile::sha256(path),
    }
}

#[cfg(feature = "tpm")]
fn of_tpm(args: &ExplainArgs) -> Result<PcrBank> {
    let all = PcrSelection::new(Algorithm::Sha256, PcrIndex::all())?;
    Ok(args.tpm.open()?.pcrs(&all)?)
}

#[cfg(not(feature = "tpm"))]
fn of_tpm(_: &ExplainArgs) -> Result<PcrBank> {
    anyhow::bail!("this build talks to no TPM: give a file of PCR values (tpm2_pcrread)")
}

/// Whether the TPM's values stood behind every verdict.
fn confirmed(explanation: &Explanation) -> bool {
    explanation.boot_pcrs().all(|pcr| pcr.live.is_some())
}

fn text(explanation: &Explanation) -> String {
    let rows: Vec<_> = explanation.entries.iter().map(row).collect();
    let head = ["PCR", "component", "verdict", "expected", "measured"];
    // No log that is believed, no events.
    let mut out = if rows.is_empty() { String::new() } else { table(head, &[0], &rows) + "\n" };
    for pcr in explanation.contradictions() {
        out.push_str(&format!(
            "PCR {}: the log leads to {}, the TPM holds {}: the log is not believed\n",
            pcr.pcr,
            short(pcr.log),
            short(pcr.live),
        ));
    }
    for difference in explanation.boot_differences() {
        out.push_str(&format!("{difference}\n"));
    }
    out.push_str(&verdict(explanation));
    out
}

/// What a system that is up shows.
const LATCH_SHUT: &str =
    "PCR 15 is extended: the latch is shut, nothing more can be unsealed in this boot.\n";

fn verdict(explanation: &Explanation) -> String {
    let of = |answer: Option<bool>| -> Vec<PcrIndex> {
        explanation.boot_pcrs().filter(|p| p.as_expected == answer).map(|p| p.pcr).collect()
    };
    let (wrong, unknown) = (of(Some(false)), of(None));
    let unknown = if unknown.is_empty() {
        String::new()
    } else {
        format!(
            "Not known: PCR {}; the log is not whole, give the TPM's values with --pcrs.\n",
            listed(&unknown)
        )
    };
    let mut line = if wrong.is_empty() {
        if !unknown.is_empty() {
            return unknown;
        }
        "Every PCR is as expected".to_owned()
    } else {
        let sealed = explanation.boot_pcrs().any(|p| p.sealed && p.as_expected == Some(false));
        let so =
            if sealed { "the TPM will not release the key" } else { "the seal is not touched" };
        format!("Not as expected: PCR {}; {so}", listed(&wrong))
    };
    if !confirmed(explanation) {
        line.push_str(" (as the log tells it; give the TPM's values with --pcrs to confirm)");
    }
    let latch = match explanation.latch() {
        Some(Latch::Shut) => LATCH_SHUT,
        Some(Latch::Open) | None => "",
    };
    line + ".\n" + latch + &unknown
}

fn row(entry: &Entry) -> [String; 5] {
    let verdict = match entry.verdict {
        Verdict::Equal => "equal",
        Verdict::Differs => "DIFFERS",
        Verdict::Missing => "MISSING",
        Verdict::Extra => "EXTRA",
    };
    [
        entry.pcr.to_string(),
        entry.component.clone(),
        verdict.to_owned(),
        short(entry.expected),
        short(entry.measured),
    ]
}

fn short(digest: Option<Sha256Digest>) -> String {
    digest.map_or("-".to_owned(), |digest| digest.short() + "…")
}
