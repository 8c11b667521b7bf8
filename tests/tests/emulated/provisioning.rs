//! Provisioning in bad weather: what must not be sealed, and power cuts.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use emulated_board::Ended;
use image_builder::{
    demo::journey::provision,
    emu::{
        boot::{Boot, PATIENCE},
        card::Card,
        device::Device,
    },
    image::tamper::Tamper,
};
use msec_tests::{
    attacker,
    built::{built, scratch},
    instants::Instants,
    operator::Operator,
    shared::shared,
    slots,
};
use sha2::{Digest as _, Sha256};

use crate::check::{before_the_userland, no_shell};

/// Boots a new device with this card and expects it to refuse provisioning; neither
/// card nor TPM may have changed what matters.
fn refuses(name: &str, card: &Card, why: &str) {
    let dir = scratch(name);
    let device = Device::new(&dir.join("device"), card).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot(name, &dir.join("logs")).unwrap();
    let off = boot.board.console.wait(r"powering off: ([^\n]*)\n", PATIENCE).unwrap();
    assert!(off.text.contains(why), "{}", off.text);
    assert!(off.text.contains("write the image to the card again"), "{}", off.text);
    boot.expect_off(&Ended::PoweredOff).unwrap();
    no_shell(&boot.lines());
    assert_eq!(fs::read(card.path()).unwrap(), fs::read(device.card.path()).unwrap());
}

#[test]
fn a_manifest_of_another_image_is_not_sealed_to() {
    let dir = scratch("foreign-manifest-image");
    let other = built().variant(&built().image, &Tamper::Kernel, &dir, "other");
    let card = built().card(&Tamper::ManifestOf(other), &dir, "foreign");
    refuses("foreign-manifest", &card, "the boot manifest does not belong to what was booted");
}

/// A plain root in a board that holds a sealed one: an attacker's card.
#[test]
fn a_provisioned_board_does_not_provision_again() {
    let dir = scratch("second-card");
    let mut device = shared().copy(&dir.join("device"), &shared().images.original);
    device.card = built().image.copy_to(device.card.path()).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("second-card", &dir.join("logs")).unwrap();
    let why = "powering off: the root is not encrypted, but this board's TPM already holds";
    boot.board.console.wait(why, PATIENCE).unwrap();
    boot.expect_off(&Ended::PoweredOff).unwrap();
    no_shell(&boot.lines());
}

/// When the power goes, after what the console has shown.
struct Cut {
    after: &'static str,
    and: Duration,
}

/// Lets the device provision until the cut. False when it got to its end first.
fn provision_until(device: &Device, name: &str, cut: &Cut) -> bool {
    let mut boot = device.boot(name, &device.dir().join(name)).unwrap();
    let ends = "initramfs-unseal: (provisioned: |unlocked by the TPM)";
    let found = boot.board.console.wait_any(&[cut.after, ends], Duration::from_secs(600)).unwrap();
    // Whether the board goes off meanwhile does not matter: it does not.
    let _ = boot.board.console.wait_off(cut.and);
    boot.board.cut_power();
    // A fast machine may have come to the userland meanwhile, which has a shell.
    no_shell(before_the_userland(&boot.lines()));
    found.which == 0
}

/// Takes the device through these cuts, then to the end, and compares every file.
fn survives(name: &str, cuts: &[Cut]) {
    let dir = scratch(name);
    let operator = Operator::new();
    let tamper = built().configuration("recipient", operator.recipient().into());
    let small = built().small_image(&dir);
    let image = Card::open(&built().variant(&small, &tamper, &dir, "escrowed")).unwrap();
    let expected = files_of_image(&image, &dir);
    assert!(expected.len() > 3, "the image has files: {expected:?}");
    let mut device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();
    for (i, cut) in cuts.iter().enumerate() {
        eprintln!("cut {i}: {:?} after {}", cut.and, cut.after);
        provision_until(&device, &format!("cut-{i}"), cut);
    }
    let mut boot = device.boot("resumed", &device.dir().join("resumed")).unwrap();
    finish(&mut boot);
    assert_eq!(files_of_guest(&mut boot), expected);
    boot.board.cut_power();
    // And it is a device like any other: it unlocks by itself.
    let mut boot = device.boot("afterwards", &device.dir().join("afterwards")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    boot.userland().unwrap();
    boot.board.cut_power();
    drop(boot);
    // Several recovery keys were made; the one in the record is the one in the slot.
    let record = operator.record(&device.card);
    let other = Tamper::CommandLine("ima_appraise=off".to_owned());
    let other = Card::open(&built().variant(&image, &other, &dir, "other")).unwrap();
    device.card.take_boot_files_of(&other).unwrap();
    let mut boot = device.boot("by-hand", &device.dir().join("by-hand")).unwrap();
    boot.type_recovery_key(&record.recovery_key).unwrap();
    let opened = "initramfs-unseal: unlocked by the recovery key\n";
    boot.expect("the record's recovery key opens the root", opened).unwrap();
}

/// Goes on to the userland, whether provisioning was over already or not.
fn finish(boot: &mut Boot) {
    let unlocked = "initramfs-unseal: unlocked by the TPM\n";
    boot.board
        .console
        .wait(unlocked, Duration::from_secs(600))
        .unwrap_or_else(|e| panic!("provisioning goes on to its end: {e}"));
}

#[test]
fn power_cuts_lose_neither_data_nor_the_device() {
    let mut at = Instants::new();
    let header = Duration::from_secs(15);
    let data = Duration::from_secs(4);
    let short = Duration::from_millis(1500);
    survives(
        "power-cuts",
        &[
            Cut { after: "provisioning: ", and: at.within(header) },
            Cut { after: "encrypting /dev/mmcblk0p2: +[0-9]+ %", and: at.within(data) },
            Cut { after: "encrypting /dev/mmcblk0p2: +[5-9][0-9] %", and: at.within(data) },
            // All is encrypted, and the header does not say so yet.
            Cut { after: "encrypting /dev/mmcblk0p2: 100 %", and: at.within(short) },
            Cut { after: "recovery key: ", and: at.within(short) },
            // While the record is written, or just after it.
            Cut { after: "write the recovery key down", and: at.within(short) },
        ],
    );
}

/// The last blocks are repaired out of the journal, and then there is nothing to resume:
/// the board goes on by itself all the same.
#[test]
fn a_cut_in_the_last_blocks_needs_nobody() {
    let dir = scratch("last-blocks");
    let image = built().small_image(&dir);
    let device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("cut", &dir.join("cut")).unwrap();
    boot.expect("it encrypts", "encrypting /dev/mmcblk0p2: +[1-9][0-9] %").unwrap();
    // The root begins before where it began in the image.
    let card = Card::open(device.card.path()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !last_blocks_in_flight(&card) {
        assert!(Instant::now() < deadline, "the encryption comes to its last blocks");
        std::thread::sleep(Duration::from_millis(2));
    }
    boot.board.cut_power();
    assert!(last_blocks_in_flight(&card), "the cut came while they were written");
    // What a cut can tear is no larger than what is encrypted as one.
    let metadata = attacker::metadata(&card).unwrap();
    let segments = metadata["segments"].as_object().unwrap().values();
    let sectors: Vec<_> = segments.filter_map(|segment| segment.get("sector_size")).collect();
    assert!(!sectors.is_empty() && sectors.iter().all(|size| **size == 512), "{sectors:?}");
    let mut boot = device.boot("resumed", &dir.join("resumed")).unwrap();
    boot.expect("it goes on", "initramfs-unseal: provisioning goes on: [^\n]*\n").unwrap();
    finish(&mut boot);
    assert_eq!(files_of_guest(&mut boot), files_of_image(&image, &dir));
}

/// Whether the header says that a stretch is being encrypted behind which there is none
/// (LUKS2 On-Disk Format Specification 1.1.1, 3.3, "in-reencryption").
fn last_blocks_in_flight(card: &Card) -> bool {
    let number = |segment: &serde_json::Value, of: &str| -> Option<u64> {
        segment.get(of)?.as_str()?.parse().ok()
    };
    let ends_in_flight = |metadata: &serde_json::Value| -> Option<bool> {
        let segments = metadata.get("segments")?.as_object()?;
        // Those of before and after the encryption lie there too, as backups.
        let now = segments.values().filter(|segment| {
            let flags = segment.get("flags").and_then(|flags| flags.as_array());
            let backup = |flag: &serde_json::Value| {
                flag.as_str().is_some_and(|flag| flag.starts_with("backup-"))
            };
            !flags.is_some_and(|flags| flags.iter().any(backup))
        });
        let last = now.max_by_key(|segment| number(segment, "offset"))?;
        let flags = last.get("flags")?.as_array()?;
        Some(flags.iter().any(|flag| flag == "in-reencryption"))
    };
    attacker::metadata(card).is_some_and(|metadata| ends_in_flight(&metadata) == Some(true))
}

/// Many more cuts, each on a new device. Not part of `make test`: it takes half
/// an hour.
#[test]
#[ignore = "takes half an hour; make test-long"]
fn power_cuts_at_many_instants() {
    let mut at = Instants::new();
    for round in 0..20 {
        let data = "encrypting /dev/mmcblk0p2: +[0-9]+ %";
        let last = Duration::from_secs(2);
        let cuts = [
            Cut { after: "provisioning: ", and: at.within(Duration::from_secs(20)) },
            Cut { after: data, and: at.within(Duration::from_secs(15)) },
            Cut { after: "encrypting /dev/mmcblk0p2: +8[0-9] %", and: at.within(last) },
            Cut { after: "provisioning goes on", and: at.within(Duration::from_secs(30)) },
        ];
        survives(&format!("power-cuts-{round}"), &cuts);
    }
}

/// The premise of the two tests above: without a cut, the same way leads to the same
/// files, through the same functions.
#[test]
#[ignore = "the journey shows the same on the large image; make test-long"]
fn without_cuts_the_small_image_provisions() {
    let dir = scratch("no-cuts");
    let image = built().small_image(&dir);
    let device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("no-cuts", &dir.join("logs")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    assert_eq!(files_of_guest(&mut boot), files_of_image(&image, &dir));
}

/// Regular files of the image's root with their SHA-256, read by debugfs.
fn files_of_image(image: &Card, dir: &Path) -> BTreeMap<String, String> {
    let root = dir.join("root.ext4");
    let partition = image.table().root;
    let mut bytes = vec![0; usize::try_from(partition.size).unwrap()];
    fs::File::open(image.path()).unwrap().read_exact_at(&mut bytes, partition.start).unwrap();
    fs::write(&root, bytes).unwrap();
    let out = dir.join("files");
    fs::create_dir_all(&out).unwrap();
    let dump = format!("rdump / {}", out.display());
    let run = Command::new("debugfs").arg("-R").arg(dump).arg(&root).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut files = BTreeMap::new();
    collect(&out, &out, &mut files);
    files
}

fn collect(top: &Path, dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (kind, path) = (entry.file_type().unwrap(), entry.path());
        if kind.is_dir() {
            collect(top, &path, files);
        } else if kind.is_file() {
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let digest = Sha256::digest(fs::read(&path).unwrap());
            files.insert(name, digest.iter().map(|b| format!("{b:02x}")).collect());
        }
    }
}

/// The same, asked of the running system. Its log is its own.
fn files_of_guest(boot: &mut Boot) -> BTreeMap<String, String> {
    let mut shell = boot.userland().unwrap();
    let list = "cd / && find . -xdev -type f ! -path './var/log/*' -exec sha256sum {} +";
    let output = shell.run(list).unwrap();
    assert_eq!(output.code, 0, "{}", output.text);
    let line = |line: &str| {
        let (digest, name) = line.split_once("  ./")?;
        Some((name.to_owned(), digest.to_owned()))
    };
    output.text.lines().filter_map(line).collect()
}
