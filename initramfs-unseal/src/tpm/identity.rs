//! Which TPM this is: the keys that a device record names. All of it is public.

use super::{Tpm, TpmError, error};
use pcr_measure::Sha256Digest;
use serde::Serialize;

/// Persistent handle of the attestation key, where `pcr-measure quote` looks for
/// it: among the primary keys of the endorsement hierarchy, 0x81010000 to
/// 0x8101ffff (TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1, 2.3.1).
pub const AK: u32 = 0x8101_0002;

/// `TPM_ALG_SHA256` (TPM 2.0 Library 1.59, Part 2, 6.3), the name algorithm of
/// every key here.
const SHA256: [u8; 2] = [0x00, 0x0b];

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its Name (TPM 2.0 Library 1.59, Part 1, 16), in hex.
    #[serde(with = "hex::serde")]
    pub name: Vec<u8>,
    /// Its `TPMT_PUBLIC`, in hex.
    #[serde(with = "hex::serde")]
    pub public: Vec<u8>,
}

impl Key {
    fn of(public: Vec<u8>) -> Self {
        Self { name: [SHA256.as_slice(), Sha256Digest::of(&public).as_bytes()].concat(), public }
    }
}

impl Tpm {
    /// The endorsement key, made for the moment
    /// ([`pcr_measure::tpm::Tpm::ek_public`]).
    ///
    /// # Errors
    /// [`TpmError`], for instance when the endorsement hierarchy has a password.
    pub fn endorsement_key(&mut self) -> Result<Key, TpmError> {
        self.0.ek_public().map(Key::of).map_err(|e| error::sorted(e, 0))
    }

    /// The maker's certificate for the endorsement key, DER; `None` where the TPM has none
    /// ([`pcr_measure::tpm::Tpm::ek_certificate`]).
    ///
    /// # Errors
    /// [`TpmError`], for instance when it may be read by the TPM's owner alone.
    pub fn endorsement_certificate(&mut self) -> Result<Option<Vec<u8>>, TpmError> {
        self.0.ek_certificate().map_err(|e| error::sorted(e, 0))
    }

    /// The attestation key at [`AK`], which is made there when the handle is free
    /// ([`pcr_measure::tpm::Tpm::ensure_ak`]).
    ///
    /// # Errors
    /// [`TpmError`], for instance when another key is there.
    pub fn attestation_key(&mut self) -> Result<Key, TpmError> {
        self.0.ensure_ak(AK).map(Key::of).map_err(|e| error::sorted(e, 0))
    }
}
