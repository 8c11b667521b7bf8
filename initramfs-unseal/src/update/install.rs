//! Installing a bundle into the slot that does not run.

use super::firmware::misplaced;
use super::slot_files::SlotFiles;
use super::slots::{live, running};
use super::{Access, Slotted, UpdateError};
use crate::approve::{self, Update};
use crate::authority::PolicyKey;
use crate::reseal::request::{self, Request};
use crate::tpm::{SHARED_DEVICE, Tpm};
use pcr_measure::bundle::{self, Entries, List};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrBank, PcrIndex};
use pcr_measure::slots::{Slot, Slots, fit_in};
use pcr_measure::stub::{self, Stub};
use serde::Serialize;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// Where it is.
    pub slot: Slot,
    /// Its version, for the binding `signed`.
    pub version: Option<u64>,
    /// How often it will be tried.
    pub attempts: u32,
    /// Where its firmware is, if it brought one.
    pub firmware: Option<Stub>,
}

impl fmt::Display for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.map(|version| format!("version {version} ")).unwrap_or_default();
        let firmware = self.firmware.map(|at| format!(", its firmware into {at}"));
        write!(
            f,
            "{version}installed into slot {}{}, which boots next and is tried {} times: restart \
             now, and confirm it when it is up (msec-update confirm)",
            self.slot,
            firmware.unwrap_or_default(),
            self.attempts
        )
    }
}

/// Installs a bundle. It may be cut and called again.
///
/// For the binding `pcr` it asks for the recovery key, as `initramfs-unseal reseal` does.
///
/// # Errors
/// [`UpdateError`]; the slot that runs is untouched, and boots next.
pub fn install(
    from: impl Read,
    attempts: u32,
    say: impl Fn(&str),
) -> Result<Installed, UpdateError> {
    let Slotted { boot, files, .. } = &Slotted::open(Access::Write)?;
    let objects = &boot.objects;
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;

    let state = files.state()?;
    let live = live(&mut tpm, &objects.pcrs)?;
    let (runs, own) = running(files, &state, &live)?.ok_or(UpdateError::Unknown)?;
    if runs != state.good {
        return Err(UpdateError::OnTrial(runs));
    }
    let target = runs.other();

    let key = objects.update_key.as_ref().ok_or(UpdateError::NoKey)?;
    let mut archive = tar::Archive::new(from);
    let mut entries = Entries::of(&mut archive)?;
    let list = verified(&mut tpm, key, &entries.head()?)?;
    let name = |image: &str, board: &str| format!("{image} for {board}");
    let (found, is) = (name(&list.image, &list.board), name(own.image(), own.board()));
    if found != is {
        return Err(UpdateError::OtherImage { found, runs: is });
    }
    let room = files.room(target)?;
    match list.file(bundle::FIT) {
        Some(fit) if fit.size > room => return Err(UpdateError::NoRoom { size: fit.size, room }),
        _ => say(&format!("the bundle is the vendor's; it goes into slot {target}")),
    }

    // From here on the slot is written to: nothing may try it, or start its firmware.
    files.set_state(&Slots { good: runs, trial: None })?;
    if let Some(own) = misplaced(files, &own) {
        files.set_stub(own)?;
    }
    files.clear(target)?;
    let mut fit = files.fit_writer(target)?;
    entries.copy(&list, bundle::FIT, &mut fit)?;
    fit.finish().map_err(|cause| bundle::BundleError::Write { name: bundle::FIT, cause })?;
    say("the FIT is written; reading it back");
    check_fit(&files.read_back(target.fit())?, &list)?;
    let mut manifest = Vec::new();
    entries.copy(&list, bundle::MANIFEST, &mut manifest)?;
    let predicted = Manifest::from_json(&manifest)
        .map_err(|cause| UpdateError::Manifest { slot: target, cause })?;
    let differs = firmware_differs(&predicted, &live);
    if let (Some(differs), None) = (differs, list.file(bundle::FIRMWARE)) {
        return Err(UpdateError::OtherFirmware(format!("PCR {differs}")));
    }
    let mut policies = Vec::new();
    if list.file(bundle::POLICIES).is_some() {
        entries.copy(&list, bundle::POLICIES, &mut policies)?;
    }
    let firmware = match differs {
        Some(_) => Some(write_firmware(files, &mut entries, &list, &predicted)?),
        None => None,
    };
    if let Some(place) = firmware {
        say(&format!("it brings firmware, which is in {place}"));
    }
    files.set_json(target.manifest(), &manifest)?;
    files.set_json(target.signatures(), &policies)?;
    drop(tpm);

    // The root is to open in the next boot too, before that is tried.
    let path = |name| files.path(name);
    if objects.signed.is_some() {
        let update =
            Update { manifest: path(target.manifest()), signatures: path(target.signatures()) };
        say(&approve::approve(&update)?.to_string());
    } else {
        let next = vec![path(target.manifest())];
        request::reseal(&Request::Seal { next, trust_this_boot: false })?;
    }
    let mut tpm = Tpm::open(Path::new(SHARED_DEVICE))?;
    tpm.set_attempts(attempts)?;
    // Cut after this, the good slot finds itself under another firmware, and puts its own back.
    if let Some(place) = firmware {
        files.set_stub(place)?;
    }
    files.set_state(&Slots { good: runs, trial: Some(target) })?;
    Ok(Installed { slot: target, version: list.version, attempts, firmware })
}

/// Writes the bundle's firmware into the place that is not started, and checks that the
/// card holds what the boot manifest expects.
fn write_firmware<R: Read>(
    files: &SlotFiles,
    entries: &mut Entries<'_, R>,
    list: &List,
    expected: &Manifest,
) -> Result<Stub, UpdateError> {
    let place = files.stub()?.ok_or(UpdateError::OneFirmware)?.other();
    let mut writer = files.firmware_writer(place)?;
    entries.copy(list, bundle::FIRMWARE, &mut writer)?;
    writer
        .finish()
        .map_err(|cause| bundle::BundleError::Write { name: bundle::FIRMWARE, cause })?;
    let written = files.read_back(place.file())?;
    let listed = list.file(bundle::FIRMWARE).map(|file| file.sha256);
    if listed != Some(Sha256Digest::of(&written)) {
        return Err(UpdateError::ReadBack(place.file()));
    }
    match stub::measured(&written) {
        Ok(firmware) if expected.expects(&firmware) => Ok(place),
        _ => Err(UpdateError::FirmwareDiffers),
    }
}

/// The list, once the TPM has verified its signature.
fn verified(tpm: &mut Tpm, key: &PolicyKey, head: &bundle::Head) -> Result<List, UpdateError> {
    tpm.verify(key, &Sha256Digest::of(&head.json), &head.signature)?;
    Ok(List::from_json(&head.json)?)
}

/// What the card gives back is the FIT that was signed.
fn check_fit(file: &[u8], list: &List) -> Result<(), UpdateError> {
    let listed = list.file(bundle::FIT).ok_or(UpdateError::NoFit)?;
    let length = usize::try_from(listed.size).unwrap_or(usize::MAX);
    let written = file.get(..length).ok_or(UpdateError::ReadBack(bundle::FIT))?;
    if Sha256Digest::of(written) != listed.sha256 {
        return Err(UpdateError::ReadBack(bundle::FIT));
    }
    // U-Boot loads what the header says, no more and no less.
    match fit_in(written) {
        Some(fit) if fit.len() == written.len() => Ok(()),
        _ => Err(UpdateError::NoFit),
    }
}

/// The PCR in which an update expects other firmware than this boot measured.
fn firmware_differs(update: &Manifest, live: &PcrBank) -> Option<PcrIndex> {
    /// Firmware and U-Boot (docs/architecture.md).
    const FIRMWARE: u32 = 0;
    let predicted = update.predict();
    let differs = predicted
        .iter()
        .filter(|(pcr, _)| u32::from(pcr.get()) == FIRMWARE)
        .find(|(pcr, value)| live.get(*pcr) != Some(*value));
    differs.map(|(pcr, _)| pcr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(size: u32) -> Vec<u8> {
        let mut fit = [&[0xd0, 0x0d, 0xfe, 0xed][..], &size.to_be_bytes()].concat();
        fit.resize(size as usize, 1);
        fit
    }

    #[test]
    fn what_was_read_back_is_the_fit_that_was_signed() {
        let check = |file: &[u8], signed: &[u8]| {
            let files = [(bundle::FIT, signed), (bundle::MANIFEST, b"{}")];
            check_fit(file, &List::new("i", "b", None, &files))
        };
        let good = fit(1000);
        let padded = [&good[..], &[9; 500]].concat();
        check(&padded, &good).unwrap();
        let mut torn = padded.clone();
        torn[999] ^= 1;
        assert!(matches!(check(&torn, &good), Err(UpdateError::ReadBack(_))));
        assert!(matches!(check(&good[..999], &good), Err(UpdateError::ReadBack(_))));
        let longer = [&good[..], &[0]].concat();
        assert!(matches!(check(&padded, &longer), Err(UpdateError::ReadBack(_))));
        assert!(matches!(check(&longer, &longer), Err(UpdateError::NoFit)));
        assert!(matches!(check(&[0; 100], &[0; 100]), Err(UpdateError::NoFit)));
    }

    #[test]
    fn an_update_for_another_firmware_is_told() {
        let image = |firmware: &[u8], kernel: &[u8]| {
            Manifest::builder("i", "b")
                .event(0, "BL31", firmware, "")
                .event(8, "kernel", kernel, "")
                .seal(&[0, 8])
                .build()
                .unwrap()
        };
        let live: PcrBank = image(b"one", b"old").predict();
        let differs =
            |update: &Manifest, live: &PcrBank| firmware_differs(update, live).map(PcrIndex::get);
        assert_eq!(differs(&image(b"one", b"new"), &live), None);
        assert_eq!(differs(&image(b"two", b"new"), &live), Some(0));
        let other: PcrBank = live.iter().map(|(pcr, _)| (pcr, Sha256Digest::ZERO)).collect();
        assert_eq!(differs(&image(b"one", b"new"), &other), Some(0));
    }
}
