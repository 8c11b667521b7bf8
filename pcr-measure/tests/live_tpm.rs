//! The commands that need a TPM, on an emulated one, with tpm2-tools as the second
//! opinion.
#![cfg(all(feature = "cli", feature = "tpm"))]
// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::process::{Command, Output};

use common::Tpm;

/// What a command said, and its exit code.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `pcr-measure` in the test's directory against its TPM.
fn measure(tpm: &Tpm, line: &str) -> Said {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pcr-measure"))
        .args(line.split_whitespace())
        .current_dir(tpm.path(""))
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn done(tpm: &Tpm, line: &str) -> String {
    let said = measure(tpm, line);
    assert_eq!(said.code, Some(0), "{line}: {}{}", said.out, said.err);
    said.out
}

fn refused(tpm: &Tpm, line: &str, why: &str) {
    let said = measure(tpm, line);
    assert_eq!(said.code, Some(2), "{line}: {}{}", said.out, said.err);
    assert!(said.err.contains(why), "{line}: {}", said.err);
    assert!(!said.err.contains("ERROR:"), "the library is silent: {}", said.err);
}

#[test]
fn reading_equals_tpm2_pcrread() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.tool(&format!("tpm2_pcrextend 3:sha256={}", "11".repeat(32)));
    for (ours, theirs) in [
        ("read", "tpm2_pcrread"),
        ("read --bank sha384", "tpm2_pcrread sha384"),
        ("read --pcrs 0-9,15", "tpm2_pcrread sha256:0,1,2,3,4,5,6,7,8,9,15"),
        ("read --bank sha1 --pcrs 17", "tpm2_pcrread sha1:17"),
        ("read --pcrs sha512:0", "tpm2_pcrread sha512:0"),
    ] {
        assert_eq!(done(&tpm, ours), tpm.tool(theirs), "{ours}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&done(&tpm, "read --pcrs 3 --format json")).unwrap();
    let value = json["banks"]["sha256"]["3"].as_str().unwrap();
    assert!(tpm.tool("tpm2_pcrread sha256:3").contains(&value.to_uppercase()));
}

#[test]
fn a_bank_that_the_tpm_lacks_is_named_with_those_it_has() {
    let Some(tpm) = Tpm::start() else { return };
    refused(&tpm, "read --bank sm3_256", "no active sm3_256 bank; it has sha1, sha256");
    refused(&tpm, "read --bank sha1 --pcrs sha384:0", "name two banks");
    refused(&tpm, "read --pcrs 24", "there is no PCR 24");
    refused(&tpm, "read --bank md5", "unknown hash algorithm");
}

#[test]
fn quotes_are_the_ones_that_tpm2_checkquote_takes() {
    let Some(tpm) = Tpm::start() else { return };
    done(&tpm, "create-ak --public ak.pub --pem ak.pem");
    let again = done(&tpm, "create-ak --format json");
    let name = serde_json::from_str::<serde_json::Value>(&again).unwrap()["name"].clone();
    let public = tpm.tool("tpm2_readpublic -c 0x81010002 -o theirs.pub");
    assert!(public.contains(name.as_str().unwrap()), "{public}");
    for pcrs in ["--pcrs 0-9", "--pcrs sha384:0,23", "--pcrs 0 --pcrs sha1:1-3", "--pcrs 0+sha1:2"]
    {
        let files = "--message m --signature s --values v";
        done(&tpm, &format!("quote --nonce c0ffee {pcrs} {files}"));
        tpm.tool("tpm2_checkquote -u ak.pem -m m -s s -q c0ffee -g sha256");
        let values = std::fs::read_to_string(tpm.path("v")).unwrap();
        for line in values.lines().filter(|line| line.contains("0x")) {
            assert!(tpm.tool("tpm2_pcrread").contains(line), "{line}");
        }
    }
}

#[test]
fn what_cannot_be_quoted_writes_no_file() {
    let Some(tpm) = Tpm::start() else { return };
    done(&tpm, "create-ak");
    tpm.tool("tpm2_createprimary -C o -c srk -G ecc");
    tpm.tool("tpm2_evictcontrol -C o -c srk 0x81000001");
    let quote = |rest: &str| format!("quote --message m --signature s {rest}");
    let long = "00".repeat(67);
    for (line, why) in [
        (quote("--nonce 00 --pcrs 0 --ak 0x81010099"), "no key at 0x81010099"),
        (quote("--nonce 00 --pcrs sm3_256:0"), "no active sm3_256 bank"),
        (quote("--nonce 0 --pcrs 0"), "no hexadecimal digits"),
        (quote(&format!("--nonce {long} --pcrs 0")), "the nonce has 67 bytes"),
        (quote("--nonce 00 --pcrs 0 --tcti bogus"), "names no TPM"),
        (quote("--nonce 00 --pcrs 0 --pcrs 0"), "sha256 bank is named twice"),
        (quote("--nonce 00 --pcrs 0+sha1:0+sha256:1"), "sha256 bank is named twice"),
        (quote("--nonce 00 --pcrs 0 --values ./m"), "is named for two outputs"),
        ("create-ak --handle 0x81000001".to_owned(), "no restricted signing key"),
    ] {
        refused(&tpm, &line, why);
        assert!(!tpm.path("m").exists() && !tpm.path("s").exists(), "{line}");
    }
    // The premise: the same way with nothing in it.
    let json = done(&tpm, &quote("--nonce 00 --pcrs 0 --format json"));
    assert_eq!(json, done(&tpm, "read --pcrs 0 --format json"));
    assert!(tpm.path("m").exists() && tpm.path("s").exists());
}

#[test]
fn extending_equals_tpm2_pcrevent_in_every_bank() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.write("file", &[0x5a; 300_000]);
    let said = done(&tpm, "extend --pcr 16 --file file");
    let theirs = tpm.tool("tpm2_pcrevent 23 file");
    assert_eq!(said, theirs);
    tpm.tool("tpm2_pcrreset 16");
    tpm.tool("tpm2_pcrevent 16 file");
    let once = tpm.tool("tpm2_pcrread sha1:16+sha256:16+sha384:16+sha512:16");
    tpm.tool("tpm2_pcrreset 16");
    done(&tpm, "extend --pcr 16 --file file");
    assert_eq!(tpm.tool("tpm2_pcrread sha1:16+sha256:16+sha384:16+sha512:16"), once);
    // One digest, one bank.
    let digest = "5a".repeat(48);
    done(&tpm, &format!("extend --pcr 16 --bank sha384 --digest {digest}"));
    let after = tpm.tool("tpm2_pcrread sha256:16");
    assert!(once.contains(after.lines().last().unwrap()), "sha256 did not move");
    assert_ne!(tpm.tool("tpm2_pcrread sha384:16"), once);
}

#[test]
fn what_was_extended_is_logged_and_replays_to_the_pcr() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.write("file", b"content");
    for _ in 0..2 {
        done(&tpm, "extend --pcr 23 --file file --event-log log");
    }
    let replayed = done(&tpm, "log replay log --bank sha256");
    assert_eq!(replayed, tpm.tool("tpm2_pcrread sha256:23"));
    assert!(done(&tpm, "log show log").contains("file"));
}

#[test]
fn a_measurement_that_the_tpm_refuses_leaves_the_log_as_it_was() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.write("file", b"content");
    done(&tpm, "extend --pcr 23 --file file --event-log log");
    let before = std::fs::read(tpm.path("log")).unwrap();
    // PCR 17 belongs to a dynamic launch: not to be extended from locality 0.
    refused(&tpm, "extend --pcr 17 --file file --event-log log", "the TPM answers 0x");
    assert_eq!(std::fs::read(tpm.path("log")).unwrap(), before);
    done(&tpm, "extend --pcr 23 --file file --event-log log");
    for (line, why) in [
        ("extend --pcr 23 --file no-such-file --event-log log", "cannot read no-such-file"),
        ("extend --pcr 24 --file file", "there is no PCR 24"),
        ("extend --pcr 23 --digest 00", "--digest"),
        ("extend --pcr 23 --bank sm3_256 --digest 00", "--digest"),
    ] {
        refused(&tpm, line, why);
    }
}

#[test]
fn a_digest_of_a_bank_that_is_not_active_is_not_said_to_be_measured() {
    let Some(tpm) = Tpm::start() else { return };
    tpm.tool("tpm2_pcrallocate sha1:none+sha256:all+sha384:none+sha512:none");
    tpm.tool("swtpm_ioctl --unix tpm.ctrl -i");
    tpm.tool("tpm2_startup -c");
    let digest = "11".repeat(20);
    // The premise: the TPM itself says that all is well.
    tpm.tool(&format!("tpm2_pcrextend 16:sha1={digest}"));
    let line = format!("extend --pcr 16 --bank sha1 --digest {digest} --event-log log");
    refused(&tpm, &line, "no active sha1 bank; it has sha256");
    assert!(!tpm.path("log").exists());
}

#[test]
fn an_empty_variable_names_no_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    let read = Command::new(env!("CARGO_BIN_EXE_pcr-measure"))
        .args(["read", "--pcrs", "0"])
        .env("TPM2TOOLS_TCTI", "")
        .env("TCTI", tpm.tcti())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

/// The whole way of an attestation, on a TPM that a device's boot was measured into.
#[test]
fn a_device_that_is_up_attests_the_boot_of_its_manifest() {
    let Some(tpm) = Tpm::start() else { return };
    let vectors = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let vector = |name: &str| vectors.join(name).display().to_string();
    let manifest = vector("uboot-expected.manifest.json");
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    for event in json["events"].as_array().unwrap() {
        let (pcr, digest) = (&event["pcr"], event["digest"].as_str().unwrap());
        done(&tpm, &format!("extend --pcr {pcr} --digest {digest}"));
    }
    done(&tpm, "create-ak --public ak.pub");
    let quote = "quote --nonce 01 --pcrs 0-9,15 --message m --signature s --values v";
    let verify = format!(
        "verify-quote --nonce 01 --pcrs 0-9,15 --message m --signature s --values v --key ak.pub \
         --log {} --manifest {manifest}",
        vector("uboot-expected.bin")
    );
    let explain =
        format!("explain --pcrs live --log {} --manifest {manifest}", vector("uboot-expected.bin"));
    // Before the unlock and after it: the latch says nothing about what booted.
    done(&tpm, quote);
    done(&tpm, &verify);
    assert!(!done(&tpm, &explain).contains("latch"));
    done(&tpm, &format!("extend --pcr 15 --digest {}", "5a".repeat(32)));
    done(&tpm, quote);
    done(&tpm, &verify);
    assert!(done(&tpm, &explain).contains("the latch is shut"));
    // Something more is measured: neither says yes any more.
    done(&tpm, &format!("extend --pcr 9 --digest {}", "5a".repeat(32)));
    done(&tpm, quote);
    assert_eq!(measure(&tpm, &verify).code, Some(1));
    assert_eq!(measure(&tpm, &explain).code, Some(1));
}

/// What a verifier that has the endorsement key alone needs, to know whose the attestation key is.
#[test]
fn a_credential_is_opened_for_this_key_of_this_tpm_alone() {
    let Some(tpm) = Tpm::start() else { return };
    const AK: u32 = 0x8101_0003;
    let mut ours = pcr_measure::tpm::Tpm::from_tcti(&tpm.tcti()).unwrap();
    let public = ours.ensure_rsa_ak(AK).unwrap();
    assert_eq!(ours.ensure_rsa_ak(AK).unwrap(), public, "kept");
    let name = pcr_measure::structures::TpmPublic::parse(&public).unwrap().name().unwrap();
    let endorsement = ours.ek_public().unwrap();
    let size = u16::try_from(endorsement.len()).unwrap().to_be_bytes();
    tpm.write("ek", &[&size[..], &endorsement].concat());
    tpm.write("secret", &[7; 32]);
    // A header of eight bytes, TPM2B_ID_OBJECT, TPM2B_ENCRYPTED_SECRET.
    let credential = |name: &[u8]| {
        drop(std::fs::remove_file(tpm.path("credential")));
        let name = hex::encode(name);
        let tcti = "--tcti none";
        tpm.tool(&format!("tpm2_makecredential {tcti} -u ek -s secret -n {name} -o credential"));
        let bytes = std::fs::read(tpm.path("credential")).unwrap();
        let length = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let (blob, behind) = (length(8), 10 + length(8));
        assert_eq!(behind + 2 + length(behind), bytes.len());
        (bytes[10..10 + blob].to_vec(), bytes[behind + 2..].to_vec())
    };
    let (blob, secret) = credential(&name);
    for _ in 0..5 {
        assert_eq!(ours.activate_credential(AK, &blob, &secret).unwrap(), [7; 32]);
    }
    // For another key, changed, for another TPM. What was made for it is gone each time: a TPM
    // has room for a few objects and sessions alone.
    let mut other = name.clone();
    *other.last_mut().unwrap() ^= 1;
    let (foreign, its_secret) = credential(&other);
    let mut changed = blob.clone();
    *changed.last_mut().unwrap() ^= 1;
    for _ in 0..5 {
        ours.activate_credential(AK, &foreign, &its_secret).unwrap_err();
        ours.activate_credential(AK, &changed, &secret).unwrap_err();
    }
    assert_eq!(ours.activate_credential(AK, &blob, &secret).unwrap(), [7; 32], "premise");
    let Some(elsewhere) = Tpm::start() else { return };
    let mut theirs = pcr_measure::tpm::Tpm::from_tcti(&elsewhere.tcti()).unwrap();
    theirs.ensure_rsa_ak(AK).unwrap();
    theirs.activate_credential(AK, &blob, &secret).unwrap_err();
}

#[test]
fn a_key_certifies_itself() {
    let Some(tpm) = Tpm::start() else { return };
    let mut ours = pcr_measure::tpm::Tpm::from_tcti(&tpm.tcti()).unwrap();
    for (handle, rsa) in [(0x8101_0002, false), (0x8101_0003, true)] {
        let public = if rsa { ours.ensure_rsa_ak(handle) } else { ours.ensure_ak(handle) }.unwrap();
        let name = pcr_measure::structures::TpmPublic::parse(&public).unwrap().name().unwrap();
        let certified = ours.certify_itself(handle, b"nonce").unwrap();
        let attest = pcr_measure::structures::Attest::parse(&certified.message).unwrap();
        assert_eq!((attest.kind, attest.extra_data), (0x8017, &b"nonce"[..]));
        assert!(certified.message.windows(name.len()).any(|window| window == name));
        tpm.write("m", &certified.message);
        tpm.write("s", &certified.signature);
        tpm.tool(&format!(
            "tpm2_verifysignature -Q --tcti {} -c {handle:#x} -m m -s s -t t -g sha256",
            tpm.tcti()
        ));
    }
}
