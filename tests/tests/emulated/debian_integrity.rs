//! The Debian that `rpi3.toml` makes, held to each profile: it comes up without a violation,
//! and what a profile costs is told.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ima_policy::{
    attest::{Challenge, Verdict, Verifier},
    judge::Judge,
    reference::Reference,
};
use image_builder::{
    demo::{
        collector::{NAME, Place},
        watched::{Report, reports},
    },
    emu::{boot::PATIENCE, card::Card, device::Device},
};
use msec_tests::{
    built::scratch,
    operator_ssh::{self, SshOperator},
    patience::wait,
    slots,
};
use pcr_measure::quote::AttestationKey;

use crate::debian_image::{Session, device, first_boot, image, reached};

/// What systemd was at when (its manager's properties), in microseconds since the kernel began.
const USERSPACE: &str = "systemctl show --value -p UserspaceTimestampMonotonic";
const FINISHED: &str = "systemctl show --value -p FinishTimestampMonotonic";
const IMA: &str = "/sys/kernel/security/ima";

/// None comes first: the others are held against it.
const PROFILES: [&str; 4] = ["none", "measure", "appraise", "lockdown"];

/// How many boots of each are timed.
fn rounds() -> u32 {
    std::env::var("MSEC_BOOTS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// Sets the recipe's profile.
pub(crate) fn hold_to(recipe: &mut toml::Table, profile: &str) {
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
    let mut device = device(&first, &dir);
    let _slot = slots::slot();
    let running = first_boot(&device, &dir, &operator);
    assert_eq!(refusals_and_violations(&running), (0, 0), "in the first boot");
    running.power_off();

    // The same root, signed, under the kernel and the initramfs of another profile. They take
    // turns, so that a busy minute of this machine is nobody's alone.
    let cards = PROFILES.map(|profile| (profile, of_profile(&operator, &dir, profile)));
    let mut shortest = [f64::MAX; PROFILES.len()];
    for round in 1..=rounds() {
        for ((profile, card), shortest) in cards.iter().zip(&mut shortest) {
            device.card.take_boot_files_of(card).unwrap();
            let logs = dir.join(format!("boot-{profile}-{round}"));
            let seconds = boot_under(profile, &device, &logs, &operator);
            *shortest = shortest.min(seconds);
        }
    }
    for (profile, seconds) in PROFILES.iter().zip(shortest) {
        eprintln!(
            "profile {profile}: {seconds:.1} s at best, {:.2} of none",
            seconds / shortest[0]
        );
    }
}

/// Boots it under a profile, and looks what that does; gives the seconds from the start of the
/// kernel to the end of the boot.
fn boot_under(profile: &str, device: &Device, logs: &Path, operator: &SshOperator) -> f64 {
    let mut boot = device.boot(profile, logs).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let session = reached(boot, operator);
    session.is_running();
    let number = |command: &str| session.ask(command).parse::<u64>().unwrap();
    let (begun, done) = (number(USERSPACE), number(FINISHED));
    let entries = number(&format!("sudo cat {IMA}/runtime_measurements_count"));
    let took = (done - begun) as f64 / 1e6;
    eprintln!(
        "profile {profile}: {:.1} s from the kernel to init, {took:.1} s from there to the end of the \
         boot, {entries} entries",
        begun as f64 / 1e6,
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
    done as f64 / 1e6
}

/// The first report in a log that is about this event and name.
fn report(log: &str, event: &str, name: &str) -> Option<Report> {
    reports(log).into_iter().find(|report| report.event == event && report.name == name)
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
    let place = Place::new(&dir).unwrap();
    let collector = place.collector("right").unwrap();
    let card = image(&operator, &dir, "watch", 1, |recipe| {
        hold_to(recipe, "appraise");
        recipe["kernel"].as_table_mut().unwrap().insert("modules".to_owned(), true.into());
        let mut logging = toml::Table::new();
        logging.insert("server".to_owned(), format!("127.0.0.1:{PORT}").into());
        logging.insert("ca".to_owned(), place.shown("ca.pem").into());
        logging.insert("name".to_owned(), NAME.into());
        recipe.insert("logging".to_owned(), logging.into());
    });
    let device = device(&card, &dir);
    let _slot = slots::slot();
    let session = first_boot(&device, &dir, &operator);
    let lent = operator.lend(session.address, "ada", PORT, place.port);
    assert_eq!(session.ask("systemctl is-active ima-policy-watch rsyslog"), "active\nactive");

    // Nothing is told of a healthy boot but what it watches with, and the keys.
    let log = "sudo journalctl -b -o cat -t ima-policy";
    let healthy = session.ask(log);
    let worse: Vec<&str> =
        healthy.lines().filter(|line| !line.contains("\"severity\":\"info\"")).collect();
    assert_eq!(worse, [""; 0]);

    // A program with one byte more is refused, and told within a second of its start.
    let path = "/usr/bin/hostname";
    let since = "date +%s%N >since; ";
    let changed = format!("echo | sudo tee -a {path} >/dev/null; {since} {path}; echo $?");
    assert!(session.ask(&format!("({changed}) 2>&1")).ends_with("126"));
    let module = "/usr/lib/modules/$(uname -r)/kernel/drivers/net";
    let own = "/home/ada/own.ko";
    assert_eq!(session.ask("sudo modprobe dummy; echo $?"), "0");
    assert_ne!(
        session.ask(&format!("cp {module}/dummy.ko {own}; sudo insmod {own} 2>&1; echo $?")),
        "0"
    );
    let known = session.ask(&format!("echo {module}/dummy.ko"));
    let expected = [
        ("bad-signature", path, "error"),
        ("module", known.as_str(), "info"),
        ("module", own, "alert"),
    ];
    wait(|| report(&session.ask(log), "module", own).is_some(), || session.ask(log));
    let told = session.ask(log);
    for (event, name, severity) in expected {
        let report = report(&told, event, name).unwrap_or_else(|| panic!("{event} {name}: {told}"));
        assert_eq!(report.severity, severity, "{event} {name}");
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
    collector.end().unwrap();
}

/// Where the emulated network has the operator.
pub(crate) const OPERATOR: &str = "10.0.2.2";

/// Asks the device: a challenge there, evidence back, and the verdict by the image's own
/// manifest and reference.
fn attest(session: &Session<'_>, operator: &SshOperator, dir: &Path, card: &Card) -> Verdict {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let file = dir.join("challenge");
    let nonce = fs::read("/proc/sys/kernel/random/uuid").unwrap();
    let nonce: [u8; 32] = nonce[..32].try_into().unwrap();
    let challenge = Challenge::new(nonce, "0-10".parse().unwrap(), now(), 300).unwrap();
    fs::write(&file, challenge.to_json().unwrap()).unwrap();
    operator.send(session.address, "ada", &file);
    session.ask("sudo ima-policy attest key --output ak.pub");
    session.ask("sudo ima-policy attest serve --challenge challenge --output evidence");
    let fetch =
        |name: &str| operator.run(session.address, "ada", &format!("sudo cat {name}")).stdout;
    let key = AttestationKey::parse(&fetch("ak.pub")).unwrap();
    let reference = fs::read(card.path().with_extension("reference.json")).unwrap();
    let reference = Reference::from_json(&reference).unwrap();
    let judge = Judge { reference: Some(&reference), ..Judge::default() };
    let manifests = [card.manifest().clone()];
    let verifier = Verifier { key: &key, manifests: &manifests, judge, earlier: None, show: 10 };
    verifier.verify(&challenge, now(), &mut fetch("evidence").as_slice()).unwrap()
}

/// A verifier accepts the device as it was made, and names what was run since; in quarantine the
/// operator reaches it and nobody else does, before and after a restart.
#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian twice; make test-long"]
fn a_verifier_names_what_was_run_and_quarantine_leaves_the_operator() {
    let dir = scratch("debian-attest");
    let operator = SshOperator::new(&dir);
    let card = of_profile(&operator, &dir, "measure");
    let device = device(&card, &dir);
    let _slot = slots::slot();
    let session = first_boot(&device, &dir, &operator);

    let verdict = attest(&session, &operator, &dir, &card);
    assert!(verdict.good, "{verdict}");
    session.ask("cp /usr/bin/true intruder; echo >>intruder; ./intruder");
    let verdict = attest(&session, &operator, &dir, &card);
    let told = verdict.to_string();
    assert!(!verdict.good && told.contains("/home/ada/intruder: it is not known"), "{told}");
    assert!(told.contains(", 1 with a fault"), "{told}");

    // Cut off for a while, and then by itself not any more: whoever orders it is cut off as well.
    let timer = |seconds: u32, command: &str| {
        session.ask(&format!(
            "sudo systemd-run --quiet --timer-property=AccuracySec=1 --on-active={seconds} \
             ima-policy quarantine {command}"
        ));
    };
    timer(10, "on --allow 192.0.2.1");
    timer(60, "off");
    let answers = |limit| operator_ssh::answers(session.address, limit);
    wait(|| !answers(Duration::from_secs(5)), || "it answers in quarantine".to_owned());
    assert!(answers(PATIENCE), "it does not come back");
    let status = "sudo ima-policy quarantine status --format json; echo $?";
    assert!(session.ask(status).ends_with('0'));
    // With the operator let through, everything but the operator is away; so it is after a
    // restart, before there is a network.
    session.ask(&format!("sudo ima-policy quarantine on --allow {OPERATOR}"));
    assert!(session.ask(status).ends_with('1'));
    session.power_off();
    let mut boot = device.boot("again", &dir.join("again")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let session = reached(boot, &operator);
    session.is_running();
    assert!(session.ask(status).ends_with('1'));
    assert!(session.ask(status).contains(OPERATOR));
    let order = "systemctl show --value -p ActiveEnterTimestampMonotonic ima-policy-quarantine \
                 systemd-networkd | grep .";
    let times: Vec<u64> = session.ask(order).lines().map(|time| time.parse().unwrap()).collect();
    assert!(times[0] > 0 && times[0] < times[1], "{times:?}");
    session.ask("sudo ima-policy quarantine off");
    assert!(session.ask(status).ends_with('0'));
    session.power_off();
}
