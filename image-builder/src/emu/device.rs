//! A device: a card and the TPM of the board it is used in.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use emulated_board::{Board, Network, SoftTpm, TpmError, TpmLink};
use zeroize::Zeroizing;

use super::{
    boot::{Boot, BootError},
    card::{Card, CardError},
    place::TpmPlace,
};

/// A recovery key as the console showed it. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<String>);

impl RecoveryKey {
    /// Takes the key's text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The keys to press for it, Enter included.
    #[must_use]
    pub fn typed(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}\r", *self.0))
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey")
    }
}

/// Why a device cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

/// A card and its board's TPM, in a directory of their own.
#[derive(Debug, Clone)]
pub struct Device {
    dir: PathBuf,
    /// The card in the slot.
    pub card: Card,
    /// The TPM on the header.
    pub tpm: SoftTpm,
    /// Where on the header.
    place: TpmPlace,
    /// Our QEMU, where Debian's will not do.
    emulator: Option<PathBuf>,
    /// What its Ethernet is plugged into.
    network: Network,
}

impl Device {
    /// A new device: a copy of `image` and a new TPM, in `dir`, which is made.
    ///
    /// # Errors
    /// [`DeviceError`], also when `dir` holds a TPM already.
    pub fn new(dir: &Path, image: &Card) -> Result<Self, DeviceError> {
        let place = image.tpm_place()?;
        let card = image.copy_to(&dir.join("card.img"))?;
        let tpm = SoftTpm::create(&dir.join("tpm"), "sha256")?;
        Ok(Self { dir: dir.to_owned(), card, tpm, place, emulator: None, network: Network::None })
    }

    /// The same device on our QEMU: for a TPM on SPI, and for a watchdog.
    #[must_use]
    pub fn with_emulator(self, emulator: Option<PathBuf>) -> Self {
        Self { emulator, ..self }
    }

    /// The same device with its Ethernet plugged into something.
    #[must_use]
    pub fn with_network(self, network: Network) -> Self {
        Self { network, ..self }
    }

    /// A second device in the same state: same bytes on the card, same TPM. The
    /// original must be off.
    ///
    /// # Errors
    /// [`DeviceError`].
    pub fn copy_to(&self, dir: &Path) -> Result<Self, DeviceError> {
        let card = self.card.copy_to(&dir.join("card.img"))?;
        let tpm = self.tpm.copy_to(&dir.join("tpm"))?;
        Ok(Self { dir: dir.to_owned(), card, tpm, ..self.clone() })
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its TPM, where the header has it.
    ///
    /// # Errors
    /// [`CardError::NoEmulator`] when that is on SPI and there is no QEMU for it.
    pub fn link(&self) -> Result<TpmLink, CardError> {
        self.place.link(self.tpm.clone(), self.emulator.as_deref())
    }

    /// Powers it on; the logs go to `logs`.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn boot(&self, name: &str, logs: &Path) -> Result<Boot, BootError> {
        let mut config = self.card.board(self.link()?, logs, None)?;
        config.network = self.network;
        config.emulator.clone_from(&self.emulator);
        Ok(Boot::of(name, Board::power_on(config)?))
    }
}
