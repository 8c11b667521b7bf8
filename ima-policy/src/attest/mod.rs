//! Attestation: what a device says about itself so that somebody elsewhere can believe it.
//!
//! A verifier makes a [`Challenge`]. The device answers with [`evidence`]: a TPM's quote over
//! PCRs and the challenge's nonce, the firmware's event log, IMA's measurement list. The verifier
//! comes to a [`Verdict`].
//!
//! What it trusts: the attestation key that the caller chose, the challenge as the verifier
//! kept it, and the verifier's own manifests, references and keys. All of the evidence is
//! foreign; logs and lists count for nothing but what the quoted PCRs confirm.

mod challenge;
mod credential;
#[cfg(feature = "tpm")]
pub mod device;
pub mod evidence;
mod verdict;
pub mod wire;

pub use challenge::{Challenge, ChallengeError, MAX_CHALLENGE};
pub use credential::{Credential, CredentialError, MAX_CREDENTIAL};
pub use verdict::{BootFindings, Claim, QuoteFindings, Refusal, Verdict, Verifier, VerifyError};

use pcr_measure::PcrIndex;
use pcr_measure::pcr::PcrError;

/// The PCR that IMA extends (Linux, `CONFIG_IMA_MEASURE_PCR_IDX`).
///
/// # Errors
/// None in practice: it exists.
fn ima_pcr() -> Result<PcrIndex, PcrError> {
    PcrIndex::new(10)
}
