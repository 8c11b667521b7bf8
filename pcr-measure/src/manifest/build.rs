//! Making a manifest.

use std::io::{self, Read};

use super::uboot::{Uboot, component};
use super::{Manifest, ManifestError, ManifestEvent};
use crate::digest::Sha256Digest;
use crate::pcr::{PcrIndex, PcrSelection};

/// What is measured: its digest and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement {
    /// SHA-256 of the bytes.
    pub digest: Sha256Digest,
    /// Number of bytes.
    pub size: u64,
}

impl Measurement {
    /// Measures bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Sha256Digest::of(bytes), size: bytes.len() as u64 }
    }

    /// Measures all that `reader` gives, in pieces: memory does not grow with it.
    ///
    /// # Errors
    /// Those of `reader`.
    pub fn of_reader(reader: &mut impl Read) -> io::Result<Self> {
        let (digest, size) = Sha256Digest::of_reader(reader)?;
        Ok(Self { digest, size })
    }

    /// Measures a string as U-Boot does: with a NUL behind it.
    #[must_use]
    pub fn of_c_string(text: &str) -> Self {
        let size = text.len() as u64 + 1;
        Self { digest: Sha256Digest::of_parts(&[text.as_bytes(), &[0]]), size }
    }
}

impl From<&[u8]> for Measurement {
    fn from(bytes: &[u8]) -> Self {
        Self::of(bytes)
    }
}

/// Collects measurements in the order in which they will be made.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    image: String,
    board: String,
    events: Vec<(u32, String, Measurement, String)>,
    seal: Vec<u32>,
}

impl Builder {
    pub(super) const fn new(image: String, board: String) -> Self {
        Self { image, board, events: Vec::new(), seal: Vec::new() }
    }

    /// Adds a measurement: the PCR, the component's name, what is measured
    /// (bytes, or a [`Measurement`]), and a note for people (may be empty).
    pub fn event(
        mut self,
        pcr: u32,
        component: impl Into<String>,
        measured: impl Into<Measurement>,
        note: impl Into<String>,
    ) -> Self {
        self.events.push((pcr, component.into(), measured.into(), note.into()));
        self
    }

    /// Adds all that U-Boot measures, in its order.
    pub fn uboot(self, measured: &Uboot<'_>) -> Self {
        measured.add_to(self)
    }

    /// Adds the separator that ends the firmware's part to each of `pcrs`.
    pub fn separators(mut self, pcrs: impl IntoIterator<Item = u32>) -> Self {
        for pcr in pcrs {
            // U-Boot 2025.01, lib/tpm_tcg2.c, tcg2_measurement_term.
            self = self.event(pcr, component::SEPARATOR, [0xff; 4].as_slice(), "");
        }
        self
    }

    /// The PCRs to seal to.
    pub fn seal(mut self, pcrs: &[u32]) -> Self {
        self.seal = pcrs.to_vec();
        self
    }

    /// The manifest, with the PCR values that follow.
    ///
    /// # Errors
    /// A PCR that does not exist, a name that cannot stand, a component twice
    /// in one PCR or with two digests, no events, an empty seal.
    pub fn build(self) -> Result<Manifest, ManifestError> {
        let mut events = Vec::new();
        for (pcr, component, Measurement { digest, size }, note) in self.events {
            events.push(ManifestEvent { pcr: PcrIndex::new(pcr)?, component, digest, size, note });
        }
        let seal = PcrSelection::sha256(&self.seal)?;
        Manifest::checked(self.image, self.board, events, seal)
    }
}
