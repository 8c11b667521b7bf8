//! The TPM's way into the root, and what follows while the volume key is at hand.

use super::{Boot, guesses::Typed};
use crate::authority::{Approved, SignedError};
use crate::evidence;
use crate::flow::Why;
use crate::guard::Guard;
use crate::luks::Volume;
use crate::pin::Pin;
use crate::recovery::RecoveryKey;
use crate::reseal::{ResealError, Resealing};
use crate::sealed::Sealed;
use crate::token::{Place, Token};
use crate::tpm::{Index, TpmError, Unsealing};
use anyhow::{Result, bail};
use pcr_measure::policy;
use zeroize::Zeroizing;

/// What came of the TPM's way.
pub(super) enum Unlocked {
    /// The volume is open; this is its key, and the PIN where there is one.
    Open(Zeroizing<Vec<u8>>, Option<Pin>),
    /// Whoever was asked for the PIN entered the recovery key.
    ByHand(RecoveryKey),
}

/// What came of asking the TPM.
enum Unsealed {
    Sealed(Sealed, Option<Pin>),
    ByHand(RecoveryKey),
}

impl Boot {
    /// The TPM's way. Any error leaves the volume closed.
    pub(super) fn unlock(
        &mut self,
        volume: &mut Volume,
        token: &Token,
        index: Option<&Index>,
        lock_index: bool,
    ) -> Result<Unlocked> {
        let Some(place) = token.place(self.config.indices()) else {
            bail!(ResealError::ForeignPlace(token.nv_index));
        };
        let Some(index) = index else { bail!(Why::IndexMissing) };
        let (sealed, pin) = match self.unseal(token, place, index)? {
            Unsealed::Sealed(sealed, pin) => (sealed, pin),
            Unsealed::ByHand(key) => return Ok(Unlocked::ByHand(key)),
        };
        self.report.reached("unsealed");
        if let (true, Some(tpm)) = (lock_index, self.tpm.as_mut()) {
            tpm.lock_index(index, place.nv_index)?;
        }
        let (secret, fingerprint) = (sealed.secret.expose(), sealed.fingerprint);
        let key = self.open(volume, place.slot, secret, Some(fingerprint))?;
        Ok(Unlocked::Open(key, pin))
    }

    /// Unseals; where there is a PIN, until it is right or the tries are used up.
    fn unseal(&mut self, token: &Token, place: Place, index: &Index) -> Result<Unsealed> {
        let guard = token.guard(self.config.signed.as_ref())?;
        let known = self.known(token);
        let mut tries = 1..=self.config.recovery_tries;
        loop {
            let pin = match (guard.pin(), self.pin.take()) {
                (true, None) => match self.ask_pin()? {
                    Typed::RecoveryKey(key) => return Ok(Unsealed::ByHand(key)),
                    Typed::Pin(pin) => Some(pin),
                },
                (true, chosen) => chosen,
                (false, _) => None,
            };
            let what = Unsealing {
                srk: self.config.srk,
                srk_name: &token.srk_name,
                pcrs: &self.config.pcrs,
                guard: &guard,
                pin: pin.as_ref(),
                nv_index: place.nv_index,
                lock: true,
            };
            let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpm) };
            let config = &self.config;
            let result = match &config.signed {
                Some(authority) => {
                    let file = || evidence::signatures(&config.partition(config.boot_partition));
                    tpm.unseal_signed(index, what, authority, known, file)
                }
                None => tpm.unseal(index, what).map(|s| (s, None)).map_err(SignedError::Tpm),
            };
            if guard.pin() {
                // A cut from here on is none that guesses.
                tpm.orderly()?;
            }
            match result {
                Ok((sealed, approved)) => {
                    self.approved = approved;
                    return Ok(Unsealed::Sealed(sealed, pin));
                }
                Err(SignedError::Tpm(wrong @ TpmError::WrongPin)) => {
                    let Some(attempt) = tries.next() else { bail!(wrong) };
                    let of = self.config.recovery_tries;
                    self.consoles.say(&format!("wrong PIN (try {attempt} of {of})"));
                    if attempt == of {
                        bail!(wrong);
                    }
                }
                Err(why) => return Err(why.into()),
            }
        }
    }

    /// What the TPM has verified of this boot before: found by the event log, which
    /// costs no command of the TPM's.
    fn known<'t>(&self, token: &'t Token) -> Option<&'t Approved> {
        let authority = self.config.signed.as_ref()?;
        let log = evidence::event_log().ok()?;
        let values = evidence::logged(&log, &self.config.pcrs)?;
        token.approved.of(authority.policy_of(&self.config.pcrs, &values).ok()?)
    }

    /// Keeps what the TPM has verified for the next boot: one write of the header for
    /// each new image. Without it the next boot verifies again.
    pub(super) fn keep_approval(&mut self, volume: &mut Volume) {
        let Some(approved) = self.approved.take() else { return };
        let kept = volume.metadata().map_err(anyhow::Error::from).and_then(|metadata| {
            let (number, mut token) = Token::find(&metadata)?;
            token.approved.keep(approved);
            Ok(volume.replace_token(number, &token)?)
        });
        if let Err(why) = kept {
            self.consoles.say(&format!("the TPM's approval of this image is not kept: {why}"));
        }
    }

    /// Seals to this boot alone, when the running system has asked for it. A
    /// failure is no reason to stay out: the volume opens by the old secret.
    pub(super) fn retire(
        &mut self,
        volume: &mut Volume,
        volume_key: &[u8],
        pin: Option<&Pin>,
        token: &Token,
    ) {
        if !token.retire || self.config.signed.is_some() {
            return;
        }
        match self.try_retire(volume, volume_key, pin, token) {
            Ok(()) => self.consoles.say("sealed to this boot alone from now on"),
            Err(why) => self.consoles.say(&format!("the other boots were not retired: {why}")),
        }
        self.report.reached("retired");
    }

    fn try_retire(
        &mut self,
        volume: &mut Volume,
        volume_key: &[u8],
        pin: Option<&Pin>,
        token: &Token,
    ) -> Result<()> {
        let Some(tpm) = self.tpm.as_mut() else { bail!(Why::NoTpm) };
        // What the TPM has just released the secret to; the token is only asked for
        // the words that go with it.
        let values = evidence::unlatched(&tpm.pcrs(&self.config.pcrs)?)?;
        let guard = Guard::one(policy::pcr_digest(&self.config.pcrs, &values)?);
        let guard = guard.with_pin(pin.is_some());
        let Some(reference) = token.boot_with(&self.config.pcrs, &values)?.cloned() else {
            bail!("the LUKS2 token does not describe this boot");
        };
        let change = |token: &mut Token| {
            token.reference = reference;
            token.pending.clear();
        };
        let indices = self.config.indices();
        Resealing::new(tpm, volume, volume_key, indices, guard, pin, change)?.run()?;
        Ok(())
    }
}
