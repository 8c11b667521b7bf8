//! The boot attempts that are left for a slot on trial: four bytes that U-Boot counts
//! down (uboot-patches, `loadslot`).
//!
//! An ordinary index, though it counts: a counter that is made begins above the highest
//! value that any counter of the TPM ever had (TPM 2.0 Library 1.59, Part 1, 37.2.5), so
//! that counting boots would lift the rollback counter of a board that is provisioned
//! again. Nothing is kept secret or guarded by it: whoever writes it decides how often
//! an image is tried that is verified and measured all the same.

use super::{Tpm, TpmError, error};
use pcr_measure::slots::{ATTEMPTS_INDEX, ATTEMPTS_LEN};
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{MaxNvBuffer, NvPublic};

/// `TPMA_NV_WRITTEN` (TPM 2.0 Library 1.59, Part 2, 13.4).
const WRITTEN: u32 = 1 << 29;

impl Tpm {
    /// How many attempts are left; `None` where nobody has ever set it, or something
    /// else is at that handle.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn attempts(&mut self) -> Result<Option<u32>, TpmError> {
        match self.attempts_index()? {
            Some((handle, true)) => {
                let data = self.run(ATTEMPTS_INDEX, |c| {
                    c.execute_with_session(Some(AuthSession::Password), |c| {
                        c.nv_read(NvAuth::Owner, handle, ATTEMPTS_LEN, 0)
                    })
                })?;
                let bytes = data.as_bytes().try_into();
                let bytes = bytes.map_err(|_| TpmError::Content(ATTEMPTS_INDEX))?;
                Ok(Some(u32::from_be_bytes(bytes)))
            }
            _ => Ok(None),
        }
    }

    /// Sets how many attempts are left. The index is made where there is none, and made
    /// anew where it is none of ours. Safe to repeat after a cut at any point.
    ///
    /// # Errors
    /// [`TpmError::NvSpace`], [`TpmError::OwnerAuth`].
    pub fn set_attempts(&mut self, attempts: u32) -> Result<(), TpmError> {
        let handle = match self.attempts_index()? {
            Some((handle, _)) => handle,
            None => {
                self.destroy(ATTEMPTS_INDEX)?;
                let public = public().map_err(|e| error::from_esapi(e, ATTEMPTS_INDEX))?;
                self.run(ATTEMPTS_INDEX, |c| {
                    c.execute_with_session(Some(AuthSession::Password), |c| {
                        c.nv_define_space(Provision::Owner, None, public)
                    })
                })?
            }
        };
        let data = MaxNvBuffer::try_from(attempts.to_be_bytes().to_vec())
            .map_err(|e| error::from_esapi(e, ATTEMPTS_INDEX))?;
        self.run(ATTEMPTS_INDEX, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_write(NvAuth::Owner, handle, data, 0)
            })
        })
    }

    /// The index, if it is one of ours, and whether it has been written.
    fn attempts_index(&mut self) -> Result<Option<(NvIndexHandle, bool)>, TpmError> {
        let Some(handle) = self.find_index(ATTEMPTS_INDEX)? else { return Ok(None) };
        let (found, _) =
            self.run(ATTEMPTS_INDEX, |c| c.execute_without_session(|c| c.nv_read_public(handle)))?;
        let number = |public: &NvPublic| {
            let number = u32::try_from(public.attributes());
            number.map_err(|e| error::from_esapi(e, ATTEMPTS_INDEX))
        };
        let ours = public().map_err(|e| error::from_esapi(e, ATTEMPTS_INDEX))?;
        let attributes = number(&found)?;
        let same = attributes & !WRITTEN == number(&ours)?
            && found.data_size() == usize::from(ATTEMPTS_LEN)
            && found.authorization_policy().as_bytes().is_empty();
        Ok(same.then_some((handle, attributes & WRITTEN != 0)))
    }
}

/// U-Boot uses the platform's authorization, the running system the owner's: there the
/// platform hierarchy is closed.
fn public() -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributes::builder()
        .with_pp_write(true)
        .with_pp_read(true)
        .with_owner_write(true)
        .with_owner_read(true)
        .with_no_da(true)
        .build()?;
    NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(ATTEMPTS_INDEX)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(ATTEMPTS_LEN.into())
        .build()
}
