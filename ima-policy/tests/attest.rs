//! A device with an emulated TPM attests itself: a healthy one is accepted, and each of those
//! that are not is refused.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
#[path = "common/device.rs"]
mod device;
#[allow(dead_code)] // No test uses all of it.
#[path = "../../pcr-measure/tests/common/mod.rs"]
mod tpm;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::List;
use device::{Device, MANIFEST, vector};
use serde_json::Value;

#[test]
fn a_healthy_device_is_accepted() {
    let Some(mut device) = Device::new() else { return };
    device.answers();
    let told = device.accepted();
    assert_eq!(told["key_restricted"], true);
    assert_eq!(told["log"]["agrees"], true);
    assert_eq!(told["boot"]["as_expected"], true);
    assert_eq!(told["claim"]["as_quoted"], true);
    assert_eq!(told["list"]["pcr"]["vouched_for"], 3);
    assert_eq!(told["list"]["pcr"]["replayed"], hex::encode(device.list.sha256));
    assert_eq!(told["quote"]["pcrs"].as_object().unwrap().len(), 11);

    // It goes on, and its clock does.
    fs::write(device.path("before.json"), told.to_string()).unwrap();
    device.runs("/c", b"c");
    device.does("attest ask --new challenge");
    device.answers();
    let said = device.judge("--challenge challenge --evidence evidence --previous before.json");
    assert_eq!(said.code, 0, "{}", said.out);
    assert_eq!(said.json()["clock_since_previous"]["change"], "onwards");
    // The earlier of the two is no later one.
    fs::write(device.path("after.json"), &said.out).unwrap();
    let Some(other) = Device::new() else { return };
    fs::copy(device.path("after.json"), other.path("before.json")).unwrap();
    other.answers();
    let said = other.judge("--challenge challenge --evidence evidence --previous before.json");
    assert_eq!(said.code, 2, "{}", said.out);
    assert!(said.err.contains("another key"), "{}", said.err);
}

#[test]
fn the_list_may_grow_while_the_quote_is_made() {
    let Some(mut device) = Device::new() else { return };
    let evidence = device.answers();
    device.runs("/c", b"c");
    device.with_list(&evidence, &device.list.binary);
    let told = device.accepted();
    assert_eq!(told["list"]["entries"], 4);
    assert_eq!(told["list"]["pcr"]["vouched_for"], 3);
}

#[test]
fn an_answer_is_for_its_challenge_alone_and_for_a_time() {
    let Some(device) = Device::new() else { return };
    device.answers();
    device.accepted();
    let challenge = fs::read_to_string(device.path("challenge")).unwrap();
    device.does("attest ask --new challenge");
    assert_eq!(device.refused("replayed")["refused"]["step"], "nonce");
    let json: Value = serde_json::from_str(&challenge).unwrap();
    let made = json["made"].as_u64().unwrap();
    for (other, why) in [(made - 301, "too old"), (made + 3600, "of the future")] {
        let changed = challenge.replace(&format!(":{made},"), &format!(":{other},"));
        assert_ne!(changed, challenge);
        fs::write(device.path("challenge"), changed).unwrap();
        assert_eq!(device.refused(why)["refused"]["step"], "freshness");
    }
    fs::write(device.path("challenge"), &challenge).unwrap();
    device.accepted();
}

#[test]
fn a_list_that_is_not_the_quoted_one_is_refused() {
    let Some(device) = Device::new() else { return };
    let evidence = device.answers();
    device.accepted();
    let binary = &device.list.binary;
    let [_, a, b] = device.list.starts[..] else { panic!() };
    let (first, second, third) = (&binary[..a], &binary[a..b], &binary[b..]);
    let mut changed = binary.clone();
    *changed.last_mut().unwrap() ^= 1;
    let mut name = binary.clone();
    let at = name.windows(3).position(|window| window == b"/a\0").unwrap();
    name[at + 1] = b'c';
    let mut forged = List::new();
    forged.file("/a", b"a", b"");
    for (what, list) in [
        ("an entry removed", [first, third].concat()),
        ("the last removed", [first, second].concat()),
        ("the first removed", [second, third].concat()),
        ("reordered", [first, third, second].concat()),
        ("twice", [first, second, second, third].concat()),
        ("no list", Vec::new()),
        ("another name", name),
        ("another list", forged.binary),
    ] {
        device.with_list(&evidence, &list);
        let told = device.refused(what);
        assert_eq!(told["list"]["pcr"]["vouched_for"], Value::Null, "{what}: {told}");
        assert_eq!(told["boot"]["as_expected"], true, "{what}");
    }
    device.with_list(&evidence, &changed);
    device.refused("changed");
    device.with_list(&evidence, binary);
    device.accepted();
}

#[test]
fn what_nobody_knows_is_named() {
    let Some(mut device) = Device::new() else { return };
    device.answers();
    device.accepted();
    device.runs("/tmp/intruder", b"evil");
    device.runs("/a", b"changed");
    device.answers();
    let told = device.refused("unknown files");
    assert_eq!(told["list"]["pcr"]["vouched_for"], 5);
    let faults = &told["list"]["entries_with_faults"];
    assert_eq!(
        (&faults[0]["name"], &faults[0]["fault"]),
        (&"/tmp/intruder".into(), &"unknown".into())
    );
    assert_eq!((&faults[1]["name"], &faults[1]["fault"]), (&"/a".into(), &"changed".into()));
    let manifest = vector(MANIFEST);
    let text = device.says(&format!(
        "attest ask --ak ak --manifest {} --reference good.json --challenge challenge --evidence evidence",
        manifest.display()
    ));
    assert_eq!(text.code, 1);
    assert!(text.out.contains("/tmp/intruder: it is not known"), "{}", text.out);
    assert!(text.out.ends_with("The device is not healthy.\n"), "{}", text.out);
}

#[test]
fn another_boot_is_named() {
    let other = |component: &str, digest: &str| match component {
        "kernel" => "11".repeat(32),
        _ => digest.to_owned(),
    };
    let Some(device) = Device::booted(other) else { return };
    device.answers();
    let told = device.refused("another kernel");
    assert_eq!(told["refused"], Value::Null);
    let differences = told["boot"]["differences"].as_array().unwrap();
    assert_eq!(differences.len(), 1, "{told}");
    assert_eq!(differences[0]["pcr"], 8);
    assert_eq!(told["log"]["agrees"], false, "its log is that of the good boot");
    assert_eq!(told["claim"]["as_quoted"], false);
    assert_eq!(told["list"]["good"], true, "its list is that of its own boot");

    // Without a log nothing contradicts the quote: the manifest alone does.
    let Some(healthy) = Device::new() else { return };
    for (device, is_good) in [(&healthy, true), (&device, false)] {
        let log = vector("uboot-expected.bin").display().to_string();
        device.does(
            &device.serve("--challenge challenge --output evidence").replace(&log, "no-such-log"),
        );
        let told = if is_good { device.accepted() } else { device.refused("another kernel") };
        assert_eq!(told["log"], Value::Null);
        assert_eq!(told["boot"]["as_expected"], is_good);
    }
    // A log that lies is held against the device, though its PCRs are good.
    let (own, other) = ("uboot-expected.bin", "uboot-other-initramfs.bin");
    let serve = healthy.serve("--challenge challenge --output evidence").replace(own, other);
    healthy.does(&serve);
    let told = healthy.refused("another log");
    assert_eq!(
        (&told["log"]["agrees"], &told["boot"]["as_expected"]),
        (&false.into(), &true.into())
    );
}

#[test]
fn a_pcr_that_was_extended_beside_the_list_is_told() {
    let Some(device) = Device::new() else { return };
    device.answers();
    device.accepted();
    device.tpm.tool(&format!("tpm2_pcrextend 10:sha256={}", "22".repeat(32)));
    device.answers();
    assert_eq!(device.refused("PCR 10")["list"]["pcr"]["vouched_for"], Value::Null);
    let Some(device) = Device::new() else { return };
    device.tpm.tool(&format!("tpm2_pcrextend 9:sha256={}", "22".repeat(32)));
    device.answers();
    let told = device.refused("PCR 9");
    assert_eq!(told["log"]["agrees"], false);
    assert_eq!(told["boot"]["differences"][0]["pcr"], 9);
    // Its boot_aggregate is that of before.
    assert_eq!(told["list"]["faults"]["other_boot"], 1);
}

#[test]
fn a_list_of_another_boot_is_told_by_its_first_entry() {
    let Some(mut device) = Device::new() else { return };
    device.answers();
    device.accepted();
    // A TPM that was reset, and measured into again by somebody who has the good values: PCR 10
    // leads to this list, which is of another boot.
    device.tpm.tool("tpm2_shutdown -c");
    device.tpm.tool("swtpm_ioctl --unix tpm.ctrl -i");
    device.tpm.tool("tpm2_startup -c");
    let list = std::mem::replace(&mut device.list, List::new());
    for step in &list.steps {
        device.tpm.tool(&format!("tpm2_pcrextend 10:sha256={}", hex::encode(step)));
    }
    fs::write(device.path("list"), &list.binary).unwrap();
    device.does("attest ask --new challenge");
    device.answers();
    let told = device.refused("firmware PCRs of zeros");
    assert_eq!(told["list"]["pcr"]["vouched_for"], 3, "premise");
    assert_eq!(told["list"]["faults"]["other_boot"], 1);
}

#[test]
fn the_key_is_the_one_that_was_enrolled() {
    let Some(device) = Device::new() else { return };
    device.answers();
    device.accepted();
    let Some(other) = Device::new() else { return };
    other.answers();
    other.accepted();
    fs::copy(device.path("ak"), device.path("own")).unwrap();
    fs::copy(other.path("ak"), device.path("ak")).unwrap();
    assert_eq!(device.refused("another TPM's")["refused"]["step"], "signature");
    // A key that is not restricted could sign a forged quote.
    let mut public = fs::read(device.path("own")).unwrap();
    public[4 + 1] &= !1; // the bit 16 of the attributes
    fs::write(device.path("ak"), public).unwrap();
    let told = device.refused("not restricted");
    assert_eq!((&told["refused"]["step"], &told["key_restricted"]), (&"key".into(), &false.into()));
    fs::copy(device.path("own"), device.path("ak")).unwrap();
    device.accepted();
}

#[test]
fn evidence_that_is_cut_or_lies_is_refused() {
    let Some(device) = Device::new() else { return };
    let evidence = device.answers();
    device.accepted();
    let head = evidence.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let write = |bytes: &[u8]| fs::write(device.path("evidence"), bytes).unwrap();
    for cut in [0, 1, head / 2, head - 1] {
        write(&evidence[..cut]);
        assert_eq!(device.refused("cut in its head")["refused"]["step"], "evidence", "{cut}");
    }
    for cut in head..evidence.len() {
        // Every seventh is enough to meet each field.
        if cut % 7 == 0 || cut == evidence.len() - 1 {
            write(&evidence[..cut]);
            device.refused("cut in its list");
        }
    }
    // Lengths of the first entry: of its template's name, of its data, of its first field.
    for at in [24, 24 + 4 + 6, 24 + 4 + 6 + 4] {
        for length in [0_u32, 7, 1 << 20, u32::MAX] {
            let mut list = device.list.binary.clone();
            list[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_ne!(list, device.list.binary);
            device.with_list(&evidence, &list);
            device.refused("a length that lies");
        }
    }
    // Values that were not quoted, fewer of them, and PCRs that cannot be.
    let line = String::from_utf8(evidence[..head].to_vec()).unwrap();
    let json: Value = serde_json::from_str(&line).unwrap();
    let ten = json["pcrs"]["10"].as_str().unwrap();
    for (from, to, step) in [
        (format!("\"10\":\"{ten}\""), format!("\"10\":\"{}\"", "00".repeat(32)), "digest"),
        (format!("\"10\":\"{ten}\""), format!("\"11\":\"{ten}\""), "digest"),
        ("\"10\":".to_owned(), "\"24\":".to_owned(), "evidence"),
        ("evidence/1".to_owned(), "evidence/2".to_owned(), "evidence"),
    ] {
        let changed = line.replace(&from, &to);
        assert_ne!(changed, line);
        write(&[changed.as_bytes(), &evidence[head..]].concat());
        assert_eq!(device.refused(&to)["refused"]["step"], step);
    }
    write(&evidence);
    device.accepted();
}

/// How a verifier that has the maker's certificate for a TPM comes to its attestation key.
#[test]
fn an_attestation_key_is_enrolled_by_a_credential() {
    let Some(device) = Device::new() else { return };
    let told = device.does("attest key --output ak --endorsement ek --format json");
    let told: Value = serde_json::from_str(&told).unwrap();
    let name = told["name"].as_str().unwrap();
    fs::write(device.path("secret"), [5; 32]).unwrap();
    let make = "tpm2_makecredential --tcti none -u ek -s secret -o credential -n";
    device.tpm.tool(&format!("{make} {name}"));
    device.does("attest activate --credential credential --output opened");
    assert_eq!(fs::read(device.path("opened")).unwrap(), [5; 32]);
    fs::remove_file(device.path("opened")).unwrap();
    let refused = |device: &Device, why: &str| {
        let said = device.says("attest activate --credential credential --output opened");
        assert_eq!(said.code, 2, "{why}");
        assert!(said.err.contains(why), "{}", said.err);
        assert!(!device.path("opened").exists());
    };
    // Another TPM does not open it.
    let Some(other) = Device::new() else { return };
    fs::copy(device.path("credential"), other.path("credential")).unwrap();
    refused(&other, "not for this TPM and this key");
    // Nor does this one for another key.
    let other = format!("000b{}", "11".repeat(32));
    fs::remove_file(device.path("credential")).unwrap();
    device.tpm.tool(&format!("{make} {other}"));
    refused(&device, "not for this TPM and this key");
    fs::write(device.path("credential"), "none").unwrap();
    refused(&device, "no credential");
    let said = device.says("attest key --output other --certificate certificate");
    assert!(said.code == 2 && said.err.contains("no certificate"), "{}", said.err);
    assert!(!device.path("other").exists());
}

#[test]
fn what_the_verifier_lacks_is_asked_for() {
    let Some(device) = Device::new() else { return };
    device.answers();
    let manifest = vector(MANIFEST).display().to_string();
    let ask = "attest ask --challenge challenge --evidence evidence";
    for (line, why) in [
        (format!("{ask} --manifest {manifest} --reference good.json"), "--ak"),
        (format!("{ask} --ak ak --reference good.json"), "--manifest"),
        (format!("{ask} --ak ak --manifest {manifest}"), "--reference or --keyring"),
        (format!("{ask} --ak none --manifest {manifest}"), "cannot read none"),
        ("attest ask --ak ak --manifest good.json".to_owned(), "cannot use good.json"),
        ("attest ask --new challenge --pcrs sha384:0".to_owned(), "only sha256"),
        ("attest serve --challenge good.json --output x".to_owned(), "challenge"),
    ] {
        let said = device.says(&line);
        assert_eq!(said.code, 2, "{line}: {}", said.out);
        assert!(said.err.contains(why), "{line}: {}", said.err);
    }
    assert!(!device.path("x").exists());
    // Without PCR 10 the boot alone is attested, and no list is sent.
    device.does("attest ask --new challenge --pcrs 0-9");
    let evidence = device.answers();
    assert_eq!(evidence.iter().position(|byte| *byte == b'\n'), Some(evidence.len() - 1));
    let told: Value = serde_json::from_str(
        &device.does(&format!("{ask} --ak ak --manifest {manifest} --format json")),
    )
    .unwrap();
    assert_eq!(told["list"], Value::Null);
    // Too few PCRs for the manifest's seal.
    device.does("attest ask --new challenge --pcrs 0-8,10");
    device.answers();
    assert_eq!(device.refused("PCR 9 is sealed to")["boot"]["not_quoted"], serde_json::json!([9]));
}

/// A device that listens, and ends with the value.
struct Listening {
    child: Child,
    address: String,
    lines: mpsc::Receiver<String>,
}

impl Listening {
    fn start(device: &Device) -> Self {
        let mut command = device.command(&device.serve("--listen 127.0.0.1:0"));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let first = lines.recv_timeout(Duration::from_secs(20)).unwrap();
        let address = first.rsplit(' ').next().unwrap().to_owned();
        Self { child, address, lines }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_device_answers_over_the_network() {
    let Some(mut device) = Device::new() else { return };
    let listening = Listening::start(&device);
    let ask = format!("--device {}", listening.address);
    let said = device.judge(&ask);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(listening.line().ends_with("answered"));
    // What is no challenge gets no answer, and keeps nobody else from one.
    for garbage in [&b"{}\n"[..], b"", &[b' '; 5000]] {
        let mut stream = TcpStream::connect(&listening.address).unwrap();
        stream.write_all(garbage).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // A reset where it has not read all.
        stream.read_to_end(&mut answer).ok();
        assert_eq!(answer, b"");
        let line = listening.line();
        assert!(line.contains("challenge"), "{line}");
    }
    // Nor does one who says nothing, but for a while.
    let silent = TcpStream::connect(&listening.address).unwrap();
    let said = device.judge(&ask);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(listening.line().contains("took too long"));
    assert!(listening.line().ends_with("answered"));
    drop(silent);
    device.runs("/tmp/intruder", b"evil");
    let said = device.judge(&ask);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert_eq!(said.json()["list"]["faults"]["unknown"], 1);
    // A device that cannot answer is not refused: nothing is known of it.
    fs::remove_file(device.path("list")).unwrap();
    let said = device.judge(&ask);
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{}", said.err);
    assert!(said.err.contains("gave no answer"), "{}", said.err);
    drop(listening);
    let said = device.judge(&ask);
    assert_eq!((said.code, said.out.as_str()), (2, ""), "{}", said.err);
}
