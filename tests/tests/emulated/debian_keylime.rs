//! Keylime's registrar, verifier and tenant (7.14.3), and a Debian of ours that reports to them
//! as its recipe says.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use ima_policy::reference::{Reference, keylime, keylime_boot};
use msec_tests::{built::scratch, operator_ssh::SshOperator, patience::wait, slots};

use crate::{
    debian_image::{device, first_boot, image},
    debian_integrity::{OPERATOR, hold_to},
    keylime_install,
    keylime_services::{Ports, Services},
};

/// The device comes up by itself as an agent, once its time is right; is accepted by the
/// reference and the manifest of its image; is refused when something ran that nobody knows; and
/// then keeps to itself and the operator.
#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian; make test-long"]
fn keylime_accepts_a_board_and_refuses_it_when_something_else_ran() {
    let Some(python) = keylime_install::keylime() else { return };
    let dir = scratch("debian-keylime");
    let ours = "measured_boot_policy_name = msec-boot\nmeasured_boot_imports = [\
                \"msec_measured_boot\"]\nmeasured_boot_evaluate = always";
    let here = |program: &str| Command::new(program);
    let mut services = Services::new(python, "127.0.0.1", Ports::free(), ours, here);
    services.start_verifier();
    services.start_registrar();

    // The device has both on its own loopback, where the operator lends them to it.
    let (usual, lent) = (Ports::USUAL, services.ports);
    let operator = SshOperator::new(&dir);
    let card = image(&operator, &dir, "keylime", 1, |recipe| {
        hold_to(recipe, "measure");
        let mut table = toml::toml! {
            registrar = "127.0.0.1"
            quarantine = ["10.0.2.2"]
        };
        table.insert("verifier".to_owned(), Services::name().into());
        table.insert("ca".to_owned(), services.authority().display().to_string().into());
        recipe.insert("keylime".to_owned(), table.into());
    });
    let device = device(&card, &dir);
    let _slot = slots::slot();
    let session = first_boot(&device, &dir, &operator);
    let lend = |there, here| operator.lend(session.address, "ada", there, here);
    let _lent = (lend(usual.verifier, lent.verifier), lend(usual.registrar, lent.registrar));
    session.ask(&format!("echo 127.0.0.1 {} | sudo tee -a /etc/hosts", Services::name()));

    // Without the time it waits, and the boot has come to its end all the same.
    let is_active = "systemctl is-active ima-policy-keylime || true";
    assert_eq!(session.ask(is_active), "inactive");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    session.ask(&format!("sudo date -s @{now}; sudo touch /run/systemd/timesync/synchronized"));
    let journal = || session.ask("sudo journalctl -b -o cat -u ima-policy-keylime");
    wait(|| journal().contains("enrol it there"), journal);
    let told = journal();
    let id = told.lines().find_map(|line| line.split_once("this device is ")).expect("its name").1;

    // What may run and boot is what the image was made with.
    let reference = fs::read(card.path().with_extension("reference.json")).unwrap();
    let mut programs = keylime::Policy::new();
    programs.add_reference(&Reference::from_json(&reference).unwrap()).unwrap();
    let boots = keylime_boot::policy(&[card.manifest().clone()]).unwrap().0;
    let [programs_file, boots_file] =
        [("programs", programs.to_json()), ("boots", boots)].map(|(name, text)| {
            fs::write(dir.join(name), text).unwrap();
            dir.join(name).display().to_string()
        });
    services.add(id, &["--runtime-policy", &programs_file, "--mb-policy", &boots_file]);
    let verdict = |word: &str| journal().contains(&format!("the verifier {word} the device"));
    wait(|| verdict("accepts"), || format!("{}\n{}", journal(), services.log("verifier")));
    assert!(services.status(id).contains(r#""attestation_status": "PASS""#));
    let status = "sudo ima-policy quarantine status --format json; echo $?";
    assert!(session.ask(status).ends_with('0'), "premise");

    session.ask("cp /usr/bin/true intruder; echo >>intruder; ./intruder");
    wait(|| verdict("refuses"), journal);
    wait(|| session.ask(status).ends_with('1'), journal);
    assert!(session.ask(status).contains(OPERATOR));
    assert!(services.status(id).contains("FAIL"));
    assert!(services.log("verifier").contains("/home/ada/intruder"));
    session.power_off();
}
