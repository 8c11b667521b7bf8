//! The device record: what provisioning leaves on the boot partition for the operator.

use image_builder::{
    demo::journey::{provision, refusal},
    emu::{card::Card, device::Device},
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    host_tpm::HostTpm,
    operator::Operator,
    slots,
};

use crate::check::no_shell;

/// A recovery key in a log would be in one of these forms: letters, or half blocks.
fn logged(dir: &std::path::Path, key: &str) -> Option<String> {
    let block = |c: char| matches!(c, '\u{2580}' | '\u{2584}' | '\u{2588}');
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find_map(|path| {
        let text = String::from_utf8_lossy(&std::fs::read(&path).ok()?).into_owned();
        let found = text.contains(block) || key.split('-').any(|group| text.contains(group));
        found.then(|| path.display().to_string())
    })
}

/// The whole way of an escrowed key: recipe, board, card, operator, and back to the
/// board whose TPM refuses.
#[test]
fn the_operator_gets_the_recovery_key_from_the_card_and_it_opens_the_root() {
    let dir = scratch("record");
    let operator = Operator::new();
    let small = built().small_image(&dir);
    let tamper = built().configuration("recipient", operator.recipient().into());
    let image = Card::open(&built().variant(&small, &tamper, &dir, "escrowed")).unwrap();
    let command_line = Tamper::CommandLine("ima_appraise=off".to_owned());
    let changed = Card::open(&built().variant(&image, &command_line, &dir, "changed")).unwrap();
    let mut device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();

    let logs = dir.join("provision");
    let mut boot = device.boot("record", &logs).unwrap();
    let shown = provision(&mut boot, |_| ()).unwrap();
    boot.expect("the boot goes on", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let blocks = boot.lines().iter().filter(|line| line.text.contains('\u{2588}')).count();
    assert!(blocks > 15, "the QR code was shown: {blocks} lines");
    boot.board.cut_power();
    drop(boot);
    assert_eq!(logged(&logs, shown.expose()), None);

    let record = operator.record(&device.card);
    assert_eq!(record.recovery_key.expose(), shown.expose());
    let json = &record.json;
    assert_eq!(json["schema"], "msec-boot/device-record/1");
    assert_eq!((&json["image"], &json["board"]), (&"msec-rpi3-tiny".into(), &"rpi3".into()));
    assert_eq!(json["recipient"], operator.recipient());
    assert!(json["device"]["model"].as_str().unwrap().contains("Raspberry Pi 3"), "{json}");
    assert_eq!(json["tpm"]["nv_index"], serde_json::to_value(built().recipe.tpm.nv_index).unwrap());
    // The keys are this TPM's, as Debian's tools see them.
    let tpm = HostTpm::power_on_copy(&device.tpm);
    for key in ["ak", "srk"] {
        let handle = json["tpm"][key]["handle"].as_str().unwrap();
        assert_eq!(json["tpm"][key]["name"], tpm.name(handle), "{key}");
    }

    device.card.take_boot_files_of(&changed).unwrap();
    let mut boot = device.boot("record-refused", &dir.join("refused")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.type_recovery_key(&record.recovery_key).unwrap();
    boot.expect("it opens", "initramfs-unseal: unlocked by the recovery key\n").unwrap();
    no_shell(&boot.lines());
}
