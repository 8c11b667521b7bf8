//! The rollback counter: an NV index that only counts up.
//!
//! A counter that is undefined and defined again begins above the highest value
//! that any counter of the TPM ever had (TPM 2.0 Library 1.59, Part 1, 37.2.5):
//! the owner hierarchy, which has no password, cannot lower it.

use super::{Tpm, TpmError, error};
use crate::authority::SignedError;
use pcr_measure::policy::{COUNTER_ATTRIBUTES, COUNTER_SIZE, Rollback};
use pcr_measure::structures::{NvPublic as Public, nv_attribute};
use tss_esapi::attributes::NvIndexAttributes;
use tss_esapi::constants::NvIndexType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::NvPublic;

/// A counter that has a value, and the Name that policies expect.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    pub(super) handle: NvIndexHandle,
    index: u32,
}

/// What is at the counter's handle.
enum Found {
    Nothing,
    /// Defined, never counted up: it has no value yet.
    Unborn(NvIndexHandle),
    Counter(Counter),
    Foreign,
}

impl Tpm {
    /// The counter. One command.
    ///
    /// # Errors
    /// [`SignedError::CounterMissing`], [`SignedError::ForeignCounter`].
    pub fn counter(&mut self, rollback: &Rollback) -> Result<Counter, SignedError> {
        match self.find_counter(rollback)? {
            Found::Counter(counter) => Ok(counter),
            Found::Nothing | Found::Unborn(_) => Err(SignedError::CounterMissing(rollback.counter)),
            Found::Foreign => Err(SignedError::ForeignCounter(rollback.counter)),
        }
    }

    /// Where the counter stands. One command; the answer is as trustworthy as
    /// the bus, policies do not go by it.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn counter_value(&mut self, counter: Counter) -> Result<u64, TpmError> {
        let data = self.run(counter.index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_read(NvAuth::NvIndex(counter.handle), counter.handle, COUNTER_SIZE, 0)
            })
        })?;
        let bytes = data.as_bytes().try_into().map_err(|_| TpmError::Content(counter.index))?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// The counter and its value; it is made and counted up once where there is
    /// none. Safe to repeat after a cut at any point: a counter that has a value
    /// is left as it is.
    ///
    /// # Errors
    /// [`SignedError::ForeignCounter`]; [`TpmError::NvSpace`],
    /// [`TpmError::OwnerAuth`].
    pub fn ensure_counter(&mut self, rollback: &Rollback) -> Result<(Counter, u64), SignedError> {
        let unborn = match self.find_counter(rollback)? {
            Found::Counter(counter) => return Ok((counter, self.counter_value(counter)?)),
            Found::Foreign => return Err(SignedError::ForeignCounter(rollback.counter)),
            Found::Unborn(handle) => handle,
            Found::Nothing => {
                let public =
                    public(rollback).map_err(|e| error::from_esapi(e, rollback.counter))?;
                self.run(rollback.counter, |c| {
                    c.execute_with_session(Some(AuthSession::Password), |c| {
                        c.nv_define_space(Provision::Owner, None, public)
                    })
                })?
            }
        };
        // Its first value is one above the highest of all.
        self.increment(unborn, rollback.counter)?;
        let counter = self.counter(rollback)?;
        Ok((counter, self.counter_value(counter)?))
    }

    /// Counts up until the counter stands at `to`, and says where it stood and
    /// where it stands. A counter that is there or beyond is left as it is: the
    /// call may be cut and repeated.
    ///
    /// # Errors
    /// As the TPM tells them; [`TpmError::OwnerAuth`].
    pub fn advance_counter(&mut self, counter: Counter, to: u64) -> Result<(u64, u64), TpmError> {
        let from = self.counter_value(counter)?;
        let mut value = from;
        while value < to {
            self.increment(counter.handle, counter.index)?;
            // Read, not computed: others may count too.
            value = self.counter_value(counter)?;
        }
        Ok((from, value))
    }

    fn increment(&mut self, handle: NvIndexHandle, index: u32) -> Result<(), TpmError> {
        self.run(index, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.nv_increment(NvAuth::Owner, handle)
            })
        })
    }

    /// Told by its Name, which the library keeps from the one command that
    /// finds it.
    fn find_counter(&mut self, rollback: &Rollback) -> Result<Found, TpmError> {
        let index = rollback.counter;
        let tpm_handle = NvIndexTpmHandle::new(index).map_err(|e| error::from_esapi(e, index))?;
        let found = self.run(index, |c| {
            c.execute_without_session(|c| c.tr_from_tpm_public(TpmHandle::NvIndex(tpm_handle)))
        });
        let object = match found {
            Ok(object) => object,
            Err(TpmError::IndexMissing(_)) => return Ok(Found::Nothing),
            Err(other) => return Err(other),
        };
        let name = self.0.context().tr_get_name(object).map_err(|e| error::from_esapi(e, index))?;
        let unborn = Public {
            index,
            attributes: COUNTER_ATTRIBUTES & !nv_attribute::WRITTEN,
            policy: None,
            size: COUNTER_SIZE,
        };
        let handle = NvIndexHandle::from(object);
        Ok(if name.value() == rollback.counter_name() {
            Found::Counter(Counter { handle, index })
        } else if name.value() == unborn.name() {
            Found::Unborn(handle)
        } else {
            Found::Foreign
        })
    }
}

/// As [`COUNTER_ATTRIBUTES`] has it.
fn public(rollback: &Rollback) -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributes::builder()
        .with_owner_write(true)
        .with_nv_index_type(NvIndexType::Counter)
        .with_auth_read(true)
        .with_no_da(true)
        .build()?;
    NvPublic::builder()
        .with_nv_index(NvIndexTpmHandle::new(rollback.counter)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes)
        .with_data_area_size(COUNTER_SIZE.into())
        .build()
}
