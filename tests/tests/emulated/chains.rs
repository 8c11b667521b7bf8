//! The boot chains: U-Boot alone, TF-A without OP-TEE, and the default with both. Each is
//! provisioned, unlocks by itself, and measures what was predicted.

use emulated_board::stages::stages;
use image_builder::{
    demo::{
        journey::{provision, refusal},
        record::pcr_rows,
    },
    emu::{
        card::Card,
        device::Device,
        shell::{Shell, Status},
    },
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    shared::shared,
    slots,
};
use pcr_measure::{Algorithm, PcrIndex, eventlog::EventLog};

use crate::unseal_again::must;

/// The log that U-Boot wrote, as Linux gives it out.
const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// What every chain ends with.
const FROM_U_BOOT_ON: [&str; 7] =
    ["U-Boot", "FIT loaded", "Linux", "initramfs-unseal", "unlocked", "switch root", "userland"];

const TF_A: [&str; 3] = ["TF-A BL1", "TF-A BL2", "TF-A BL31"];

/// A new device of the chain that this `[components]` makes.
fn device(name: &str, components: &[(&str, &str)]) -> Device {
    let dir = scratch(name);
    let image = built().small_image_with(&dir, |recipe| {
        let table = recipe["components"].as_table_mut().unwrap();
        table.clear();
        for (key, value) in components {
            table.insert((*key).to_owned(), (*value).into());
        }
    });
    let device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    assert_eq!(status.report.method, "provisioned");
    as_predicted(&device.card, &status);
    shell.power_off().unwrap();
    device
}

fn as_predicted(card: &Card, status: &Status) {
    let rows = pcr_rows(card.manifest(), card.manifest(), &status.pcrs);
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert!(row.agrees(), "PCR {} is not as predicted: {row:?}", row.pcr);
    }
}

/// The events that Linux has lead to the PCRs that the TPM has.
fn the_log_leads_to_the_pcrs(shell: &mut Shell<'_>, status: &Status) {
    must(shell, "[ -e /sys/kernel/security/ima ] || mount -t securityfs none /sys/kernel/security");
    let text = must(shell, &format!("od -An -v -tx1 {LOG}"));
    let bytes: Vec<u8> =
        text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let replayed = EventLog::parse(&bytes).replay(Algorithm::Sha256).unwrap();
    for pcr in (0..10).map(|number| PcrIndex::new(number).unwrap()) {
        assert!(replayed.sha256(pcr).is_some(), "PCR {pcr} is in the log");
        assert_eq!(replayed.sha256(pcr), status.pcrs.sha256(pcr), "PCR {pcr}");
    }
}

/// The device unlocks by itself through these stages. All processors run, and a TEE is
/// there as told.
fn unlocks(name: &str, device: &Device, before_u_boot: &[&str], tee: bool) {
    let _slot = slots::slot();
    let mut boot = device.boot(name, &device.dir().join(name)).unwrap();
    boot.expect("the TPM unlocks the root", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    as_predicted(&device.card, &status);
    the_log_leads_to_the_pcrs(&mut shell, &status);
    assert_eq!(must(&mut shell, "cat /sys/devices/system/cpu/online"), "0-3\n");
    assert_eq!(shell.run("test -c /dev/tee0").unwrap().code == 0, tee, "/dev/tee0");
    shell.power_off().unwrap();
    let seen: Vec<_> = stages(&boot.lines()).iter().map(|stage| stage.name).collect();
    assert_eq!(seen, [&["power-on"], before_u_boot, &FROM_U_BOOT_ON].concat());
    assert_eq!(!boot.board.secure_console.lines().is_empty(), tee, "OP-TEE's console");
}

/// One letter of each of these is changed: the board boots all the same, the TPM refuses,
/// and the console names the component. The card as it was opens by itself again.
fn a_change_is_named(device: &mut Device, image: &Card, changes: &[(&str, &str)]) {
    let dir = device.dir().to_owned();
    let _slot = slots::slot();
    for (number, (component, text)) in changes.iter().enumerate() {
        let name = format!("changed-{number}-{component}");
        let (component, text) = ((*component).to_owned(), (*text).to_owned());
        let tamper = Tamper::Firmware { component: component.clone(), text };
        let changed = Card::open(&built().variant(image, &tamper, &dir, &name)).unwrap();
        device.card.take_boot_files_of(&changed).unwrap();
        let mut boot = device.boot(&name, &dir.join(&name)).unwrap();
        refusal(&mut boot, &component).unwrap();
        boot.board.cut_power();
    }
    device.card.take_boot_files_of(image).unwrap();
    let mut boot = device.boot("original", &dir.join("original")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
}

/// U-Boot's own image is what it measures: code, text, and the device tree behind it.
#[test]
fn u_boot_alone_unlocks_the_root_unless_it_was_changed() {
    let mut device = device("u-boot-alone", &[("firmware", "u-boot")]);
    unlocks("unlock", &device, &[], false);
    let image = device.card.copy_to(&device.dir().join("image.img")).unwrap();
    let changes =
        [("U-Boot", "boot application image stored in memory"), ("U-Boot", "brcm,bcm2835-v3d")];
    a_change_is_named(&mut device, &image, &changes);
}

#[test]
fn tf_a_without_op_tee_unlocks_the_root_unless_it_was_changed() {
    let mut device = device("tf-a", &[("firmware", "tf-a"), ("secure_world", "none")]);
    unlocks("unlock", &device, &TF_A, false);
    let image = device.card.copy_to(&device.dir().join("image.img")).unwrap();
    let changes = [("BL31", "VERBOSE: "), ("BL33", "boot application image stored in memory")];
    a_change_is_named(&mut device, &image, &changes);
}

/// The premise of "no TEE" above, and the default chain by the same measure.
#[test]
fn tf_a_with_op_tee_unlocks_the_root_and_has_a_tee() {
    let dir = scratch("tf-a-op-tee");
    let device = shared().copy(&dir.join("device"), &built().image);
    unlocks("unlock", &device, &[&TF_A[..], &["OP-TEE"]].concat(), true);
}
