//! A PIN beside the measurements: chosen at the first boot, counted by the TPM, and
//! forgiven by the recovery key.

use image_builder::{
    demo::journey::provision,
    emu::{boot::Boot, device::Device},
};
use msec_tests::{
    built::{built, scratch},
    host_tpm::HostTpm,
    slots,
};
use pcr_measure::Sha256Digest;

use crate::check::no_shell;

const BY_TPM: &str = "initramfs-unseal: unlocked by the TPM\n";
const PIN: &str = "135791";
const WRONG: &str = "135790";
const NEW: &str = "a longer one";

fn answer(boot: &mut Boot, question: &str, text: &str) {
    boot.expect(question, &format!("{question}[^\n]*: $")).unwrap();
    boot.board.console.send(&format!("{text}\r")).unwrap();
}

/// What becomes of the PIN must not cross the bus either: it is all that is needed.
fn no_pin_on_the_wire(boot: &Boot) {
    let value = Sha256Digest::of_parts(&[b"msec-boot pin 1\0", PIN.as_bytes()]);
    assert!(!boot.board.wire.exchanges().is_empty());
    assert_eq!(boot.board.wire.leaks(value.as_bytes(), 8), 0);
    assert_eq!(boot.board.wire.leaks(PIN.as_bytes(), PIN.len()), 0);
}

#[test]
fn a_pin_is_chosen_asked_for_counted_and_forgiven() {
    let dir = scratch("pin");
    let image = built().small_image_with(&dir, |recipe| {
        recipe["tpm"].as_table_mut().unwrap().insert("pin".to_owned(), true.into());
    });
    let device = Device::new(&dir.join("device"), &image).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    answer(&mut boot, "choose a PIN", "12345");
    answer(&mut boot, "enter it again", "12345");
    boot.expect("too short", "this is no PIN: a PIN has 6 characters or more\n").unwrap();
    answer(&mut boot, "choose a PIN", PIN);
    answer(&mut boot, "enter it again", WRONG);
    boot.expect("not the same", "the two were not the same\n").unwrap();
    answer(&mut boot, "choose a PIN", PIN);
    answer(&mut boot, "enter it again", PIN);
    let key = provision(&mut boot, |_| ()).unwrap();
    boot.expect("it is not asked for twice", BY_TPM).unwrap();
    boot.userland().unwrap().power_off().unwrap();
    no_pin_on_the_wire(&boot);

    let mut boot = device.boot("unlock", &dir.join("unlock")).unwrap();
    answer(&mut boot, "enter the PIN", WRONG);
    boot.expect("the count", r"wrong PIN \(try 1 of 3\)").unwrap();
    answer(&mut boot, "enter the PIN", PIN);
    boot.expect("the TPM unlocks", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().sealed, "unreachable");
    no_pin_on_the_wire(&boot);
    // Another PIN, from the running system.
    boot.board.console.send("initramfs-unseal reseal; echo @DONE''=$?\r").unwrap();
    boot.expect("the key", "recovery key: $").unwrap();
    boot.board.console.send(&key.typed()).unwrap();
    answer(&mut boot, "new PIN", NEW);
    answer(&mut boot, "new PIN again", NEW);
    boot.expect("the end of it", "sealed anew, to this boot alone\n@DONE=0\n").unwrap();
    boot.board.cut_power();
    let mut boot = device.boot("new", &dir.join("new")).unwrap();
    answer(&mut boot, "enter the PIN", NEW);
    boot.expect("the TPM unlocks", BY_TPM).unwrap();
    boot.board.cut_power();

    let mut boot = device.boot("wrong", &dir.join("wrong")).unwrap();
    for _ in 0..3 {
        answer(&mut boot, "enter the PIN", PIN);
    }
    boot.expect("the refusal", "the TPM did not release the key: the PIN is wrong\n").unwrap();
    boot.type_recovery_key(&key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    boot.expect("and forgives", "wrong PINs are forgiven\n").unwrap();
    no_shell(&boot.lines());
    boot.board.cut_power();

    // Whoever has lost the PIN may enter the recovery key in its place.
    let mut boot = device.boot("by-hand", &dir.join("by-hand")).unwrap();
    boot.expect("the prompt", "enter the PIN for [^\n]*: $").unwrap();
    boot.board.console.send(&key.typed()).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(shell.status().unwrap().sealed, "unreachable");
    shell.power_off().unwrap();
    // Nobody but who opened the root could have forgiven them.
    let tpm = HostTpm::power_on_copy(&device.tpm);
    let state = String::from_utf8(tpm.must("tpm2_getcap properties-variable")).unwrap();
    let set = state.lines().find(|line| line.contains("lockoutAuthSet")).unwrap();
    assert!(set.trim_end().ends_with('1'), "{set}");
    assert!(tpm.tool("tpm2_dictionarylockout -c").is_err(), "without the password");
}
