//! What the TPM demands before it gives the secret out: one of several boots,
//! and a PIN where there is one.

use pcr_measure::digest::{Algorithm, Digest, Sha256Digest};
use pcr_measure::policy::{Policy, PolicyError};

/// Most boots that a secret is bound to at once: what one PolicyOR takes
/// (`TPML_DIGEST`, TPM 2.0 Library 1.59, Part 2, 10.9.3).
pub const MAX_BRANCHES: usize = 8;

/// The condition on a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    branches: Vec<Sha256Digest>,
    pin: bool,
}

/// Nothing, or too much, to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} boots: a secret is bound to one boot at least, and to {MAX_BRANCHES} at most")]
pub struct BranchCount(usize);

impl Guard {
    /// One policy, without a PIN.
    #[must_use]
    pub fn one(policy: Sha256Digest) -> Self {
        Self { branches: vec![policy], pin: false }
    }

    /// Any of these policies. The same one twice counts once; the order is kept.
    ///
    /// # Errors
    /// [`BranchCount`].
    pub fn any(policies: impl IntoIterator<Item = Sha256Digest>) -> Result<Self, BranchCount> {
        let mut branches = Vec::new();
        for policy in policies {
            if !branches.contains(&policy) {
                branches.push(policy);
            }
        }
        if (1..=MAX_BRANCHES).contains(&branches.len()) {
            Ok(Self { branches, pin: false })
        } else {
            Err(BranchCount(branches.len()))
        }
    }

    /// The same with or without a PIN.
    #[must_use]
    pub fn with_pin(self, pin: bool) -> Self {
        Self { pin, ..self }
    }

    /// Whether the index' own authorisation value, the PIN, is demanded too.
    #[must_use]
    pub const fn pin(&self) -> bool {
        self.pin
    }

    /// What PolicyOR is given; `None` where there is nothing to choose from, and
    /// the command is left out.
    #[must_use]
    pub fn alternatives(&self) -> Option<&[Sha256Digest]> {
        (self.branches.len() > 1).then_some(&self.branches)
    }

    /// The policy of the index: the only branch or PolicyOR over all, then
    /// PolicyAuthValue where there is a PIN.
    ///
    /// # Errors
    /// None in practice: the number of branches was checked.
    pub fn policy(&self) -> Result<Sha256Digest, PolicyError> {
        let branches: Vec<Digest> = self.branches.iter().map(|branch| (*branch).into()).collect();
        let policy = match branches.as_slice() {
            [only] => Policy::from_digest(*only),
            several => Policy::new(Algorithm::Sha256).or(several)?,
        };
        let policy = if self.pin { policy.auth_value()? } else { policy };
        let (want, got) = (Algorithm::Sha256, policy.digest().algorithm());
        policy.digest().as_sha256().ok_or(PolicyError::OtherAlgorithm { want, got })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(count: u8) -> impl Iterator<Item = Sha256Digest> {
        (0..count).map(|n| Sha256Digest::of(&[n]))
    }

    #[test]
    fn a_single_boot_is_its_own_policy() {
        let only = Sha256Digest::of(b"only");
        let guard = Guard::any([only, only]).unwrap();
        assert_eq!(guard, Guard::one(only));
        assert_eq!((guard.policy().unwrap(), guard.alternatives()), (only, None));
    }

    #[test]
    fn boots_order_and_pin_all_count() {
        let of = |numbers: &[u8]| {
            Guard::any(numbers.iter().map(|n| Sha256Digest::of(&[*n]))).unwrap().policy().unwrap()
        };
        let all = [of(&[0, 1]), of(&[1, 0]), of(&[0, 1, 2]), of(&[0])];
        for (i, one) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|other| other != one), "{i}");
        }
        let guard = Guard::any(policies(2)).unwrap();
        let with = guard.clone().with_pin(true);
        assert_ne!(guard.policy().unwrap(), with.policy().unwrap());
        assert_eq!(with.alternatives(), guard.alternatives());
    }

    #[test]
    fn no_boot_and_too_many_are_refused() {
        assert_eq!(Guard::any(policies(0)), Err(BranchCount(0)));
        assert!(Guard::any(policies(8)).unwrap().policy().is_ok());
        assert_eq!(Guard::any(policies(9)), Err(BranchCount(9)));
    }
}
