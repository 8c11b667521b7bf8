//! Key slots: which there are, what opens them, and what a new one costs.

use super::{LuksError, Volume, library};
use crate::secret::Secret;
use libcryptsetup_rs::consts::flags::{CryptPbkdf, CryptVolumeKey};
use libcryptsetup_rs::consts::vals::CryptKdf;
use libcryptsetup_rs::{CryptPbkdfType, Either, LibcryptErr};
use serde_json::Value;
use zeroize::Zeroizing;

/// Iterations of the TPM slot's PBKDF2: libcryptsetup's least. The passphrase
/// has 256 random bits, which no number of iterations makes any stronger.
const PBKDF2_ITERATIONS: u32 = 1000;
/// Cost of the recovery slot's argon2id: what a board with 1 GiB does in a few
/// seconds (64 MiB, four passes, four lanes).
const ARGON2_MEMORY_KIB: u32 = 64 * 1024;
const ARGON2_PASSES: u32 = 4;
const ARGON2_LANES: u32 = 4;
/// Largest volume key that is taken, in bytes.
const MAX_VOLUME_KEY: usize = 64;

impl Volume {
    /// The volume key that `passphrase` opens slot `slot` to.
    ///
    /// # Errors
    /// [`LuksError::WrongKey`] when it does not.
    pub fn volume_key(
        &mut self,
        slot: u32,
        passphrase: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, LuksError> {
        let mut key = Zeroizing::new(vec![0; MAX_VOLUME_KEY]);
        let got =
            self.device.volume_key_handle().get(Some(slot), key.as_mut_slice(), Some(passphrase));
        match got {
            Ok((_, len)) => {
                key.truncate(len);
                Ok(key)
            }
            Err(e) if is_wrong_key(&e) => Err(LuksError::WrongKey(slot)),
            Err(e) => Err(library("opening a key slot", &self.path, &e)),
        }
    }

    /// The volume key by a passphrase of whatever slot, and the slot's number.
    ///
    /// # Errors
    /// [`LuksError::NoSlot`] when it opens none.
    pub fn volume_key_by(
        &mut self,
        passphrase: &[u8],
    ) -> Result<(Zeroizing<Vec<u8>>, u32), LuksError> {
        for slot in self.slots()? {
            match self.volume_key(slot, passphrase) {
                Ok(key) => return Ok((key, slot)),
                Err(LuksError::WrongKey(_)) => {}
                Err(other) => return Err(other),
            }
        }
        Err(LuksError::NoSlot)
    }

    /// The numbers of the key slots, in order.
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn slots(&mut self) -> Result<Vec<u32>, LuksError> {
        let metadata = self.metadata()?;
        let slots = metadata.get("keyslots").and_then(Value::as_object);
        let numbers = slots.into_iter().flatten().filter_map(|(number, _)| number.parse().ok());
        let mut numbers: Vec<u32> = numbers.collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Whether a key slot has the cost of one that [`Self::add_secret`] makes: nobody
    /// chooses that for a passphrase.
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn is_for_a_secret(&mut self, slot: u32) -> Result<bool, LuksError> {
        let metadata = self.metadata()?;
        let kdf = metadata.pointer(&format!("/keyslots/{slot}/kdf"));
        let text = |name: &str| kdf.and_then(|kdf| kdf.get(name)?.as_str());
        let iterations = kdf.and_then(|kdf| kdf.get("iterations")?.as_u64());
        Ok(text("type") == Some("pbkdf2") && iterations == Some(PBKDF2_ITERATIONS.into()))
    }

    /// Adds a key slot for a secret of the TPM's.
    ///
    /// # Errors
    /// [`LuksError::Library`], also when the slot is in use.
    pub fn add_secret(
        &mut self,
        slot: u32,
        volume_key: &[u8],
        secret: &Secret,
    ) -> Result<(), LuksError> {
        self.expect_random_key()?;
        let added = self.device.keyslot_handle().add_by_key(
            Some(slot),
            Some(Either::Left(volume_key)),
            secret.expose(),
            CryptVolumeKey::empty(),
        );
        self.ok("writing the TPM's key slot", added).map(drop)
    }

    /// Wipes a key slot. One that is not there is fine.
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn remove_slot(&mut self, slot: u32) -> Result<(), LuksError> {
        if !self.slots()?.contains(&slot) {
            return Ok(());
        }
        let removed = self.device.keyslot_handle().destroy(slot);
        self.ok("wiping a key slot", removed)
    }

    /// Sets the recovery key, replacing one that a cut attempt left behind.
    ///
    /// # Errors
    /// [`LuksError`].
    pub fn set_recovery_key(
        &mut self,
        slot: u32,
        volume_key: &[u8],
        passphrase: &[u8],
    ) -> Result<(), LuksError> {
        self.remove_slot(slot)?;
        self.set_kdf(&argon2id())?;
        let added = self.device.keyslot_handle().add_by_key(
            Some(slot),
            Some(Either::Left(volume_key)),
            passphrase,
            CryptVolumeKey::empty(),
        );
        self.ok("writing the recovery key's slot", added).map(drop)
    }

    /// What is made next is opened by 256 random bits, and costs little to try.
    pub(super) fn expect_random_key(&mut self) -> Result<(), LuksError> {
        self.set_kdf(&pbkdf2())
    }

    fn set_kdf(&mut self, kdf: &CryptPbkdfType) -> Result<(), LuksError> {
        let set = self.device.settings_handle().set_pbkdf_type(kdf);
        self.ok("choosing the key derivation", set)
    }
}

fn pbkdf2() -> CryptPbkdfType {
    CryptPbkdfType {
        type_: CryptKdf::Pbkdf2,
        hash: Some("sha256".into()),
        time_ms: 0,
        iterations: PBKDF2_ITERATIONS,
        max_memory_kb: 0,
        parallel_threads: 0,
        flags: CryptPbkdf::NO_BENCHMARK,
    }
}

fn argon2id() -> CryptPbkdfType {
    CryptPbkdfType {
        type_: CryptKdf::Argon2Id,
        hash: Some("sha256".into()),
        time_ms: 0,
        iterations: ARGON2_PASSES,
        max_memory_kb: ARGON2_MEMORY_KIB,
        parallel_threads: ARGON2_LANES,
        flags: CryptPbkdf::NO_BENCHMARK,
    }
}

fn is_wrong_key(error: &LibcryptErr) -> bool {
    // crypt_volume_key_get: -EPERM for a wrong passphrase, -ENOENT for a slot
    // that is not there (libcryptsetup.h).
    matches!(error, LibcryptErr::IOError(e)
        if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOENT)))
}
