//! Holds an image against its manifest, and its FIT against the U-Boot on the
//! same card.
//!
//! Everything read from the card is foreign: a verdict is given, nothing else is
//! done with it. What is judged is the card's consistency and what it will
//! measure; whether that is what somebody wants to trust, the manifest of a
//! trusted build says (`--manifest`).

mod report;

use std::path::{Path, PathBuf};

use pcr_measure::key::PublicKey;
use pcr_measure::manifest::{Manifest, Measurement, component};
use pcr_measure::policy::Rollback;
use pcr_measure::signed_policy::{SignatureFile, SignedPolicy, Verdict, policy_with};
use pcr_measure::slots::{STATE_FILE, Slot, Slots};
use pcr_measure::structures::TpmPublic;
use pcr_measure::stub::{SWITCH_FILE, Stub};
use serde::Deserialize;

use super::arm_image::ArmImage;
use super::card::{Card, CardError};
use super::fdt::Fdt;
use super::fit::{self, Contents, FitError};
use super::inventory::{self, Boot, Inventory, Item};
use super::{boot_manifest, ext4, initramfs};
use crate::recipe::Board;

pub use report::{Check, Outcome, Report, RootState};

/// A LUKS header's first bytes (LUKS2 On-Disk Format 1.1, 3.1).
const LUKS_MAGIC: &[u8] = b"LUKS\xba\xbe";

/// First bytes of a flattened device tree.
const FDT_MAGIC: &[u8] = &[0xd0, 0x0d, 0xfe, 0xed];

/// Why no verdict could be given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The file cannot be read, or is no image at all.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The signature checker cannot run.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The given inventory cannot be used.
    #[error("the inventory {path} cannot be used: {reason}")]
    Inventory {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The given manifest cannot be used.
    #[error("the manifest {path} cannot be used: {reason}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl VerifyError {
    /// True if this is a negative answer and not a failure to look.
    pub fn is_verdict(&self) -> bool {
        matches!(self, Self::Card(error) if error.is_verdict())
    }
}

struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, what: impl Into<String>, outcome: Outcome, detail: impl Into<String>) {
        self.0.push(Check { what: what.into(), outcome, detail: detail.into() });
    }

    /// Passes a value on, or notes why there is none.
    fn take<T, E: ToString>(&mut self, what: &'static str, result: Result<T, E>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.add(what, Outcome::Bad, error.to_string());
                None
            }
        }
    }
}

/// Judges an image. `manifest` and `inventory` are others than its own to hold it against;
/// `fit_check_sign` checks the signature, which is skipped without it.
///
/// # Errors
/// If the file cannot be read or has no partition table of ours.
pub fn verify(
    path: &Path,
    manifest: Option<&Path>,
    inventory: Option<&Path>,
    fit_check_sign: Option<&Path>,
) -> Result<Report, VerifyError> {
    let card = Card::open(path)?;
    let mut checks = Checks(Vec::new());
    let root = root_state(&card);
    let detail = format!("boot and root partition within {} MiB", card.size >> 20);
    checks.add("partitions", Outcome::Good, detail);
    let arm_image = checks.take("firmware", ArmImage::on(&card));
    boot_files(&card, arm_image.as_ref().map(|(kind, _)| *kind), &mut checks);
    let manifest = match manifest {
        Some(path) => Some(read_manifest(path)?),
        None => own_manifest(&card, &mut checks),
    };
    let fit = checks.take("FIT", card.fit_of(card.slots().good));
    let contents = fit.as_deref().and_then(|fit| checks.take("FIT", Contents::read(fit)));
    if let (Some(manifest), Some(contents)) = (&manifest, &contents) {
        parts(manifest, contents, &mut checks);
    }
    if let (Some(manifest), Some((kind, image))) = (&manifest, &arm_image) {
        uboot_version(manifest, *kind, image, &mut checks);
        firmware(manifest, *kind, image, &mut checks);
    }
    if let (Some(fit), Some((_, image))) = (&fit, &arm_image) {
        signature(fit, image, fit_check_sign, &mut checks)?;
    }
    slots(&card, &mut checks);
    if let Some((kind, _)) = &arm_image {
        started(&card, *kind, &mut checks);
    }
    let inventory = match inventory {
        Some(path) => Some(read_inventory(path)?),
        None => own_inventory(&card, &mut checks),
    };
    if let Some(inventory) = &inventory {
        let kinds = arm_image.iter().map(|(kind, _)| *kind);
        let expected: Vec<_> = kinds
            .flat_map(|kind| {
                let others = kind.others().iter().copied();
                others.chain(kind.board_dtb())
            })
            .collect();
        stock(&card, inventory, &expected, arm_image.as_ref(), root, &mut checks)?;
        if manifest.as_ref().is_some_and(|manifest| manifest.image() != inventory.image) {
            checks.add("inventory", Outcome::Bad, "it is another image's");
        }
    }
    let real = match (&manifest, &contents) {
        (Some(manifest), Some(contents)) => {
            let firmware = arm_image.as_ref().and_then(|(kind, image)| kind.measured(image).ok());
            let real = boot_manifest::of_variant(manifest, contents, firmware.as_ref());
            checks.take("PCRs", real)
        }
        _ => None,
    };
    if let (Some(real), Some(contents)) = (&real, &contents) {
        policies(&card, real, contents, &mut checks);
    }
    let pcrs = real.map(|real| real.predict());
    let said = manifest.as_ref().map(Manifest::predict);
    Ok(Report {
        schema: "msec-boot/image-report/1",
        path: path.to_owned(),
        good: !checks.0.iter().any(|check| check.outcome == Outcome::Bad),
        image: manifest.as_ref().map(|m| m.image().to_owned()),
        board: manifest.as_ref().map(|m| m.board().to_owned()),
        root,
        command_line: contents.map(|contents| contents.command_line),
        checks: checks.0,
        pcrs_in_manifest: said.filter(|said| Some(said) != pcrs.as_ref()),
        pcrs,
    })
}

/// Every file is there that needs no look inside; a Raspberry Pi's where nothing tells the
/// board.
fn boot_files(card: &Card, kind: Option<ArmImage>, checks: &mut Checks) {
    let kind = kind.unwrap_or(ArmImage::Armstub);
    let before = checks.0.len();
    for name in kind.others().iter().copied().chain(kind.board_dtb()) {
        checks.take("boot files", card.boot_file(name));
    }
    if checks.0.len() == before {
        let detail = match kind.board() {
            Board::Rpi3 => {
                "VideoCore's firmware, config.txt and DTB are there (neither signed nor measured)"
            }
            Board::Virt => "the secure flash is there",
        };
        checks.add("boot files", Outcome::Good, detail);
    }
}

fn own_manifest(card: &Card, checks: &mut Checks) -> Option<Manifest> {
    let json = checks.take("manifest", card.manifest_of(card.slots().good))?;
    let manifest = checks.take("manifest", Manifest::from_json(&json))?;
    let detail = format!("{} for {}", manifest.image(), manifest.board());
    checks.add("manifest", Outcome::Good, detail);
    Some(manifest)
}

fn read_manifest(path: &Path) -> Result<Manifest, VerifyError> {
    let fail = |reason: String| VerifyError::Manifest { path: path.to_owned(), reason };
    let json = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    Manifest::from_json(&json).map_err(|error| fail(error.to_string()))
}

/// The sector that says which slot boots. U-Boot takes one that it cannot read for slot A.
fn slots(card: &Card, checks: &mut Checks) {
    const WHAT: &str = "slots";
    let Some(sector) = checks.take(WHAT, card.boot_file(STATE_FILE)) else { return };
    match checks.take(WHAT, Slots::decode(&sector)) {
        Some(slots) if slots.encode().as_slice() == sector => {
            let trial = slots.trial.map(|slot| format!(", {slot} is on trial")).unwrap_or_default();
            checks.add(WHAT, Outcome::Good, format!("{} is good{trial}", slots.good));
        }
        Some(_) => checks.add(WHAT, Outcome::Bad, "bytes that no state has"),
        None => {}
    }
}

/// The sector that says which of two firmwares is started.
fn started(card: &Card, kind: ArmImage, checks: &mut Checks) {
    if !kind.has_two_places() {
        return;
    }
    let Some(sector) = checks.take(SWITCH_FILE, card.boot_file(SWITCH_FILE)) else { return };
    match Stub::decode(&sector) {
        Some(stub) => checks.add(SWITCH_FILE, Outcome::Good, format!("{stub} is started")),
        None => checks.add(SWITCH_FILE, Outcome::Bad, "bytes that none has"),
    }
}

fn own_inventory(card: &Card, checks: &mut Checks) -> Option<Inventory> {
    let json = checks.take("inventory", card.boot_file(inventory::FILE))?;
    checks.take("inventory", Inventory::from_json(&json))
}

fn read_inventory(path: &Path) -> Result<Inventory, VerifyError> {
    let fail = |reason: String| VerifyError::Inventory { path: path.to_owned(), reason };
    let json = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    Inventory::from_json(&json).map_err(|error| fail(error.to_string()))
}

/// What nobody measures is what the image was built with.
fn stock(
    card: &Card,
    inventory: &Inventory,
    expected: &[&'static str],
    arm_image: Option<&(ArmImage, Vec<u8>)>,
    root: RootState,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    let before = checks.0.len();
    for name in expected {
        if !inventory.files.contains_key(*name) {
            checks.add(*name, Outcome::Bad, "the inventory does not list it");
        }
    }
    let compare = |what: &str, listed: &Item, found: &Item, checks: &mut Checks| {
        let show = |item: &Item| format!("{}… ({} bytes)", item.sha256.short(), item.size);
        if listed != found {
            let detail =
                format!("the inventory lists {}, the card holds {}", show(listed), show(found));
            checks.add(what, Outcome::Bad, detail);
        }
    };
    let table = inventory::partition_table(card)?;
    let is_provisioned =
        matches!(root, RootState::Encrypted) && table == inventory.provisioned_table;
    if !is_provisioned {
        compare("partitions", &inventory.partition_table, &table, checks);
    }
    for (name, listed) in &inventory.files {
        match card.boot_file(name) {
            Ok(found) => compare(name, listed, &Item::of(&found), checks),
            Err(error) => checks.add(name, Outcome::Bad, error.to_string()),
        }
    }
    // After an update it is another boot, which the bundle's list has told the device of.
    let updated = card.slots() != Slots::default()
        || card.manifest_of(Slot::B).is_ok_and(|manifest| !manifest.is_empty());
    if let Ok(good) = card.good() {
        let firmware = arm_image.map(|(_, image)| image.as_slice());
        let boot = Boot::of(&good, firmware.unwrap_or_default());
        let is_built = boot.manifest == inventory.boot.manifest;
        if is_built || !updated {
            compare("manifest", &inventory.boot.manifest, &boot.manifest, checks);
            compare("FIT", &inventory.boot.fit, &boot.fit, checks);
            if let Some((kind, _)) = arm_image {
                let name = kind.file_on(card);
                compare(name, &inventory.boot.firmware, &boot.firmware, checks);
            }
        }
    }
    match root {
        RootState::Encrypted => {}
        RootState::Plain | RootState::Unknown => {
            compare("root", &inventory.root, &inventory::root(card)?, checks);
        }
    }
    if checks.0.len() == before {
        let what = match root {
            RootState::Encrypted => {
                "boot files and partition table are those of the build; the root is encrypted"
            }
            RootState::Plain | RootState::Unknown => {
                "boot files, partition table and root are those of the build"
            }
        };
        checks.add("inventory", Outcome::Good, what);
    }
    Ok(())
}

/// What an initramfs is told about signed policies.
#[derive(Deserialize)]
struct Config {
    signed: Option<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    #[serde(with = "hex")]
    policy_key: Vec<u8>,
    counter: String,
    rollback: u64,
}

/// The card has a policy for what it will measure, by the key that its initramfs holds.
fn policies(card: &Card, real: &Manifest, contents: &Contents, checks: &mut Checks) {
    const WHAT: &str = "policy";
    let found = initramfs::file_in(&contents.ramdisk, initramfs::CONFIG);
    let Ok(Some(config)) = found else {
        let detail = "the initramfs is not ours: which policy key it holds is not known";
        checks.add(WHAT, Outcome::Skipped, detail);
        return;
    };
    let Some(config) = checks.take(WHAT, serde_json::from_slice::<Config>(&config)) else { return };
    // The binding `pcr`.
    let Some(signed) = config.signed else { return };
    let Some(json) = checks.take(WHAT, card.signatures_of(card.slots().good)) else { return };
    match signed.check(&json, real) {
        Ok(()) => checks.add(
            WHAT,
            Outcome::Good,
            format!("version {}, signed with the key in the initramfs", signed.rollback),
        ),
        Err(why) => checks.add(WHAT, Outcome::Bad, why),
    }
}

impl Signed {
    fn check(&self, json: &[u8], real: &Manifest) -> Result<(), String> {
        let key = TpmPublic::parse(&self.policy_key).map_err(|e| e.to_string())?;
        let key = PublicKey::from_tpm(&key).map_err(|e| e.to_string())?;
        let digits = self.counter.trim_start_matches("0x");
        let counter = u32::from_str_radix(digits, 16).map_err(|e| e.to_string())?;
        let rollback = Rollback { counter, version: self.rollback };
        let policy = policy_with(real.seal(), &real.sealed_values(), Some(&rollback));
        let policy = policy.map_err(|e| e.to_string())?;
        if json.is_empty() {
            return Err("there are no signed policies".to_owned());
        }
        let file = SignatureFile::from_json(json).map_err(|e| e.to_string())?;
        let why = match file.verify_policy(&key, real.seal(), policy).map_err(|e| e.to_string())? {
            Verdict::Signed => None,
            Verdict::OtherKey => Some("there is none of the key in the initramfs"),
            Verdict::OtherPcrs => Some("the key's policies are for other PCRs"),
            Verdict::OtherPolicy => {
                Some("the key's policies are for other PCR values, another version or counter")
            }
            Verdict::BadSignature => Some("the signature is not the key's"),
        };
        if let Some(why) = why {
            return Err(why.to_owned());
        }
        let of_others = |entry: &SignedPolicy| entry.rollback != Some(self.rollback);
        if file.entries().filter(|entry| entry.policy == policy).any(of_others) {
            return Err("the file tells another version than the policy has".to_owned());
        }
        Ok(())
    }
}

/// What the FIT holds is what the manifest lists.
fn parts(manifest: &Manifest, contents: &Contents, checks: &mut Checks) {
    for (name, measured) in boot_manifest::parts(contents) {
        part(manifest, name, measured, "the FIT", checks);
    }
}

/// What the image for the ARM cores holds is what the manifest lists.
fn firmware(manifest: &Manifest, kind: ArmImage, image: &[u8], checks: &mut Checks) {
    let Some(found) = checks.take("firmware", kind.measured(image)) else { return };
    for (name, measured) in found.parts() {
        part(manifest, name, measured, kind.file_name(), checks);
    }
}

/// One part: what the manifest lists against what `holder` holds.
fn part(manifest: &Manifest, name: &str, measured: Measurement, holder: &str, checks: &mut Checks) {
    let listed = manifest
        .events()
        .iter()
        .find(|event| event.component == name)
        .map(|event| Measurement { digest: event.digest, size: event.size });
    let show = |m: Measurement| format!("{}… ({} bytes)", m.digest.short(), m.size);
    match listed {
        Some(listed) if listed == measured => checks.add(name, Outcome::Good, show(measured)),
        Some(listed) => checks.add(
            name,
            Outcome::Bad,
            format!("the manifest lists {}, {holder} holds {}", show(listed), show(measured)),
        ),
        None => checks.add(name, Outcome::Bad, "the manifest does not list it"),
    }
}

/// U-Boot on the card has the version that the manifest lists.
fn uboot_version(manifest: &Manifest, kind: ArmImage, image: &[u8], checks: &mut Checks) {
    let what = component::UBOOT_VERSION;
    let Some(event) = manifest.events().iter().find(|e| e.component == what) else {
        checks.add(what, Outcome::Bad, "the manifest does not list it");
        return;
    };
    let version = [event.note.as_bytes(), b"\0"].concat();
    if Measurement::of(&version).digest != event.digest {
        checks.add(what, Outcome::Bad, "the manifest's note is not what was measured");
    } else if !contains(image, &version) {
        let detail = format!("{} holds no `{}`", kind.file_name(), event.note);
        checks.add(what, Outcome::Bad, detail);
    } else {
        checks.add(what, Outcome::Good, &event.note);
    }
}

/// The FIT has the signature that the U-Boot on this card demands.
fn signature(
    fit: &[u8],
    arm_image: &[u8],
    fit_check_sign: Option<&Path>,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    const WHAT: &str = "signature";
    let Some(control_dtb) = control_dtb(arm_image) else {
        let detail = "U-Boot on this card demands none: it has no required key";
        checks.add(WHAT, Outcome::Bad, detail);
        return Ok(());
    };
    let Some(tool) = fit_check_sign else {
        checks.add(WHAT, Outcome::Skipped, "no fit_check_sign was given");
        return Ok(());
    };
    let scratch = tempfile::NamedTempFile::new()
        .and_then(|file| std::fs::write(file.path(), control_dtb).map(|()| file))
        .map_err(|source| FitError::File { path: std::env::temp_dir(), source })?;
    match fit::check_signature(fit, tool, scratch.path()) {
        Ok(()) => checks.add(WHAT, Outcome::Good, "made with the key in the card's U-Boot"),
        Err(FitError::Tool(error @ super::tool::ToolError::Failed { .. })) => {
            checks.add(WHAT, Outcome::Bad, error.to_string());
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// U-Boot's control DTB: the device tree in the image for the ARM cores that requires a
/// key for configurations.
fn control_dtb(arm_image: &[u8]) -> Option<&[u8]> {
    let starts =
        arm_image.windows(FDT_MAGIC.len()).enumerate().filter(|(_, window)| *window == FDT_MAGIC);
    for (at, _) in starts {
        let bytes = arm_image.get(at..)?;
        if let Ok(tree) = Fdt::new(bytes)
            && tree.text("/signature/key-fit", "required") == Some("conf")
        {
            return bytes.get(..tree.total_size());
        }
    }
    None
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

pub(super) fn root_state(card: &Card) -> RootState {
    use std::os::unix::fs::FileExt as _;
    let start = card.table.root.start;
    let mut magic = [0; LUKS_MAGIC.len()];
    if card.file().read_exact_at(&mut magic, start).is_ok() && magic == LUKS_MAGIC {
        return RootState::Encrypted;
    }
    match ext4::usage(card.file(), start) {
        Ok(Some(_)) => RootState::Plain,
        _ => RootState::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::arm_image::tests::armstub;

    fn contents(kernel: &[u8]) -> Contents {
        Contents {
            kernel: kernel.to_vec(),
            fdt: vec![2],
            ramdisk: vec![3],
            command_line: "quiet".to_owned(),
            description: String::new(),
            places: ArmImage::Armstub.places(),
        }
    }

    fn manifest() -> Manifest {
        let text = include_str!("../../recipes/rpi3-tiny.toml");
        let recipe = crate::recipe::Recipe::parse(text, "rpi3").unwrap();
        let firmware = ArmImage::Armstub.measured(&armstub(b"el3")).unwrap();
        boot_manifest::of_image(&recipe, &contents(b"k"), b"U-Boot 1\0", &firmware, "6").unwrap()
    }

    fn outcomes(checks: &Checks) -> Vec<(&str, Outcome)> {
        checks.0.iter().map(|c| (c.what.as_str(), c.outcome)).collect()
    }

    #[test]
    fn firmware_that_differs_is_named() {
        let good = |name: &'static str| (name, Outcome::Good);
        let mut checks = Checks(vec![]);
        firmware(&manifest(), ArmImage::Armstub, &armstub(b"el4"), &mut checks);
        let want = [good("BL1"), good("FIP table"), ("BL31", Outcome::Bad)];
        assert_eq!(outcomes(&checks), want);
        let mut checks = Checks(vec![]);
        firmware(&manifest(), ArmImage::Armstub, b"", &mut checks);
        assert_eq!(outcomes(&checks), [("firmware", Outcome::Bad)]);
        // What the manifest of another chain does not list.
        let mut checks = Checks(vec![]);
        firmware(&manifest(), ArmImage::Kernel, b"U-Boot", &mut checks);
        assert_eq!(outcomes(&checks), [("U-Boot", Outcome::Bad)]);
    }

    #[test]
    fn a_part_that_differs_is_named() {
        let mut checks = Checks(vec![]);
        parts(&manifest(), &contents(b"other"), &mut checks);
        assert_eq!(
            outcomes(&checks),
            [
                ("kernel", Outcome::Bad),
                ("initramfs", Outcome::Good),
                ("device tree", Outcome::Good),
                ("command line", Outcome::Good),
            ]
        );
    }

    #[test]
    fn another_uboot_is_noticed() {
        for (image, expected) in [
            (&b"..U-Boot 1\0.."[..], Outcome::Good),
            (b"..U-Boot 10\0..", Outcome::Bad),
            (b"", Outcome::Bad),
        ] {
            let mut checks = Checks(vec![]);
            uboot_version(&manifest(), ArmImage::Armstub, image, &mut checks);
            assert_eq!(outcomes(&checks), [("U-Boot version", expected)]);
        }
    }

    #[test]
    fn a_uboot_that_demands_no_signature_is_bad() {
        let mut checks = Checks(vec![]);
        let image = [b"junk", FDT_MAGIC, &[0xff; 64]].concat();
        signature(b"fit", &image, None, &mut checks).unwrap();
        assert_eq!(outcomes(&checks), [("signature", Outcome::Bad)]);
    }
}
