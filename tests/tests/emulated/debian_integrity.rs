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
    collector::{NAME, Place, wait},
    operator_ssh::SshOperator,
    slots,
};

use crate::debian_image::{Session, image, reached};

/// What systemd was at when (its manager's properties), in microseconds since the kernel began.
const USERSPACE: &str = "systemctl show --value -p UserspaceTimestampMonotonic";
const FINISHED: &str = "systemctl show --value -p FinishTimestampMonotonic";
const IMA: &str = "/sys/kernel/security/ima";

/// Sets the recipe's profile.
fn hold_to(recipe: &mut toml::Table, profile: &str) {
    let integrity = toml::Table::from_iter([("profile".to_owned(), profile.into())]);
    recipe.insert("integrity".to_owned(), integrity.into());
}

fn of_profile(operator: &SshOperator, dir: &Path, profile: &str) -> Card {
    image(operator, dir, profile, 1, |recipe| hold_to(recipe, profile))
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
        // What root reads is measured there, and some of it is written meanwhile: logs.
        assert!(violations == 0 || profile == "lockdown", "{profile}: {violations} violations");
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

/// The first report in a text of lines that is about this event and name.
fn report(text: &str, event: &str, name: &str) -> Option<serde_json::Value> {
    text.lines().find_map(|line| {
        let json: serde_json::Value = serde_json::from_str(line.split_once("@cee: ")?.1).ok()?;
        let ima = json.get("ima")?;
        (ima["event"] == event && ima["name"] == name).then(|| ima.clone())
    })
}

/// A changed program and a module that nobody knows, on a device that watches itself: told in
/// its own log within a second, and to a collector elsewhere.
#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian; make test-long"]
fn what_nobody_knows_is_told_here_and_elsewhere() {
    /// Where the device believes the collector to be.
    const PORT: u16 = 6514;
    let dir = scratch("debian-watch");
    let operator = SshOperator::new(&dir);
    let place = Place::new();
    let collector = place.collector("right");
    let card = image(&operator, &dir, "watch", 1, |recipe| {
        hold_to(recipe, "appraise");
        recipe["kernel"].as_table_mut().unwrap().insert("modules".to_owned(), true.into());
        let mut logging = toml::Table::new();
        logging.insert("server".to_owned(), format!("127.0.0.1:{PORT}").into());
        logging.insert("ca".to_owned(), place.shown("ca.pem").into());
        logging.insert("name".to_owned(), NAME.into());
        recipe.insert("logging".to_owned(), logging.into());
    });
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let device = device.with_emulator(Some(built().emulator()));
    let device = device.with_network(Network::Forward(22));
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let session = reached(boot, &operator);
    session.is_running();
    let lent = operator.lend(session.address, "ada", PORT, place.port);
    assert_eq!(session.ask("systemctl is-active ima-policy-watch rsyslog"), "active\nactive");

    // Nothing is told of a healthy boot but what it watches with, and the keys.
    let log = "sudo journalctl -b -o cat -t ima-policy";
    let healthy = session.ask(log);
    let worse: Vec<&str> =
        healthy.lines().filter(|line| !line.contains("\"severity\":\"info\"")).collect();
    assert_eq!(worse, [""; 0]);

    // A program with one byte more is refused, and told within a second of its start.
    let path = "/usr/sbin/msec-update";
    let since = "date +%s%N >since; ";
    let changed =
        format!("echo | sudo tee -a {path} >/dev/null; {since} {path} --version; echo $?");
    assert!(session.ask(&format!("({changed}) 2>&1")).ends_with("126"));
    let module = "/usr/lib/modules/$(uname -r)/kernel/drivers/net";
    let own = "/home/ada/own.ko";
    assert_eq!(session.ask("sudo modprobe dummy; echo $?"), "0");
    assert_ne!(
        session.ask(&format!("cp {module}/dummy.ko {own}; sudo insmod {own} 2>&1; echo $?")),
        "0"
    );
    let known = session.ask(&format!("echo {module}/dummy.ko"));
    let expected =
        [("changed", path, "error"), ("module", known.as_str(), "info"), ("module", own, "alert")];
    wait(|| report(&session.ask(log), "module", own).is_some(), || session.ask(log));
    let told = session.ask(log);
    for (event, name, severity) in expected {
        let report = report(&told, event, name).unwrap_or_else(|| panic!("{event} {name}: {told}"));
        assert_eq!(report["severity"], severity, "{report}");
    }
    let at = format!(
        "sudo journalctl -b -o json -t ima-policy --grep '{path}' | head -n1 | \
         sed 's/.*\"__REALTIME_TIMESTAMP\":\"\\([0-9]*\\)\".*/\\1/'"
    );
    let told_at: u64 = session.ask(&at).parse().unwrap();
    let begun_at: u64 = session.ask("cat since").parse().unwrap();
    let after = told_at.saturating_sub(begun_at / 1000);
    eprintln!("the changed program was told {} ms after it was started", after / 1000);
    assert!(after < 1_000_000, "{after} microseconds");
    // The kernel says what it refused, too.
    let refused =
        "sudo journalctl -b -o cat _TRANSPORT=audit + _TRANSPORT=kernel | grep op=appraise_data";
    assert!(session.ask(refused).contains(path));

    // The collector has it all.
    wait(
        || {
            expected
                .iter()
                .all(|(event, name, _)| report(&place.collected(), event, name).is_some())
        },
        || place.collected(),
    );
    drop(lent);
    session.power_off();
    collector.end();
}
