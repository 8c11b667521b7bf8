//! Resealing: a new secret under a new guard, without a moment in which no boot
//! unlocks.
//!
//! A secret lies in one of two places, an NV index and the key slot that goes with
//! it ([`Place`]); the token in the LUKS2 header says in which. A new one is made
//! complete in the other place. Then the token changes, in one write of the header
//! (libcryptsetup writes one copy after the other, and takes the older one where
//! the newer is torn). Only then the old place is cleared. A cut before the token
//! leaves the old secret in force, one after it the new one; what lies in the place
//! that the token does not name opens nothing, and the next resealing clears it.
//!
//! It needs the volume key. The running system has none that it could read: it asks
//! for the recovery key ([`request`]). The initramfs has it for a moment, and uses
//! it for what needs no one's consent: leaving a boot that the TPM knows already
//! ([`Token::retire`]).

pub mod request;

use crate::flow::IndexState;
use crate::guard::Guard;
use crate::luks::{LuksError, Volume};
use crate::pin::Pin;
use crate::sealed::Sealed;
use crate::secret::{self, RandomError, Secret};
use crate::token::{GuardError, Place, Token, TokenError};
use crate::tpm::{Sealing, Tpm, TpmError};
use crate::volume::Fingerprint;
use pcr_measure::policy::PolicyError;

/// Why a secret was not sealed anew. What opened the root before still does.
#[derive(Debug, thiserror::Error)]
pub enum ResealError {
    /// The token names neither place.
    #[error(
        "the LUKS2 token names the NV index {0:#010x}, which the image's configuration does not know: boot the image that sealed the root"
    )]
    ForeignPlace(u32),
    /// The new index is not as it was asked for.
    #[error("the TPM did not keep the new index {0:#010x}: do not use this TPM")]
    NotKept(u32),
    /// The new key slot opens to something else.
    #[error("the new key slot does not give the volume key: check the card")]
    Proof,
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The volume.
    #[error(transparent)]
    Luks(#[from] LuksError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// No policy.
    #[error(transparent)]
    Guard(#[from] GuardError),
}

impl From<PolicyError> for ResealError {
    fn from(why: PolicyError) -> Self {
        Self::Guard(why.into())
    }
}

/// One step. Each may be cut; the one that decides is [`Step::Switch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Clear the other place of what an attempt that was cut left there.
    Clear,
    /// Make a secret and a key slot for it.
    Slot,
    /// Seal it, and write-lock the index for good.
    Seal,
    /// Prove that both are there, then let the token name them.
    Switch,
    /// Clear the place that the token named before.
    Forget,
}

impl Step {
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Clear, Self::Slot, Self::Seal, Self::Switch, Self::Forget];
}

/// A resealing under way.
#[derive(Debug)]
pub struct Resealing<'a> {
    tpm: &'a mut Tpm,
    volume: &'a mut Volume,
    volume_key: &'a [u8],
    pin: Option<&'a Pin>,
    guard: Guard,
    token: Token,
    number: u32,
    from: Place,
    to: Place,
    secret: Option<Secret>,
}

impl<'a> Resealing<'a> {
    /// Prepares: `change` makes the new token of the one in the header, but for its
    /// place and policy. `indices` are the configuration's, `guard` what the new
    /// secret is released under.
    ///
    /// # Errors
    /// [`ResealError::ForeignPlace`]; that there is no token.
    pub fn new(
        tpm: &'a mut Tpm,
        volume: &'a mut Volume,
        volume_key: &'a [u8],
        indices: [u32; 2],
        guard: Guard,
        pin: Option<&'a Pin>,
        change: impl FnOnce(&mut Token),
    ) -> Result<Self, ResealError> {
        let (number, old) = Token::find(&volume.metadata()?)?;
        let from = old.place(indices).ok_or(ResealError::ForeignPlace(old.nv_index))?;
        let [first, second] = Place::both(indices);
        let to = if from == first { second } else { first };
        let mut token = old.at(to);
        change(&mut token);
        token.policy = guard.policy()?;
        token.retire = false;
        let secret = None;
        Ok(Self { tpm, volume, volume_key, pin, guard, token, number, from, to, secret })
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// [`ResealError`].
    pub fn run(mut self) -> Result<(), ResealError> {
        Step::ALL.into_iter().try_for_each(|step| self.step(step))
    }

    /// Runs one step. In order.
    ///
    /// # Errors
    /// [`ResealError`].
    pub fn step(&mut self, step: Step) -> Result<(), ResealError> {
        match step {
            Step::Clear => self.clear(self.to),
            Step::Slot => {
                let drawn = self.tpm.random()?;
                let secret = secret::fresh("msec-boot key slot secret 1", &drawn)?;
                self.volume.add_secret(self.to.slot, self.volume_key, &secret)?;
                self.secret = Some(secret);
                Ok(())
            }
            Step::Seal => self.seal(),
            Step::Switch => {
                self.prove()?;
                self.volume.flush()?;
                self.volume.replace_token(self.number, &self.token)?;
                Ok(self.volume.flush()?)
            }
            Step::Forget => self.clear(self.from),
        }
    }

    /// The index first: without it the key slot opens to nobody.
    fn clear(&mut self, place: Place) -> Result<(), ResealError> {
        self.tpm.destroy(place.nv_index)?;
        Ok(self.volume.remove_slot(place.slot)?)
    }

    fn seal(&mut self) -> Result<(), ResealError> {
        let Some(secret) = &self.secret else { return Err(ResealError::Proof) };
        let nv_index = self.to.nv_index;
        let fingerprint = Fingerprint::of(self.volume_key);
        let sealed = Sealed { secret: secret.clone(), fingerprint };
        let what = Sealing { nv_index, srk: self.token.srk, guard: &self.guard, pin: self.pin };
        self.tpm.seal(what, &self.token.srk_name, &sealed)?;
        let index = self.tpm.index(nv_index)?.ok_or(ResealError::NotKept(nv_index))?;
        Ok(self.tpm.lock_index(&index, nv_index)?)
    }

    /// The policy cannot be tried in a boot that is latched; what it is can be read.
    fn prove(&mut self) -> Result<(), ResealError> {
        let nv_index = self.to.nv_index;
        let index = self.tpm.index(nv_index)?.ok_or(ResealError::NotKept(nv_index))?;
        let kept = index.is_ours()
            && index.state() == IndexState::Locked
            && index.policy() == self.token.policy.as_bytes();
        if !kept {
            return Err(ResealError::NotKept(nv_index));
        }
        let Some(secret) = &self.secret else { return Err(ResealError::Proof) };
        let key = self.volume.volume_key(self.to.slot, secret.expose())?;
        if key.as_slice() == self.volume_key { Ok(()) } else { Err(ResealError::Proof) }
    }
}
