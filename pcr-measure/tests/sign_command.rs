//! `sign` and `verify-signature`: files, exit codes, and what an error leaves.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "cli")]

#[path = "common/pair.rs"]
mod pair;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use pair::Pair;
use pcr_measure::manifest::Manifest;
use pcr_measure::signed_policy::SignatureFile;
use tempfile::TempDir;

/// Two images, the keys `rsa`, `ec` and `other`, and the command, in a directory.
struct Vendor {
    dir: TempDir,
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Vendor {
    fn new() -> Self {
        let vendor = Self { dir: TempDir::new().unwrap() };
        for image in ["now", "next", "foreign"] {
            let manifest = Manifest::builder(image, "rpi3")
                .event(8, "kernel", format!("the kernel of {image}").as_bytes(), "")
                .event(9, "initramfs", b"the initramfs".as_slice(), "")
                .seal(&[8, 9, 15])
                .build()
                .unwrap();
            std::fs::write(vendor.path(image), manifest.to_json().unwrap()).unwrap();
        }
        for (name, make) in
            [("rsa", Pair::rsa as fn(&_, &_) -> _), ("ec", Pair::ec), ("other", Pair::rsa)]
        {
            let pair: Pair = make(vendor.dir.path(), name);
            assert!(pair.stem.with_extension("key").is_file());
            assert_eq!(pair.key.public().tpm_name().unwrap().len(), 34);
        }
        vendor
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, line: &str) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_pcr-measure"))
            .args(line.split_whitespace())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs what must succeed.
    fn done(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
        ran.stdout
    }

    fn entries(&self, name: &str) -> usize {
        let bytes = std::fs::read(self.path(name)).unwrap();
        SignatureFile::from_json(&bytes).unwrap().entries().count()
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_was_signed_for_two_images_verifies_for_both_and_for_no_third() {
    let vendor = Vendor::new();
    for key in ["rsa", "ec"] {
        vendor.done(&format!("sign now next --key {key}.key --output signed"));
        let verify = format!("verify-signature signed --key {key}.pem");
        vendor.done(&verify);
        vendor.done(&format!("{verify} --manifest now"));
        vendor.done(&format!("{verify} --manifest next"));
        let refusals = [
            (format!("{verify} --manifest foreign"), "for other values"),
            (format!("{verify} --manifest now --pcrs 8"), "for other PCRs"),
            ("verify-signature signed --key other.pem".to_owned(), "no entry of this key"),
            ("verify-signature signed --key other.pem --manifest now".to_owned(), "no entry"),
        ];
        for (line, why) in refusals {
            let ran = vendor.run(&line);
            assert_eq!((ran.code, ran.stderr.as_str()), (1, ""), "{line}");
            assert!(
                ran.stdout.contains("NOT signed") && ran.stdout.contains(why),
                "{}",
                ran.stdout
            );
        }
    }
}

#[test]
fn a_version_is_part_of_what_is_signed() {
    let vendor = Vendor::new();
    vendor.done("sign now --key rsa.key --counter 0x01806d74 --version 7 --output signed");
    let verify = "verify-signature signed --key rsa.pem";
    assert!(vendor.done(verify).contains("8,9,15, version 7"), "{}", vendor.done(verify));
    assert!(vendor.done(&format!("{verify} --format json")).contains("\"rollback\": 7"));
    let manifest = format!("{verify} --manifest now");
    vendor.done(&format!("{manifest} --counter 0x01806d74 --version 7"));
    for other in ["", "--counter 0x01806d74 --version 8", "--counter 0x01806d75 --version 7"] {
        let ran = vendor.run(&format!("{manifest} {other}"));
        assert!(
            ran.code == 1 && ran.stdout.contains("for other values"),
            "{other}: {}",
            ran.stdout
        );
    }
    // An image that is signed for two versions has two entries.
    vendor.done(
        "sign now --key rsa.key --counter 0x01806d74 --version 8 --append signed --output signed",
    );
    assert_eq!(vendor.entries("signed"), 2);
    for (line, code) in [
        ("sign now --key rsa.key --version 8", 64),
        ("sign now --key rsa.key --counter 0x01806d74", 64),
        ("sign now --key rsa.key --counter 0x01806d74 --version 0", 2),
        ("sign now --key rsa.key --counter 0x81000001 --version 1", 2),
    ] {
        assert_eq!(vendor.run(line).code, code, "{line}");
    }
}

#[test]
fn the_values_of_a_tpm_stand_for_the_manifest() {
    let vendor = Vendor::new();
    vendor.done("sign now --pcrs 8,9 --key rsa.key --output signed");
    let values = vendor.done("predict now");
    std::fs::write(vendor.path("values"), values).unwrap();
    let verify = "verify-signature signed --key rsa.pem";
    vendor.done(&format!("{verify} --pcrs 8,9 --values values"));
    vendor.done(&format!("{verify} --pcrs 8,9 --manifest now"));
    assert_eq!(vendor.run(&format!("{verify} --manifest now")).code, 1);
    assert_eq!(vendor.run(&format!("{verify} --pcrs 8 --values values")).code, 1);
    // A PCR that nobody gave a value is no "no".
    assert_eq!(vendor.run(&format!("{verify} --pcrs 8,10 --values values")).code, 2);
}

#[test]
fn appending_keeps_what_is_there_and_repeats_nothing() {
    let vendor = Vendor::new();
    vendor.done("sign now --key rsa.key --output signed");
    let first = std::fs::read_to_string(vendor.path("signed")).unwrap();
    assert_eq!(vendor.done("sign now --key rsa.key --append signed"), first);
    vendor.done("sign next now --key rsa.key --append signed --output signed");
    assert_eq!(vendor.entries("signed"), 2);
    vendor.done("sign now --key ec.key --append signed --output signed");
    vendor.done("sign now --key ec.key --append signed --output signed");
    assert_eq!(vendor.entries("signed"), 3);
    for key in ["rsa", "ec"] {
        vendor.done(&format!("verify-signature signed --key {key}.pem --manifest now"));
    }
    std::fs::write(vendor.path("strange"), "{\"sha999\":[]}").unwrap();
    let ran = vendor.run("sign now --key rsa.key --append strange");
    assert_eq!((ran.code, ran.stdout), (0, first));
    assert!(ran.stderr.contains("\"sha999\" is not known"), "{}", ran.stderr);
}

#[test]
fn a_signature_that_is_wrong_is_a_no_in_either_format() {
    let vendor = Vendor::new();
    vendor.done("sign now next --key rsa.key --output signed");
    let verify = "verify-signature signed --key rsa.pem";
    let before = vendor.done(&format!("{verify} --format json"));
    assert!(before.contains("\"signed\": true") && before.contains("\"reason\": null"), "{before}");
    let text = std::fs::read_to_string(vendor.path("signed")).unwrap();
    let at = text.find("\"sig\":\"").unwrap() + 7;
    let other = if text.as_bytes()[at] == b'A' { "B" } else { "A" };
    let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
    std::fs::write(vendor.path("signed"), changed).unwrap();
    for line in [verify.to_owned(), format!("{verify} --manifest now")] {
        let ran = vendor.run(&line);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        assert!(ran.stdout.contains("BAD") && ran.stdout.contains("good"), "{}", ran.stdout);
        let ran = vendor.run(&format!("{line} --format json"));
        assert_eq!(ran.code, 1);
        assert!(ran.stdout.contains("\"reason\": \"bad-signature\""), "{}", ran.stdout);
    }
    // The other image's entry is as it was.
    vendor.done(&format!("{verify} --manifest next"));
}

#[test]
fn nothing_is_touched_by_what_cannot_be_done() {
    let vendor = Vendor::new();
    vendor.done("sign now --key rsa.key --output signed");
    let before = std::fs::read(vendor.path("signed")).unwrap();
    std::fs::write(vendor.path("broken"), &before[1..]).unwrap();
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    std::fs::write(vendor.path("locked.key"), locked).unwrap();
    std::fs::write(vendor.path("long.key"), vec![b'-'; 70_000]).unwrap();
    let names = vendor.names();
    let cases = [
        ("sign now --key rsa.pem", "is a public key where a private one is needed"),
        ("sign now --key locked.key", "the private key is encrypted"),
        ("sign now --key long.key", "longer than"),
        ("sign now --key now", "no private key"),
        ("sign now --key nowhere", "cannot read nowhere"),
        ("sign now nowhere --key rsa.key", "cannot read nowhere"),
        ("sign now rsa.pem --key rsa.key", "no boot manifest"),
        (
            "sign now --key rsa.key --pcrs 8,10",
            "cannot use now: the sha256 bank has no value for PCR 10",
        ),
        ("sign now --key rsa.key --append broken", "no file of signed policies"),
        ("sign now --key rsa.key --append nowhere", "cannot read nowhere"),
    ];
    for (line, want) in cases {
        let ran = vendor.run(&format!("{line} --output signed"));
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{line}");
        assert!(ran.stderr.contains(want), "{line}: {}", ran.stderr);
    }
    for input in ["now", "rsa.key", "./rsa.key"] {
        let before = std::fs::read(vendor.path(input)).unwrap();
        let ran = vendor.run(&format!("sign next now --key rsa.key --output {input}"));
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{input}");
        assert!(ran.stderr.contains("is read here"), "{}", ran.stderr);
        assert_eq!(std::fs::read(vendor.path(input)).unwrap(), before);
    }
    let ran = vendor.run("sign now --key rsa.key --output .");
    assert!(ran.code == 2 && ran.stderr.contains("no regular file"), "{}", ran.stderr);
    let ran = vendor.run("sign now --key rsa.key --output nowhere/signed");
    assert!(ran.code == 2 && ran.stderr.contains("cannot write nowhere/signed"), "{}", ran.stderr);
    let ran = vendor.run("verify-signature signed --key rsa.key");
    assert!(ran.code == 2 && ran.stderr.contains("is a private key"), "{}", ran.stderr);
    assert_eq!(vendor.run("sign --key rsa.key").code, 64);
    assert_eq!(std::fs::read(vendor.path("signed")).unwrap(), before);
    assert_eq!(vendor.names(), names);
}

#[test]
fn the_name_of_a_key_is_what_policy_authorize_takes() {
    let vendor = Vendor::new();
    let by_key = vendor.done("policy authorize --key ec.pem");
    let pem = std::fs::read(vendor.path("ec.pem")).unwrap();
    let key = pcr_measure::key::PublicKey::parse(&pem).unwrap();
    let name = hex::encode(key.tpm_name().unwrap());
    assert_eq!(vendor.done(&format!("policy authorize --key-name {name}")), by_key);
    // A TPM's public area has a Name of its own: here the same.
    std::fs::write(vendor.path("area"), key.to_tpm_public().unwrap()).unwrap();
    assert_eq!(vendor.done("policy authorize --key area"), by_key);
    assert_eq!(vendor.run(&format!("policy authorize --key area --key-name {name}")).code, 64);
}
