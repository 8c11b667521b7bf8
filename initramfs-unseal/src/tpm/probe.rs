//! Asks a TPM whether it is fit to be provisioned ([`super::health`]).

use super::health::{Facts, Place, Unfit};
use super::seal::{is_storage_key, nv_public};
use super::{Tpm, TpmError, error};
use pcr_measure::digest::Sha256Digest;
use tss_esapi::constants::{CapabilityType, PropertyTag};
use tss_esapi::interface_types::reserved_handles::Provision;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, NvPublic};

impl Tpm {
    /// Whether this TPM can be provisioned with these handles. Changes nothing,
    /// but for an index that is defined for a moment: no property tells how much
    /// NV space is free. A power cut in that moment leaves an index that is not
    /// written, which provisioning takes for its own and makes anew.
    ///
    /// The trial is of the index alone. Where a TPM keeps keys and indices in one
    /// pool, the storage root key may take the room after it; sealing reports that,
    /// still before anything is encrypted.
    ///
    /// # Errors
    /// [`Unfit`], for each state that an operator has to act on.
    pub fn check_fit(&mut self, nv_index: u32, srk: u32) -> Result<(), Unfit> {
        self.self_test()?;
        let mut facts = self.facts(nv_index, srk)?;
        facts.judge()?;
        if facts.index == Place::Free {
            facts.room = Some(self.has_room(nv_index)?);
            facts.judge()?;
        }
        Ok(())
    }

    /// What the TPM says of its self test (part 3, 10.4). Tests that are not over,
    /// or that wait for the first use of what they test, are no failure.
    fn self_test(&mut self) -> Result<(), TpmError> {
        let (_, result) = self.run(0, |c| c.execute_without_session(|c| c.get_test_result()))?;
        match result.map_err(|e| error::from_esapi(e, 0)) {
            Ok(()) | Err(TpmError::Busy) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    fn facts(&mut self, nv_index: u32, srk: u32) -> Result<Facts, TpmError> {
        let must = |found: Option<u32>| {
            found.ok_or_else(|| TpmError::Library("the TPM leaves out a property".into()))
        };
        Ok(Facts {
            permanent: must(self.property(PropertyTag::Permanent)?)?,
            startup_clear: must(self.property(PropertyTag::StartupClear)?)?,
            failures: must(self.property(PropertyTag::LockoutCounter)?)?,
            most_failures: must(self.property(PropertyTag::MaxAuthFail)?)?,
            interval: must(self.property(PropertyTag::LockoutInterval)?)?,
            nv_index_max: self.property(PropertyTag::NvIndexMax)?,
            nv_buffer_max: self.property(PropertyTag::NvBufferMax)?,
            persistent_avail: self.property(PropertyTag::HrPersistentAvail)?,
            srk: self.at_srk(srk)?,
            index: self.at_index(nv_index)?,
            room: None,
        })
    }

    /// One property of the TPM; `None` when it has no such property.
    pub(super) fn property(&mut self, tag: PropertyTag) -> Result<Option<u32>, TpmError> {
        let read = self.run(0, |c| {
            c.execute_without_session(|c| {
                c.get_capability(CapabilityType::TpmProperties, tag.into(), 1)
            })
        });
        match read {
            Ok((CapabilityData::TpmProperties(list), _)) => {
                Ok(list.find(tag).map(|property| property.value()))
            }
            Ok(_) => Err(TpmError::Library("another capability than was asked for".into())),
            // In place of a property it lacks a TPM gives the next, and the library
            // refuses those it does not know.
            Err(TpmError::Library(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn at_srk(&mut self, handle: u32) -> Result<Place, TpmError> {
        let Some((key, _)) = self.persistent(handle)? else { return Ok(Place::Free) };
        let (public, ..) = self.run(0, |c| c.execute_without_session(|c| c.read_public(key)))?;
        Ok(if is_storage_key(&public) { Place::Ours } else { Place::Foreign })
    }

    fn at_index(&mut self, nv_index: u32) -> Result<Place, TpmError> {
        Ok(match self.index(nv_index)? {
            None => Place::Free,
            Some(found) if found.is_ours() => Place::Ours,
            Some(_) => Place::Foreign,
        })
    }

    /// Defines an index as large as ours where ours will be, and takes it away.
    fn has_room(&mut self, nv_index: u32) -> Result<bool, TpmError> {
        let public = trial(nv_index)?;
        let defined = self.run(nv_index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_define_space(Provision::Owner, None, public)
            })
        });
        let handle = match defined {
            Ok(handle) => handle,
            Err(TpmError::NvSpace) => return Ok(false),
            Err(other) => return Err(other),
        };
        self.run(nv_index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_undefine_space(Provision::Owner, handle)
            })
        })?;
        Ok(true)
    }
}

/// Our index with a policy that nothing satisfies.
fn trial(nv_index: u32) -> Result<NvPublic, TpmError> {
    nv_public(nv_index, Sha256Digest::ZERO, false)
}
