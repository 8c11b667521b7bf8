//! Which component differs: the measurements of a boot against those expected.
//!
//! [`explain`] is a pure function of a [`Reference`], the events of a log, and
//! PCR values. PCR values decide; a log only puts names on them, and only for
//! PCRs whose value it leads to. Where it leads elsewhere it is not believed.

mod align;

use std::fmt;

use serde::Serialize;

use crate::digest::{Algorithm, Sha256Digest};
use crate::eventlog::{Event, EventLog, LogEnd};
use crate::manifest::{LATCH_PCR, Reference, ReferenceEvent};
use crate::pcr::{PcrBank, PcrIndex};
use crate::text::printable;

/// An event that a log says was extended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredEvent {
    /// Where it was extended.
    pub pcr: PcrIndex,
    /// What was extended.
    pub digest: Sha256Digest,
    /// What the log says about it; for display.
    pub description: String,
}

/// What a log says was measured into the SHA-256 bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeasuredLog {
    /// The events, in order.
    events: Vec<MeasuredEvent>,
    /// The values that they lead to, from where the log says that PCR 0 started.
    values: PcrBank,
    /// Whether the log says all that it has to say: it is not broken, and no
    /// event lacks its digest.
    whole: bool,
}

impl MeasuredLog {
    /// The events of a log that were extended into the SHA-256 bank, and their
    /// values. A log without the bank has none.
    #[must_use]
    pub fn from_log(log: &EventLog<'_>) -> Self {
        let measured = |event: &Event<'_>| {
            Some(MeasuredEvent {
                pcr: event.extended_pcr()?,
                digest: event.digest(Algorithm::Sha256)?.as_sha256()?,
                description: format!("{} {}", event.event_type, event.description()),
            })
        };
        let bank = Algorithm::Sha256;
        Self {
            events: log.events.iter().filter_map(measured).collect(),
            values: log.replay(bank).unwrap_or_else(|_| PcrBank::new(bank)),
            whole: !matches!(log.end, LogEnd::Broken { .. }) && log.without_digest(bank) == 0,
        }
    }
}

/// What became of one expected or measured event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Measured as expected.
    Equal,
    /// Another digest was measured in its place.
    Differs,
    /// It was not measured.
    Missing,
    /// Something was measured that was not expected.
    Extra,
}

/// One expected event, one measured event, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The verdict.
    pub verdict: Verdict,
    /// The expected component's name; for an extra event what the log says.
    pub component: String,
    /// Digest that was expected; `None` for an extra event.
    pub expected: Option<Sha256Digest>,
    /// Digest that was measured; `None` for a missing event.
    pub measured: Option<Sha256Digest>,
}

/// What is known about one PCR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrVerdict {
    /// The PCR.
    pub pcr: PcrIndex,
    /// Whether the seal needs it.
    pub sealed: bool,
    /// The value that the reference leads to.
    pub expected: Sha256Digest,
    /// The value that the log leads to; `None` without a log.
    pub log: Option<Sha256Digest>,
    /// The value that the TPM holds; `None` if it was not read.
    pub live: Option<Sha256Digest>,
    /// Whether the log leads to the TPM's value. `false`: the log is not to be
    /// believed. `None`: one of the two is not known.
    pub log_agrees: Option<bool>,
    /// Whether the PCR holds what was expected, by the TPM's value or, if that is
    /// not known, by the log's. `None` if neither is known, or the log is not whole.
    pub as_expected: Option<bool>,
}

/// A component that is not as expected. `Display` is the line for the console:
/// `differs: PCR 1, command line: expected 0123456789abcdef…, measured …`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The PCR.
    pub pcr: PcrIndex,
    /// The component, or [`WHOLE_PCR`].
    pub component: String,
    /// What was expected; `None` if nothing was.
    pub expected: Option<Sha256Digest>,
    /// What was measured; `None` if nothing was.
    pub measured: Option<Sha256Digest>,
}

/// Component of a [`Difference`] in a PCR's value, where no event can be named:
/// the log is missing or not to be believed, or nothing of the manifest belongs
/// into the PCR. Its digests are PCR values.
pub const WHOLE_PCR: &str = "value of the PCR";

/// The result of [`explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Every expected and every measured event of the PCRs that the reference
    /// knows or seals, by PCR, in order. A PCR whose log is not to be believed
    /// has no entries.
    pub entries: Vec<Entry>,
    /// The PCRs, ascending.
    pub pcrs: Vec<PcrVerdict>,
}

/// The latch: the sealed PCR that nothing is measured into before the key is
/// released, and that is extended then (or when the key is refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Latch {
    /// As a reset leaves it.
    Open,
    /// Extended: nothing can be unsealed in this boot any more. So it is in every
    /// system that is up; it says nothing about what booted.
    Shut,
}

/// Compares what was expected with what was measured.
///
/// `log` is `None` if there is no log. `live` may lack values, then the log
/// stands for them, unconfirmed; without both nothing is said about a PCR. A log
/// that is broken, or lacks digests, may have lost what would differ: then it can
/// speak against a PCR, but not for it.
///
/// Events of PCRs that the reference neither names nor seals are passed over.
#[must_use]
pub fn explain(reference: &Reference, log: Option<&MeasuredLog>, live: &PcrBank) -> Explanation {
    let predicted = reference.predict();
    let mut out = Explanation { entries: Vec::new(), pcrs: Vec::new() };
    for pcr in PcrIndex::all() {
        let sealed = reference.seal().contains(pcr);
        if !sealed && predicted.get(pcr).is_none() {
            continue;
        }
        let expected = value(&predicted, pcr);
        let log_value = log.map(|log| value(&log.values, pcr));
        let live = live.sha256(pcr);
        let log_agrees = live.zip(log_value).map(|(live, log)| live == log);
        let unconfirmed = log_value.map(|value| value == expected);
        let unconfirmed = unconfirmed.filter(|equal| !equal || log.is_some_and(|log| log.whole));
        let as_expected = live.map_or(unconfirmed, |value| Some(value == expected));
        if let (Some(log), Some(true) | None) = (log, log_agrees) {
            let expected: Vec<_> = reference.events().iter().filter(|e| e.pcr == pcr).collect();
            let measured: Vec<_> = log.events.iter().filter(|e| e.pcr == pcr).collect();
            out.entries.extend(align::align(pcr, &expected, &measured));
        }
        let log = log_value;
        out.pcrs.push(PcrVerdict { pcr, sealed, expected, log, live, log_agrees, as_expected });
    }
    out
}

fn value(bank: &PcrBank, pcr: PcrIndex) -> Sha256Digest {
    bank.get_or_reset(pcr).as_sha256().unwrap_or(Sha256Digest::ZERO)
}

impl Explanation {
    /// Whether every PCR is known to hold what was expected.
    #[must_use]
    pub fn is_as_expected(&self) -> bool {
        self.pcrs.iter().all(|pcr| pcr.as_expected == Some(true))
    }

    /// The state of the latch by the TPM's word; `None` if it is not known, or the
    /// seal has none.
    #[must_use]
    pub fn latch(&self) -> Option<Latch> {
        let verdict = self.pcrs.iter().find(|pcr| is_latch(pcr))?;
        let value = verdict.live?;
        Some(if value == verdict.expected { Latch::Open } else { Latch::Shut })
    }

    /// Whether what booted is what was expected: as [`Self::is_as_expected`], but
    /// whatever the latch is.
    #[must_use]
    pub fn boot_is_as_expected(&self) -> bool {
        self.boot_pcrs().all(|pcr| pcr.as_expected == Some(true))
    }

    /// The verdicts on what booted: all but the latch's.
    pub fn boot_pcrs(&self) -> impl Iterator<Item = &PcrVerdict> {
        self.pcrs.iter().filter(|pcr| !is_latch(pcr))
    }

    /// As [`Self::differences`], of what booted.
    #[must_use]
    pub fn boot_differences(&self) -> Vec<Difference> {
        self.boot_pcrs().flat_map(|pcr| self.differences_of(pcr)).collect()
    }

    /// The PCRs of which the log tells another story than the TPM.
    pub fn contradictions(&self) -> impl Iterator<Item = &PcrVerdict> {
        // A log of the firmware has no word on the latch.
        self.boot_pcrs().filter(|pcr| pcr.log_agrees == Some(false))
    }

    /// What differs, by PCR: the components where the log is to be believed, the
    /// PCR's value where it is not. Empty if nothing is known to differ.
    #[must_use]
    pub fn differences(&self) -> Vec<Difference> {
        self.pcrs.iter().flat_map(|pcr| self.differences_of(pcr)).collect()
    }

    /// The same for the PCRs of the seal alone: why a TPM refused.
    #[must_use]
    pub fn sealed_differences(&self) -> Vec<Difference> {
        self.pcrs.iter().filter(|pcr| pcr.sealed).flat_map(|pcr| self.differences_of(pcr)).collect()
    }

    fn differences_of(&self, verdict: &PcrVerdict) -> Vec<Difference> {
        if verdict.as_expected != Some(false) {
            return Vec::new();
        }
        let entries = self.entries.iter().filter(|e| e.pcr == verdict.pcr);
        let differing = entries.filter(|e| e.verdict != Verdict::Equal).map(|e| Difference {
            pcr: e.pcr,
            component: e.component.clone(),
            expected: e.expected,
            measured: e.measured,
        });
        let mut differences: Vec<_> = differing.collect();
        if differences.is_empty() {
            differences.push(Difference {
                pcr: verdict.pcr,
                component: WHOLE_PCR.to_owned(),
                expected: Some(verdict.expected),
                measured: verdict.live.or(verdict.log),
            });
        }
        differences
    }
}

/// Nothing of a manifest is measured into the latch.
fn is_latch(verdict: &PcrVerdict) -> bool {
    verdict.sealed && verdict.pcr.get() == LATCH_PCR && verdict.expected == Sha256Digest::ZERO
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |d: Option<Sha256Digest>| d.map_or("nothing".to_owned(), |d| d.short() + "…");
        write!(
            f,
            "differs: PCR {}, {}: expected {}, measured {}",
            self.pcr,
            printable(&self.component),
            show(self.expected),
            show(self.measured),
        )
    }
}

impl Entry {
    fn pair(expected: &ReferenceEvent, measured: &MeasuredEvent) -> Self {
        let equal = expected.digest == measured.digest;
        Self {
            pcr: expected.pcr,
            verdict: if equal { Verdict::Equal } else { Verdict::Differs },
            component: expected.component.clone(),
            expected: Some(expected.digest),
            measured: Some(measured.digest),
        }
    }

    fn missing(expected: &ReferenceEvent) -> Self {
        Self {
            pcr: expected.pcr,
            verdict: Verdict::Missing,
            component: expected.component.clone(),
            expected: Some(expected.digest),
            measured: None,
        }
    }

    fn extra(measured: &MeasuredEvent) -> Self {
        Self {
            pcr: measured.pcr,
            verdict: Verdict::Extra,
            component: format!("not in the manifest: {}", printable(&measured.description)),
            expected: None,
            measured: Some(measured.digest),
        }
    }
}

#[cfg(test)]
mod tests;
