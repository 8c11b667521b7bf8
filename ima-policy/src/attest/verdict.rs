//! What a verifier concludes.

use std::fmt;
use std::io::BufRead;

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::eventlog::EventLog;
use pcr_measure::explain::MeasuredLog;
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrError, PcrSelection};
use pcr_measure::quote::boot::{self, LogCheck, ManifestCheck};
use pcr_measure::quote::clock::{ClockChange, Earlier, EarlierError};
use pcr_measure::quote::{self, AttestationKey, Expected, QuoteError, VerifiedQuote};
use pcr_measure::structures::ClockInfo;
use pcr_measure::text::printable;
use serde::Serialize;

use super::evidence::{EvidenceError, Head};
use super::{Challenge, ima_pcr};
use crate::judge::{Judge, ListFindings, Reading};
use crate::list::binary::Binary;
use crate::list::{DEFAULT, ListError};

/// The PCRs that `boot_aggregate` is a digest over, where its hash is not SHA-1 (Linux,
/// `ima_calc_boot_aggregate_tfm`).
const AGGREGATED: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The evidence cannot be read.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The list behind it cannot be read, or not be hashed here.
    #[error(transparent)]
    List(#[from] ListError),
    /// What is expected cannot be.
    #[error(transparent)]
    Quote(#[from] QuoteError),
    /// The earlier quote is of another TPM.
    #[error("the earlier quote: {0}")]
    Earlier(#[from] EarlierError),
    /// In practice never.
    #[error(transparent)]
    Pcr(#[from] PcrError),
}

/// By what a device is judged. All of it is the verifier's own.
#[derive(Debug, Clone, Copy)]
pub struct Verifier<'a> {
    /// The device's attestation key.
    pub key: &'a AttestationKey,
    /// What may have booted: one of these.
    pub manifests: &'a [Manifest],
    /// What may have run. Its `boot_aggregate` is taken from the quote.
    pub judge: Judge<'a>,
    /// An earlier quote of the same key: whether the TPM's clock went on.
    pub earlier: Option<&'a Earlier>,
    /// At most this many faulty entries of the list are told one by one.
    pub show: usize,
}

/// The verdict on a device. `Display` tells it to people.
#[derive(Debug, Serialize)]
pub struct Verdict {
    /// Whether nothing speaks against the device.
    pub good: bool,
    /// Why the evidence is worth nothing; what is below was not looked at then, or in part.
    pub refused: Option<Refusal>,
    /// Seconds from challenge to verdict.
    pub age_seconds: Option<u64>,
    /// Whether the key is one that signs nothing but what its TPM made; `None`: it does not say.
    pub key_restricted: Option<bool>,
    /// What the TPM signed.
    pub quote: Option<QuoteFindings>,
    /// What lies between the earlier quote and this one.
    pub clock_since_previous: Option<ClockChange>,
    /// Whether the firmware's log leads to the quoted values; `None`: there is none.
    pub log: Option<LogCheck>,
    /// What booted.
    pub boot: Option<BootFindings>,
    /// What the device says that it has booted. It decides nothing.
    pub claim: Option<Claim>,
    /// What ran; `None` where PCR 10 was not asked for.
    pub list: Option<ListFindings>,
}

/// Why evidence is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// `freshness`, `evidence`, a step of the quote's verification, or `list`.
    pub step: String,
    /// In words.
    pub reason: String,
}

/// A quote that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QuoteFindings {
    /// The Qualified Name of the key.
    pub qualified_signer: String,
    /// The nonce.
    pub nonce: String,
    /// The TPM's clock, its resets and restarts.
    pub clock: ClockInfo,
    /// The values, of the SHA-256 bank.
    pub pcrs: PcrBank,
}

/// What booted, by the verifier's manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootFindings {
    /// The image of the manifest that fits, or else of the one that fits best.
    pub image: String,
    /// Its board.
    pub board: String,
    /// How it fits.
    #[serde(flatten)]
    pub check: ManifestCheck,
}

/// What the device says that it has booted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The image of its own manifest.
    pub image: String,
    /// The board.
    pub board: String,
    /// Whether the quoted values are those of its manifest.
    pub as_quoted: bool,
}

impl Verdict {
    fn refuse(&mut self, step: impl fmt::Display, reason: impl fmt::Display) {
        let (step, reason) = (step.to_string(), reason.to_string());
        self.refused = Some(Refusal { step, reason });
    }

    fn is_good(&self) -> bool {
        self.refused.is_none()
            && self.quote.is_some()
            && !self.clock_since_previous.is_some_and(ClockChange::is_refusal)
            && self.log.as_ref().is_none_or(|log| log.agrees)
            && self.boot.as_ref().is_some_and(|boot| boot.check.as_expected)
            && self.list.as_ref().is_none_or(|list| list.good)
    }
}

impl Verifier<'_> {
    /// Comes to a verdict. `now`: seconds since 1970 by the clock that made the challenge.
    /// Evidence that is cut or makes no sense is refused, as a false one is.
    ///
    /// # Errors
    /// [`VerifyError`]: nothing is known of the device then.
    pub fn verify(
        &self,
        challenge: &Challenge,
        now: u64,
        evidence: &mut impl BufRead,
    ) -> Result<Verdict, VerifyError> {
        let mut verdict = Verdict {
            good: false,
            refused: None,
            age_seconds: challenge.age(now),
            key_restricted: None,
            quote: None,
            clock_since_previous: None,
            log: None,
            boot: None,
            claim: None,
            list: None,
        };
        if verdict.age_seconds.is_none() {
            verdict.refuse("freshness", "the challenge is not valid any more: make a new one");
            return Ok(verdict);
        }
        let head = match Head::read(evidence) {
            Ok(head) => head,
            Err(error) if error.is_refusal() => {
                verdict.refuse("evidence", error);
                return Ok(verdict);
            }
            Err(error) => return Err(error.into()),
        };
        let selections = [*challenge.pcrs()];
        let values = [head.values];
        let expected =
            Expected { nonce: challenge.nonce(), selections: &selections, values: &values };
        let quote = match quote::verify(&head.message, &head.signature, self.key, &expected) {
            Ok(quote) => quote,
            // The values come from the device here: that one is missing speaks against it.
            Err(error) if error.is_refusal() || matches!(error, QuoteError::Values(_)) => {
                let is_restricted = error.step() != quote::Step::Key;
                verdict.key_restricted = self.key.has_attributes().then_some(is_restricted);
                verdict.refuse(error.step(), error);
                return Ok(verdict);
            }
            Err(error) => return Err(error.into()),
        };
        verdict.key_restricted = self.key.has_attributes().then_some(true);
        let quoted = quote.bank(Algorithm::Sha256);
        verdict.clock_since_previous =
            self.earlier.map(|earlier| earlier.until(&quote)).transpose()?;
        self.judge_boot(&mut verdict, &head.event_log, &head.manifest, &quote);
        verdict.quote = Some(QuoteFindings {
            qualified_signer: hex::encode(quote.qualified_signer()),
            nonce: hex::encode(challenge.nonce()),
            clock: *quote.clock(),
            pcrs: quoted.clone(),
        });
        if let Some(value) = quoted.get(ima_pcr()?) {
            self.judge_list(&mut verdict, &quoted, &value, evidence)?;
        }
        verdict.good = verdict.is_good();
        Ok(verdict)
    }

    fn judge_boot(
        &self,
        verdict: &mut Verdict,
        event_log: &[u8],
        manifest: &[u8],
        quote: &VerifiedQuote,
    ) {
        let log = (!event_log.is_empty()).then(|| EventLog::parse(event_log));
        let selections: Vec<PcrSelection> = quote
            .values()
            .iter()
            .filter_map(|bank| {
                PcrSelection::new(bank.algorithm(), bank.iter().map(|(pcr, _)| pcr)).ok()
            })
            .collect();
        // A log that cannot be replayed is none: the quoted values decide.
        verdict.log = log.as_ref().and_then(|log| {
            let replayed = boot::replay(log, &selections).ok()?;
            Some(LogCheck::new(log, &replayed, quote))
        });
        let measured = log.as_ref().map(MeasuredLog::from_log);
        let held = |manifest: &Manifest| BootFindings {
            image: manifest.image().to_owned(),
            board: manifest.board().to_owned(),
            check: ManifestCheck::new(manifest, measured.as_ref(), quote),
        };
        let against = |found: &BootFindings| {
            (!found.check.as_expected, found.check.not_quoted.len() + found.check.differences.len())
        };
        verdict.boot = self.manifests.iter().map(held).min_by_key(against);
        verdict.claim = Manifest::from_json(manifest).ok().map(|manifest| {
            let BootFindings { image, board, check } = held(&manifest);
            Claim { image, board, as_quoted: check.as_expected }
        });
    }

    fn judge_list(
        &self,
        verdict: &mut Verdict,
        quoted: &PcrBank,
        value: &Digest,
        list: &mut impl BufRead,
    ) -> Result<(), VerifyError> {
        let aggregated = quoted.concatenated(&PcrSelection::sha256(&AGGREGATED)?).ok();
        let aggregate = match &aggregated {
            Some(values) => Some(Algorithm::Sha256.hash(&[values]).map_err(ListError::from)?),
            None => None,
        };
        let judge = Judge { boot_aggregate: aggregate.as_ref(), ..self.judge };
        let mut reading = Reading::new(judge, ima_pcr()?, Some(value), self.show);
        for record in Binary::new(list, DEFAULT) {
            match record {
                Ok(record) => reading.add(&record)?,
                Err(error @ (ListError::Read(_) | ListError::Digest(_))) => {
                    return Err(error.into());
                }
                Err(error) => {
                    verdict.refuse("list", printable(&error.to_string()));
                    break;
                }
            }
        }
        verdict.list = Some(reading.findings());
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Refusal { step, reason }) = &self.refused {
            writeln!(f, "refused ({step}): {reason}")?;
        }
        let Some(quote) = &self.quote else { return f.write_str("The device is not healthy.\n") };
        let clock = &quote.clock;
        let safe = if clock.safe { "" } else { ", not safe: power was cut, times may come again" };
        writeln!(f, "signer      {}", quote.qualified_signer)?;
        writeln!(
            f,
            "clock       resets: {}, restarts: {}, {} ms{safe}",
            clock.reset_count, clock.restart_count, clock.clock
        )?;
        if let Some(change) = self.clock_since_previous {
            writeln!(f, "since then  {change}")?;
        }
        match &self.log {
            None => {
                writeln!(f, "log         none that can be read: the PCRs alone say what booted")?
            }
            Some(log) => {
                for its in &log.contradictions {
                    let pcr = its.pcr;
                    writeln!(f, "PCR {pcr}: the log does not lead to it: the log is not believed")?;
                }
            }
        }
        if let Some(boot) = &self.boot {
            let is = if boot.check.as_expected { "is" } else { "is NOT" };
            writeln!(f, "boot        {is} {} for {}", boot.image, boot.board)?;
            for pcr in &boot.check.not_quoted {
                writeln!(f, "PCR {pcr}: in the manifest's seal, but not quoted")?;
            }
            for difference in &boot.check.differences {
                writeln!(f, "{difference}")?;
            }
            if let (false, Some(claim)) = (boot.check.as_expected, &self.claim) {
                let fits =
                    if claim.as_quoted { "as was measured" } else { "which was not measured" };
                writeln!(f, "the device says that it has booted {}, {fits}", claim.image)?;
            }
        }
        if let Some(list) = &self.list {
            write!(f, "{list}")?;
        }
        let is = if self.good { "" } else { "not " };
        writeln!(f, "The device is {is}healthy.")
    }
}
