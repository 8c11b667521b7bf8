//! Dictionary attack protection, for roots with a PIN: how many guesses the TPM
//! lets through, and who may forgive them.
//!
//! The TPM library has no call for two of the commands that this takes. They go out
//! as bytes, over a connection of their own, and only while the lockout hierarchy's
//! password is empty: no secret is in them.

use super::{Encrypt, Tpm, TpmError, error};
use crate::secret::hmac_sha256;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use tss_esapi::constants::{PropertyTag, SessionType};
use tss_esapi::handles::AuthHandle;
use tss_esapi::interface_types::session_handles::AuthSession;

use tss_esapi::structures::Auth;
use zeroize::Zeroizing;

/// Wrong PINs before the TPM answers no more.
pub const MAX_TRIES: u32 = 10;
/// Seconds after which it forgets one of them.
pub const RECOVERY_TIME: u32 = 600;
/// Seconds after which the lockout hierarchy's own password may be tried again.
pub const LOCKOUT_RECOVERY: u32 = 86_400;

/// `TPM_CC_DictionaryAttackLockReset`, `TPM_CC_DictionaryAttackParameters`
/// (TPM 2.0 Library 1.59, Part 2, 6.5.2).
const LOCK_RESET: u32 = 0x139;
const PARAMETERS: u32 = 0x13a;
/// `lockoutAuthSet` of `TPMA_PERMANENT` (Part 2, 8.6).
const LOCKOUT_AUTH_SET: u32 = 1 << 2;
/// Longest response that is read, in bytes.
const MAX_RESPONSE: usize = 4096;

/// A command to the lockout hierarchy, authorised by its empty password.
fn command(code: u32, parameters: &[u32]) -> Vec<u8> {
    /// `TPM_ST_SESSIONS`, `TPM_RH_LOCKOUT`, `TPM_RS_PW`.
    const SESSIONS: u16 = 0x8002;
    const LOCKOUT: u32 = 0x4000_000a;
    const PASSWORD: u32 = 0x4000_0009;
    // No nonce, no attributes, no password (Part 2, 10.13.2).
    let mut session = PASSWORD.to_be_bytes().to_vec();
    session.extend_from_slice(&[0; 5]);
    let mut body = code.to_be_bytes().to_vec();
    body.extend_from_slice(&LOCKOUT.to_be_bytes());
    body.extend_from_slice(&9u32.to_be_bytes());
    body.extend_from_slice(&session);
    body.extend(parameters.iter().flat_map(|parameter| parameter.to_be_bytes()));
    let mut bytes = SESSIONS.to_be_bytes().to_vec();
    // Tag and size count in; there are three parameters at most.
    bytes.extend_from_slice(&(6 + body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The response code of a response; `None` if it is none.
fn response_code(response: &[u8]) -> Option<u32> {
    let size = u32::from_be_bytes(response.get(2..6)?.try_into().ok()?);
    let code = u32::from_be_bytes(response.get(6..10)?.try_into().ok()?);
    (usize::try_from(size).ok()? == response.len()).then_some(code)
}

/// Sends one command over a connection that nothing else uses.
fn exchange(tpm: &mut (impl Read + Write), command: &[u8]) -> Result<(), TpmError> {
    let io = |e: std::io::Error| TpmError::Library(e.to_string());
    tpm.write_all(command).map_err(io)?;
    // A TPM's answer comes in one piece.
    let mut response = [0; MAX_RESPONSE];
    let length = tpm.read(&mut response).map_err(io)?;
    match response.get(..length).and_then(response_code) {
        Some(0) => Ok(()),
        Some(code) => Err(error::classify(code, 0)),
        None => Err(TpmError::Library("the TPM's answer is none".into())),
    }
}

/// Sets how many guesses are let through, while the lockout hierarchy has no
/// password. `tpm` is a connection that nothing else uses, such as `/dev/tpm0`.
///
/// # Errors
/// [`TpmError`] when the TPM refuses.
pub fn set_parameters(tpm: &mut (impl Read + Write)) -> Result<(), TpmError> {
    exchange(tpm, &command(PARAMETERS, &[MAX_TRIES, RECOVERY_TIME, LOCKOUT_RECOVERY]))
}

/// [`set_parameters`] through the resource manager, in the running system: it takes
/// whole commands beside those of `tpm`.
///
/// # Errors
/// [`TpmError`] when the TPM refuses.
pub fn limit_guesses(device: &Path) -> Result<(), TpmError> {
    let opened = File::options().read(true).write(true).open(device);
    let mut device = opened.map_err(|_| TpmError::Absent(device.display().to_string()))?;
    set_parameters(&mut device)
}

/// Forgives all wrong guesses, while the lockout hierarchy has no password.
///
/// # Errors
/// [`TpmError`] when the TPM refuses.
pub fn forgive(tpm: &mut (impl Read + Write)) -> Result<(), TpmError> {
    exchange(tpm, &command(LOCK_RESET, &[]))
}

/// Runs something with the device itself, between two connections of the library.
///
/// # Errors
/// As `what`'s; that the device cannot be opened.
pub fn aside(
    tpm: Tpm,
    device: &Path,
    what: impl FnOnce(&mut File) -> Result<(), TpmError>,
) -> (Option<Tpm>, Result<(), TpmError>) {
    drop(tpm);
    let opened = File::options().read(true).write(true).open(device);
    let done = opened
        .map_err(|_| TpmError::Absent(device.display().to_string()))
        .and_then(|mut file| what(&mut file));
    match Tpm::open(device) {
        Ok(tpm) => (Some(tpm), done),
        Err(gone) => (None, done.and(Err(gone))),
    }
}

/// The lockout hierarchy's password, from the volume key: who can open the root can
/// forgive guesses, by hand too (`tpm2_dictionarylockout -c -p hex:…`).
fn password(volume_key: &[u8]) -> Result<Auth, TpmError> {
    let mut value = Zeroizing::new(hmac_sha256(volume_key, &[b"msec-boot lockout password 1"]));
    // A TPM takes zeros off its end.
    if let Some(last @ 0) = value.last_mut() {
        *last = 1;
    }
    Auth::try_from(value.to_vec()).map_err(|_| TpmError::Library("the lockout password".into()))
}

impl Tpm {
    /// Whether the lockout hierarchy has a password.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM does not tell.
    pub fn lockout_has_password(&mut self) -> Result<bool, TpmError> {
        let permanent = self.property(PropertyTag::Permanent)?;
        let permanent =
            permanent.ok_or_else(|| TpmError::Library("the TPM leaves out a property".into()))?;
        Ok(permanent & LOCKOUT_AUTH_SET != 0)
    }

    /// Gives the lockout hierarchy its password, if it has none: guesses are not
    /// forgiven to whoever holds the board. The password crosses the bus encrypted.
    ///
    /// # Errors
    /// [`TpmError`] when the TPM refuses.
    pub fn close_lockout(
        &mut self,
        srk: u32,
        srk_name: &[u8],
        volume_key: &[u8],
    ) -> Result<(), TpmError> {
        if self.lockout_has_password()? {
            return Ok(());
        }
        self.change_lockout(srk, srk_name, Auth::default(), password(volume_key)?)
    }

    /// Takes the lockout hierarchy's password away, if it has the one of this volume
    /// key.
    ///
    /// # Errors
    /// [`TpmError::WrongPassword`] when it has another.
    pub fn open_lockout(
        &mut self,
        srk: u32,
        srk_name: &[u8],
        volume_key: &[u8],
    ) -> Result<(), TpmError> {
        if !self.lockout_has_password()? {
            return Ok(());
        }
        self.change_lockout(srk, srk_name, password(volume_key)?, Auth::default())
    }

    fn change_lockout(
        &mut self,
        srk: u32,
        srk_name: &[u8],
        from: Auth,
        to: Auth,
    ) -> Result<(), TpmError> {
        let srk = self.pinned_srk(srk, srk_name)?;
        let session = self.session(srk, SessionType::Hmac)?;
        let done = self.change_under(session, from, to);
        self.close(session)?;
        done
    }

    fn change_under(&mut self, session: AuthSession, from: Auth, to: Auth) -> Result<(), TpmError> {
        use tss_esapi::handles::ObjectHandle;
        let known = self.0.context().tr_set_auth(ObjectHandle::Lockout, from);
        known.map_err(|e| error::from_esapi(e, 0))?;
        self.encrypt(session, Encrypt::Command)?;
        self.run(0, |c| {
            c.execute_with_session(Some(session), |c| {
                c.hierarchy_change_auth(AuthHandle::Lockout, to)
            })
        })
        .map_err(|refusal| match refusal {
            TpmError::OwnerAuth => TpmError::WrongPassword,
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_as_the_specification_lays_them_out() {
        let reset = "80020000001b000001394000000a000000094000000900000000 00".replace(' ', "");
        assert_eq!(hex::encode(command(LOCK_RESET, &[])), reset);
        let parameters = hex::encode(command(PARAMETERS, &[10, 600, 86_400]));
        assert!(parameters.starts_with("8002000000270000013a4000000a"), "{parameters}");
        assert!(parameters.ends_with("0000000a0000025800015180"), "{parameters}");
    }

    #[test]
    fn only_whole_responses_are_read() {
        let good = [0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0xa2];
        assert_eq!(response_code(&good), Some(0x9a2));
        for cut in 0..good.len() {
            assert_eq!(response_code(&good[..cut]), None, "{cut}");
        }
        assert_eq!(response_code(&[good.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn the_password_follows_the_volume_key() {
        let of = |key: &[u8]| password(key).unwrap().as_bytes().to_vec();
        assert_eq!(of(b"a"), of(b"a"));
        assert_ne!(of(b"a"), of(b"b"));
        assert_eq!(of(b"a").len(), 32);
    }
}
