//! The decision: provision, unlock, ask or halt. A pure function of what was
//! found, so that a test drives every combination without a TPM or a disk.
//!
//! The invariants it keeps:
//! - A recovery key is made and shown only while the TPM's index is not write
//!   locked. Provisioning locks it as its last step, and the lock cannot be
//!   taken off without destroying the secret. So nobody gets a recovery key
//!   out of a provisioned board by editing the card.
//! - A plain root is never booted, and is encrypted only on a board whose TPM
//!   holds no finished root.
//! - A volume whose header fails the allowlist is never opened, not by hand
//!   either.
//! - A root is opened by hand only after the latch, or where no TPM can have
//!   the measurements of this boot.

use crate::config::Provision;
use crate::token::Phase;

/// The TPM, as far as the decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmFound {
    /// There is no TPM, or one that answers with errors and is latched before
    /// anybody is asked.
    Absent,
    /// The firmware names one, and the kernel could not reach it. It has the measurements of
    /// this boot, and nothing shuts its latch: root could bind the driver again
    /// (sysfs, `bind`) once it answers, and unseal.
    Silent,
    /// The TPM answers; this is the NV index of the configuration.
    Index(IndexState),
}

/// State of the NV index that holds the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexState {
    /// Not defined.
    Missing,
    /// Defined, not write-locked: provisioning has not finished.
    Open,
    /// Defined and write-locked: provisioning has finished.
    Locked,
}

/// What the two indices that may hold the secret come to, where no token says which
/// one counts: one that is finished stands for both. A board that holds a sealed root
/// anywhere shows no new recovery key.
#[must_use]
pub fn of_both(first: IndexState, spare: IndexState) -> IndexState {
    if spare == IndexState::Locked { spare } else { first }
}

/// The root partition, as far as the decision needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFound {
    /// A plain file system fills the partition.
    Plain,
    /// The partition was grown into the reserve, nothing is encrypted yet.
    Moved,
    /// LUKS2 whose metadata passed the allowlist.
    Luks {
        /// Encryption has begun and is not finished.
        reencrypting: bool,
        /// The phase our token says, if there is one.
        token: Option<Phase>,
    },
    /// LUKS2 whose metadata was refused.
    BadHeader,
    /// Nothing that is known.
    Unknown,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Encrypt and seal, from this step on.
    Provision(Step),
    /// Unseal and open. `lock_index`: provisioning was cut just before its
    /// last step, do that one too.
    Unlock {
        /// Write-lock the index after the volume has been opened.
        lock_index: bool,
    },
    /// The TPM cannot help: ask for the recovery key.
    Recover(Why),
    /// Nothing can be opened: say why and power off.
    Halt(Why),
}

/// Where provisioning begins or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Grow the partition into the reserve, then all that follows.
    Grow,
    /// Make secret, index and header (again), then all that follows.
    Seal,
    /// Go on encrypting, then all that follows.
    Encrypt,
    /// Encryption is done: recovery key, proof, lock.
    Finish,
}

/// Why the TPM path is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// No TPM, but a root to open.
    #[error(
        "no TPM answers: check that the TPM board sits firmly on the header and that its overlay is in config.txt"
    )]
    NoTpm,
    /// A TPM that cannot be latched.
    #[error(
        "no TPM answers, but the firmware names one: it could come back in this boot, so nobody opens the root, not by hand either; check that the TPM board sits firmly on the header and cycle the power (on another machine, cryptsetup takes the recovery key)"
    )]
    TpmSilent,
    /// No TPM, and a plain root.
    #[error(
        "the root is not encrypted and no TPM answers: provisioning needs the TPM; check that its board sits firmly on the header, then boot again"
    )]
    NoTpmToProvision,
    /// A plain root where the configuration refuses it.
    #[error(
        "the root is not encrypted and this image does not provision: write an image with provision = \"in-place\", or put in the provisioned card"
    )]
    NotEncrypted,
    /// A plain root on a board that holds a sealed one.
    #[error(
        "the root is not encrypted, but this board's TPM already holds a sealed root: put in the card that belongs to it, or free the TPM from a trusted system (tpm2_nvundefine) to provision anew"
    )]
    AlreadySealed,
    /// The index has gone.
    #[error(
        "the TPM holds no secret for this root: this card belongs to another board, or the TPM was cleared"
    )]
    IndexMissing,
    /// No token of ours.
    #[error(
        "the LUKS2 header has no msec-boot token: it was not made by provisioning, or was changed"
    )]
    NoToken,
    /// Token and index contradict each other.
    #[error(
        "the LUKS2 header says that provisioning has not finished, the TPM says that it has: the header was changed"
    )]
    TokenTurnedBack,
    /// Half encrypted, and the secret is out of reach.
    #[error(
        "the root is half encrypted and the TPM that holds its secret is not here: put the card into the board that began to encrypt it, or write the image to it again"
    )]
    HalfEncrypted,
    /// Refused metadata.
    #[error("the LUKS2 header was refused")]
    BadHeader,
    /// Neither file system nor LUKS2.
    #[error(
        "the root partition holds neither an ext4 file system nor a LUKS2 volume: write the image to the card again"
    )]
    UnknownRoot,
}

/// Decides.
#[must_use]
pub fn plan(provision: Provision, tpm: TpmFound, root: RootFound) -> Plan {
    use IndexState::{Locked, Missing, Open};
    use Plan::{Halt, Recover};
    match (root, tpm) {
        (RootFound::Unknown, _) => Halt(Why::UnknownRoot),
        (RootFound::BadHeader, _) => Halt(Why::BadHeader),

        (RootFound::Plain | RootFound::Moved, _) if provision == Provision::Never => {
            Halt(Why::NotEncrypted)
        }
        (RootFound::Plain | RootFound::Moved, TpmFound::Absent | TpmFound::Silent) => {
            Halt(Why::NoTpmToProvision)
        }
        (RootFound::Plain | RootFound::Moved, TpmFound::Index(Locked)) => Halt(Why::AlreadySealed),
        (RootFound::Plain, TpmFound::Index(Missing | Open)) => Plan::Provision(Step::Grow),
        (RootFound::Moved, TpmFound::Index(Missing | Open)) => Plan::Provision(Step::Seal),

        (RootFound::Luks { reencrypting: true, .. }, TpmFound::Index(Open))
            if provision == Provision::InPlace =>
        {
            Plan::Provision(Step::Encrypt)
        }
        (RootFound::Luks { reencrypting: true, .. }, _) => Halt(Why::HalfEncrypted),

        (RootFound::Luks { .. }, TpmFound::Silent) => Halt(Why::TpmSilent),
        (RootFound::Luks { .. }, TpmFound::Absent) => Recover(Why::NoTpm),
        (RootFound::Luks { token: None, .. }, _) => Recover(Why::NoToken),
        (RootFound::Luks { token: Some(_), .. }, TpmFound::Index(Missing)) => {
            Recover(Why::IndexMissing)
        }
        (RootFound::Luks { token: Some(Phase::Encrypting), .. }, TpmFound::Index(Open))
            if provision == Provision::InPlace =>
        {
            Plan::Provision(Step::Finish)
        }
        (RootFound::Luks { token: Some(Phase::Encrypting), .. }, _) => {
            Recover(Why::TokenTurnedBack)
        }
        (RootFound::Luks { token: Some(Phase::Sealed), .. }, TpmFound::Index(state)) => {
            Plan::Unlock { lock_index: state == Open }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROVISION: [Provision; 2] = [Provision::InPlace, Provision::Never];
    const TPM: [TpmFound; 5] = [
        TpmFound::Absent,
        TpmFound::Silent,
        TpmFound::Index(IndexState::Missing),
        TpmFound::Index(IndexState::Open),
        TpmFound::Index(IndexState::Locked),
    ];

    fn roots() -> Vec<RootFound> {
        let mut all =
            vec![RootFound::Plain, RootFound::Moved, RootFound::BadHeader, RootFound::Unknown];
        for reencrypting in [false, true] {
            for token in [None, Some(Phase::Encrypting), Some(Phase::Sealed)] {
                all.push(RootFound::Luks { reencrypting, token });
            }
        }
        all
    }

    fn every() -> impl Iterator<Item = (Provision, TpmFound, RootFound, Plan)> {
        PROVISION.into_iter().flat_map(|p| {
            TPM.into_iter()
                .flat_map(move |t| roots().into_iter().map(move |r| (p, t, r, plan(p, t, r))))
        })
    }

    #[test]
    fn a_finished_board_never_provisions() {
        for (p, t, r, plan) in every() {
            if t == TpmFound::Index(IndexState::Locked) || p == Provision::Never {
                assert!(!matches!(plan, Plan::Provision(_)), "{p:?} {t:?} {r:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_finished_index_in_either_place_ends_provisioning() {
        use IndexState::{Locked, Missing, Open};
        for one in [Missing, Open, Locked] {
            assert_eq!(of_both(one, Locked), Locked, "{one:?}");
            for spare in [Missing, Open] {
                assert_eq!(of_both(one, spare), one, "{one:?} {spare:?}");
            }
        }
    }

    #[test]
    fn only_luks_that_passed_is_ever_opened() {
        for (p, t, r, plan) in every() {
            if matches!(plan, Plan::Unlock { .. } | Plan::Recover(_)) {
                let fine = matches!(r, RootFound::Luks { reencrypting: false, .. });
                assert!(fine, "{p:?} {t:?} {r:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn nothing_is_opened_while_a_tpm_is_silent() {
        for (p, t, r, plan) in every() {
            if t == TpmFound::Silent {
                assert!(matches!(plan, Plan::Halt(_)), "{p:?} {r:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn unlocking_needs_an_index_and_a_finished_token() {
        for (p, t, r, plan) in every() {
            let ready = matches!(t, TpmFound::Index(IndexState::Open | IndexState::Locked))
                && r == (RootFound::Luks { reencrypting: false, token: Some(Phase::Sealed) });
            assert_eq!(matches!(plan, Plan::Unlock { .. }), ready, "{p:?} {t:?} {r:?}: {plan:?}");
        }
    }

    #[test]
    fn provisioning_goes_on_where_it_was_cut() {
        let open = TpmFound::Index(IndexState::Open);
        let none = TpmFound::Index(IndexState::Missing);
        let luks = |reencrypting, token| RootFound::Luks { reencrypting, token };
        let cases = [
            (RootFound::Plain, none, Step::Grow),
            (RootFound::Plain, open, Step::Grow),
            (RootFound::Moved, none, Step::Seal),
            (RootFound::Moved, open, Step::Seal),
            (luks(true, None), open, Step::Encrypt),
            (luks(true, Some(Phase::Encrypting)), open, Step::Encrypt),
            (luks(false, Some(Phase::Encrypting)), open, Step::Finish),
        ];
        for (root, tpm, step) in cases {
            assert_eq!(plan(Provision::InPlace, tpm, root), Plan::Provision(step), "{root:?}");
        }
        assert_eq!(
            plan(Provision::InPlace, open, luks(false, Some(Phase::Sealed))),
            Plan::Unlock { lock_index: true }
        );
    }

    #[test]
    fn contradictions_have_their_own_words() {
        let locked = TpmFound::Index(IndexState::Locked);
        let missing = TpmFound::Index(IndexState::Missing);
        let luks = |reencrypting, token| RootFound::Luks { reencrypting, token };
        let sealed = luks(false, Some(Phase::Sealed));
        let cases = [
            (RootFound::Plain, locked, Plan::Halt(Why::AlreadySealed)),
            (RootFound::Moved, locked, Plan::Halt(Why::AlreadySealed)),
            (RootFound::Plain, TpmFound::Absent, Plan::Halt(Why::NoTpmToProvision)),
            (luks(true, Some(Phase::Sealed)), locked, Plan::Halt(Why::HalfEncrypted)),
            (luks(true, Some(Phase::Encrypting)), missing, Plan::Halt(Why::HalfEncrypted)),
            (luks(false, Some(Phase::Encrypting)), locked, Plan::Recover(Why::TokenTurnedBack)),
            (sealed, missing, Plan::Recover(Why::IndexMissing)),
            (RootFound::Plain, TpmFound::Silent, Plan::Halt(Why::NoTpmToProvision)),
            (sealed, TpmFound::Absent, Plan::Recover(Why::NoTpm)),
            (sealed, TpmFound::Silent, Plan::Halt(Why::TpmSilent)),
            (luks(false, None), locked, Plan::Recover(Why::NoToken)),
            (RootFound::BadHeader, locked, Plan::Halt(Why::BadHeader)),
        ];
        for (root, tpm, want) in cases {
            assert_eq!(plan(Provision::InPlace, tpm, root), want, "{root:?} {tpm:?}");
        }
        assert_eq!(
            plan(Provision::Never, missing, RootFound::Plain),
            Plan::Halt(Why::NotEncrypted)
        );
    }
}
