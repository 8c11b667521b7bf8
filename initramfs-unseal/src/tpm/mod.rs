//! The TPM: one connection, the commands this program needs, each counted.
//!
//! In the initramfs the connection goes to `/dev/tpm0` itself: the kernel's
//! resource manager would add a context load and save around every command.
//! Nothing else uses the TPM then.

mod attempts;
mod counter;
pub mod error;
pub mod health;
mod identity;
pub mod lockout;
pub mod platform;
mod probe;
mod seal;
mod signed;
mod unseal;

pub use counter::Counter;
pub use error::TpmError;
pub use identity::{AK, Key};
pub use seal::Sealing;
pub use unseal::Unsealing;

use crate::flow::IndexState;
use crate::guard::Guard;
use crate::sealed::SEALED_LEN;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::pcr::{PcrBank, PcrIndex, PcrSelection};
use pcr_measure::policy::PolicyError;
use pcr_measure::structures::{NvPublic as Public, nv_attribute};
use std::path::Path;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::{SessionType, StartupType};
use tss_esapi::handles::{KeyHandle, NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{Digest, SymmetricDefinition};
use tss_esapi::tcti_ldr::TctiNameConf;
use tss_esapi::{Context, Error as Esapi};

/// The TPM itself.
pub const DEVICE: &str = "/dev/tpm0";
/// The TPM through the kernel's resource manager: for the running system, where other
/// programs use it too.
pub const SHARED_DEVICE: &str = "/dev/tpmrm0";

/// A connection to a TPM 2.0.
#[derive(Debug)]
pub struct Tpm(pcr_measure::tpm::Tpm);

/// What is known of an NV index without authorisation.
#[derive(Debug, Clone)]
pub struct Index {
    handle: NvIndexHandle,
    /// `TPMA_NV`.
    attributes: u32,
    policy: Vec<u8>,
    ours: bool,
}

impl Index {
    /// How far provisioning came with this index. An index that is defined
    /// but not written counts as open.
    #[must_use]
    pub fn state(&self) -> IndexState {
        if self.has(nv_attribute::WRITE_LOCKED) { IndexState::Locked } else { IndexState::Open }
    }

    /// Whether it is read-locked until the next reset.
    #[must_use]
    pub fn read_locked(&self) -> bool {
        self.has(nv_attribute::READ_LOCKED)
    }

    /// Whether it has the form of an index that [`Tpm::seal`] makes.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.ours
    }

    /// The policy that guards the index.
    #[must_use]
    pub fn policy(&self) -> &[u8] {
        &self.policy
    }

    const fn has(&self, attribute: u32) -> bool {
        self.attributes & attribute != 0
    }
}

impl Tpm {
    /// Opens the TPM at `device`, such as `/dev/tpm0`.
    ///
    /// # Errors
    /// [`TpmError::Absent`] when it cannot be opened.
    pub fn open(device: &Path) -> Result<Self, TpmError> {
        pcr_measure::tpm::Tpm::open(device).map(Self).map_err(|e| error::sorted(e, 0))
    }

    /// Opens a connection of any kind; tests talk to a software TPM this way.
    ///
    /// # Errors
    /// [`TpmError`] of the transport.
    pub fn connect(conf: TctiNameConf) -> Result<Self, TpmError> {
        pcr_measure::tpm::Tpm::connect(conf).map(Self).map_err(|e| error::sorted(e, 0))
    }

    /// Commands sent over this connection so far.
    #[must_use]
    pub fn commands(&self) -> u32 {
        self.0.commands()
    }

    /// Reads PCRs of the SHA-256 bank, as of one moment.
    ///
    /// # Errors
    /// [`TpmError::NoSha256Bank`] when the TPM leaves out any of them.
    pub fn pcrs(&mut self, pcrs: &PcrSelection) -> Result<PcrBank, TpmError> {
        self.0.pcrs(pcrs).map_err(|e| error::sorted(e, 0))
    }

    /// Extends a PCR of the SHA-256 bank.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn extend(&mut self, pcr: PcrIndex, digest: &Sha256Digest) -> Result<(), TpmError> {
        self.0.extend(pcr, &[(*digest).into()]).map_err(|e| error::sorted(e, 0))
    }

    /// Thirty-two bytes of the TPM's random number generator.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn random(&mut self) -> Result<zeroize::Zeroizing<Vec<u8>>, TpmError> {
        let bytes = self.run(0, |c| c.get_random(crate::secret::SECRET_LEN))?;
        Ok(zeroize::Zeroizing::new(bytes.as_bytes().to_vec()))
    }

    /// TPM2_Shutdown: what was authorised until now is over in good order. A power
    /// cut after the use of something that dictionary attack protection guards, a
    /// PIN here, would count as a guess.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn orderly(&mut self) -> Result<(), TpmError> {
        self.run(0, |c| c.execute_without_session(|c| c.shutdown(StartupType::Clear)))
    }

    /// The public area of an NV index, `None` when it is not defined. Two commands.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM does not answer properly.
    pub fn index(&mut self, index: u32) -> Result<Option<Index>, TpmError> {
        let Some(handle) = self.find_index(index)? else { return Ok(None) };
        let (public, _) =
            self.run(index, |c| c.execute_without_session(|c| c.nv_read_public(handle)))?;
        let attributes = u32::try_from(public.attributes());
        let attributes = attributes.map_err(|e| error::from_esapi(e, index))?;
        let ours = [false, true].map(seal::attributes).contains(&(attributes & !IN_USE))
            && public.data_size() == usize::from(SEALED_LEN)
            && public.name_algorithm() == HashingAlgorithm::Sha256;
        let policy = public.authorization_policy().as_bytes().to_vec();
        Ok(Some(Index { handle, attributes, policy, ours }))
    }

    /// As [`Tpm::index`], for an index that should be one of ours with this guard:
    /// one command, because the library keeps the Name, and the Name is the hash of
    /// the public area. Two commands where it is another.
    ///
    /// # Errors
    /// As [`Tpm::index`].
    pub fn index_of(&mut self, index: u32, guard: &Guard) -> Result<Option<Index>, TpmError> {
        let Some(handle) = self.find_index(index)? else { return Ok(None) };
        let name = self.0.context().tr_get_name(handle.into());
        let name = name.map_err(|e| error::from_esapi(e, index))?;
        let policy = guard.policy().map_err(impossible)?;
        let states = [0, nv_attribute::WRITE_LOCKED]
            .map(|locked| [locked, locked | nv_attribute::READ_LOCKED]);
        for state in states.into_iter().flatten() {
            let attributes = seal::attributes(guard.pin()) | nv_attribute::WRITTEN | state;
            let public = Public { index, attributes, policy: Some(&policy), size: SEALED_LEN };
            if public.name() == name.value() {
                let policy = policy.as_bytes().to_vec();
                return Ok(Some(Index { handle, attributes, policy, ours: true }));
            }
        }
        self.index(index)
    }

    /// The library reads the public area once to learn the Name.
    fn find_index(&mut self, index: u32) -> Result<Option<NvIndexHandle>, TpmError> {
        let tpm_handle = NvIndexTpmHandle::new(index).map_err(|e| error::from_esapi(e, index))?;
        let found = self.run(index, |c| {
            c.execute_without_session(|c| c.tr_from_tpm_public(TpmHandle::NvIndex(tpm_handle)))
        });
        match found {
            Ok(object) => Ok(Some(object.into())),
            Err(TpmError::IndexMissing(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// The key at a persistent handle and its Name, `None` when there is none.
    fn persistent(&mut self, handle: u32) -> Result<Option<(KeyHandle, Vec<u8>)>, TpmError> {
        let found = self.0.persistent(handle).map_err(|e| error::sorted(e, 0))?;
        let Some(key) = found else { return Ok(None) };
        // No command: ESYS keeps the Name it computed over the public area.
        let name = self.0.context().tr_get_name(key.into()).map_err(|e| error::from_esapi(e, 0))?;
        Ok(Some((key, name.value().to_vec())))
    }

    /// A session salted with `key`, AES-128-CFB and SHA-256, whose parameters
    /// are encrypted in the direction asked for at each use.
    fn session(&mut self, key: KeyHandle, kind: SessionType) -> Result<AuthSession, TpmError> {
        let session = self.run(0, |c| {
            c.execute_without_session(|c| {
                c.start_auth_session(
                    Some(key),
                    None,
                    None,
                    kind,
                    SymmetricDefinition::AES_128_CFB,
                    HashingAlgorithm::Sha256,
                )
            })
        })?;
        session.ok_or_else(|| TpmError::Library("no session".into()))
    }

    /// Sets which parameters of the next command the session encrypts. It
    /// stays open either way.
    fn encrypt(&mut self, session: AuthSession, what: Encrypt) -> Result<(), TpmError> {
        self.encrypt_and(session, what, true)
    }

    /// As [`Tpm::encrypt`]; the command, if it succeeds, ends the session unless it
    /// is to go on.
    fn encrypt_and(
        &mut self,
        session: AuthSession,
        what: Encrypt,
        go_on: bool,
    ) -> Result<(), TpmError> {
        // The builder puts every attribute it was told about into the mask.
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(go_on)
            .with_decrypt(what == Encrypt::Command)
            .with_encrypt(what == Encrypt::Response)
            .build();
        self.0
            .context()
            .tr_sess_set_attributes(session, attributes, mask)
            .map_err(|e| error::from_esapi(e, 0))
    }

    /// The next command of the session encrypts nothing and, if it succeeds,
    /// ends the session in the TPM: it saves a FlushContext.
    fn end_with_next(&mut self, session: AuthSession) -> Result<(), TpmError> {
        let (attributes, mask) = SessionAttributesBuilder::new()
            .with_continue_session(false)
            .with_decrypt(false)
            .with_encrypt(false)
            .build();
        self.0
            .context()
            .tr_sess_set_attributes(session, attributes, mask)
            .map_err(|e| error::from_esapi(e, 0))
    }

    /// Lets the library forget a session that has ended in the TPM.
    fn forget(&mut self, session: AuthSession) {
        use tss_esapi::handles::{ObjectHandle, SessionHandle};
        let mut handle: ObjectHandle = SessionHandle::from(session).into();
        // The library does so, and complains that the session was not flushed.
        let _ = self.0.context().tr_close(&mut handle);
    }

    fn close(&mut self, session: AuthSession) -> Result<(), TpmError> {
        use tss_esapi::handles::{ObjectHandle, SessionHandle};
        let handle: ObjectHandle = SessionHandle::from(session).into();
        self.run(0, |c| c.flush_context(handle))
    }

    /// Sends one command and counts it.
    fn run<T>(
        &mut self,
        index: u32,
        command: impl FnOnce(&mut Context) -> Result<T, Esapi>,
    ) -> Result<T, TpmError> {
        self.0.run(command).map_err(|e| error::sorted(e, index))
    }
}

/// Attributes of an index that change while it is in use.
const IN_USE: u32 = nv_attribute::WRITTEN | nv_attribute::WRITE_LOCKED | nv_attribute::READ_LOCKED;

/// What a session encrypts on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encrypt {
    Command,
    Response,
}

/// A policy that cannot be computed: the number of its branches was checked.
fn impossible(why: PolicyError) -> TpmError {
    TpmError::Library(why.to_string())
}

fn to_digest(digest: &Sha256Digest) -> Result<Digest, TpmError> {
    Digest::try_from(digest.as_bytes().to_vec()).map_err(|e| error::from_esapi(e, 0))
}
