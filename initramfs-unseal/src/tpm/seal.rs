//! Sealing: the storage root key, and the NV index that holds the secret.

use super::{Encrypt, Index, Tpm, TpmError, error, to_digest};
use crate::guard::Guard;
use crate::pin::Pin;
use crate::sealed::{SEALED_LEN, Sealed};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::structures::nv_attribute as attribute;
use pcr_measure::tpm::Primary;
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::NvIndexTpmHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Auth, MaxNvBuffer, NvPublic, Public};

/// What sealing needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Sealing<'a> {
    /// Handle of the NV index to define.
    pub nv_index: u32,
    /// Persistent handle of the storage root key.
    pub srk: u32,
    /// What will guard the index.
    pub guard: &'a Guard,
    /// The PIN, where the guard demands one.
    pub pin: Option<&'a Pin>,
}

impl Tpm {
    /// The Name of the storage root key at `handle`, which is made there when
    /// the handle is free. Safe to repeat: a key that is there is kept.
    ///
    /// # Errors
    /// [`TpmError::ForeignSrk`] when the handle holds another kind of key,
    /// [`TpmError::OwnerAuth`] when the owner hierarchy has a password.
    pub fn ensure_srk(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        if let Some((key, name)) = self.persistent(handle)? {
            let (public, _, _) =
                self.run(0, |c| c.execute_without_session(|c| c.read_public(key)))?;
            return if is_storage_key(&public) {
                Ok(name)
            } else {
                Err(TpmError::ForeignSrk(handle))
            };
        }
        self.0.keep(Primary::StorageRoot, handle).map_err(|e| error::sorted(e, 0))?;
        match self.persistent(handle)? {
            Some((_, name)) => Ok(name),
            None => Err(TpmError::SrkMissing(handle)),
        }
    }

    /// Defines the index anew and writes the secret into it, under a salted
    /// session that encrypts it on the bus. What the index held before is
    /// gone: callers do this only before anything is encrypted with it.
    ///
    /// # Errors
    /// [`TpmError::NvSpace`] when the TPM is full, others as they come.
    pub fn seal(
        &mut self,
        what: Sealing<'_>,
        srk_name: &[u8],
        sealed: &Sealed,
    ) -> Result<(), TpmError> {
        let srk = self.pinned_srk(what.srk, srk_name)?;
        self.destroy(what.nv_index)?;
        let policy = what.guard.policy().map_err(super::impossible)?;
        let public = nv_public(what.nv_index, policy, what.guard.pin())?;
        let auth = match (what.guard.pin(), what.pin) {
            (true, Some(pin)) => Some(pin.auth().map_err(|e| error::from_esapi(e, what.nv_index))?),
            (true, None) => return Err(TpmError::Library("a guard with a PIN, and no PIN".into())),
            (false, _) => None,
        };
        let session = self.session(srk, SessionType::Hmac)?;
        let done = self.define_and_write(session, what.nv_index, auth, public, sealed);
        self.close(session)?;
        done
    }

    /// Defines the index, and writes the secret into it; authorisation value and
    /// secret are encrypted on the bus.
    fn define_and_write(
        &mut self,
        session: AuthSession,
        nv_index: u32,
        auth: Option<Auth>,
        public: NvPublic,
        sealed: &Sealed,
    ) -> Result<(), TpmError> {
        self.encrypt(session, Encrypt::Command)?;
        let handle = self.run(nv_index, |c| {
            c.execute_with_session(Some(session), |c| {
                c.nv_define_space(Provision::Owner, auth, public)
            })
        })?;
        let data = MaxNvBuffer::try_from(sealed.encode().to_vec())
            .map_err(|e| error::from_esapi(e, nv_index))?;
        self.run(nv_index, |c| {
            c.execute_with_session(Some(session), |c| c.nv_write(NvAuth::Owner, handle, data, 0))
        })
    }

    /// Undefines the index, and with it destroys what it holds. Nothing to destroy
    /// is fine.
    ///
    /// # Errors
    /// [`TpmError::ForeignIndex`] for one that [`Tpm::seal`] did not make.
    pub fn destroy(&mut self, nv_index: u32) -> Result<(), TpmError> {
        let Some(old) = self.index(nv_index)? else { return Ok(()) };
        if !old.is_ours() {
            return Err(TpmError::ForeignIndex(nv_index));
        }
        self.run(nv_index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_undefine_space(Provision::Owner, old.handle)
            })
        })
    }

    /// Write-locks the index for good (`TPMA_NV_WRITEDEFINE`): only undefining
    /// it, which destroys the secret, takes the lock off.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn lock_index(&mut self, index: &Index, nv_index: u32) -> Result<(), TpmError> {
        self.run(nv_index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_write_lock(NvAuth::Owner, index.handle)
            })
        })
    }
}

/// Attributes of the index: readable under the policy alone, read-lockable until
/// the next reset, written by the owner and write-lockable for good. Outside
/// dictionary attack protection, unless there is a PIN to guess.
pub(super) const fn attributes(pin: bool) -> u32 {
    let guessing = if pin { 0 } else { attribute::NO_DA };
    attribute::OWNER_WRITE
        | attribute::WRITE_DEFINE
        | attribute::POLICY_READ
        | attribute::READ_STCLEAR
        | guessing
}

pub(super) fn nv_public(
    nv_index: u32,
    policy: Sha256Digest,
    pin: bool,
) -> Result<NvPublic, TpmError> {
    let policy = to_digest(&policy)?;
    let build = || {
        NvPublic::builder()
            .with_nv_index(NvIndexTpmHandle::new(nv_index)?)
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(NvIndexAttributes::try_from(attributes(pin))?)
            .with_index_auth_policy(policy)
            .with_data_area_size(SEALED_LEN.into())
            .build()
    };
    build().map_err(|e| error::from_esapi(e, nv_index))
}

/// Whether a key that was found at the SRK's handle can serve as one.
pub(super) fn is_storage_key(public: &Public) -> bool {
    let Public::Ecc { object_attributes: a, parameters, .. } = public else { return false };
    parameters.ecc_curve() == EccCurve::NistP256
        && a.fixed_tpm()
        && a.fixed_parent()
        && a.sensitive_data_origin()
        && a.restricted()
        && a.decrypt()
        && a.no_da()
        && !a.sign_encrypt()
}
