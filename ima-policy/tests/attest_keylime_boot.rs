//! Keylime 7.14.3 with our measured boot policy: the log of a boot without UEFI, held against
//! boot manifests.

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
use std::path::{Path, PathBuf};
use std::process::Command;

use common::boot::{Boot, Event};
use device::{Device, MANIFEST, expected_boot, vector};
use devices::Keylime;
use install::said;
use net::Net;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::{Manifest, Measurement};
use sha2::{Digest as _, Sha256};

/// As `docs/how-to/keylime.md` has it.
const POLICY: &str = "measured_boot_imports = [\"msec_measured_boot\"]\n\
                      measured_boot_policy_name = msec-boot\nmeasured_boot_evaluate = always";

fn manifest() -> Manifest {
    Manifest::from_json(&fs::read(vector(MANIFEST)).unwrap()).unwrap()
}

/// The kernel that another image has.
const KERNEL: [u8; 32] = [0x11; 32];

fn other_kernel() -> (Boot, Manifest) {
    let mut boot = expected_boot();
    boot.event(8, 0).digest = KERNEL;
    let measured = Measurement { digest: Sha256Digest::from(KERNEL), size: 1 };
    (boot, manifest().replace("kernel", measured).unwrap())
}

/// Has a device attest once; exit code, and what the verifier has said meanwhile.
fn attested(keylime: &Keylime<'_>, device: &Device, id: &str) -> (i32, String) {
    let before = keylime.log("verifier").len();
    let (code, said) = keylime.agent(device, id, "");
    (code, format!("{said}\n{}", &keylime.log("verifier")[before..]))
}

/// Makes a device known to registrar and verifier.
fn enrol(keylime: &Keylime<'_>, device: &Device, id: &str, manifests: &[&Path]) {
    let (code, said) = keylime.agent(device, id, "");
    assert!(code == 2 && said.contains("enrol it there"), "{code} {said}");
    keylime.enrol_boots(device, id, manifests);
}

#[test]
fn keylime_accepts_the_boot_of_a_manifest_and_no_other() {
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("b") else { return };
    let Some(mut healthy) = Device::new() else { return };
    let mut keylime = Keylime::new(&net, python, POLICY);
    keylime.start_verifier();
    keylime.start_registrar();
    let good = vector(MANIFEST);

    enrol(&keylime, &healthy, "healthy", &[&good]);
    let (code, said) = attested(&keylime, &healthy, "healthy");
    assert!(code == 0 && said.contains("against measured boot log"), "{code} {said}");
    healthy.runs("/c", b"c");
    let (code, said) = attested(&keylime, &healthy, "healthy");
    assert!(code == 0 && said.contains("new entries: 1"), "{code} {said}");
    // No log: no evidence, and no verdict.
    let log = fs::read(healthy.path("firmware.log")).unwrap();
    fs::remove_file(healthy.path("firmware.log")).unwrap();
    let (code, said) = attested(&keylime, &healthy, "healthy");
    assert!(code == 2 && said.contains("uefi_log"), "{code} {said}");
    // A log that does not lead to the PCRs.
    let (other, other_manifest) = other_kernel();
    fs::write(healthy.path("firmware.log"), &log).unwrap();
    assert_eq!(attested(&keylime, &healthy, "healthy").0, 0, "premise");
    fs::write(healthy.path("firmware.log"), other.log()).unwrap();
    let (code, said) = attested(&keylime, &healthy, "healthy");
    assert!(code == 1 && said.contains("For PCR 8 and hash"), "{code} {said}");

    // Another image, and one of two that are allowed, as while a fleet is updated.
    let Some(updated) = Device::started(&other) else { return };
    let new = updated.path("new.manifest.json");
    fs::write(&new, other_manifest.to_json().unwrap()).unwrap();
    enrol(&keylime, &updated, "updated", &[&good, &new]);
    let (code, said) = attested(&keylime, &updated, "updated");
    assert_eq!(code, 0, "{said}");
    // The old image is not allowed any more, and then the new one neither.
    let update = |manifests: &[&Path]| {
        let boots = keylime.boots(&updated, manifests);
        let name = ["--mb-policy-name", "updated", "--mb-policy", &boots];
        keylime.tenant(&[&["-c", "updatembpolicy"], &name[..]].concat());
    };
    update(&[&new]);
    let (code, said) = attested(&keylime, &updated, "updated");
    assert_eq!(code, 0, "{said}");
    update(&[&good]);
    let (code, said) = attested(&keylime, &updated, "updated");
    assert_eq!(code, 1, "{said}");
    // The same device, by the first image alone; its log is true.
    enrol(&keylime, &updated, "rebuilt", &[&good]);
    let (code, said) = attested(&keylime, &updated, "rebuilt");
    let reason = "PCR 8, 'kernel': expected a19f1ad1";
    assert!(code == 1 && said.contains(reason), "{code} {said}");
    assert!(said.contains(&hex::encode(KERNEL)) && !said.contains("For PCR"), "{said}");
    // A device that measures the image and says that it was the other.
    let Some(liar) = Device::started(&other) else { return };
    fs::write(liar.path("firmware.log"), &log).unwrap();
    enrol(&keylime, &liar, "liar", &[&good]);
    let (code, said) = attested(&keylime, &liar, "liar");
    assert!(code == 1 && said.contains("For PCR 8 and hash"), "{code} {said}");

    // One event less, and one more; log and TPM agree.
    let mut less = expected_boot();
    less.events.retain(|event| event.pcr != 7);
    let mut more = expected_boot();
    let again = more.event(9, 0).clone();
    more.events.push(again);
    for (id, boot, reason) in [
        ("less", less, "PCR 7: 'separator' is missing"),
        ("more", more, "PCR 9: something more was measured, c2142dd8"),
    ] {
        let Some(device) = Device::started(&boot) else { return };
        enrol(&keylime, &device, id, &[&good]);
        let (code, said) = attested(&keylime, &device, id);
        assert!(code == 1 && said.contains(reason) && !said.contains("For PCR"), "{code} {said}");
    }
}

/// A device that was accepted, and then boots another image. What it runs is not asked here.
#[test]
fn each_boot_is_judged_and_not_the_first_alone() {
    let Some(python) = install::keylime() else { return };
    for (evaluate, expected) in [("once", 0), ("always", 1)] {
        let Some(net) = Net::new("e") else { return };
        let mut keylime = Keylime::new(&net, python, &POLICY.replace("always", evaluate));
        keylime.start_verifier();
        keylime.start_registrar();
        let Some(mut device) = Device::new() else { return };
        let (code, said) = keylime.agent(&device, "device", "");
        assert!(code == 2 && said.contains("enrol it there"), "{code} {said}");
        let boots = keylime.boots(&device, &[&vector(MANIFEST)]);
        keylime.tenant(&["-c", "add", "--push-model", "-u", "device", "--mb-policy", &boots]);
        assert_eq!(attested(&keylime, &device, "device").0, 0, "premise");
        device.reboots(&expected_boot());
        assert_eq!(attested(&keylime, &device, "device").0, 0, "premise");
        device.reboots(&other_kernel().0);
        let (code, said) = attested(&keylime, &device, "device");
        assert_eq!(code, expected, "{evaluate} {said}");
        assert_eq!(said.contains("PCR 8, 'kernel': expected"), expected == 1, "{said}");
    }
}

/// The push mode of 7.14.3 goes on from the PCR 10 of before a restart, though it asks for the
/// list from its beginning (`TPMEngine.attest_state`): a device has to be added again, or Keylime
/// be patched. When the first half fails, patch and how-to are not needed any more.
#[test]
fn a_device_that_restarted_is_accepted_by_a_patched_keylime_or_has_to_be_added_again() {
    const PATCH: &str = "0001-verification-do-not-go-on-from-the-IMA-PCR-of-before-a-reboot.patch";
    let Some(python) = install::keylime() else { return };
    let Some(net) = Net::new("r") else { return };
    restarted(&net, python, None);
    restarted(&net, python, Some(PATCH));
}

fn restarted(net: &Net, python: &Path, patch: Option<&str>) {
    let mut keylime = Keylime::new(net, python, POLICY);
    if let Some(patch) = patch {
        keylime.patch(patch);
    }
    keylime.start_verifier();
    keylime.start_registrar();
    let Some(mut device) = Device::new() else { return };
    let good = vector(MANIFEST);
    enrol(&keylime, &device, "device", &[&good]);
    assert_eq!(attested(&keylime, &device, "device").0, 0, "premise");
    device.reboots(&expected_boot());
    device.runs("/c", b"c");
    let (code, said) = attested(&keylime, &device, "device");
    if patch.is_some() {
        assert!(code == 0 && said.contains("new entries: 4"), "{code} {said}");
        // It goes on from there, and does not take any list.
        device.runs("/c", b"c");
        let (code, said) = attested(&keylime, &device, "device");
        assert!(code == 0 && said.contains("new entries: 1"), "{code} {said}");
        device.reboots(&expected_boot());
        device.runs("/tmp/intruder", b"evil");
        let (code, said) = attested(&keylime, &device, "device");
        assert!(code == 1 && said.contains("/tmp/intruder"), "{code} {said}");
        return;
    }
    assert!(code == 1 && said.contains("does not match TPM PCR"), "{code} {said}");
    keylime.tenant(&["-c", "delete", "--push-model", "-u", "device"]);
    keylime.enrol_boots(&device, "device", &[&good]);
    let (code, said) = attested(&keylime, &device, "device");
    assert!(code == 0 && said.contains("new entries: 4"), "{code} {said}");
}

/// Keylime's own command that judges a log by a policy, without a device.
struct Checker {
    python: PathBuf,
    dir: tempfile::TempDir,
}

impl Checker {
    fn new(keylime: &Path, module: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let configuration = format!("[verifier]\nversion = 2.5\n{POLICY}\n");
        fs::write(dir.path().join("verifier.conf"), configuration).unwrap();
        fs::write(dir.path().join("msec_measured_boot.py"), module).unwrap();
        Self { python: keylime.join("bin/python3"), dir }
    }

    fn python(&self, args: &[&str]) -> (bool, String) {
        let mut command = Command::new(&self.python);
        command.args(args).current_dir(self.dir.path());
        command.env("PYTHONPATH", self.dir.path()).env("KEYLIME_DIR", self.dir.path());
        command.env("KEYLIME_VERIFIER_CONFIG", self.dir.path().join("verifier.conf"));
        let output = command.output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), out + &said(&output))
    }

    /// Whether a log is that of a reference state, and what Keylime says.
    fn judges(&self, refstate: &str, log: &[u8]) -> (bool, String) {
        fs::write(self.dir.path().join("refstate"), refstate).unwrap();
        fs::write(self.dir.path().join("log"), log).unwrap();
        self.python(&["-m", "keylime.mba.elchecking", "msec-boot", "refstate", "log"])
    }
}

const MODULE: &str = include_str!("../keylime/msec_measured_boot.py");

fn refstate(manifest: &Manifest) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m"), manifest.to_json().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
    let ran = command.args(["reference", "--as", "keylime-boot", "--manifest"]);
    let ran = ran.arg(dir.path().join("m")).output().unwrap();
    assert!(ran.status.success(), "{}", said(&ran));
    String::from_utf8(ran.stdout).unwrap()
}

/// EV_NO_ACTION and EV_POST_CODE; `tpm2_eventlog` prints the data of the latter as they are.
const NO_ACTION: u32 = 3;
const POST_CODE: u32 = 1;

#[test]
fn the_policy_takes_a_log_apart_strictly() {
    let Some(keylime) = install::keylime() else { return };
    let checker = Checker::new(keylime, MODULE);
    let good = refstate(&manifest());
    let (fits, said) = checker.judges(&good, &expected_boot().log());
    assert!(fits && said.contains("AOK"), "{said}");
    // TF-A's, which begins with a locality.
    let tfa = Boot::of(&fs::read(vector("tfa-sha256.bin")).unwrap());
    let builder = tfa.events.iter().skip(1).enumerate().fold(
        Manifest::builder("tf-a", "virt"),
        |builder, (at, event)| {
            let measured = Measurement { digest: Sha256Digest::from(event.digest), size: 1 };
            builder.event(event.pcr, at.to_string(), measured, "")
        },
    );
    let virt = refstate(&builder.seal(&[0]).build().unwrap());
    let (fits, said) = checker.judges(&virt, &tfa.log());
    assert!(fits, "{said}");
    let (fits, said) = checker.judges(&good, &tfa.log());
    assert!(!fits && said.contains("not rpi3-lab (rpi3): PCR 0, 'U-Boot version'"), "{said}");

    let event = |pcr, kind, digest: &[u8], data: &[u8]| Event {
        pcr,
        kind,
        digest: digest.try_into().unwrap(),
        data: data.to_vec(),
    };
    let with = |at: usize, event: Event| {
        let mut boot = expected_boot();
        boot.events.insert(at, event);
        boot.log()
    };
    let locality = |last| [&b"StartupLocality\0"[..], &[last]].concat();
    let zeros = [0; 32];
    // Premise: what changes nothing and is known.
    let known = with(0, event(0, NO_ACTION, &zeros, &locality(0)));
    assert!(checker.judges(&good, &known).0);
    let swapped = {
        let mut boot = expected_boot();
        let [first, second] = [0, 1].map(|place| boot.event(1, place).digest);
        (boot.event(1, 0).digest, boot.event(1, 1).digest) = (second, first);
        boot.log()
    };
    for (log, reason) in [
        (with(0, event(0, NO_ACTION, &zeros, &locality(3))), "extends nothing"),
        (with(1, event(0, NO_ACTION, &zeros, &locality(0))), "extends nothing"),
        (with(0, event(0, NO_ACTION, &zeros, b"vendor")), "extends nothing"),
        (with(0, event(12, POST_CODE, &zeros, b"x")), "PCR 12: known are PCR 0 to 9"),
        (with(0, event(2, POST_CODE, &zeros, b"x")), "PCR 2, 'separator': expected"),
        (swapped, "PCR 1, 'device tree': expected"),
    ] {
        let (fits, said) = checker.judges(&good, &log);
        assert!(!fits && said.contains(reason), "{reason}: {said}");
    }
    for (state, reason) in [
        (good.replace("keylime-boot/1", "keylime-boot/2"), "schema"),
        (good.replace("\"boots\"", "\"boot\""), "no others"),
        (good.replace("\"pcr\":8", "\"pcr\":18"), "PCR 18"),
        (good.replace("\"pcr\":8", "\"pcr\":true"), "PCR True"),
        (good.replace("a19f1ad1", "A19F1AD1"), "no sha256 digest"),
        (r#"{"schema":"msec-boot/keylime-boot/1","boots":[]}"#.to_owned(), "no boots"),
        ("[]".to_owned(), "no others"),
        ("{}".to_owned(), "no others"),
    ] {
        let (fits, said) = checker.judges(&state, &expected_boot().log());
        assert!(!fits && said.contains(reason), "{reason}: {said}");
    }
}

/// `tpm2_eventlog` prints some data as they are: what a device writes there can look like other
/// events. The PCRs that it replays are true.
#[test]
fn a_log_cannot_tell_other_events_than_it_extends() {
    let Some(keylime) = install::keylime() else { return };
    let (mut boot, _) = other_kernel();
    let mut forged =
        "x\nevents:\n- PCRIndex: 0\n  EventType: EV_NO_ACTION\n  SpecID: x\n".to_owned();
    for event in &expected_boot().events {
        let digest = hex::encode(event.digest);
        forged += &format!(
            "- PCRIndex: {}\n  EventType: x\n  Digests:\n  - AlgorithmId: sha256\n    Digest: \"{digest}\"\n",
            event.pcr
        );
    }
    let data = forged.trim_end().as_bytes().to_vec();
    let digest = Sha256::digest(&data).into();
    boot.events.push(Event { pcr: 9, kind: POST_CODE, digest, data });
    let good = refstate(&manifest());
    let (fits, said) = Checker::new(keylime, MODULE).judges(&good, &boot.log());
    assert!(!fits && said.contains("do not lead to the value of PCR 8"), "{said}");
    let without = MODULE.replace("replayed(measured, pcr) != pcrs.get(str(pcr), 0)", "False");
    assert_ne!(without, MODULE);
    let (fits, said) = Checker::new(keylime, &without).judges(&good, &boot.log());
    assert!(fits, "premise: {said}");
}

#[test]
fn a_quote_of_another_bank_is_refused() {
    let Some(keylime) = install::keylime() else { return };
    // Two banks; Keylime compares one of them with the quote.
    let log = fs::read(vector("aavmf-4banks.bin")).unwrap();
    let parse = "import base64, sys; from keylime.mba import mba; mba.load_imports()\n\
                 from keylime.common.algorithms import Hash\n\
                 log = base64.b64encode(open('log', 'rb').read()).decode()\n\
                 pcrs, _, _, failure = mba.bootlog_parse(log, Hash(sys.argv[1]))\n\
                 print('refused' if failure else len(pcrs))";
    let without = MODULE.replace("hash_alg != BANK", "False");
    assert_ne!(without, MODULE);
    for (module, bank, expected) in
        [(MODULE, "sha256", false), (MODULE, "sha384", true), (&without, "sha384", false)]
    {
        let checker = Checker::new(keylime, module);
        fs::write(checker.dir.path().join("log"), &log).unwrap();
        let (ran, said) = checker.python(&["-c", parse, bank]);
        assert!(ran, "{said}");
        assert_eq!(said.contains("refused"), expected, "{bank}: {said}");
    }
}
