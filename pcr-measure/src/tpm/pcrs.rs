//! Reading and extending PCRs.

use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::PcrHandle;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    CapabilityData, Digest as TpmDigest, DigestValues, PcrSelectionList, PcrSlot,
};

use super::{Tpm, TpmError};
use crate::digest::{Algorithm, Digest};
use crate::pcr::{PcrBank, PcrIndex, PcrSelection};

/// PCRs that one PCR_Read gives (`TPML_DIGEST`, TPM 2.0 Library 1.59, Part 2,
/// 10.9.4).
const AT_ONCE: usize = 8;
/// How often a read begins anew when PCRs change under it.
const TRIES: u32 = 5;

impl Tpm {
    /// The banks that are active: those that any PCR is allocated in.
    ///
    /// # Errors
    /// [`TpmError`] of the TPM.
    pub fn banks(&mut self) -> Result<Vec<Algorithm>, TpmError> {
        let (data, _) = self.run(|c| {
            c.execute_without_session(|c| c.get_capability(CapabilityType::AssignedPcr, 0, 1))
        })?;
        let CapabilityData::AssignedPcr(banks) = data else {
            return Err(TpmError::Library("another capability than was asked for".into()));
        };
        let active = banks.get_selections().iter().filter(|bank| !bank.is_empty());
        Ok(active.filter_map(|bank| algorithm(bank.hashing_algorithm())).collect())
    }

    /// Reads PCRs, eight to a command; all of them as of one moment.
    ///
    /// # Errors
    /// [`TpmError::NoBank`] when the TPM leaves out any of them,
    /// [`TpmError::Moving`] when they do not hold still.
    pub fn pcrs(&mut self, selection: &PcrSelection) -> Result<PcrBank, TpmError> {
        for _ in 0..TRIES {
            if let Some(values) = self.pcrs_once(selection)? {
                return Ok(values);
            }
        }
        Err(TpmError::Moving)
    }

    /// `None` when a PCR was extended between two commands.
    fn pcrs_once(&mut self, selection: &PcrSelection) -> Result<Option<PcrBank>, TpmError> {
        let all: Vec<PcrIndex> = selection.iter().collect();
        let mut bank = PcrBank::new(selection.bank());
        let mut counter = None;
        for some in all.chunks(AT_ONCE) {
            let list = selections(&[PcrSelection::new(selection.bank(), some.iter().copied())?])?;
            let read = self.run(|c| c.execute_without_session(|c| c.pcr_read(list)));
            let (updates, digests) = match read {
                Ok((updates, _, digests)) if digests.len() == some.len() => (updates, digests),
                // It gives what it has, or does not know the hash at all.
                Err(other) if !other.is_no_such_hash() => return Err(other),
                _ => {
                    return Err(TpmError::NoBank { bank: selection.bank(), has: self.banks()? });
                }
            };
            for (pcr, value) in some.iter().zip(digests.value()) {
                let value = Digest::new(selection.bank(), value.as_bytes());
                bank.set(*pcr, value.map_err(crate::pcr::PcrError::from)?)?;
            }
            if counter.is_some_and(|counter| counter != updates) {
                return Ok(None);
            }
            counter = Some(updates);
        }
        Ok(Some(bank))
    }

    /// Extends a PCR with one digest for each bank that is to change.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn extend(&mut self, pcr: PcrIndex, digests: &[Digest]) -> Result<(), TpmError> {
        // PCR handles are the PCR numbers (Part 2, 7.4, TPM_HT_PCR).
        let handle = PcrHandle::try_from(u32::from(pcr.get()))?;
        let mut values = DigestValues::new();
        for digest in digests {
            let bytes = TpmDigest::try_from(digest.as_bytes().to_vec())?;
            values.set(hashing(digest.algorithm())?, bytes);
        }
        self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| c.pcr_extend(handle, values))
        })
    }
}

/// The selections as the library has them, in their order.
///
/// # Errors
/// A bank that the library does not know.
pub fn selections(selections: &[PcrSelection]) -> Result<PcrSelectionList, TpmError> {
    let mut builder = PcrSelectionList::builder();
    for selection in selections {
        let slots: Result<Vec<_>, _> =
            selection.iter().map(|pcr| PcrSlot::try_from(1u32 << pcr.get())).collect();
        builder = builder.with_selection(hashing(selection.bank())?, &slots?);
    }
    Ok(builder.build()?)
}

fn hashing(algorithm: Algorithm) -> Result<HashingAlgorithm, TpmError> {
    Ok(HashingAlgorithm::try_from(algorithm.id())?)
}

fn algorithm(hashing: HashingAlgorithm) -> Option<Algorithm> {
    Algorithm::from_id(hashing.into())
}
