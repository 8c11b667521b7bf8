//! The command's output, word by word, and its exit codes.
//!
//! `UPDATE_GOLDEN=1 cargo test` writes the files of `tests/golden` anew.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "cli")]

#[path = "common/command.rs"]
mod command;

use std::path::PathBuf;

use command::{NONCE, quote, run, run_with, vector};

const VERIFY: &str = "verify-signature systemd-measure.json --key systemd-measure.pem";

#[test]
fn output_is_as_in_the_golden_files() {
    const EXPLAIN: &str = "explain --manifest uboot-expected.manifest.json";
    let expected = "--log uboot-expected.bin --pcrs uboot-expected.pcrs";
    let other = "--log uboot-other-initramfs.bin --pcrs uboot-other-initramfs.pcrs";
    // The log of the good boot beside the TPM's values of the other one.
    let forged = "--log uboot-expected.bin --pcrs uboot-other-initramfs.pcrs";
    let manifest = "uboot-expected.manifest.json";
    let pcr_11 = "--pcrs 11 --values systemd-measure.pcrs";
    let other_11 = "--pcrs 11 --values uboot-expected.pcrs";
    // Any file of this directory stands for an artifact.
    let artifact = "predict uboot-expected.manifest.json --artifact kernel=aavmf-sha256.bin";
    let variants = format!("{artifact} --variant next:initramfs=uboot-other-initramfs.bin");
    let later = quote("ecdsa-later", "ecdsa");
    let both = "--log uboot-expected.bin --manifest uboot-expected.manifest.json";
    let initramfs = quote("other-initramfs", "ecdsa");
    let other_log = "--log uboot-other-initramfs.bin";
    let cases = [
        ("log-show.txt", "log show uboot-expected.bin".to_owned(), 0),
        ("log-show-uefi.txt", "log show --bank sha1 aavmf-4banks.bin".to_owned(), 0),
        ("log-show.json", "log show --format json uboot-expected.bin".to_owned(), 0),
        ("log-replay.txt", "log replay aavmf-4banks.bin --bank sha384".to_owned(), 0),
        ("log-replay.json", "log replay aavmf-sha1-sha512.bin --format json".to_owned(), 0),
        ("log-show-userspace.txt", "log show systemd-pcrextend.log".to_owned(), 0),
        ("log-show-userspace.json", "log show systemd-pcrextend.log --format json".to_owned(), 0),
        (
            "log-replay-userspace.txt",
            "log replay systemd-pcrextend.log --bank sha256".to_owned(),
            0,
        ),
        ("predict.txt", format!("predict {manifest}"), 0),
        ("predict.json", format!("predict {manifest} --format json"), 0),
        ("predict-artifact.txt", artifact.to_owned(), 0),
        ("predict-variants.txt", variants.clone(), 0),
        ("predict-variants.json", format!("{variants} --format json"), 0),
        ("explain-expected.txt", format!("{EXPLAIN} {expected}"), 0),
        ("explain-other-initramfs.txt", format!("{EXPLAIN} {other}"), 1),
        ("explain-other-initramfs.json", format!("{EXPLAIN} {other} --format json"), 1),
        ("explain-forged-log.txt", format!("{EXPLAIN} {forged}"), 1),
        ("explain-log-alone.txt", format!("{EXPLAIN} --log uboot-other-initramfs.bin"), 1),
        ("policy-pcr.txt", format!("policy pcr --manifest {manifest}"), 0),
        ("policy-authorize.txt", "policy authorize --key systemd-measure.pem".to_owned(), 0),
        ("verify-signature.txt", VERIFY.to_owned(), 0),
        ("verify-signature.json", format!("{VERIFY} {pcr_11} --format json"), 0),
        ("verify-signature-other-values.txt", format!("{VERIFY} {other_11}"), 1),
        ("verify-signature-other-values.json", format!("{VERIFY} {other_11} --format json"), 1),
        ("policy-or.json", format!("policy or {0} {0} --format json", "ab".repeat(32)), 0),
        ("quote-good.txt", format!("{later} {both} --previous quote-ecdsa.msg"), 0),
        ("quote-good.json", format!("{later} {both} --previous quote-ecdsa.msg --format json"), 0),
        ("quote-other-log.txt", format!("{later} {other_log}"), 1),
        ("quote-other-initramfs.txt", format!("{initramfs} {other_log} --manifest {manifest}"), 1),
        (
            "quote-other-initramfs.json",
            format!("{initramfs} {both} --previous quote-ecdsa-later.msg --format json"),
            1,
        ),
        (
            "quote-backwards.txt",
            format!("{} --previous quote-ecdsa-later.msg", quote("ecdsa", "ecdsa")),
            1,
        ),
        ("quote-refused.txt", later.replace(NONCE, "0102"), 1),
        ("quote-refused.json", format!("{later} --format json").replace("0,1,8", "0,8"), 1),
    ];
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for (name, line, code) in cases {
        let ran = run(&line);
        assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "{line}");
        let file = golden.join(name);
        if update {
            std::fs::write(&file, &ran.stdout).unwrap();
        }
        assert_eq!(ran.stdout, std::fs::read_to_string(&file).unwrap(), "{line}");
    }
}

#[test]
fn a_prediction_is_what_the_tpm_held() {
    let predicted = run("predict uboot-expected.manifest.json").stdout;
    let held = std::fs::read_to_string(vector("uboot-expected.pcrs")).unwrap();
    assert!(held.starts_with(&predicted));
    assert_eq!(predicted.lines().count(), 11);
}

#[test]
fn artifacts_that_are_what_the_manifest_measured_change_nothing() {
    let line = "command line=console=ttyAMA0,115200 panic=10 ima_policy=tcb";
    let version = "U-Boot version=U-Boot 2025.01-msec (Jan 01 2026 - 00:00:00 +0000)";
    let predict = ["predict", "uboot-expected.manifest.json", "--text", line, "--text", version];
    let plain = run("predict uboot-expected.manifest.json").stdout;
    assert_eq!(run_with(&predict).stdout, plain);
    let other = run_with(&["predict", "uboot-expected.manifest.json", "--text", "command line=x"]);
    let changed = |(a, b): &(&str, &str)| a != b;
    assert_eq!(other.stdout.lines().zip(plain.lines()).filter(changed).count(), 1);
}

#[test]
fn a_variant_stands_on_top_of_the_artifacts() {
    // The other kernel of the variant takes the place of that of the artifact.
    let ran = run_with(&[
        "predict",
        "uboot-expected.manifest.json",
        "--artifact",
        "kernel=README.md",
        "--variant",
        "next:kernel=aavmf-sha256.bin",
        "--variant-text",
        "next:command line=x",
        "--variant",
        "safe:initramfs=README.md",
    ]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let next = run_with(&[
        "predict",
        "uboot-expected.manifest.json",
        "--artifact",
        "kernel=aavmf-sha256.bin",
        "--text",
        "command line=x",
    ]);
    let labels: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(labels, ["# now", "# next", "# safe"]);
    let (_, behind) = ran.stdout.split_once("# next\n").unwrap();
    assert!(behind.starts_with(&next.stdout));
}

#[test]
fn a_variant_of_a_text_that_no_note_can_hold_is_a_text() {
    let dir = tempfile::TempDir::new().unwrap();
    let measured = pcr_measure::manifest::Measurement::of_c_string("quiet");
    let manifest = pcr_measure::manifest::Manifest::builder("i", "b")
        .event(1, "arguments", measured, "quiet")
        .seal(&[1])
        .build()
        .unwrap();
    let file = dir.path().join("m.json");
    std::fs::write(&file, manifest.to_json().unwrap()).unwrap();
    let predict = format!("predict {} --text arguments=\u{e9}", file.display());
    let ran = run(&format!("{predict} --variant-text next:arguments=quiet"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let same = run(&format!("predict {}", file.display())).stdout;
    assert!(ran.stdout.ends_with(&format!("# next\n{same}")), "{}", ran.stdout);
    let ran = run(&format!("{predict} --variant next:arguments=README.md"));
    assert_eq!(ran.code, 2, "{}", ran.stdout);
    assert!(ran.stderr.contains("give it as text"), "{}", ran.stderr);
}

#[test]
fn several_manifests_are_told_apart_by_image_or_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let text = std::fs::read_to_string(vector("uboot-expected.manifest.json")).unwrap();
    let other = dir.path().join("other.json");
    std::fs::write(&other, text.replace("rpi3-lab", "rpi3-field")).unwrap();
    let labels = |line: String| {
        let ran = run(&line);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let lines = ran.stdout.lines().filter_map(|line| line.strip_prefix("# "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = "uboot-expected.manifest.json";
    assert_eq!(labels(format!("predict {first} {}", other.display())), ["rpi3-lab", "rpi3-field"]);
    std::fs::write(&other, &text).unwrap();
    let both = format!("predict {first} {}", other.display());
    assert_eq!(labels(both), ["uboot-expected.manifest", "other"]);
}

#[test]
fn the_manifest_of_the_vectors_is_written_as_we_write_manifests() {
    let text = std::fs::read_to_string(vector("uboot-expected.manifest.json")).unwrap();
    let manifest = pcr_measure::manifest::Manifest::from_json(text.as_bytes()).unwrap();
    assert_eq!(manifest.to_json().unwrap(), text);
}

#[test]
fn the_signed_policies_of_the_vectors_are_written_as_we_write_them() {
    let text = std::fs::read_to_string(vector("systemd-measure.json")).unwrap();
    let file = pcr_measure::signed_policy::SignatureFile::from_json(text.as_bytes()).unwrap();
    assert_eq!(file.to_json().unwrap(), text);
}

#[test]
fn a_policy_can_be_made_from_values_as_from_a_manifest() {
    let pcrs = "--pcrs 0,1,8,9,15";
    let from_values = run(&format!("policy pcr {pcrs} --values uboot-expected.pcrs"));
    let from_manifest = run("policy pcr --manifest uboot-expected.manifest.json");
    assert_eq!(from_values.code, 0);
    assert_eq!(from_values.stdout, from_manifest.stdout);
}

#[test]
fn policies_chain() {
    // A trial session of swtpm 0.7.1 with tpm2-tools 5.7, all PCRs zero:
    // tpm2_policypcr -l sha256:0,1, then tpm2_policyauthvalue.
    let dir = tempfile::TempDir::new().unwrap();
    let zeros = dir.path().join("zeros.json");
    let zero = "00".repeat(32);
    std::fs::write(&zeros, format!("{{\"0\":\"{zero}\",\"1\":\"{zero}\"}}")).unwrap();
    let pcr = run(&format!("policy pcr --pcrs 0,1 --values {}", zeros.display())).stdout;
    assert_eq!(pcr, "182c84e9792152b63f7716ef2c303b0e34442f51e72883f944b18d3075b45719\n");
    let both = run(&format!("policy auth-value --start {}", pcr.trim())).stdout;
    assert_eq!(both, "8de5425b09fd5bbeedf755a68c9befe3320f44ff13abbfb07c7fbc7cd5258a94\n");
    // tpm2_policyauthorize with this Name and the policyRef "aa".
    let line = format!("policy authorize --key-name 000b{zero} --policy-ref 6161");
    let authorize = run(&line).stdout;
    assert_eq!(authorize, "f756e7fc687641bbdad950174dce2e1ab8674c73eb3b5474617f257fa13689a7\n");
}

#[test]
fn a_cut_log_is_shown_up_to_the_cut() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("cut");
    let whole = std::fs::read(vector("uboot-expected.bin")).unwrap();
    std::fs::write(&file, &whole[..300]).unwrap();
    for command in ["show", "replay"] {
        let ran = run(&format!("log {command} {}", file.display()));
        assert_eq!(ran.code, 1);
        let at = format!("{}: broken at byte 279, after 4 events: ", file.display());
        let what = "the log ends inside the event";
        assert_eq!(ran.stderr, format!("pcr-measure: {at}{what}\n"));
        assert!(!ran.stdout.is_empty());
    }
}

#[test]
fn a_log_of_banks_that_are_not_known_says_why_it_leads_nowhere() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("log");
    let record = br#"{"pcr":11,"digests":[{"hashAlg":"whirlpool","digest":"00"}]}"#;
    std::fs::write(&file, [b"\x1e".as_slice(), record, b"\n"].concat()).unwrap();
    let ran = run(&format!("log replay {}", file.display()));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert!(ran.stderr.contains("no record has a digest of a bank known here"), "{}", ran.stderr);
}

/// PCR, type, SHA-256 digest or none, data.
type LogEvent<'a> = (u32, u32, Option<[u8; 32]>, &'a [u8]);

/// A crypto-agile log of the SHA-256 bank.
fn agile_log(events: &[LogEvent<'_>]) -> Vec<u8> {
    let header =
        [b"Spec ID Event03\0".as_slice(), &[0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]]
            .concat();
    let mut log = [[0, 0, 0, 0, 3, 0, 0, 0].as_slice(), &[0; 20]].concat();
    log.extend((header.len() as u32).to_le_bytes());
    log.extend(header);
    for (pcr, event_type, digest, data) in events {
        for field in [*pcr, *event_type, u32::from(digest.is_some())] {
            log.extend(field.to_le_bytes());
        }
        if let Some(digest) = digest {
            log.extend([0x0b, 0]);
            log.extend(digest);
        }
        log.extend((data.len() as u32).to_le_bytes());
        log.extend(*data);
    }
    log
}

#[test]
fn a_log_alone_never_calls_a_boot_good_that_it_cannot_vouch_for() {
    let dir = tempfile::TempDir::new().unwrap();
    let manifest = pcr_measure::manifest::Manifest::builder("i", "b")
        .event(0, "firmware", b"firmware".as_slice(), "")
        .seal(&[0])
        .build()
        .unwrap();
    std::fs::write(dir.path().join("m.json"), manifest.to_json().unwrap()).unwrap();
    let digest = Some(*pcr_measure::Sha256Digest::of(b"firmware").as_bytes());
    let firmware = (0, 8, digest, b"".as_slice());
    let start = (0, 3, Some([0; 32]), b"StartupLocality\0\x03".as_slice());
    let whole = agile_log(&[firmware]);
    // One more event, of which its last byte is missing.
    let mut cut = agile_log(&[firmware, firmware]);
    cut.pop();
    let cases = [
        (whole, 0, "Every PCR is as expected (as the log tells it", ""),
        (cut, 1, "Not known: PCR 0; the log is not whole", "broken at byte 115, after 2 events"),
        (
            agile_log(&[firmware, (0, 13, None, b"x")]),
            1,
            "Not known: PCR 0; the log is not whole",
            "bank sha256: 1 event has no digest of this bank",
        ),
        (
            agile_log(&[start, firmware]),
            1,
            "differs: PCR 0, value of the PCR",
            "PCR 0 started from locality 3",
        ),
        (agile_log(&[firmware, start]), 1, "differs: PCR 0, value of the PCR", "locality 3"),
    ];
    for (log, code, stdout, stderr) in cases {
        let file = dir.path().join("log");
        std::fs::write(&file, &log).unwrap();
        let explain = format!("explain --manifest {0}/m.json --log {0}/log", dir.path().display());
        let ran = run(&explain);
        assert_eq!(ran.code, code, "{}", ran.stdout);
        assert!(ran.stdout.contains(stdout), "{}", ran.stdout);
        assert!(ran.stderr.contains(stderr), "{}", ran.stderr);
        // Beside the values that `log replay` computes it is believed.
        if code == 1 && stdout.starts_with("differs") {
            let values = dir.path().join("pcrs");
            std::fs::write(&values, run(&format!("log replay {}", file.display())).stdout).unwrap();
            let ran = run(&format!("{explain} --pcrs {}", values.display()));
            assert_eq!(ran.code, 1, "{}", ran.stdout);
            assert!(!ran.stdout.contains("not believed"), "{}", ran.stdout);
        }
    }
}

#[test]
fn a_log_of_userspace_that_is_not_whole_says_what_it_lacks() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("log");
    let whole = std::fs::read(vector("systemd-pcrextend.log")).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 10]).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o1600)).unwrap();
    for command in ["show", "replay --bank sha256"] {
        let ran = run(&format!("log {command} {}", file.display()));
        assert_eq!(ran.code, 1);
        let lines: Vec<_> = ran.stderr.lines().collect();
        assert!(lines[0].contains("after 5 records: the record is no JSON"), "{}", lines[0]);
        assert!(lines[1].contains("a measurement is not in it"), "{}", lines[1]);
        assert!(!ran.stdout.is_empty());
    }
    let ran = run("log replay systemd-pcrextend.log --format json");
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("bank sha1: 5 records have no digest of this bank"));
    std::fs::write(&file, b"\x1e{}").unwrap();
    let ran = run(&format!("log show {}", file.display()));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("is no log of userspace's measurements"), "{}", ran.stderr);
}

#[test]
fn a_quote_can_be_asked_for_in_other_words() {
    let two = quote("rsapss", "rsapss");
    let rsapss = [
        two.replace("0,1,8,9,15", "sha256:0,1,8,9,15+sha384:0,23"),
        two.replace("0,1,8,9,15", "15,9,8,0-1 --pcrs sha384:0,23"),
        two.replace("0,1,8,9,15", "sha384:0,23+0,1,8,9,15"),
    ];
    let from_log = quote("ecdsa", "ecdsa").replace("--values quote-ecdsa.pcrs", "");
    let good = [
        format!("{from_log} --log uboot-expected.bin"),
        quote("ecdsa", "ecdsa").replace("quote-ecdsa.pcrs", "uboot-expected.pcrs"),
    ];
    for line in rsapss.iter().chain(&good) {
        let ran = run(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}: {}", ran.stdout);
    }
    let other_log = run(&format!("{from_log} --log uboot-other-initramfs.bin"));
    assert_eq!(other_log.code, 1);
    assert!(other_log.stdout.starts_with("refused (digest): "), "{}", other_log.stdout);
    assert!(other_log.stderr.contains("--values"), "{}", other_log.stderr);
}

#[test]
fn an_earlier_answer_stands_for_an_earlier_quote() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("earlier.json");
    std::fs::write(&file, run(&format!("{} --format json", quote("ecdsa", "ecdsa"))).stdout)
        .unwrap();
    let later = quote("ecdsa-later", "ecdsa");
    let by_answer = run(&format!("{later} --previous {}", file.display()));
    let by_message = run(&format!("{later} --previous quote-ecdsa.msg"));
    assert_eq!(by_answer.code, 0);
    assert_eq!(by_answer.stdout, by_message.stdout);
    // One that was refused then is none.
    let refused = quote("ecdsa", "ecdsa").replace(NONCE, "00");
    std::fs::write(&file, run(&format!("{refused} --format json")).stdout).unwrap();
    let ran = run(&format!("{later} --previous {}", file.display()));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("it was refused then"), "{}", ran.stderr);
}

#[test]
fn what_a_pem_key_does_not_say_is_said() {
    let ran = run(&quote("ecdsa", "ecdsa").replace("ecdsa.pub", "ecdsa.pem"));
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.contains("does not say whether the key is restricted"), "{}", ran.stderr);
}

#[test]
fn pcrs_of_the_seal_that_are_not_quoted_are_not_as_expected() {
    let line = quote("rsassa", "rsassa");
    assert_eq!(run(&format!("{line} --manifest uboot-expected.manifest.json")).code, 0);
    let manifest = std::fs::read_to_string(vector("uboot-expected.manifest.json")).unwrap();
    let more = manifest.replace("    15\n", "    15,\n    16\n");
    assert_ne!(more, manifest);
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("more.json");
    std::fs::write(&file, more).unwrap();
    let line = format!("{line} --manifest {}", file.display());
    let ran = run(&line);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.stdout.contains("PCR 16: in the manifest's seal, but not quoted"),
        "{}",
        ran.stdout
    );
}

#[test]
fn manual_pages_and_completions_name_every_command() {
    let help = run("--help").stdout;
    assert!(!help.contains("docs"), "{help}");
    let dir = tempfile::TempDir::new().unwrap();
    let ran = run(&format!("docs --man {}", dir.path().display()));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    for page in ["", "-log", "-log-show", "-predict", "-explain", "-policy-or", "-verify-quote"] {
        let page = dir.path().join(format!("pcr-measure{page}.1"));
        assert!(std::fs::read_to_string(&page).unwrap().contains(".SH NAME"), "{}", page.display());
    }
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&format!("docs --completions {shell}"));
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stdout.contains("verify-quote"), "{shell}");
    }
    for (code, line, want) in [
        (2, "docs --man nowhere", "cannot write manual pages into nowhere"),
        (64, "docs", "--man <DIR>|--completions <SHELL>"),
        (64, "docs --man . --completions bash", "cannot be used with"),
    ] {
        let ran = run(line);
        assert_eq!(ran.code, code, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(want), "{line}: {}", ran.stderr);
    }
}
