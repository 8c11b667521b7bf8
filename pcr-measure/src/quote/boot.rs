//! A boot by the word of a quote: whether the firmware's log leads to the quoted values, and
//! whether they are those of a manifest.

use serde::Serialize;

use super::VerifiedQuote;
use crate::digest::{Algorithm, Digest};
use crate::eventlog::{Event, EventLog, ReplayError};
use crate::explain::{Difference, Explanation, MeasuredLog, explain};
use crate::manifest::Manifest;
use crate::pcr::{PcrBank, PcrIndex, PcrSelection};

/// Firmware and boot loaders measure up to PCR 9, and log it; an operating system and
/// its programs extend those above, and have logs of their own (UAPI group, Linux TPM
/// PCR Registry).
const LAST_FIRMWARE_PCR: u8 = 9;

/// A log beside the quoted values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogCheck {
    /// Whether it leads to them.
    pub agrees: bool,
    /// Where it leads elsewhere.
    pub contradictions: Vec<Contradiction>,
    /// Quoted PCRs that were extended after the firmware, of which its log knows
    /// nothing: neither for nor against it.
    pub silent: Vec<PcrIndex>,
}

/// A PCR of which log and quote tell two stories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// The bank's name.
    pub bank: String,
    /// The PCR.
    pub pcr: PcrIndex,
    /// Where the log leads.
    pub log: Digest,
    /// What the TPM signed.
    pub quoted: Digest,
}

/// A manifest beside the quoted values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ManifestCheck {
    /// Whether nothing differs, and all of the seal is quoted.
    pub as_expected: bool,
    /// PCRs of the seal that the quote is not over.
    pub not_quoted: Vec<PcrIndex>,
    /// Other PCRs of the manifest that the quote is not over.
    pub passed_over: Vec<PcrIndex>,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// The values that a log leads to, for every selected PCR, a bank for each selection.
///
/// # Errors
/// As [`EventLog::replay`].
pub fn replay(log: &EventLog<'_>, pcrs: &[PcrSelection]) -> Result<Vec<PcrBank>, ReplayError> {
    let bank = |selection: &PcrSelection| {
        let values = log.replay(selection.bank())?;
        let mut bank = PcrBank::new(selection.bank());
        for pcr in selection.iter() {
            bank.set(pcr, values.get_or_reset(pcr))?;
        }
        Ok(bank)
    };
    pcrs.iter().map(bank).collect()
}

impl LogCheck {
    /// Holds a log, and what it leads to ([`replay`]), against a quote.
    #[must_use]
    pub fn new(log: &EventLog<'_>, replayed: &[PcrBank], quote: &VerifiedQuote) -> Self {
        let named: Vec<_> = log.events.iter().filter_map(Event::extended_pcr).collect();
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
        Self { agrees: contradictions.is_empty(), contradictions, silent }
    }
}

impl ManifestCheck {
    /// What of a manifest is not as expected. What the quote is not over nobody
    /// attests: it counts against a PCR of the seal, and is passed over elsewhere. The
    /// latch says nothing about what booted, quoted or not.
    #[must_use]
    pub fn new(manifest: &Manifest, log: Option<&MeasuredLog>, quote: &VerifiedQuote) -> Self {
        let quoted = quote.bank(Algorithm::Sha256);
        let explanation: Explanation = explain(&manifest.reference(), log, &quoted);
        let is_quoted = |pcr: PcrIndex| quoted.get(pcr).is_some();
        let left_out = |sealed: bool| -> Vec<PcrIndex> {
            let out = explanation.boot_pcrs().filter(|p| p.sealed == sealed && !is_quoted(p.pcr));
            out.map(|pcr| pcr.pcr).collect()
        };
        let (not_quoted, passed_over) = (left_out(true), left_out(false));
        let mut differences = explanation.boot_differences();
        differences.retain(|difference| is_quoted(difference.pcr));
        let as_expected = not_quoted.is_empty() && differences.is_empty();
        Self { as_expected, not_quoted, passed_over, differences }
    }
}
