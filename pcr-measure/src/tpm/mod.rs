//! A live TPM 2.0: the only module that talks to one.
//!
//! What comes back is as trustworthy as the way to the TPM: PCR values that were
//! read prove nothing to anybody else. A quote does ([`Tpm::quote`]).

mod ak;
mod credential;
mod ek;
mod error;
mod pcrs;
mod primary;
mod quote;

pub use credential::Certified;
pub use error::TpmError;
pub use pcrs::selections;
pub use primary::Primary;
pub use quote::Quote;

use std::path::Path;
use std::str::FromStr;

use tss_esapi::handles::{KeyHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};
use tss_esapi::{Context, Error as Esapi};

/// Where the TPM is when nobody says: behind the kernel's resource manager, or
/// the device itself.
const DEVICES: [&str; 2] = ["/dev/tpmrm0", "/dev/tpm0"];

/// Commands that tpm2-tss sends when it opens a device: one GetRandom, to find
/// out whether responses can be read in parts (tcti-device.c).
const DEVICE_PROBE: u32 = 1;

/// A connection to a TPM, each of whose commands is counted.
#[derive(Debug)]
pub struct Tpm {
    context: Context,
    commands: u32,
}

impl Tpm {
    /// Opens the device at `path`, such as `/dev/tpm0`.
    ///
    /// # Errors
    /// [`TpmError::Absent`] when it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, TpmError> {
        let name = path.to_string_lossy().into_owned();
        let absent = |_| TpmError::Absent(name.clone());
        let conf = DeviceConfig::from_str(&name).map_err(absent)?;
        let mut tpm =
            Self::connect(TctiNameConf::Device(conf)).map_err(|_| TpmError::Absent(name))?;
        tpm.commands += DEVICE_PROBE;
        Ok(tpm)
    }

    /// Opens what `tcti` names, in the words of tpm2-tools
    /// (`device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`).
    ///
    /// # Errors
    /// [`TpmError::BadTcti`], or [`TpmError::Absent`] when nothing answers there.
    pub fn from_tcti(tcti: &str) -> Result<Self, TpmError> {
        let conf = TctiNameConf::from_str(tcti).map_err(|_| TpmError::BadTcti(tcti.to_owned()))?;
        Self::connect(conf).map_err(|_| TpmError::Absent(tcti.to_owned()))
    }

    /// Opens this machine's TPM.
    ///
    /// # Errors
    /// [`TpmError::Absent`].
    pub fn of_this_machine() -> Result<Self, TpmError> {
        let found = DEVICES.iter().map(Path::new).find(|path| path.exists());
        Self::open(found.ok_or_else(|| TpmError::Absent(DEVICES.join(" or ")))?)
    }

    /// Opens a connection of any kind.
    ///
    /// # Errors
    /// [`TpmError`] of the transport.
    pub fn connect(conf: TctiNameConf) -> Result<Self, TpmError> {
        Ok(Self { context: Context::new(conf)?, commands: 0 })
    }

    /// Commands sent over this connection so far.
    #[must_use]
    pub const fn commands(&self) -> u32 {
        self.commands
    }

    /// Sends one command and counts it.
    ///
    /// # Errors
    /// As the library tells them, sorted.
    pub fn run<T>(
        &mut self,
        command: impl FnOnce(&mut Context) -> Result<T, Esapi>,
    ) -> Result<T, TpmError> {
        self.commands += 1;
        Ok(command(&mut self.context)?)
    }

    /// The library's context, for what sends no command.
    pub const fn context(&mut self) -> &mut Context {
        &mut self.context
    }

    /// The key at a persistent handle; `None` when there is none. One command.
    ///
    /// # Errors
    /// A handle that is not persistent; [`TpmError`] of the TPM.
    pub fn persistent(&mut self, handle: u32) -> Result<Option<KeyHandle>, TpmError> {
        let persistent = PersistentTpmHandle::new(handle)?;
        let found = self.run(|c| {
            c.execute_without_session(|c| c.tr_from_tpm_public(TpmHandle::Persistent(persistent)))
        });
        match found {
            Ok(object) => Ok(Some(object.into())),
            Err(error) if error.is_no_such_handle() => Ok(None),
            Err(error) => Err(error),
        }
    }
}
