//! Provisioning: a plain root becomes an encrypted one whose key the TPM
//! keeps. Every step can be cut and begun again; see [`crate::flow`] for how
//! the next boot finds out where it was.
//!
//! 0. The TPM is asked whether it is fit for it.
//! 1. The partition grows into the reserve before it (one sector).
//! 2. Secret and volume key are made; the secret goes into the TPM's index.
//! 3. The LUKS2 header is written into the reserve, with the mark that
//!    encryption has begun. Until here the file system is untouched.
//! 4. The data is encrypted in place.
//! 5. The recovery key is set and shown; the TPM proves that it opens the
//!    volume; the device record is written; the token says "sealed"; the index
//!    is write-locked for good. A cut before the token begins this step anew: the
//!    record that stays holds the recovery key that is in the slot.

pub mod existing;
mod handover;

use crate::age::EncryptError;
use crate::authority::{Approved, SignedError};
use crate::blockdev::{self, BlockError};
use crate::config::{Cipher, Config};
use crate::console::Consoles;
use crate::disk_state::Seen;
use crate::evidence::BootError;
use crate::flow::Step;
use crate::guard::Guard;
use crate::luks::{ADIANTUM, AES_XTS, LuksError, NewVolume, Progress, Volume};
use crate::pin::Pin;
use crate::recovery::RecoveryKey;
use crate::sealed::Sealed;
use crate::secret::{self, RandomError, Secret};
use crate::token::{Binding, Objects, Phase, TPM_SLOT, Token, TokenError};
use crate::tpm::health::Unfit;
use crate::tpm::{Index, Sealing, Tpm, TpmError, Unsealing};
use crate::volume::Fingerprint;
use pcr_measure::manifest::{Manifest, Reference};
use pcr_measure::policy;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why provisioning stopped. The next boot goes on or begins again.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The boot is not one to seal against.
    #[error("this boot must not be sealed against: {0}")]
    Boot(#[from] BootError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The TPM is not in a state to be provisioned.
    #[error("nothing was changed: {0}")]
    Unfit(#[from] Unfit),
    /// The binding `signed`.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// The volume.
    #[error(transparent)]
    Luks(#[from] LuksError),
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The disk.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// Random numbers.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The file system has gone from where it was.
    #[error("no ext4 file system at {0}: write the image to the card again")]
    NoFileSystem(PathBuf),
    /// The TPM did not open what was just sealed.
    #[error("the TPM gave back another key than was sealed: do not use this TPM")]
    Proof,
    /// The device record.
    #[error(
        "the device record cannot be written to {device}: {cause}; take away what is not the image's from the boot partition, or write the image to another card"
    )]
    Record {
        /// The boot partition.
        device: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The recovery key could not be encrypted.
    #[error("the recovery key cannot be encrypted to the operator: {0}")]
    Escrow(#[from] EncryptError),
    /// The index went away under our hands.
    #[error("the index that was just written is gone from the TPM")]
    IndexGone,
}

/// What provisioning works on.
#[derive(Debug)]
pub struct Provisioning<'a> {
    /// The initramfs' configuration.
    pub config: &'a Config,
    /// The TPM.
    pub tpm: &'a mut Tpm,
    /// Where progress and the recovery key are shown.
    pub consoles: &'a Consoles,
    /// What was measured in this boot, checked.
    pub reference: &'a Reference,
    /// The boot manifest that it was checked against.
    pub manifest: &'a Manifest,
    /// The signed policies as they lie on the boot partition, slot by slot, or why
    /// there are none. Only the binding `signed` looks at them.
    pub signatures: Result<Vec<Vec<u8>>, String>,
    /// Whether the CPU has AES instructions.
    pub cpu_has_aes: bool,
    /// The PIN, where the configuration wants one.
    pub pin: Option<&'a Pin>,
}

impl Provisioning<'_> {
    /// Runs provisioning from `step` to its end.
    ///
    /// # Errors
    /// [`ProvisionError`]; the next boot goes on from what is on disk and in
    /// the TPM.
    pub fn run(&mut self, step: Step) -> Result<(), ProvisionError> {
        let root = self.config.root();
        if matches!(step, Step::Grow | Step::Seal) {
            self.tpm.check_fit(self.config.nv_index, self.config.srk)?;
        }
        let approved = self.check_signatures()?;
        if step == Step::Grow {
            self.consoles.say(&format!("provisioning: {} is a plain ext4 root", root.display()));
            let disk = &self.config.disk;
            blockdev::grow_down(disk, self.config.root_partition, self.config.reserve())?;
            let patience = std::time::Duration::from_secs(self.config.wait_seconds.into());
            blockdev::wait_for(&root, patience, "the grown partition is not there")?;
        } else {
            self.consoles.say(&format!("provisioning goes on: {}", root.display()));
        }
        if matches!(step, Step::Grow | Step::Seal) {
            self.seal(&root)?;
        }
        if step != Step::Finish {
            self.encrypt(&root)?;
        }
        self.finish(&root, approved)
    }

    /// For the binding `signed`, before anything is touched: the counter is
    /// there and allows this image, and the TPM accepts a signature for this
    /// very boot. Gives what spares the next boots the signature.
    fn check_signatures(&mut self) -> Result<Option<Approved>, ProvisionError> {
        let Some(authority) = &self.config.signed else { return Ok(None) };
        let file = signatures(&self.signatures)?;
        let (_, value) = self.tpm.ensure_counter(&authority.rollback())?;
        if value > authority.version {
            return Err(SignedError::BornAhead { version: authority.version, value }.into());
        }
        let srk_name = self.tpm.ensure_srk(self.config.srk)?;
        let what = Unsealing {
            srk: self.config.srk,
            srk_name: &srk_name,
            pcrs: &self.config.pcrs,
            guard: &authority.guard().map_err(SignedError::from)?,
            pin: None,
            nv_index: self.config.nv_index,
            lock: false,
        };
        let approved = self.tpm.try_signed(what, authority, file)?;
        self.consoles.say(&format!(
            "this boot is signed: version {}, rollback counter at {value}",
            authority.version
        ));
        Ok(approved)
    }

    /// What guards the secret.
    fn guard(&self) -> Result<Guard, ProvisionError> {
        let guard = match &self.config.signed {
            Some(authority) => authority.guard(),
            None => policy::pcr_digest(self.reference.seal(), &self.reference.sealed_values())
                .map(Guard::one),
        };
        Ok(guard.map_err(|e| BootError::Policy(e.to_string()))?.with_pin(self.config.pin))
    }

    /// Steps 2 and 3: index and header, both new.
    fn seal(&mut self, root: &Path) -> Result<(), ProvisionError> {
        let Seen::Moved { fs, .. } = blockdev::look(root, self.config.reserve())? else {
            return Err(ProvisionError::NoFileSystem(root.to_owned()));
        };
        let cipher = match (self.config.cipher, self.cpu_has_aes) {
            (Cipher::AesXts, _) | (Cipher::Auto, true) => AES_XTS,
            (Cipher::Adiantum, _) | (Cipher::Auto, false) => ADIANTUM,
        };
        let secret = self.random("msec-boot key slot secret 1")?;
        let mut volume_key = Zeroizing::new(Vec::with_capacity(cipher.key_len));
        while volume_key.len() < cipher.key_len {
            volume_key.extend_from_slice(self.random("msec-boot volume key 1")?.expose());
        }
        let token = self.seal_secret(&secret, &volume_key)?;
        let new = NewVolume {
            cipher,
            volume_key: &volume_key,
            secret: &secret,
            token: &token,
            data_offset: self.config.reserve(),
            sector_size: sector_size(fs.block_size, blockdev::atomic_size(&self.config.disk)),
        };
        Volume::create(root, &new)?;
        Ok(())
    }

    /// Seals a secret of this volume key. Gives the token that goes with it.
    fn seal_secret(&mut self, secret: &Secret, volume_key: &[u8]) -> Result<Token, ProvisionError> {
        let guard = self.guard()?;
        let policy = guard.policy().map_err(|e| BootError::Policy(e.to_string()))?;
        let srk_name = self.tpm.ensure_srk(self.config.srk)?;
        let sealed = Sealed { secret: secret.clone(), fingerprint: Fingerprint::of(volume_key) };
        let what = Sealing {
            nv_index: self.config.nv_index,
            srk: self.config.srk,
            guard: &guard,
            pin: self.pin,
        };
        self.tpm.seal(what, &srk_name, &sealed)?;
        let objects = Objects {
            nv_index: self.config.nv_index,
            srk: self.config.srk,
            srk_name,
            pcrs: self.config.pcrs,
        };
        let mut token = Token::new(Phase::Encrypting, objects, policy, self.reference.clone())
            .bound(Binding::of(self.config));
        token.pin = guard.pin();
        Ok(token)
    }

    /// Step 4.
    fn encrypt(&mut self, root: &Path) -> Result<(), ProvisionError> {
        let (mut volume, token) = load(root)?;
        let sealed = self.unseal(&token)?;
        let mut shown = None;
        let consoles = self.consoles;
        let mut show = |done: u64, size: u64| {
            let percent = (done.saturating_mul(100)).checked_div(size).unwrap_or(100);
            if shown != Some(percent) {
                shown = Some(percent);
                consoles.progress(&format!("encrypting {}: {percent:2} %", root.display()));
            }
        };
        let mut progress: Progress<'_> = &mut show;
        let result = volume.encrypt(&sealed.secret, &mut progress);
        consoles.write("\n");
        Ok(result?)
    }

    /// Step 5.
    fn finish(&mut self, root: &Path, approved: Option<Approved>) -> Result<(), ProvisionError> {
        let (mut volume, token) = load(root)?;
        let sealed = self.unseal(&token)?;
        let volume_key = volume.volume_key(TPM_SLOT, sealed.secret.expose())?;
        if Fingerprint::of(&volume_key) != sealed.fingerprint {
            return Err(ProvisionError::Proof);
        }
        self.complete(&mut volume, &token, &volume_key, approved)?;
        self.consoles.say(&format!(
            "provisioned: {} is encrypted, its key is sealed to PCRs {}",
            root.display(),
            self.config.pcrs
        ));
        Ok(())
    }

    /// What is left once the TPM's key slot is proven: recovery key, record, the word
    /// "sealed", the lock.
    fn complete(
        &mut self,
        volume: &mut Volume,
        token: &Token,
        volume_key: &[u8],
        approved: Option<Approved>,
    ) -> Result<(), ProvisionError> {
        // Whatever can fail without the key comes before it.
        let record = self.describe(volume, token)?;
        let recovery = RecoveryKey::from_secret(&self.random("msec-boot recovery key 1")?);
        let typed = recovery.expose().as_bytes();
        volume.set_recovery_key(token.recovery_slot, volume_key, typed)?;
        if self.pin.is_some() {
            self.tpm.close_lockout(self.config.srk, &token.srk_name, volume_key)?;
        }
        self.show(&recovery);
        self.hand_over(record, &recovery)?;
        let (number, mut token) = Token::find(&volume.metadata()?)?;
        token.phase = Phase::Sealed;
        token.approved = approved.into();
        volume.replace_token(number, &token)?;
        let index = self.index()?;
        Ok(self.tpm.lock_index(&index, self.config.nv_index)?)
    }

    fn index(&mut self) -> Result<Index, ProvisionError> {
        self.tpm.index(self.config.nv_index)?.ok_or(ProvisionError::IndexGone)
    }

    /// Reads the secret back through the policy, as every later boot does.
    fn unseal(&mut self, token: &Token) -> Result<Sealed, ProvisionError> {
        let index = self.index()?;
        let guard = self.guard()?;
        let what = Unsealing {
            srk: self.config.srk,
            srk_name: &token.srk_name,
            pcrs: &self.config.pcrs,
            guard: &guard,
            pin: self.pin,
            nv_index: self.config.nv_index,
            lock: false,
        };
        Ok(match &self.config.signed {
            None => self.tpm.unseal(&index, what)?,
            Some(authority) => {
                let file = || Ok(signatures(&self.signatures)?.to_vec());
                self.tpm.unseal_signed(&index, what, authority, None, file)?.0
            }
        })
    }

    fn random(&mut self, label: &str) -> Result<Secret, ProvisionError> {
        Ok(secret::fresh(label, &self.tpm.random()?)?)
    }
}

/// How many bytes are encrypted as one, for a file system of this block size on a disk
/// that writes `atomic` bytes whole or not at all.
///
/// Larger sectors are faster. But a sector of Adiantum that was torn by a power cut is
/// noise from its first byte to its last, and ext4 looks at its group descriptors before
/// it replays its journal: a card that tears 4096 bytes then holds a root that nothing
/// mounts any more.
const fn sector_size(fs_block: u32, atomic: u32) -> u32 {
    if fs_block >= 4096 && atomic >= 4096 { 4096 } else { 512 }
}

fn signatures(read: &Result<Vec<Vec<u8>>, String>) -> Result<&[Vec<u8>], SignedError> {
    read.as_deref().map_err(|why| SignedError::NoFile(why.clone()))
}

fn load(root: &Path) -> Result<(Volume, Token), ProvisionError> {
    let mut volume = Volume::load(root)?;
    let (_, token) = Token::find(&volume.metadata()?)?;
    Ok((volume, token))
}

/// Whether `/proc/cpuinfo` names AES instructions, on arm64 (`Features`) or
/// x86 (`flags`).
#[must_use]
pub fn has_aes(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| matches!(name.trim(), "Features" | "flags"))
        .any(|(_, features)| features.split_whitespace().any(|f| f == "aes"))
}

#[cfg(test)]
mod tests {
    use super::sector_size;

    #[test]
    fn no_sector_is_larger_than_what_the_disk_writes_whole() {
        for (fs_block, atomic, want) in
            [(4096, 512, 512), (4096, 4096, 4096), (1024, 4096, 512), (4096, 8192, 4096)]
        {
            assert_eq!(sector_size(fs_block, atomic), want, "{fs_block} {atomic}");
        }
    }
}
