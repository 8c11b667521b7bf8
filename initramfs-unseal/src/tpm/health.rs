//! Whether a TPM is fit to be provisioned: what was found out about it, and
//! the decision. Pure; [`super::probe`] asks the TPM.
//!
//! The answers are the TPM's word and guard nothing. They are asked for so
//! that provisioning stops before it has changed anything, with words that say
//! what to do, and not half-way with an error of a command.

use super::TpmError;
use crate::sealed::SEALED_LEN;

/// `TPMA_PERMANENT` (TPM 2.0 Library part 2, 8.6), the bits used here.
mod permanent {
    pub(super) const OWNER_AUTH_SET: u32 = 1 << 0;
    pub(super) const LOCKOUT_AUTH_SET: u32 = 1 << 2;
    pub(super) const DISABLE_CLEAR: u32 = 1 << 8;
    pub(super) const IN_LOCKOUT: u32 = 1 << 9;
}
/// `TPMA_STARTUP_CLEAR` (part 2, 8.7): the owner hierarchy is enabled.
const SH_ENABLE: u32 = 1 << 1;

/// What a handle that provisioning wants holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nothing.
    Free,
    /// What provisioning puts there.
    Ours,
    /// Something else.
    Foreign,
}

/// What was found out. Properties (part 2, 6.13) that a TPM may leave out are
/// `None` then, and nothing is refused for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// `TPM_PT_PERMANENT`.
    pub permanent: u32,
    /// `TPM_PT_STARTUP_CLEAR`.
    pub startup_clear: u32,
    /// `TPM_PT_LOCKOUT_COUNTER`: failed authorisations that are remembered.
    pub failures: u32,
    /// `TPM_PT_MAX_AUTH_FAIL`: as many of them make the lockout.
    pub most_failures: u32,
    /// `TPM_PT_LOCKOUT_INTERVAL`: seconds until one is forgotten.
    pub interval: u32,
    /// `TPM_PT_NV_INDEX_MAX`: largest index, in bytes.
    pub nv_index_max: Option<u32>,
    /// `TPM_PT_NV_BUFFER_MAX`: most that one command writes or reads, in bytes.
    pub nv_buffer_max: Option<u32>,
    /// `TPM_PT_HR_PERSISTENT_AVAIL`: persistent objects that still fit.
    pub persistent_avail: Option<u32>,
    /// At the SRK's handle.
    pub srk: Place,
    /// At the index' handle.
    pub index: Place,
    /// Whether a trial index as large as ours could be defined; `None` when it
    /// was not tried.
    pub room: Option<bool>,
}

/// A TPM that cannot be provisioned as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The owner hierarchy is off until the next reset.
    #[error(
        "the TPM's owner hierarchy is disabled for this boot: reset the board; if it stays, the firmware disables it"
    )]
    OwnerDisabled,
    /// Owner authorisation is set.
    #[error(
        "the TPM's owner hierarchy has a password: from a trusted system remove it (tpm2_changeauth -c owner -p PASSWORD) or {}",
        if *.clear_disabled { "allow clearing (tpm2_clearcontrol -C p c), then clear the TPM (tpm2_clear)" }
        else { "clear the TPM (tpm2_clear)" }
    )]
    OwnerPassword {
        /// `disableClear` is set.
        clear_disabled: bool,
    },
    /// Dictionary attack lockout.
    #[error(
        "the TPM is in dictionary attack lockout ({failures} of {most} failures): leave it powered, it forgets one every {interval} s, or reset the lockout from a trusted system (tpm2_dictionarylockout -c{})",
        if *.password { " -p PASSWORD" } else { "" }
    )]
    Lockout {
        /// Failures that are remembered.
        failures: u32,
        /// As many make the lockout.
        most: u32,
        /// Seconds until one is forgotten.
        interval: u32,
        /// The lockout hierarchy has a password.
        password: bool,
    },
    /// Another index at our handle.
    #[error(
        "the TPM's NV index at the handle of the configuration was not made by msec-boot: free it (tpm2_nvundefine) or choose another nv_index in the recipe"
    )]
    ForeignIndex,
    /// Another key at the SRK's handle.
    #[error(
        "the TPM's key at the handle of the configuration is no ECC P-256 storage key: free it (tpm2_evictcontrol) or choose another srk in the recipe"
    )]
    ForeignSrk,
    /// An index or a write is limited to less than the secret.
    #[error("the TPM takes {most} bytes in {what}, the secret needs {SEALED_LEN}: use another TPM")]
    Small {
        /// In what.
        what: &'static str,
        /// Its limit in bytes.
        most: u32,
    },
    /// No persistent object fits any more.
    #[error(
        "the TPM has no room for a persistent storage root key: free a key that is not needed (tpm2_getcap handles-persistent, tpm2_evictcontrol)"
    )]
    NoPersistentSlot,
    /// No index fits any more.
    #[error(
        "the TPM has no NV space for an index of {SEALED_LEN} bytes: free one that is not needed (tpm2_getcap handles-nv-index, tpm2_nvundefine)"
    )]
    NoNvSpace,
    /// It does not answer as it should: not started, failed, being updated.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

impl Facts {
    /// Whether provisioning can go on with such a TPM.
    ///
    /// # Errors
    /// [`Unfit`]: of several reasons the one to remove first.
    pub fn judge(&self) -> Result<(), Unfit> {
        let set = |bit| self.permanent & bit != 0;
        if self.startup_clear & SH_ENABLE == 0 {
            return Err(Unfit::OwnerDisabled);
        }
        if set(permanent::OWNER_AUTH_SET) {
            let clear_disabled = set(permanent::DISABLE_CLEAR);
            return Err(Unfit::OwnerPassword { clear_disabled });
        }
        // What provisioning makes is outside the protection (noDA). But a TPM that
        // somebody guesses at is not one to trust a root to.
        if set(permanent::IN_LOCKOUT) {
            return Err(Unfit::Lockout {
                failures: self.failures,
                most: self.most_failures,
                interval: self.interval,
                password: set(permanent::LOCKOUT_AUTH_SET),
            });
        }
        if self.index == Place::Foreign {
            return Err(Unfit::ForeignIndex);
        }
        if self.srk == Place::Foreign {
            return Err(Unfit::ForeignSrk);
        }
        let limits = [("an NV index", self.nv_index_max), ("one NV command", self.nv_buffer_max)];
        for (what, most) in limits {
            if let Some(most) = most.filter(|most| *most < SEALED_LEN.into()) {
                return Err(Unfit::Small { what, most });
            }
        }
        if self.srk == Place::Free && self.persistent_avail == Some(0) {
            return Err(Unfit::NoPersistentSlot);
        }
        if self.room == Some(false) { Err(Unfit::NoNvSpace) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Facts = Facts {
        permanent: 1 << 10, // tpmGeneratedEPS
        startup_clear: 0x8000_000f,
        failures: 0,
        most_failures: 3,
        interval: 1000,
        nv_index_max: Some(2048),
        nv_buffer_max: Some(1024),
        persistent_avail: Some(7),
        srk: Place::Free,
        index: Place::Free,
        room: Some(true),
    };

    #[test]
    fn a_new_tpm_and_one_that_was_cut_are_fit() {
        let cases = [
            NEW,
            Facts { room: None, index: Place::Ours, ..NEW },
            Facts { srk: Place::Ours, persistent_avail: Some(0), ..NEW },
            Facts { nv_index_max: None, nv_buffer_max: None, persistent_avail: None, ..NEW },
            Facts { nv_index_max: Some(SEALED_LEN.into()), ..NEW },
            // Passwords of hierarchies that are not used, and failures short of a lockout.
            Facts { permanent: 0b110, failures: 2, ..NEW },
            Facts { permanent: permanent::DISABLE_CLEAR, ..NEW },
        ];
        for facts in cases {
            assert_eq!(facts.judge(), Ok(()), "{facts:?}");
        }
    }

    #[test]
    fn each_state_to_act_on_has_its_own_words() {
        let locked = Facts { permanent: permanent::IN_LOCKOUT, failures: 3, ..NEW };
        let cases: &[(Facts, &str)] = &[
            (Facts { startup_clear: 0x8000_000d, ..NEW }, "disabled for this boot: reset"),
            (Facts { permanent: 1, ..NEW }, "or clear the TPM (tpm2_clear)"),
            (Facts { permanent: 1 | 1 << 8, ..NEW }, "tpm2_clearcontrol"),
            (locked, "(3 of 3 failures): leave it powered, it forgets one every 1000 s"),
            (locked, "(tpm2_dictionarylockout -c)"),
            (Facts { permanent: locked.permanent | 1 << 2, ..locked }, "-c -p PASSWORD)"),
            (Facts { index: Place::Foreign, ..NEW }, "choose another nv_index"),
            (Facts { srk: Place::Foreign, ..NEW }, "choose another srk"),
            (
                Facts { nv_index_max: Some(64), ..NEW },
                "64 bytes in an NV index, the secret needs 65",
            ),
            (Facts { nv_buffer_max: Some(32), ..NEW }, "32 bytes in one NV command"),
            (Facts { persistent_avail: Some(0), ..NEW }, "no room for a persistent"),
            (Facts { room: Some(false), ..NEW }, "no NV space for an index of 65 bytes"),
        ];
        for (facts, want) in cases {
            let err = facts.judge().unwrap_err().to_string();
            assert!(err.contains(want), "{facts:?}: {err}");
        }
    }

    #[test]
    fn of_several_reasons_the_first_to_remove_is_named() {
        let full = Facts { room: Some(false), persistent_avail: Some(0), ..NEW };
        let cases = [
            (full, Unfit::NoPersistentSlot),
            (Facts { srk: Place::Foreign, ..full }, Unfit::ForeignSrk),
            (Facts { permanent: 1, ..full }, Unfit::OwnerPassword { clear_disabled: false }),
            (Facts { permanent: 1, startup_clear: 0, ..full }, Unfit::OwnerDisabled),
        ];
        for (facts, want) in cases {
            assert_eq!(facts.judge(), Err(want), "{facts:?}");
        }
    }
}
