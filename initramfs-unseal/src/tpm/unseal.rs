//! Unsealing: pinned SRK, salted session, PolicyPCR, NV_Read, NV_ReadLock.

use super::{Encrypt, Index, Tpm, TpmError, error};
use crate::sealed::{SEALED_LEN, Sealed};
use crate::secret::Secret;
use pcr_measure::pcr::PcrSelection;
use pcr_measure::tpm::selections;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::KeyHandle;
use tss_esapi::interface_types::reserved_handles::NvAuth;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::Digest;

/// How often PolicyPCR is tried when a PCR moves under it.
const PCR_CHANGED_TRIES: u32 = 3;

/// What unsealing needs to know besides the index.
#[derive(Debug, Clone, Copy)]
pub struct Unsealing<'a> {
    /// Persistent handle of the storage root key.
    pub srk: u32,
    /// Its Name when the root was sealed.
    pub srk_name: &'a [u8],
    /// PCRs of the policy.
    pub pcrs: &'a PcrSelection,
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
        let srk = self.pinned_srk(what.srk, what.srk_name)?;
        let session = self.session(srk, SessionType::Policy)?;
        let result = self.read_and_lock(session, index, what);
        // The session ends either way; its error must not hide the first.
        let closed = self.close(session);
        let sealed = result?;
        closed?;
        Ok(sealed)
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

    fn read_and_lock(
        &mut self,
        session: AuthSession,
        index: &Index,
        what: Unsealing<'_>,
    ) -> Result<Sealed, TpmError> {
        let policy: PolicySession =
            session.try_into().map_err(|_| TpmError::Library("not a policy session".into()))?;
        let read = |tpm: &mut Self| {
            tpm.encrypt(session, Encrypt::Response)?;
            tpm.run(what.nv_index, |c| {
                c.execute_with_session(Some(session), |c| {
                    c.nv_read(NvAuth::NvIndex(index.handle), index.handle, SEALED_LEN, 0)
                })
            })
        };
        let data = self.under_policy(policy, what.pcrs, read)?;
        let sealed = Sealed::decode(data.as_bytes()).ok_or(TpmError::Content(what.nv_index))?;
        if what.lock {
            self.under_policy(policy, what.pcrs, |tpm| {
                tpm.encrypt(session, Encrypt::Nothing)?;
                tpm.run(what.nv_index, |c| {
                    c.execute_with_session(Some(session), |c| {
                        c.nv_read_lock(NvAuth::NvIndex(index.handle), index.handle)
                    })
                })
            })?;
        }
        Ok(sealed)
    }

    /// Runs PolicyPCR, then `use_it`. The TPM forgets a policy once it has
    /// served (part 1, 19.7.6), so each use comes with its own PolicyPCR.
    fn under_policy<T>(
        &mut self,
        policy: PolicySession,
        pcrs: &PcrSelection,
        mut use_it: impl FnMut(&mut Self) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let list = selections(&[*pcrs]).map_err(|e| error::sorted(e, 0))?;
        let mut tries = 0;
        loop {
            tries += 1;
            // An empty digest: the TPM takes the PCRs as they are.
            self.run(0, |c| {
                c.execute_without_session(|c| c.policy_pcr(policy, Digest::default(), list.clone()))
            })?;
            match use_it(self) {
                Err(TpmError::PcrChanged) if tries < PCR_CHANGED_TRIES => {
                    self.run(0, |c| c.execute_without_session(|c| c.policy_restart(policy)))?;
                }
                other => return other,
            }
        }
    }
}

impl Sealed {
    /// The secret alone, for callers that compare no fingerprint.
    #[must_use]
    pub fn into_secret(self) -> Secret {
        self.secret
    }
}
