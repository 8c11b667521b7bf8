//! Unsealing: pinned SRK, salted session, policy, NV_Read, NV_ReadLock.

use super::{Encrypt, Index, Tpm, TpmError, error, to_digest};
use crate::guard::Guard;
use crate::pin::Pin;
use crate::sealed::{SEALED_LEN, Sealed};
use crate::secret::Secret;
use pcr_measure::pcr::PcrSelection;
use pcr_measure::tpm::selections;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, DigestList};

/// How often PolicyPCR is tried when a PCR moves under it.
const PCR_CHANGED_TRIES: u32 = 3;

/// `TPM_RC_VALUE` about the first parameter: PolicyOR, when the session's digest is
/// in none of the list (TPM 2.0 Library 1.59, Part 3, 23.6).
const RC_NO_BRANCH: u32 = 0x1c4;

/// What unsealing needs to know besides the index.
#[derive(Debug, Clone, Copy)]
pub struct Unsealing<'a> {
    /// Persistent handle of the storage root key.
    pub srk: u32,
    /// Its Name when the root was sealed.
    pub srk_name: &'a [u8],
    /// PCRs of the policy.
    pub pcrs: &'a PcrSelection,
    /// What guards the index.
    pub guard: &'a Guard,
    /// The PIN, where the guard demands one.
    pub pin: Option<&'a Pin>,
    /// Handle of the index, for messages.
    pub nv_index: u32,
    /// Read-lock the index until the next reset. Off while provisioning
    /// proves that the TPM gives the secret out, and for `status`.
    pub lock: bool,
}

impl Tpm {
    /// Reads the secret and the fingerprint beside it, then locks the index
    /// for the rest of this boot. The secret crosses the bus encrypted, under
    /// a session whose salt only the pinned SRK can read.
    ///
    /// # Errors
    /// [`TpmError`]; of those only a changed PCR is retried.
    pub fn unseal(&mut self, index: &Index, what: Unsealing<'_>) -> Result<Sealed, TpmError> {
        self.unseal_under(index, what, |tpm, policy| tpm.policy_pcr(policy, what.pcrs))
    }

    /// As [`Tpm::unseal`], under the policy that `satisfy` runs.
    pub(super) fn unseal_under<E: From<TpmError>>(
        &mut self,
        index: &Index,
        what: Unsealing<'_>,
        satisfy: impl Fn(&mut Self, PolicySession) -> Result<(), E>,
    ) -> Result<Sealed, E> {
        let srk = self.pinned_srk(what.srk, what.srk_name)?;
        let session = self.session(srk, SessionType::Policy)?;
        let result = self.read_and_lock(session, index, what, &satisfy);
        match result {
            Ok(sealed) => {
                // Its last command has ended it.
                self.forget(session);
                Ok(sealed)
            }
            Err(first) => {
                // The session ends all the same; its error must not hide the first.
                let _ = self.close(session);
                Err(first)
            }
        }
    }

    /// The SRK, when it is the one that was pinned.
    ///
    /// # Errors
    /// [`TpmError::SrkMissing`], [`TpmError::WrongSrk`].
    pub(super) fn pinned_srk(&mut self, handle: u32, name: &[u8]) -> Result<KeyHandle, TpmError> {
        match self.persistent(handle)? {
            Some((key, found)) if found == name => Ok(key),
            Some(_) => Err(TpmError::WrongSrk(handle)),
            None => Err(TpmError::SrkMissing(handle)),
        }
    }

    fn read_and_lock<E: From<TpmError>>(
        &mut self,
        session: AuthSession,
        index: &Index,
        what: Unsealing<'_>,
        satisfy: &impl Fn(&mut Self, PolicySession) -> Result<(), E>,
    ) -> Result<Sealed, E> {
        let policy = policy_session(session)?;
        if let Some(pin) = what.pin {
            let auth = pin.auth().map_err(|e| error::from_esapi(e, what.nv_index))?;
            let context = self.0.context();
            context
                .tr_set_auth(index.handle.into(), auth)
                .map_err(|e| error::from_esapi(e, what.nv_index))?;
        }
        let satisfy = |tpm: &mut Self, policy| {
            satisfy(tpm, policy)?;
            tpm.policy_rest(policy, what.guard).map_err(E::from)
        };
        let satisfy = &satisfy;
        let read = |tpm: &mut Self| {
            tpm.encrypt_and(session, Encrypt::Response, what.lock)?;
            tpm.run(what.nv_index, |c| {
                c.execute_with_session(Some(session), |c| {
                    c.nv_read(NvAuth::NvIndex(index.handle), index.handle, SEALED_LEN, 0)
                })
            })
            .map_err(|refusal| match refusal {
                // No password of the owner's is in it: the HMAC was refused.
                TpmError::OwnerAuth if what.pin.is_some() => TpmError::WrongPin,
                TpmError::OwnerAuth => TpmError::Session,
                other => other,
            })
        };
        let data = self.under_policy(policy, satisfy, read)?;
        let sealed = Sealed::decode(data.as_bytes()).ok_or(TpmError::Content(what.nv_index))?;
        if what.lock {
            self.under_policy(policy, satisfy, |tpm| {
                tpm.end_with_next(session)?;
                tpm.run(what.nv_index, |c| {
                    c.execute_with_session(Some(session), |c| {
                        c.nv_read_lock(NvAuth::NvIndex(index.handle), index.handle)
                    })
                })
            })?;
        }
        Ok(sealed)
    }

    /// Runs the policy, then `use_it`. The TPM forgets a policy once it has
    /// served (part 1, 19.7.6), so each use comes with its own.
    fn under_policy<T, E: From<TpmError>>(
        &mut self,
        policy: PolicySession,
        satisfy: &impl Fn(&mut Self, PolicySession) -> Result<(), E>,
        mut use_it: impl FnMut(&mut Self) -> Result<T, TpmError>,
    ) -> Result<T, E> {
        let mut tries = 0;
        loop {
            tries += 1;
            satisfy(self, policy)?;
            match use_it(self) {
                Err(TpmError::PcrChanged) if tries < PCR_CHANGED_TRIES => {
                    self.run(0, |c| c.execute_without_session(|c| c.policy_restart(policy)))?;
                }
                other => return Ok(other?),
            }
        }
    }

    /// What follows in every policy: PolicyOR where there are several boots to
    /// choose from, PolicyAuthValue where there is a PIN. Two commands at most.
    fn policy_rest(&mut self, policy: PolicySession, guard: &Guard) -> Result<(), TpmError> {
        if let Some(alternatives) = guard.alternatives() {
            let mut list = DigestList::new();
            for branch in alternatives {
                list.add(to_digest(branch)?).map_err(|e| error::from_esapi(e, 0))?;
            }
            self.run(0, |c| c.execute_without_session(|c| c.policy_or(policy, list))).map_err(
                |refusal| match refusal {
                    // This boot is none of them.
                    TpmError::Other(RC_NO_BRANCH) => TpmError::PolicyFailed,
                    other => other,
                },
            )?;
        }
        if guard.pin() {
            self.run(0, |c| c.execute_without_session(|c| c.policy_auth_value(policy)))?;
        }
        Ok(())
    }

    /// PolicyPCR over the PCRs as they are. One command.
    pub(super) fn policy_pcr(
        &mut self,
        policy: PolicySession,
        pcrs: &PcrSelection,
    ) -> Result<(), TpmError> {
        let list = selections(&[*pcrs]).map_err(|e| error::sorted(e, 0))?;
        // An empty digest: the TPM takes the values that it has.
        self.run(0, |c| {
            c.execute_without_session(|c| c.policy_pcr(policy, Digest::default(), list))
        })
    }
}

/// The session, as policy commands take it.
pub(super) fn policy_session(session: AuthSession) -> Result<PolicySession, TpmError> {
    session.try_into().map_err(|_| TpmError::Library("not a policy session".into()))
}

impl Sealed {
    /// The secret alone, for callers that compare no fingerprint.
    #[must_use]
    pub fn into_secret(self) -> Secret {
        self.secret
    }
}
