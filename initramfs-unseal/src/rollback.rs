//! `rollback`: moves the rollback counter from the running system, so that
//! older images unlock no more. There is no way back.

use crate::authority::{Authority, SignedError};
use crate::report::this_boot::{NoReport, ThisBoot};
use crate::tpm::{SHARED_DEVICE, Tpm};
use serde::Serialize;
use std::path::Path;

/// Most steps of one call: each writes the TPM's memory, which wears out.
const MAX_STEPS: u64 = 1000;

/// Why the counter was not moved.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// No report of the initramfs.
    #[error(transparent)]
    NoReport(#[from] NoReport),
    /// Another binding.
    #[error("the root is bound to one boot (binding pcr): there is no rollback counter")]
    NotSigned,
    /// The recovery key opened the root.
    #[error(
        "this boot was not unlocked by the TPM: moving the counter could shut out the image that still is; boot an image that unlocks, then move it"
    )]
    ByHand,
    /// The running image would be shut out.
    #[error("{to} is above the running image's version {version}: it would shut itself out")]
    Beyond {
        /// What was asked for.
        to: u64,
        /// The running image's version.
        version: u64,
    },
    /// Too far.
    #[error(
        "from {from} to {to} is more than {MAX_STEPS} steps: versions count by one, and the TPM's memory wears"
    )]
    TooFar {
        /// Where the counter stands.
        from: u64,
        /// What was asked for.
        to: u64,
    },
    /// Counter or TPM.
    #[error(transparent)]
    Signed(#[from] SignedError),
}

impl RollbackError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::NotSigned | Self::ByHand | Self::Beyond { .. } | Self::TooFar { .. })
    }
}

/// What became of the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Where it stood.
    pub from: u64,
    /// Where it stands.
    pub to: u64,
    /// The running image's version.
    pub version: u64,
}

/// Moves the counter of this machine to `to`, or leaves it where it is beyond
/// that. It may be cut and called again.
///
/// # Errors
/// [`RollbackError`].
pub fn rollback(to: u64) -> Result<Moved, RollbackError> {
    let authority = allowed(ThisBoot::read()?, to)?;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE)).map_err(SignedError::from)?;
    advance(&mut tpm, &authority, to)
}

/// Moves the counter, making it first where it is gone.
///
/// # Errors
/// [`RollbackError::TooFar`], [`SignedError`].
pub fn advance(tpm: &mut Tpm, authority: &Authority, to: u64) -> Result<Moved, RollbackError> {
    let (counter, from) = tpm.ensure_counter(&authority.rollback())?;
    if to.saturating_sub(from) > MAX_STEPS {
        return Err(RollbackError::TooFar { from, to });
    }
    let (_, to) = tpm.advance_counter(counter, to).map_err(SignedError::from)?;
    Ok(Moved { from, to, version: authority.version })
}

/// Key, counter and version of the running image, if its report allows to move
/// the counter to `to`.
fn allowed(boot: ThisBoot, to: u64) -> Result<Authority, RollbackError> {
    let by_tpm = boot.unlocked_by_tpm().is_ok();
    let authority = boot.objects.signed.ok_or(RollbackError::NotSigned)?;
    if !by_tpm {
        return Err(RollbackError::ByHand);
    }
    if to > authority.version {
        return Err(RollbackError::Beyond { to, version: authority.version });
    }
    Ok(authority)
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, version } = self;
        if from == to {
            write!(
                f,
                "the rollback counter stands at {to} already; this image is version {version}"
            )
        } else {
            write!(
                f,
                "the rollback counter went from {from} to {to}; this image is version {version}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::sample;
    use crate::report::this_boot::tests::report;

    #[test]
    fn only_an_image_that_unlocked_moves_the_counter_and_never_past_itself() {
        let version = sample()["rollback"].as_u64().unwrap();
        let boot =
            |method: &str, signed: bool| ThisBoot::of(report(method, signed.then(sample))).unwrap();
        for method in ["tpm", "provisioned"] {
            for to in 0..=version {
                assert_eq!(allowed(boot(method, true), to).unwrap().version, version);
            }
        }
        let refusals = [
            (boot("tpm", true), version + 1, "shut itself out"),
            (boot("recovery", true), version, "not unlocked by the TPM"),
            (boot("tpm", false), version, "binding pcr"),
        ];
        for (boot, to, want) in refusals {
            let refusal = allowed(boot, to).unwrap_err();
            assert!(refusal.is_refusal() && refusal.to_string().contains(want), "{refusal}");
        }
    }
}
