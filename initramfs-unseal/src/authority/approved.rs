//! What a TPM has verified already, kept for boots to come.

use pcr_measure::digest::Sha256Digest;
use serde::{Deserialize, Serialize};

/// Most that are kept: as many boots as the binding `pcr` releases a secret to.
const MOST: usize = 8;

/// A policy whose signature the TPM has verified, and its word for it: valid until
/// the TPM is cleared, so that a boot need not verify it again
/// (TPM2_VerifySignature's ticket, TPM 2.0 Library 1.59, Part 2, 10.7.3).
///
/// It lies in the LUKS2 token, and anyone can write there. Only this TPM can make one
/// that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approved {
    /// The policy.
    pub policy: Sha256Digest,
    /// The ticket's HMAC.
    #[serde(with = "hex::serde")]
    pub ticket: Vec<u8>,
}

/// Those of one root, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Approvals(Vec<Approved>);

impl Approvals {
    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one of this policy.
    #[must_use]
    pub fn of(&self, policy: Sha256Digest) -> Option<&Approved> {
        self.0.iter().find(|approved| approved.policy == policy)
    }

    /// Keeps one more, and the eight newest in all: the space in a LUKS2 header is
    /// bounded, and what falls out is verified again when it boots.
    pub fn keep(&mut self, new: Approved) {
        self.0.retain(|old| old.policy != new.policy);
        self.0.insert(0, new);
        self.0.truncate(MOST);
    }
}

impl From<Option<Approved>> for Approvals {
    fn from(one: Option<Approved>) -> Self {
        Self(one.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_each_policy_once() {
        let approved =
            |n: u8, ticket: u8| Approved { policy: [n; 32].into(), ticket: vec![ticket] };
        let mut all = Approvals::default();
        for n in 0..10 {
            all.keep(approved(n, 0));
        }
        all.keep(approved(5, 1));
        assert_eq!(all.0.len(), MOST);
        assert_eq!(all.of([5; 32].into()), Some(&approved(5, 1)));
        assert_eq!((all.of([2; 32].into()).is_some(), all.of([1; 32].into())), (true, None));
        assert_eq!(all.0.first(), Some(&approved(5, 1)));
    }
}
