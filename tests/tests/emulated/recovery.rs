//! Bad weather around the recovery key.

use std::time::Duration;

use emulated_board::Ended;
use image_builder::{
    demo::journey::refusal,
    emu::{boot::Boot, card::Card, device::Device},
};
use msec_tests::{
    built::{built, scratch},
    shared::shared,
    slots,
};

use crate::check::{no_shell, says};

/// A key of the right form that opens nothing.
const WRONG: &str = "cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc-cccccccc\r";

const PROMPT: &str = "enter the recovery key for /dev/mmcblk0p2: $";

fn refused_boot(device: &Device, name: &str, component: &str) -> Boot {
    let mut boot = device.boot(name, &device.dir().join("logs")).unwrap();
    refusal(&mut boot, component).unwrap();
    boot
}

/// The device with its initramfs configured otherwise: the TPM refuses that boot.
fn reconfigured(name: &str, key: &str, value: u32) -> Device {
    let dir = scratch(name);
    let tamper = built().configuration(key, value.into());
    let card: Card = built().card(&tamper, &dir, "configured");
    shared().copy(&dir.join("device"), &card)
}

#[test]
fn wrong_keys_are_counted_and_then_the_power_goes_off() {
    let dir = scratch("wrong-key");
    let device = shared().copy(&dir.join("device"), &shared().images.command_line);
    let _slot = slots::slot();
    let mut boot = refused_boot(&device, "wrong-key", "command line");
    for (attempt, typed) in ["\r", "no key at all\r", WRONG].into_iter().enumerate() {
        boot.expect("the prompt", PROMPT).unwrap();
        boot.board.console.send(typed).unwrap();
        let told = format!(r"wrong recovery key \(try {} of 3\)", attempt + 1);
        boot.expect("the count", &told).unwrap();
    }
    let off =
        boot.board.console.wait("powering off: 3 wrong recovery keys", Duration::from_secs(60));
    off.unwrap();
    boot.expect_off(&Ended::PoweredOff).unwrap();
    let lines = boot.lines();
    assert!(!says(&lines, "unlocked by"), "nothing was opened");
    assert!(!says(&lines, "cccccccc"), "what is typed is not shown");
    no_shell(&lines);
}

#[test]
fn nobody_at_the_console_ends_with_the_power_off() {
    let device = reconfigured("nobody", "prompt_seconds", 5);
    let _slot = slots::slot();
    let mut boot = refused_boot(&device, "nobody", "initramfs");
    boot.board.console.unplug().unwrap();
    let off = "powering off: nobody entered the recovery key";
    boot.board.console.wait(off, Duration::from_secs(120)).unwrap();
    boot.expect_off(&Ended::PoweredOff).unwrap();
    no_shell(&boot.lines());
}

#[test]
fn a_root_device_that_never_appears_is_named() {
    let device = reconfigured("no-root", "root_partition", 3);
    let _slot = slots::slot();
    let mut boot = device.boot("no-root", &device.dir().join("logs")).unwrap();
    let limit = Duration::from_secs(240);
    let off = boot.board.console.wait(r"powering off: ([^\n]*)\n", limit).unwrap();
    assert!(off.text.contains("/dev/mmcblk0p3"), "{}", off.text);
    assert!(off.text.contains("check that the card is seated"), "{}", off.text);
    boot.expect_off(&Ended::PoweredOff).unwrap();
    no_shell(&boot.lines());
}
