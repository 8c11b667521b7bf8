//! Keylime's registrar, verifier and tenant (7.14.3), and our agent on devices with emulated
//! TPMs: a healthy one is accepted, those that are not are refused, and put themselves into
//! quarantine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "keylime/devices.rs"]
mod devices;
#[path = "keylime/install.rs"]
mod install;
#[path = "common/net.rs"]
mod net;
#[path = "keylime/services.rs"]
mod services;
#[allow(dead_code)] // No test uses all of it.
#[path = "../../pcr-measure/tests/common/mod.rs"]
mod tpm;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use device::Device;
use devices::Keylime;
use net::{Net, STRANGER};

const QUARANTINE: &str = "--on-refused quarantine --allow 10.99.1.2";

#[test]
fn keylime_accepts_the_healthy_and_the_others_go_into_quarantine() {
    let Some(python) = install::keylime() else { return };
    let Some(mut net) = Net::new("k") else { return };
    net.serve();
    let Some(mut healthy) = Device::new() else { return };
    let Some(mut tampered) = Device::new() else { return };
    let other = |component: &str, digest: &str| match component {
        "kernel" => "11".repeat(32),
        _ => digest.to_owned(),
    };
    let Some(rebuilt) = Device::booted(other) else { return };

    let mut keylime = Keylime::new(&net, python, "");
    keylime.start_verifier();
    // No registrar yet, and then a verifier that does not know the device: nobody is refused.
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert_eq!(code, 2, "{said}");
    keylime.start_registrar();
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 2 && said.contains("enrol it there"), "{code} {said}");
    assert!(!keylime.quarantined(&healthy));

    keylime.enrol(&healthy, "healthy");
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 0 && said.contains("new entries: 3"), "{code} {said}");
    // What has run since then is all that is sent.
    healthy.runs("/c", b"c");
    let (code, said) = keylime.agent(&healthy, "healthy", QUARANTINE);
    assert!(code == 0 && said.contains("new entries: 1"), "{code} {said}");
    let status = keylime.status("healthy");
    assert!(status.contains(r#""attestation_status": "PASS""#), "{status}");
    assert!(status.contains(r#""attestation_count": 2"#), "{status}");

    // A program that nobody knows.
    let (code, _) = keylime.agent(&tampered, "tampered", "");
    assert_eq!(code, 2);
    keylime.enrol(&tampered, "tampered");
    let (code, said) = keylime.agent(&tampered, "tampered", QUARANTINE);
    assert_eq!(code, 0, "premise: {said}");
    assert!(!keylime.quarantined(&tampered), "premise");
    assert!(net.reaches(STRANGER, "10.99.2.1"), "premise");
    tampered.runs("/tmp/intruder", b"evil");
    let (code, said) = keylime.agent(&tampered, "tampered", QUARANTINE);
    assert!(code == 1 && said.contains("is in quarantine"), "{code} {said}");
    assert!(keylime.quarantined(&tampered));
    let (both, none) = ([true, false], [false; 2]);
    assert_eq!(net.paths(), [both, both, none, none], "the operator alone, by the address allowed");
    assert!(keylime.status("tampered").contains("FAIL"));
    assert!(keylime.log("verifier").contains("/tmp/intruder"));

    // The other one, in the same network, still reports; and is still a healthy one.
    let (code, said) = keylime.agent(&healthy, "healthy", "");
    assert_eq!(code, 0, "{said}");

    // Another boot than that of the manifest.
    let (code, _) = keylime.agent(&rebuilt, "rebuilt", "");
    assert_eq!(code, 2);
    keylime.enrol(&rebuilt, "rebuilt");
    let (code, said) = keylime.agent(&rebuilt, "rebuilt", "");
    assert_eq!(code, 1, "{said}");
    assert!(keylime.log("verifier").contains("PCR #8"), "{}", keylime.log("verifier"));
}

/// An agent that goes on, and ends with the value.
struct Going(Child);

impl Drop for Going {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn an_agent_goes_on_when_its_session_has_ended() {
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("s") else { return };
    let Some(device) = Device::new() else { return };
    let short = "session_lifetime = 3\nextend_token_on_attestation = False";
    let mut keylime = Keylime::new(&net, python, short);
    keylime.start_verifier();
    keylime.start_registrar();
    let (_, said) = keylime.agent(&device, "device", "");
    assert!(said.contains("enrol it there"), "{said}");
    keylime.enrol(&device, "device");
    let mut command = keylime.agent_command(&device, "device", QUARANTINE);
    let mut going = Going(command.stderr(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(going.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (mut said, mut accepted, begun) = (Vec::new(), 0, Instant::now());
    for line in lines {
        assert!(!line.contains("refuses"), "{line}");
        accepted += u32::from(line.contains("accepts"));
        said.push(line);
        let has_ended = keylime.log("verifier").contains("Sent 401");
        if has_ended && accepted > 4 {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{said:?}");
    }
    panic!("{said:?}");
}

#[test]
fn a_name_is_one_devices() {
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("n") else { return };
    let Some(first) = Device::new() else { return };
    let Some(second) = Device::new() else { return };
    let mut keylime = Keylime::new(&net, python, "");
    keylime.start_verifier();
    keylime.start_registrar();
    let (_, said) = keylime.agent(&first, "name", "");
    assert!(said.contains("enrol it there"), "{said}");
    let (code, said) = keylime.agent(&second, "name", "");
    assert!(code == 2 && said.contains("registering the device: the answer is 403"), "{said}");
    // A verifier of another authority is nobody.
    keylime.enrol(&first, "name");
    let authority = keylime.authority();
    let good = fs::read(&authority).unwrap();
    let make = "req -x509 -newkey rsa:2048 -nodes -keyout /dev/null -subj /CN=other -out";
    let other = keylime.path("other.crt");
    let made = Command::new("openssl").args(make.split(' ')).arg(&other).output().unwrap();
    assert!(made.status.success());
    fs::copy(&other, &authority).unwrap();
    let (code, said) = keylime.agent(&first, "name", QUARANTINE);
    assert!(code == 2 && said.to_lowercase().contains("certificate"), "{said}");
    assert!(!keylime.quarantined(&first));
    fs::write(&authority, good).unwrap();
    let (code, said) = keylime.agent(&first, "name", QUARANTINE);
    assert_eq!(code, 0, "premise: {said}");
}
