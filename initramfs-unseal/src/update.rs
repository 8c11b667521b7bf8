//! Updates: a signed bundle into the slot that does not run, tried by U-Boot, confirmed
//! when it has come up.
//!
//! ```text
//! install   verify the list's signature (the TPM does) -> write the slot -> read it back
//!           -> let this boot's root be opened by the next one -> attempts into the TPM
//!           -> its firmware is started, where it brings one -> state: on trial
//! boot      U-Boot counts an attempt, loads the slot on trial; none left: the good one,
//!           which has its own firmware started again
//! confirm   ask for the old policy to be retired -> state: good -> move the rollback counter
//! ```
//!
//! Each arrow may be a power cut. What decides is one sector ([`slot_files`]): before it
//! is written the old slot boots, after it the new one is tried, and whatever was done
//! before does no harm when it is done again.

mod confirm;
pub mod firmware;
mod install;
pub mod slot_files;
mod slots;

pub use confirm::{Confirmed, confirm};
pub use install::{Installed, install};
pub use slots::{SlotsStatus, cancel, status};

use crate::approve::ApproveError;
use crate::authority::SignedError;
use crate::boot_partition::{BootPartition, MOUNT};
use crate::report::this_boot::{NoReport, ThisBoot};
use crate::reseal::request::RequestError;
use crate::rollback::RollbackError;
use crate::tpm::TpmError;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use pcr_measure::bundle::BundleError;
use pcr_measure::slots::Slot;
use slot_files::{SlotFileError, SlotFiles};
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Held while somebody is at the slots.
const LOCK: &str = "/run/initramfs-unseal/update.lock";

/// How long one waits for that.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an update went no further. What was booted before boots again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// No report of the initramfs.
    #[error(transparent)]
    NoReport(#[from] NoReport),
    /// Somebody else is at it.
    #[error("another update is under way")]
    Busy,
    /// The lock.
    #[error("{LOCK}: {0}")]
    Lock(io::Error),
    /// The boot partition.
    #[error("the boot partition {device} cannot be mounted for {what}: {cause}", what = match access {
        Access::Read => "reading",
        Access::Write => "writing",
    })]
    BootPartition {
        /// Its device.
        device: std::path::PathBuf,
        /// For what.
        access: Access,
        /// Why.
        cause: io::Error,
    },
    /// The files of the slots.
    #[error(transparent)]
    SlotFile(#[from] SlotFileError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Nobody can vouch for a bundle.
    #[error(
        "this image has no update key, so no bundle can be verified: build the image with one (image-builder keys)"
    )]
    NoKey,
    /// Not the vendor's.
    #[error("the TPM refuses the signature of this bundle: it is not the vendor's, or was changed")]
    Forged,
    /// An image for another device.
    #[error("this bundle is of image {found}, this device runs {runs}")]
    OtherImage {
        /// Image and board of the bundle.
        found: String,
        /// Image and board that run.
        runs: String,
    },
    /// It measures other firmware than this card has.
    #[error(
        "this update expects another firmware on the card than there is ({0} would differ): its first boot would not unlock; make the bundle with its firmware (image-builder bundle --firmware), or build the update on this one"
    )]
    OtherFirmware(String),
    /// It brings firmware, and the card has one place for it.
    #[error(
        "this update brings firmware, and this card has room for the one alone that it starts from: write the image to the card"
    )]
    OneFirmware,
    /// What it brings is not what it expects.
    #[error("the firmware of this bundle is not the one that its boot manifest expects")]
    FirmwareDiffers,
    /// No slot explains this boot.
    #[error("what runs is in neither slot of this card: write the image to the card again")]
    Unknown,
    /// The running slot has not proven itself.
    #[error(
        "slot {0} is on trial: confirm it (msec-update confirm), or give it up (msec-update cancel)"
    )]
    OnTrial(Slot),
    /// What runs is no trial.
    #[error("what runs is not on trial")]
    NotOnTrial,
    /// The recovery key opened the root.
    #[error("this boot was not unlocked by the TPM ({0}), so it confirms nothing")]
    ByHand(String),
    /// What was written is not what was read.
    #[error("{0} reads back changed: replace the card")]
    ReadBack(&'static str),
    /// The slot is too small.
    #[error(
        "the FIT of this bundle has {size} bytes, a slot of this card has room for {room}: write an image with larger slots to the card (slot_mib in its recipe)"
    )]
    NoRoom {
        /// Bytes of the FIT.
        size: u64,
        /// Bytes that a slot has.
        room: u64,
    },
    /// The FIT is none.
    #[error("the FIT of this bundle is none")]
    NoFit,
    /// A boot manifest that is none.
    #[error("the boot manifest of slot {slot} cannot be used: {cause}")]
    Manifest {
        /// The slot.
        slot: Slot,
        /// Why.
        cause: pcr_measure::manifest::ManifestError,
    },
    /// Letting the next boot open the root.
    #[error(transparent)]
    Approve(#[from] ApproveError),
    /// The same, for the binding `pcr`.
    #[error(transparent)]
    Reseal(#[from] RequestError),
    /// Moving the rollback counter.
    #[error(transparent)]
    Rollback(#[from] RollbackError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

impl UpdateError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Bundle(why) => !matches!(why, BundleError::Read(_) | BundleError::Write { .. }),
            Self::Approve(why) => why.is_refusal(),
            Self::Reseal(why) => why.is_refusal(),
            Self::Rollback(why) => why.is_refusal(),
            Self::NoKey
            | Self::Forged
            | Self::OtherImage { .. }
            | Self::OtherFirmware(_)
            | Self::OneFirmware
            | Self::FirmwareDiffers
            | Self::OnTrial(_)
            | Self::NotOnTrial
            | Self::ByHand(_)
            | Self::NoRoom { .. }
            | Self::NoFit => true,
            _ => false,
        }
    }
}

impl From<SignedError> for UpdateError {
    fn from(why: SignedError) -> Self {
        match why {
            SignedError::BadSignature => Self::Forged,
            other => Self::Approve(other.into()),
        }
    }
}

/// Waits a while for somebody who only looks; an installation takes longer.
fn take_turn(mut lock: File) -> Result<Flock<File>, UpdateError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(turn) => return Ok(turn),
            Err((back, Errno::EWOULDBLOCK)) if Instant::now() < end => lock = back,
            Err((_, Errno::EWOULDBLOCK)) => return Err(UpdateError::Busy),
            Err((_, errno)) => return Err(UpdateError::Lock(errno.into())),
        }
        std::thread::sleep(PATIENCE / 20);
    }
}

/// The card's slots, while nobody else changes them.
#[derive(Debug)]
struct Slotted {
    boot: ThisBoot,
    files: SlotFiles,
    // In this order: unmounted, then free for the next one.
    _partition: BootPartition,
    _lock: Flock<File>,
}

/// What somebody wants with the slots. A boot partition that is only read is not marked as
/// being in use, and a power cut finds it clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Looking at them.
    Read,
    /// Changing them.
    Write,
}

impl Slotted {
    fn open(access: Access) -> Result<Self, UpdateError> {
        let boot = ThisBoot::read()?;
        let lock = File::options().create(true).append(true).mode(0o600).open(LOCK);
        let lock = lock.map_err(UpdateError::Lock)?;
        let lock = take_turn(lock)?;
        let device = boot.objects.boot.clone();
        let partition = match access {
            Access::Read => BootPartition::for_reading(&device),
            Access::Write => BootPartition::for_writing(&device),
        };
        let partition =
            partition.map_err(|cause| UpdateError::BootPartition { device, access, cause })?;
        let files = SlotFiles::at(Path::new(MOUNT));
        Ok(Self { boot, files, _partition: partition, _lock: lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_next_one_waits() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || file.reopen().unwrap();
        let turn = take_turn(open()).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| take_turn(open()).is_ok());
            std::thread::sleep(Duration::from_millis(300));
            drop(turn);
            assert!(next.join().unwrap());
        });
        assert!(begun.elapsed() >= Duration::from_millis(300));
        let _turn = take_turn(open()).unwrap();
        assert!(matches!(take_turn(open()), Err(UpdateError::Busy)));
    }
}
