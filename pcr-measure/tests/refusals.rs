//! What the command refuses, and how it says so.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "cli")]

#[path = "common/command.rs"]
mod command;

use std::process::Command;

use command::{NONCE, quote, run, run_with, vector};

const VERIFY: &str = "verify-signature systemd-measure.json --key systemd-measure.pem";
const VALUES: &str = "uboot-expected.pcrs";

#[test]
fn what_cannot_be_written_changes_no_answer_and_is_no_panic() {
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let command = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pcr-measure"));
        command.args(line.split_whitespace()).current_dir(vector(""));
        command
    };
    for (line, code) in [
        ("log show nowhere", 2),
        ("log show aavmf-sha256.bin.yaml", 2),
        ("log show --bogus", 2),
        ("verify-signature systemd-measure.json --key quote-rsassa.pem", 1),
    ] {
        let status = command(line).stderr(full()).output().unwrap().status;
        assert_eq!(status.code(), Some(code), "{line}");
    }
    for line in ["log show uboot-expected.bin", "--help"] {
        let output = command(line).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}");
    }
    let output = command("log show uboot-expected.bin").stdout(full()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("cannot write to standard output: No space left"), "{said}");
}

#[test]
fn no_file_writes_to_the_terminal_what_it_likes() {
    let dir = tempfile::TempDir::new().unwrap();
    let escape = "\\u001b[2J";
    let long = "x".repeat(60_000);
    for (line, content) in [
        ("predict", format!("{{\"{escape}\":1}}")),
        ("predict", format!("{{\"{long}\":1}}")),
        ("verify-signature --key systemd-measure.pem", format!("{{\"sha256\":\"{long}\"}}")),
        ("verify-signature --key systemd-measure.pem", format!("{{\"sha256\":\"{escape}\"}}")),
        ("policy pcr --pcrs 0 --values", format!("{{\"0\":[\"{escape}\"]}}")),
        ("log show", String::new()),
    ] {
        let file = dir.path().join("name of \x1b[2J");
        std::fs::write(&file, content).unwrap();
        let mut arguments: Vec<_> = line.split_whitespace().collect();
        arguments.push(file.to_str().unwrap());
        let ran = run_with(&arguments);
        assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
        assert!(!ran.stderr.trim_end().contains(char::is_control), "{:?}", ran.stderr);
        assert!(ran.stderr.len() < 400, "{line}: {}", ran.stderr.len());
    }
}

#[test]
fn a_log_of_very_many_events_is_shown_in_bounded_memory() {
    // Sixteen banks of which fifteen have digests of no bytes: many digests in few.
    let banks = (0x7000..0x700f_u16).map(|id| (id, 0_u16)).chain([(0x0b, 32)]);
    let banks: Vec<u8> =
        banks.flat_map(|(id, size)| [id.to_le_bytes(), size.to_le_bytes()].concat()).collect();
    let header =
        [b"Spec ID Event03\0".as_slice(), &[0, 0, 0, 0, 0, 2, 0, 2, 16, 0, 0, 0], &banks, &[0]];
    let header = header.concat();
    let ids: Vec<u8> = (0x7000..0x700f_u16).flat_map(u16::to_le_bytes).collect();
    let event = [&[0, 0, 0, 0, 13, 0, 0, 0, 15, 0, 0, 0], ids.as_slice(), &[0; 4]].concat();
    let size = (header.len() as u32).to_le_bytes();
    let mut log = [[0, 0, 0, 0, 3, 0, 0, 0].as_slice(), &[0; 20], &size, &header].concat();
    log.extend(event.repeat(2 * 1024 * 1024 / event.len()));
    let dir = tempfile::TempDir::new().unwrap();
    std::fs::write(dir.path().join("log"), log).unwrap();
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 130000 && exec \"$0\" log show --format json log"])
        .arg(env!("CARGO_BIN_EXE_pcr-measure"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn no_error_names_its_cause_twice() {
    for line in [
        "predict /dev/null",
        "verify-signature /dev/null --key systemd-measure.pem",
        "predict uboot-expected.bin",
    ] {
        let said = run(line).stderr;
        let last = said.trim_end().rsplit(": ").next().unwrap();
        assert_eq!(said.matches(last).count(), 1, "{said}");
    }
}

#[test]
fn what_cannot_be_done_says_why() {
    let quote = quote("ecdsa", "ecdsa");
    let long = "00".repeat(67);
    let two_banks = quote
        .replace("quote-ecdsa", "quote-rsapss")
        .replace("0,1,8,9,15", "0,1,8,9,15+sha384:0,23")
        .replace("quote-rsapss.pcrs", "uboot-expected.pcrs");
    let policy = "policy pcr --values uboot-expected.pcrs --pcrs";
    let manifest = "uboot-expected.manifest.json";
    let predict = format!("predict {manifest}");
    let cases = [
        (2, "log show nowhere".to_owned(), "cannot read nowhere"),
        (2, "log show README.md".to_owned(), "README.md is no TCG event log"),
        (2, "log show /dev/null".to_owned(), "is empty"),
        (2, "log show /dev/zero".to_owned(), "longer than"),
        (2, "log show --bank sha1 uboot-expected.bin".to_owned(), "no sha1 bank"),
        (2, "log show --bank sha1 uboot-expected.bin --format json".to_owned(), "no sha1 bank"),
        (2, format!("explain --log systemd-pcrextend.log --manifest {manifest}"), "userspace"),
        (2, "log replay --bank sm3_256 systemd-pcrextend.log".to_owned(), "no sm3_256 bank"),
        (2, "log show --bank md5 uboot-expected.bin".to_owned(), "md5"),
        (2, "predict uboot-expected.bin".to_owned(), "this is no boot manifest"),
        (
            2,
            format!("{predict} --artifact Kernel=README.md"),
            "no component \"Kernel\"; it has U-Boot",
        ),
        (2, format!("{predict} --artifact kernel=nowhere"), "cannot read the artifact nowhere"),
        (2, format!("{predict} --artifact kernel=/"), "cannot read the artifact /"),
        (2, format!("{predict} --artifact kernel"), "NAME=PATH"),
        (2, format!("{predict} --text kernel=x"), "\"kernel\" is no text"),
        (
            2,
            format!("{predict} --artifact kernel=README.md --artifact kernel=README.md"),
            "two artifacts are given for the component \"kernel\"",
        ),
        (
            2,
            format!("{predict} --variant a:kernel=README.md --variant a:kernel=README.md"),
            "variant \"a\": two artifacts are given for the component \"kernel\"",
        ),
        (2, format!("{predict} --variant Next:kernel=README.md"), "the label \"Next\""),
        (2, format!("{predict} --variant now:kernel=README.md"), "\"now\" is the label"),
        (2, format!("{predict} {manifest}"), "\"uboot-expected.manifest\": rename one"),
        (
            2,
            format!("{predict} {manifest} --variant next:kernel=README.md"),
            "the variant \"next\" needs one manifest",
        ),
        (2, format!("{policy} 24"), "there is no PCR 24"),
        (2, format!("{policy} sha256:"), "empty"),
        (2, format!("{policy} sha1:0"), "no sha1 values"),
        (
            2,
            "policy pcr --manifest uboot-expected.manifest.json --pcrs 23".to_owned(),
            "cannot use uboot-expected.manifest.json: the sha256 bank has no value for PCR 23",
        ),
        (
            2,
            format!("{policy} sha512:0"),
            "uboot-expected.pcrs: no sha512 values; banks with values: sha256",
        ),
        (2, "policy authorize --key-name zz".to_owned(), "--key-name"),
        (2, "policy nv --name 00 --operand 00".to_owned(), "no Name"),
        (
            2,
            "explain --log aavmf-sha1-sha512.bin --manifest uboot-expected.manifest.json"
                .to_owned(),
            "no sha256 bank",
        ),
        (2, "policy authorize --key uboot-expected.pcrs".to_owned(), "no public key"),
        (2, "verify-signature nowhere --key systemd-measure.pem".to_owned(), "cannot read nowhere"),
        (2, format!("verify-signature {VALUES} --key systemd-measure.pem"), "no file of signed"),
        (2, "verify-signature systemd-measure.json --key README.md".to_owned(), "no public key"),
        (64, format!("{VERIFY} --pcrs 11"), "--manifest <FILE>|--values <FILE>"),
        (64, format!("{VERIFY} --values {VALUES}"), "--pcrs"),
        (64, "policy authorize".to_owned(), "--key"),
        (2, quote.replace(NONCE, &long), "67 bytes"),
        (2, quote.replace(NONCE, "zz"), "--nonce"),
        (2, quote.replace("0,1,8,9,15", "24"), "there is no PCR 24"),
        (2, quote.replace("0,1,8,9,15", "sha256:"), "empty"),
        (2, quote.replace("0,1,8,9,15", "0,1+8,9,15"), "named twice"),
        (
            2,
            two_banks,
            "cannot use uboot-expected.pcrs: the digest cannot be computed: the sha384 bank has no value for PCR 0",
        ),
        (2, quote.replace("quote-ecdsa.msg", "nowhere"), "cannot read nowhere"),
        (2, quote.replace("quote-ecdsa.sig", "nowhere"), "cannot read nowhere"),
        (2, quote.replace("quote-ecdsa.pub", "nowhere"), "cannot read nowhere"),
        (2, quote.replace("quote-ecdsa.pcrs", "nowhere"), "cannot read nowhere"),
        (2, quote.replace("quote-ecdsa.pub", "README.md"), "no public key"),
        (
            2,
            quote.replace("quote-ecdsa.pcrs", "quote-ecdsa.msg"),
            "PCR values from quote-ecdsa.msg",
        ),
        (2, format!("{quote} --log nowhere"), "cannot read nowhere"),
        (2, format!("{quote} --manifest nowhere"), "cannot read nowhere"),
        (2, format!("{quote} --previous README.md"), "cannot use README.md as an earlier quote"),
        (2, format!("{quote} --previous quote-rsassa.msg"), "is of another key"),
        (2, format!("{quote} --log aavmf-sha1-sha512.bin"), "no sha256 bank"),
        (64, quote.replace("--values", "--previous"), "--values"),
        (64, "log".to_owned(), "Usage"),
        (64, "log show".to_owned(), "<FILE>"),
        (64, "nothing".to_owned(), "nothing"),
        (64, format!("policy or {}", "ab".repeat(32)), "2"),
    ];
    for (code, line, want) in cases {
        let ran = run(&line);
        assert_eq!(ran.code, code, "{line}: {}", ran.stderr);
        assert!(ran.stderr.contains(want), "{line}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{line}");
    }
    assert_eq!(run("--help").code, 0);
}
