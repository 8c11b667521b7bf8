//! From measurements to PCR values.

use super::{Manifest, Reference};
use crate::digest::Sha256Digest;
use crate::pcr::{PcrBank, PcrIndex, PcrSelection};

/// The PCR that initramfs-unseal extends once a root was opened or refused; the
/// seal counts on its being zero before.
pub const LATCH_PCR: u8 = 15;

/// The SHA-256 values that these measurements lead to, for the PCRs that occur.
pub fn replay(events: impl IntoIterator<Item = (PcrIndex, Sha256Digest)>) -> PcrBank {
    let mut values = std::collections::BTreeMap::new();
    for (pcr, digest) in events {
        let value = values.entry(pcr).or_insert(Sha256Digest::ZERO);
        *value = value.extended_by(&digest);
    }
    values.into_iter().collect()
}

/// The values of `seal` when `events` has been measured and nothing else: PCRs
/// that do not occur in it hold what a reset leaves.
fn sealed(measured: &PcrBank, seal: &PcrSelection) -> PcrBank {
    let value = |pcr| measured.get_or_reset(pcr).as_sha256();
    seal.iter().filter_map(|pcr| Some((pcr, value(pcr)?))).collect()
}

impl Manifest {
    /// The values that the events lead to, for the PCRs that occur: what a boot
    /// of the image will show.
    #[must_use]
    pub fn predict(&self) -> PcrBank {
        self.pcrs.clone()
    }

    /// The values of the PCRs that the key is sealed to, when it is unsealed.
    #[must_use]
    pub fn sealed_values(&self) -> PcrBank {
        sealed(&self.pcrs, &self.seal)
    }
}

impl Reference {
    /// The values that the events lead to, for the PCRs that occur.
    #[must_use]
    pub fn predict(&self) -> PcrBank {
        replay(self.events().iter().map(|e| (e.pcr, e.digest)))
    }

    /// The values of the PCRs that the key is sealed to, when it is unsealed.
    #[must_use]
    pub fn sealed_values(&self) -> PcrBank {
        sealed(&self.predict(), self.seal())
    }
}
