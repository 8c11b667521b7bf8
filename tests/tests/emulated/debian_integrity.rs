//! The Debian that `rpi3.toml` makes, held to each profile: it comes up without a violation,
//! and what a profile costs is told.

use std::path::Path;

use emulated_board::Network;
use image_builder::{
    demo::journey::provision,
    emu::{card::Card, device::Device},
};
use msec_tests::{
    built::{built, scratch},
    operator_ssh::SshOperator,
    slots,
};

use crate::debian_image::{Session, image, reached};

/// What systemd was at when (its manager's properties), in microseconds since the kernel began.
const USERSPACE: &str = "systemctl show --value -p UserspaceTimestampMonotonic";
const FINISHED: &str = "systemctl show --value -p FinishTimestampMonotonic";
const IMA: &str = "/sys/kernel/security/ima";

fn of_profile(operator: &SshOperator, dir: &Path, profile: &str) -> Card {
    image(operator, dir, profile, 1, |recipe| {
        let integrity = toml::Table::from_iter([("profile".to_owned(), profile.into())]);
        recipe.insert("integrity".to_owned(), integrity.into());
    })
}

/// How often the kernel refused to use a file, and how often it lost track of one.
fn refusals_and_violations(session: &Session<'_>) -> (u32, u32) {
    let number = |command: &str| session.ask(command).parse::<u32>().unwrap();
    let refused = "sudo journalctl -b -o cat _TRANSPORT=audit + _TRANSPORT=kernel | \
                   grep -c 'op=appraise_data' || true";
    (number(refused), number(&format!("sudo cat {IMA}/violations")))
}

#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian five times; make test-long"]
fn debian_comes_up_under_each_profile() {
    let dir = scratch("debian-integrity");
    let operator = SshOperator::new(&dir);
    let first = of_profile(&operator, &dir, "appraise");
    let device = Device::new(&dir.join("device"), &first).unwrap();
    let device = device.with_emulator(Some(built().emulator()));
    let mut device = device.with_network(Network::Forward(22));
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let running = reached(boot, &operator);
    running.is_running();
    assert_eq!(refusals_and_violations(&running), (0, 0), "in the first boot");
    running.power_off();

    // The same root, signed, under the kernel and the initramfs of another profile.
    for profile in ["none", "measure", "appraise", "lockdown"] {
        let other = of_profile(&operator, &dir, profile);
        device.card.take_boot_files_of(&other).unwrap();
        let mut boot = device.boot(profile, &dir.join(format!("boot-{profile}"))).unwrap();
        boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
        let session = reached(boot, &operator);
        session.is_running();
        let number = |command: &str| session.ask(command).parse::<u64>().unwrap();
        let (begun, done) = (number(USERSPACE), number(FINISHED));
        let entries = number(&format!("sudo cat {IMA}/runtime_measurements_count"));
        eprintln!(
            "profile {profile}: {:.1} s from the kernel to init, {:.1} s from there to the end of the \
             boot, {entries} entries",
            begun as f64 / 1e6,
            (done - begun) as f64 / 1e6
        );
        let (refused, violations) = refusals_and_violations(&session);
        assert_eq!(violations, 0, "{profile}");
        // A program of one's own: a copy has no attributes.
        let own = session.ask("cp /usr/bin/true own; ./own 2>/dev/null; echo $?");
        match profile {
            "none" => assert_eq!((entries, refused, own.as_str()), (1, 0, "0")),
            "measure" => assert_eq!((refused, own.as_str()), (0, "0")),
            "appraise" => assert_eq!((refused, own.as_str()), (0, "126")),
            _ => assert_eq!(own, "126"),
        }
        assert!(entries < 3000, "a few thousand at most");
        session.power_off();
    }
}
