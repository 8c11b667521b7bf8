//! The LUKS2 volume, through libcryptsetup.
//!
//! Metadata comes from the card and is untrusted: [`Volume::load`] gives it
//! out only as JSON, and callers run [`crate::header::check`] over it before
//! any key is tried.

mod slots;

use crate::header::{self, Facts, Refusal};
use crate::secret::Secret;
use crate::token::{TPM_SLOT, Token};
use libcryptsetup_rs::consts::flags::{CryptActivate, CryptReencrypt};
use libcryptsetup_rs::consts::vals::{
    CryptLogLevel, CryptReencryptDirectionInfo, CryptReencryptInfo, CryptReencryptModeInfo,
    EncryptionFormat, KeyslotsSize, MetadataSize,
};
use libcryptsetup_rs::{
    CryptDevice, CryptInit, CryptParamsLuks2, CryptParamsLuks2Ref, CryptParamsReencrypt, Either,
    LibcryptErr, TokenInput, set_log_callback,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// How blocks in flight survive a power cut. `checksum`, libcryptsetup's default,
/// takes it that a whole encryption sector of 4096 bytes is written or none of it;
/// an SD card promises that for 512 bytes at most, and a torn sector was lost. The
/// journal writes the data twice and needs no such promise.
const RESILIENCE: &str = "journal";
/// Data that is encrypted in one go, in sectors: 2 MiB at most. It bounds the memory
/// needed, and sets how often progress shows.
const HOTZONE: u64 = (2 << 20) / SECTOR;
/// Size of the area for key slots, in bytes: six of 512 bit keys, and one for
/// an encryption under way. All of it is wiped when a header is made.
const KEYSLOTS: u64 = 2 << 20;
/// Bytes of a sector as libcryptsetup counts data offsets.
const SECTOR: u64 = 512;

/// What went wrong with the volume.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// The key fits no slot it was tried on.
    #[error("the key does not open key slot {0}")]
    WrongKey(u32),
    /// The passphrase fits no slot at all.
    #[error("the passphrase opens no key slot")]
    NoSlot,
    /// libcryptsetup refused.
    #[error("{what} failed on {device}: {cause}")]
    Library {
        /// What was to be done.
        what: &'static str,
        /// On which device.
        device: String,
        /// libcryptsetup's own words, or the error number.
        cause: String,
    },
}

/// Cipher of a volume, in libcryptsetup's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cipher {
    name: &'static str,
    mode: &'static str,
    /// Length of the volume key in bytes.
    pub key_len: usize,
}

/// Adiantum with XChaCha12, a 256 bit key.
pub const ADIANTUM: Cipher =
    Cipher { name: "xchacha12,aes", mode: "adiantum-plain64", key_len: 32 };
/// AES-256-XTS, a 512 bit key.
pub const AES_XTS: Cipher = Cipher { name: "aes", mode: "xts-plain64", key_len: 64 };

/// A LUKS2 volume that libcryptsetup has loaded.
pub struct Volume {
    device: CryptDevice,
    path: PathBuf,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Volume {
    /// Loads the header of `path`. libcryptsetup takes the second copy when
    /// the first was torn by a power cut.
    ///
    /// # Errors
    /// [`LuksError::Library`] when there is no valid LUKS2 header.
    pub fn load(path: &Path) -> Result<Self, LuksError> {
        let mut volume = Self::init(path)?;
        let loaded = volume.device.context_handle().load::<()>(Some(EncryptionFormat::Luks2), None);
        volume.ok("reading the LUKS2 header", loaded)?;
        Ok(volume)
    }

    fn init(path: &Path) -> Result<Self, LuksError> {
        set_log_callback::<()>(Some(keep_error), None);
        let device = CryptInit::init(path).map_err(|e| library("opening", path, &e))?;
        Ok(Self { device, path: path.to_owned() })
    }

    /// The metadata as loaded. Unverified: see [`Self::check`].
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn metadata(&mut self) -> Result<Value, LuksError> {
        let dumped = self.device.status_handle().dump_json();
        self.ok("reading the LUKS2 metadata", dumped)
    }

    /// Runs the allowlist over the loaded metadata.
    ///
    /// # Errors
    /// The refusal, or that the metadata cannot be read.
    pub fn check(&mut self, data_offset: u64) -> Result<Result<Facts, Refusal>, LuksError> {
        Ok(header::check(&self.metadata()?, data_offset))
    }

    /// The volume's UUID as text.
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn uuid(&mut self) -> Result<String, LuksError> {
        let uuid = self.device.status_handle().get_uuid();
        Ok(self.ok("reading the UUID", uuid)?.to_string())
    }

    /// Opens the volume as `/dev/mapper/NAME`. The key goes to the kernel's
    /// keyring, not into the device-mapper table.
    ///
    /// # Errors
    /// [`LuksError::Library`].
    pub fn activate(&mut self, name: &str, volume_key: &[u8]) -> Result<(), LuksError> {
        let done = self.device.activate_handle().activate_by_volume_key(
            Some(name),
            Some(volume_key),
            CryptActivate::KEYRING_KEY,
        );
        self.ok("opening the volume", done)
    }

    /// Writes a new header into the reserve before a plain file system, with
    /// one key slot, our token, and the mark that encryption has begun. The
    /// file system is not touched. Whatever the reserve held is overwritten.
    ///
    /// # Errors
    /// [`LuksError::Library`]; the file system is whole then.
    pub fn create(path: &Path, new: &NewVolume<'_>) -> Result<Self, LuksError> {
        let mut volume = Self::init(path)?;
        volume.format(new)?;
        volume.add_token(new.token)?;
        let started = volume.device.reencrypt_handle().reencrypt_init_by_passphrase(
            None,
            new.secret.expose(),
            None,
            Some(TPM_SLOT),
            Some((new.cipher.name, new.cipher.mode)),
            reencryption(Some(new.params()), CryptReencrypt::INITIALIZE_ONLY),
        );
        volume.ok("beginning the encryption", started)?;
        Ok(volume)
    }

    fn format(&mut self, new: &NewVolume<'_>) -> Result<(), LuksError> {
        let offset = self.device.set_data_offset(new.data_offset / SECTOR);
        self.ok("placing the data", offset)?;
        let sizes = KeyslotsSize::try_from(KEYSLOTS).and_then(|slots| {
            self.device.settings_handle().set_metadata_size(MetadataSize::Kb32, slots)
        });
        self.ok("sizing the header", sizes)?;
        self.expect_random_key()?;
        let params = new.params();
        let mut params: CryptParamsLuks2Ref<'_> =
            (&params).try_into().map_err(|e| library("formatting", &self.path, &e))?;
        let done = self.device.context_handle().format(
            EncryptionFormat::Luks2,
            (new.cipher.name, new.cipher.mode),
            None,
            Either::Left(new.volume_key),
            Some(&mut params),
        );
        self.ok("writing the LUKS2 header", done)?;
        self.add_secret(TPM_SLOT, new.volume_key, new.secret)
    }

    /// Encrypts what is left to encrypt. Safe to be cut at any instant and
    /// called again: libcryptsetup keeps a journal of the blocks in flight.
    /// `progress` gets bytes done and bytes in all.
    ///
    /// # Errors
    /// [`LuksError`].
    pub fn encrypt(
        &mut self,
        secret: &Secret,
        progress: &mut Progress<'_>,
    ) -> Result<(), LuksError> {
        self.repair(secret)?;
        // Where the cut came in the last blocks, nothing is left to resume.
        if self.encryption()? == CryptReencryptInfo::None {
            return Ok(());
        }
        let mut handle = self.device.reencrypt_handle();
        let resumed = handle.reencrypt_init_by_passphrase(
            None,
            secret.expose(),
            None,
            Some(TPM_SLOT),
            None,
            reencryption(None, CryptReencrypt::RESUME_ONLY),
        );
        let run = resumed.and_then(|_| handle.reencrypt2(Some(on_progress), Some(progress)));
        self.ok("encrypting", run)
    }

    /// Whether an encryption is under way, and whether it was cut.
    fn encryption(&mut self) -> Result<CryptReencryptInfo, LuksError> {
        let mut handle = self.device.reencrypt_handle();
        let status = handle.status(reencryption(None, CryptReencrypt::empty()));
        self.ok("looking at the encryption", status)
    }

    /// Writes the blocks that were in flight at a power cut anew, out of the
    /// journal. Does nothing where none were.
    fn repair(&mut self, secret: &Secret) -> Result<(), LuksError> {
        if self.encryption()? != CryptReencryptInfo::Crash {
            return Ok(());
        }
        let repaired = self.device.reencrypt_handle().reencrypt_init_by_passphrase(
            None,
            secret.expose(),
            None,
            Some(TPM_SLOT),
            None,
            reencryption(None, CryptReencrypt::RECOVERY),
        );
        self.ok("repairing a cut encryption", repaired).map(drop)
    }

    /// Adds a token.
    ///
    /// # Errors
    /// [`LuksError`].
    pub fn add_token(&mut self, token: &Token) -> Result<(), LuksError> {
        let json = serde_json::to_value(token)
            .map_err(|e| library("writing the token", &self.path, &LibcryptErr::JsonError(e)))?;
        let set = self.device.token_handle().json_set(TokenInput::AddToken(&json));
        self.ok("writing the token", set).map(drop)
    }

    /// Replaces token `number`.
    ///
    /// # Errors
    /// [`LuksError`].
    pub fn replace_token(&mut self, number: u32, token: &Token) -> Result<(), LuksError> {
        let json = serde_json::to_value(token)
            .map_err(|e| library("writing the token", &self.path, &LibcryptErr::JsonError(e)))?;
        let set = self.device.token_handle().json_set(TokenInput::ReplaceToken(number, &json));
        self.ok("writing the token", set).map(drop)
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// [`LuksError::Library`], with the system's words.
    pub fn flush(&self) -> Result<(), LuksError> {
        let synced = std::fs::File::open(&self.path).and_then(|disk| disk.sync_all());
        synced.map_err(|e| library("writing out", &self.path, &LibcryptErr::IOError(e)))
    }

    fn ok<T>(&self, what: &'static str, result: Result<T, LibcryptErr>) -> Result<T, LuksError> {
        result.map_err(|e| library(what, &self.path, &e))
    }
}

/// Everything a new volume is made of.
#[derive(Debug)]
pub struct NewVolume<'a> {
    /// Its cipher.
    pub cipher: Cipher,
    /// Its key, `cipher.key_len` bytes.
    pub volume_key: &'a [u8],
    /// Passphrase of the TPM's key slot.
    pub secret: &'a Secret,
    /// Our token.
    pub token: &'a Token,
    /// Where the plain file system begins, in bytes from the start.
    pub data_offset: u64,
    /// Encryption sector in bytes, at most the file system's block.
    pub sector_size: u32,
}

impl NewVolume<'_> {
    fn params(&self) -> CryptParamsLuks2 {
        CryptParamsLuks2 {
            pbkdf: None,
            integrity: None,
            integrity_params: None,
            data_alignment: 0,
            data_device: None,
            sector_size: self.sector_size,
            label: None,
            subsystem: None,
        }
    }
}

/// Called with bytes done and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

fn reencryption(luks2: Option<CryptParamsLuks2>, flags: CryptReencrypt) -> CryptParamsReencrypt {
    CryptParamsReencrypt {
        mode: CryptReencryptModeInfo::Encrypt,
        direction: CryptReencryptDirectionInfo::Forward,
        resilience: RESILIENCE.into(),
        hash: "sha256".into(),
        data_shift: 0,
        max_hotzone_size: HOTZONE,
        device_size: 0,
        luks2,
        flags,
    }
}

/// libcryptsetup's last error message. It names devices and causes, never keys.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

fn library(what: &'static str, device: &Path, error: &LibcryptErr) -> LuksError {
    let mut last = LAST_ERROR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cause = if last.is_empty() { error.to_string() } else { std::mem::take(&mut *last) };
    LuksError::Library { what, device: device.display().to_string(), cause }
}

/// Keeps error messages for [`library`] instead of writing them to the console.
#[allow(unsafe_code)]
extern "C" fn keep_error(level: libc::c_int, message: *const libc::c_char, _: *mut libc::c_void) {
    if level == CryptLogLevel::Error as libc::c_int && !message.is_null() {
        // SAFETY: libcryptsetup hands over a NUL-terminated string that lives
        // until this function returns (crypt_set_log_callback, libcryptsetup.h).
        let text = unsafe { std::ffi::CStr::from_ptr(message) }.to_string_lossy();
        let mut last = LAST_ERROR.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = text.trim().to_string();
    }
}

/// Passes progress on to the closure that was handed to `reencrypt2`.
#[allow(unsafe_code)]
extern "C" fn on_progress(size: u64, done: u64, user: *mut libc::c_void) -> libc::c_int {
    let progress = user.cast::<Progress<'_>>();
    // SAFETY: `encrypt` hands over a `&mut Progress` that outlives the run, and
    // libcryptsetup calls back on the same thread, one call at a time.
    if let Some(progress) = unsafe { progress.as_mut() } {
        progress(done, size);
    }
    0
}
