//! Updates by `msec-update`: into the slot that does not run, tried, confirmed or given up
//! by itself, and cut at any moment.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use emulated_board::Ended;
use image_builder::{
    demo::journey::{provision, refusal},
    emu::{
        boot::{Boot, PATIENCE},
        card::Card,
        device::Device,
        shell::Shell,
    },
    image::verify::verify,
};
use msec_tests::{
    built::{built, scratch},
    instants::Instants,
    slots,
};

use crate::{
    check::{no_shell, put, says},
    unseal_again::must,
};

const BY_TPM: &str = "initramfs-unseal: unlocked by the TPM\n";
/// A slot under another firmware than its own sees to it.
const PUT_BACK: &str = "restarting: slot [AB] was built for the firmware in armstub8";

/// An image of this version, which the vendor signed. Each has a command line of its own,
/// so that no two measure alike.
fn release(dir: &Path, name: &str, version: i64, change: impl FnOnce(&mut toml::Table)) -> Card {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    built().small_image_with(&dir, |recipe| {
        // Room for three bundles, with firmware.
        let disk = recipe["disk"].as_table_mut().unwrap();
        disk.insert("boot_mib".to_owned(), 47.into());
        let tpm = recipe["tpm"].as_table_mut().unwrap();
        tpm.insert("binding".to_owned(), "signed".into());
        tpm.insert("rollback".to_owned(), version.into());
        let line = recipe["kernel"]["command_line"].as_str().unwrap().to_owned();
        recipe["kernel"]["command_line"] = format!("{line} release={name}").into();
        change(recipe);
    })
}

/// The lab's U-Boot, which is another firmware, and says so on the console.
fn in_the_lab(recipe: &mut toml::Table) {
    let development = toml::Table::from_iter([("development".to_owned(), true.into())]);
    recipe.insert("u_boot".to_owned(), development.into());
}
const LAB: &str = "U-Boot [^\n]*-msec-development ";

/// Puts bundles on the boot partition, as somebody would who has no network.
fn carry(device: &Device, bundles: &[(&str, &Card)], dir: &Path) {
    for (name, image) in bundles {
        carry_one(device, name, image, false, dir);
    }
}

fn carry_one(device: &Device, name: &str, image: &Card, firmware: bool, dir: &Path) {
    let bundle = dir.join(format!("{name}.update"));
    let bundle = built().bundle_with(image, firmware, &bundle);
    put(&device.card, &format!("{name}.upd"), &fs::read(bundle).unwrap(), dir);
}

/// Takes a bundle from there into memory, so that the boot partition is free.
fn fetch(shell: &mut Shell<'_>, name: &str) -> PathBuf {
    must(shell, "mkdir -p /run/b; mount -t vfat -o ro /dev/mmcblk0p1 /run/b");
    must(shell, &format!("cp /run/b/{name}.upd /run/; umount /run/b"));
    PathBuf::from(format!("/run/{name}.upd"))
}

fn install(shell: &mut Shell<'_>, name: &str, options: &str) -> (i32, String) {
    let path = fetch(shell, name);
    let done = shell.run(&format!("msec-update install {options} {} 2>&1", path.display()));
    let done = done.unwrap();
    (done.code, done.text)
}

fn slots(shell: &mut Shell<'_>) -> serde_json::Value {
    serde_json::from_str(&must(shell, "msec-update status --format json")).unwrap()
}

#[test]
fn an_update_is_installed_tried_and_confirmed_and_there_is_no_way_back() {
    let dir = scratch("update");
    let first = release(&dir, "first", 1, |_| ());
    let second = release(&dir, "second", 2, |_| ());
    let mut device = Device::new(&dir.join("device"), &first).unwrap();
    carry(&device, &[("first", &first), ("second", &second)], &dir);
    let forged = dir.join("second.update");
    let mut bytes = fs::read(&forged).unwrap();
    let digit = bytes.windows(10).position(|w| w == b"sha256\": \"").unwrap() + 10;
    bytes[digit] = if bytes[digit] == b'0' { b'1' } else { b'0' };
    put(&device.card, "forged.upd", &bytes, &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    boot.expect("U-Boot takes the good slot", "Slot 0\n").unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let is = slots(&mut shell);
    assert_eq!((&is["running"], &is["good"], &is["trial"]), (&"a".into(), &"a".into(), &().into()));
    let (code, text) = install(&mut shell, "forged", "");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("the TPM refuses the signature of this bundle"), "{text}");
    assert_eq!(slots(&mut shell), is, "nothing was touched");
    let (code, text) = install(&mut shell, "second", "");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("version 2 installed into slot B"), "{text}");
    let is = slots(&mut shell);
    assert_eq!((&is["next"], &is["attempts"]), (&"b".into(), &3.into()));
    shell.power_off().unwrap();

    let mut boot = device.boot("trial", &dir.join("trial")).unwrap();
    boot.expect("U-Boot tries it", "Slot 1 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    // What was approved at installing serves here.
    assert_eq!(shell.status().unwrap().report.tpm_commands, 12);
    assert_eq!(slots(&mut shell)["running"], "b");
    // The slot that holds the boot from before is not to be overwritten yet.
    let (code, text) = install(&mut shell, "first", "");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("slot B is on trial"), "{text}");
    let confirmed = must(&mut shell, "msec-update confirm");
    assert!(confirmed.contains("slot B is good; nothing older than version 2"), "{confirmed}");
    let again = must(&mut shell, "msec-update confirm");
    assert!(again.contains("slot B was good before"), "{again}");
    shell.power_off().unwrap();

    let mut boot = device.boot("good", &dir.join("good")).unwrap();
    boot.expect("U-Boot takes it", "Slot 1\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    let (code, text) = install(&mut shell, "first", "");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("this update is older than this board allows"), "{text}");
    assert_eq!(slots(&mut shell)["next"], "b");
    shell.power_off().unwrap();

    // Whoever has the card can say which slot boots. It opens nothing.
    device.card.set_slots(Default::default()).unwrap();
    let mut boot = device.boot("forced", &dir.join("forced")).unwrap();
    boot.expect("U-Boot takes what the card says", "Slot 0\n").unwrap();
    let refusal = "initramfs-unseal: the TPM did not release the key: ([^\n]*)\n";
    let said = boot.board.console.wait(refusal, PATIENCE).unwrap();
    // The slot was cleared for the older bundle, or holds the older image: no way in.
    assert!(said.text.contains("this image is older than this board allows"), "{}", said.text);
    no_shell(&boot.lines());
}

#[test]
fn an_update_that_does_not_come_up_is_given_up_by_itself() {
    let dir = scratch("update-broken");
    let first = release(&dir, "first", 1, |_| ());
    let broken = release(&dir, "broken", 2, |recipe| {
        // Neither an archive nor compressed: the kernel finds no /init, and panics.
        let file = dir.join("garbage");
        fs::write(&file, vec![0xa5; 4096]).unwrap();
        let table = recipe["initramfs"].as_table_mut().unwrap();
        table.insert("file".to_owned(), file.to_str().unwrap().into());
    });
    let device = Device::new(&dir.join("device"), &first).unwrap();
    carry(&device, &[("broken", &broken)], &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let (code, text) = install(&mut shell, "broken", "--attempts 2");
    assert_eq!(code, 0, "{text}");
    shell.power_off().unwrap();

    for left in [1, 0] {
        let name = format!("attempt-{left}");
        let mut boot = device.boot(&name, &dir.join(&name)).unwrap();
        let says = format!("Slot 1 on trial, attempts left: {left}\n");
        boot.expect("U-Boot tries it", &says).unwrap();
        boot.expect("the kernel finds nothing to start", "Kernel panic").unwrap();
        // `panic=10`: the board starts again, without anybody.
        boot.expect_off(&Ended::Reset).unwrap();
    }
    let mut boot = device.boot("fallen-back", &dir.join("fallen-back")).unwrap();
    boot.expect("U-Boot gives it up", "Slot 1 has had its attempts\nSlot 0\n").unwrap();
    boot.expect("the TPM unlocks the boot from before", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    let is = slots(&mut shell);
    assert_eq!(
        (&is["running"], &is["trial"], &is["attempts"]),
        (&"a".into(), &"b".into(), &0.into())
    );
    let told = must(&mut shell, "msec-update status");
    assert!(told.contains("on trial, its attempts are used up"), "{told}");
    must(&mut shell, "msec-update confirm");
    must(&mut shell, "msec-update cancel");
    assert_eq!(slots(&mut shell)["trial"], serde_json::Value::Null);
    shell.power_off().unwrap();
}

/// The binding `pcr`: the recovery key lets the next boot in, and the boot after `confirm`
/// shuts the old one out.
#[test]
fn an_update_for_single_boots_is_sealed_to_and_the_old_one_retired() {
    let dir = scratch("update-pcr");
    let image = |name: &str| {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        built().small_image_with(&dir, |recipe| {
            let line = recipe["kernel"]["command_line"].as_str().unwrap().to_owned();
            recipe["kernel"]["command_line"] = format!("{line} release={name}").into();
        })
    };
    let (first, second) = (image("first"), image("second"));
    let mut device = Device::new(&dir.join("device"), &first).unwrap();
    carry(&device, &[("second", &second)], &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let key = provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let path = fetch(&mut shell, "second");
    let line = format!("msec-update install {}; echo @DONE''=$?\r", path.display());
    boot.board.console.send(&line).unwrap();
    boot.expect("the key is asked for", "recovery key: $").unwrap();
    boot.board.console.send(&key.typed()).unwrap();
    let said = boot.expect("the end of it", "(?s)\n(installed .*)@DONE=0\n").unwrap();
    assert!(said.text.contains("installed into slot B, which boots next"), "{}", said.text);
    boot.userland_again().unwrap().power_off().unwrap();

    let mut boot = device.boot("trial", &dir.join("trial")).unwrap();
    boot.expect("U-Boot tries it", "Slot 1 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    let status = must(&mut shell, "initramfs-unseal status");
    assert!(status.contains("pcr: 2 boots"), "{status}");
    // Somebody looks at the boot partition: it stays read-only for him.
    must(&mut shell, "mkdir -p /run/b; mount -t vfat -o ro /dev/mmcblk0p1 /run/b");
    let confirmed = must(&mut shell, "msec-update confirm");
    assert!(confirmed.contains("slot B is good"), "{confirmed}");
    let written = shell.run("touch /run/b/x 2>&1").unwrap();
    assert!(written.text.contains("Read-only file system"), "{}", written.text);
    must(&mut shell, "umount /run/b && mount -t vfat /dev/mmcblk0p1 /run/b && touch /run/b/x");
    must(&mut shell, "umount /run/b");
    shell.power_off().unwrap();

    let mut boot = device.boot("retire", &dir.join("retire")).unwrap();
    boot.expect("U-Boot takes it", "Slot 1\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    boot.expect("and it alone from now on", "sealed to this boot alone from now on\n").unwrap();
    boot.userland().unwrap().power_off().unwrap();

    device.card.set_slots(Default::default()).unwrap();
    let mut boot = device.boot("forced", &dir.join("forced")).unwrap();
    boot.expect("U-Boot takes what the card says", "Slot 0\n").unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.board.cut_power();
}

#[test]
fn an_update_brings_its_firmware_and_has_it_started() {
    let dir = scratch("update-firmware");
    let first = release(&dir, "first", 1, |_| ());
    let second = release(&dir, "second", 2, in_the_lab);
    let device = Device::new(&dir.join("device"), &first).unwrap();
    carry_one(&device, "alone", &second, false, &dir);
    carry_one(&device, "whole", &second, true, &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let (code, text) = install(&mut shell, "alone", "");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("make the bundle with its firmware"), "{text}");
    let (code, text) = install(&mut shell, "whole", "");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("into slot B, its firmware into armstub8-b.bin"), "{text}");
    assert_eq!(slots(&mut shell)["firmware"], "b");
    // Given up, and installed again.
    must(&mut shell, "msec-update cancel");
    assert_eq!(slots(&mut shell)["firmware"], "a");
    let (code, text) = install(&mut shell, "whole", "");
    assert_eq!(code, 0, "{text}");
    shell.power_off().unwrap();

    let mut boot = device.boot("trial", &dir.join("trial")).unwrap();
    boot.expect("its firmware", LAB).unwrap();
    boot.expect("U-Boot tries it", "Slot 1 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    must(&mut shell, "msec-update confirm");
    shell.power_off().unwrap();
    let report = verify(device.card.path(), None, None, None).unwrap();
    assert!(report.good, "{}", report.text());

    // Back in the other place, which is free now.
    let third = release(&dir, "third", 3, |_| ());
    carry_one(&device, "third", &third, true, &dir);
    let mut boot = device.boot("good", &dir.join("good")).unwrap();
    boot.expect("its firmware", LAB).unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    let (code, text) = install(&mut shell, "third", "");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("into slot A, its firmware into armstub8.bin"), "{text}");
    shell.power_off().unwrap();
    let mut boot = device.boot("third", &dir.join("third-boot")).unwrap();
    boot.expect("U-Boot tries it", "Slot 0 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks the update", BY_TPM).unwrap();
    assert!(!says(&boot.lines(), "-msec-development"), "the lab's U-Boot is gone");
    boot.board.cut_power();
}

#[test]
fn the_firmware_of_an_update_that_does_not_come_up_goes_with_it() {
    let dir = scratch("update-firmware-broken");
    let first = release(&dir, "first", 1, |_| ());
    let broken = release(&dir, "broken", 2, |recipe| {
        in_the_lab(recipe);
        // Neither an archive nor compressed: the kernel finds no /init, and panics.
        let file = dir.join("garbage");
        fs::write(&file, vec![0xa5; 4096]).unwrap();
        let table = recipe["initramfs"].as_table_mut().unwrap();
        table.insert("file".to_owned(), file.to_str().unwrap().into());
    });
    let device = Device::new(&dir.join("device"), &first).unwrap();
    carry_one(&device, "broken", &broken, true, &dir);
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    let (code, text) = install(&mut shell, "broken", "--attempts 1");
    assert_eq!(code, 0, "{text}");
    shell.power_off().unwrap();

    // Cut after its firmware was named, before its slot was.
    let mut cut = device.copy_to(&dir.join("cut")).unwrap();
    cut.card.set_slots(Default::default()).unwrap();
    its_own_again(&cut, &dir, "cut-short");

    let mut boot = device.boot("attempt", &dir.join("attempt")).unwrap();
    boot.expect("its firmware", LAB).unwrap();
    boot.expect("U-Boot tries it", "Slot 1 on trial, attempts left: 0\n").unwrap();
    boot.expect("the kernel finds nothing to start", "Kernel panic").unwrap();
    boot.expect_off(&Ended::Reset).unwrap();

    // The premise: with its own firmware gone, the good slot stays closed, and says so.
    let lost = device.copy_to(&dir.join("lost")).unwrap();
    put(&lost.card, "armstub8.bin", &vec![0; 2 << 20], &dir);
    let mut boot = lost.boot("lost", &dir.join("lost-boot")).unwrap();
    boot.expect("U-Boot gives it up", "Slot 1 has had its attempts\nSlot 0\n").unwrap();
    boot.expect("what differs", "differs: PCR 0").unwrap();
    boot.expect("the prompt", "enter the recovery key for").unwrap();
    assert!(!says(&boot.lines(), "restarting"));
    boot.board.cut_power();

    its_own_again(&device, &dir, "fallen-back");
}

/// The good slot is started from the update's firmware, has its own one started, and the TPM
/// unlocks it.
fn its_own_again(device: &Device, dir: &Path, name: &str) {
    let mut boot = device.boot(name, &dir.join(format!("{name}-lab"))).unwrap();
    boot.expect("the update's firmware", LAB).unwrap();
    boot.expect("U-Boot takes the good slot", "Slot 0\n").unwrap();
    boot.expect("it restarts with its own", PUT_BACK).unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    let mut boot = device.boot(name, &dir.join(format!("{name}-own"))).unwrap();
    boot.expect("the TPM unlocks the boot from before", BY_TPM).unwrap();
    assert!(!says(&boot.lines(), "-msec-development"), "the lab's U-Boot is gone");
    let mut shell = boot.userland().unwrap();
    let is = slots(&mut shell);
    assert_eq!((&is["running"], &is["firmware"]), (&"a".into(), &"a".into()));
    shell.power_off().unwrap();
}

/// What is under way when the power goes.
#[derive(Debug, Clone, Copy)]
enum During {
    Install,
    Trial,
    Confirm,
}

#[test]
#[ignore = "takes more than half an hour; make test-long"]
fn power_cuts_during_updates_leave_a_board_that_boots() {
    let cuts = std::env::var("MSEC_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let dir = scratch("update-cuts");
    // Both partitions have room for two bundles. Each brings firmware.
    let release = |name, change: fn(&mut toml::Table)| {
        release(&dir, name, 1, |recipe| {
            change(recipe);
            let disk = recipe["disk"].as_table_mut().unwrap();
            disk.insert("root_mib".to_owned(), 32.into());
        })
    };
    let (one, other) = (release("one", |_| ()), release("other", in_the_lab));
    let device = Device::new(&dir.join("device"), &one).unwrap();
    carry_one(&device, "one", &one, true, &dir);
    carry_one(&device, "other", &other, true, &dir);
    let mut instants = Instants::new();
    let _slot = slots::slot();

    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    // From the encrypted root: the boot partition is for the slots.
    for name in ["one", "other"] {
        fetch(&mut shell, name);
        must(&mut shell, &format!("cp /run/{name}.upd /root/ && sync"));
    }
    shell.power_off().unwrap();

    let mut cut = 0;
    let (mut tried, mut confirmed) = (0, 0);
    while cut < cuts {
        let during = [During::Install, During::Trial, During::Confirm][cut % 3];
        let mut boot = open(&device, &dir.join(format!("boot-{}", cut % 3)));
        let mut shell = boot.userland().unwrap();
        // Whatever the cut before left, this makes a good slot and an empty trial of it.
        let is = slots(&mut shell);
        tried += u32::from(is["trial"] == is["running"]);
        must(&mut shell, "msec-update confirm --keep && msec-update cancel");
        let is = slots(&mut shell);
        assert_eq!(is["running"], is["good"]);
        let next = if is["running"] == "a" { "other" } else { "one" };
        let command = format!("msec-update install /root/{next}.upd");
        match during {
            During::Install => cut_in(shell.boot(), &command, instants.within(SECONDS[0])),
            During::Trial | During::Confirm => {
                must(&mut shell, &command);
                shell.power_off().unwrap();
                let logs = dir.join("trial");
                if let During::Trial = during {
                    let mut boot = device.boot("trial", &logs).unwrap();
                    let end = Instant::now() + instants.within(SECONDS[1]);
                    while Instant::now() < end {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    boot.board.cut_power();
                } else {
                    let mut boot = open(&device, &logs);
                    let mut shell = boot.userland().unwrap();
                    assert_ne!(slots(&mut shell)["running"], is["running"], "it is tried");
                    let after = instants.within(SECONDS[2]);
                    cut_in(shell.boot(), "msec-update confirm --keep", after);
                    confirmed += 1;
                }
            }
        }
        eprintln!("cut {cut} during {during:?}");
        cut += 1;
    }
    let mut boot = open(&device, &dir.join("end"));
    must(&mut boot.userland().unwrap(), "msec-update confirm --keep");
    assert!(tried > 0 && confirmed > 0, "some cuts came when a trial had begun");
}

/// How long after its beginning each step may be cut.
const SECONDS: [Duration; 3] =
    [Duration::from_secs(8), Duration::from_secs(14), Duration::from_secs(3)];

/// Boots; the TPM has to open the root, whichever slot it is, after one restart at most.
fn open(device: &Device, logs: &Path) -> Boot {
    let mut boot = device.boot("open", logs).unwrap();
    let either = format!("{PUT_BACK}|{BY_TPM}");
    let said = boot.board.console.wait(&either, PATIENCE).unwrap();
    if said.text.contains("restarting") {
        eprintln!("the slot has its own firmware started");
        boot.expect_off(&Ended::Reset).unwrap();
        boot = device.boot("open", logs).unwrap();
        boot.expect("the TPM unlocks after the cut", BY_TPM).unwrap();
    }
    boot
}

fn cut_in(boot: &mut Boot, command: &str, after: Duration) {
    boot.board.console.send(&format!("{command}\r")).unwrap();
    std::thread::sleep(after);
    boot.board.cut_power();
}
