//! `ima-policy verify`: lists of files that were signed, changed, and never seen.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;
mod made;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{List, digest, text};
use made::Made;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Exit code and what was told.
fn verify(list: &Path, args: &[&str]) -> (i32, Value, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_ima-policy"))
        .arg("verify")
        .arg(list)
        .args(args)
        .args(["--format", "json"])
        .output()
        .unwrap();
    let told = serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null);
    (ran.status.code().unwrap(), told, String::from_utf8(ran.stderr).unwrap())
}

fn faults(told: &Value) -> Vec<(u64, &str)> {
    let of = |fault: &'_ Value| fault["entry"].as_u64().unwrap();
    let list = told["entries_with_faults"].as_array().unwrap();
    list.iter().map(|its| (of(its), its["fault"].as_str().unwrap())).collect()
}

#[test]
fn a_list_is_judged_entry_by_entry_by_reference_and_keyring() {
    let made = Made::new();
    let (reference, key) = (made.path("reference"), made.path("key.pub"));
    let mut list = List::new();
    list.file("boot_aggregate", b"the boot", b"");
    list.file("/a", b"a", &made.signature("a"));
    list.file("/b", b"b", b"");
    // From here on something is wrong, by the reference, by the keyring, or by both.
    list.file("/b", b"another b", b"");
    list.file("/new but signed", b"a", &made.signature("a"));
    list.file("/new", b"new", b"");
    list.file("/new", b"new", &made.signature("a"));
    list.file("/b", b"a", &made.signature("a"));
    list.buffer(".ima", b"a key", b"a key");
    list.buffer(".ima", b"a key", b"another key");
    let boot = hex::encode(Sha256::digest(b"the boot"));
    for path in list.write(made.dir.path()) {
        let with = |args: &[&str]| {
            let (code, told, _) = verify(&path, args);
            let faults: Vec<_> =
                faults(&told).into_iter().map(|(at, what)| (at, what.to_owned())).collect();
            assert_eq!(code, i32::from(!faults.is_empty()), "{told}");
            faults
        };
        let own = |faults: &[(u64, &str)]| -> Vec<_> {
            faults.iter().map(|(at, what)| (*at, (*what).to_owned())).collect()
        };
        assert_eq!(with(&[]), own(&[(10, "buffer")]));
        assert_eq!(
            with(&["--boot-aggregate", &boot, "--reference", &reference]),
            own(&[
                (4, "changed"),
                (5, "unknown"),
                (6, "unknown"),
                (7, "unknown"),
                (8, "changed"),
                (9, "unknown"),
                (10, "buffer")
            ])
        );
        assert_eq!(
            with(&["--boot-aggregate", &boot, "--keyring", &key]),
            own(&[
                (3, "unknown"),
                (4, "unknown"),
                (6, "unknown"),
                (7, "bad_signature"),
                (10, "buffer")
            ])
        );
        assert_eq!(
            with(&["--boot-aggregate", &boot, "--keyring", &key, "--reference", &reference]),
            own(&[
                (4, "changed"),
                (6, "unknown"),
                (7, "bad_signature"),
                // Well signed, but not what this name has: somebody put it there.
                (8, "changed"),
                (9, "unknown"),
                (10, "buffer")
            ])
        );
        let other = "00".repeat(32);
        let told = with(&["--boot-aggregate", &other, "--keyring", &key]);
        assert_eq!(told[0], (1, "other_boot".to_owned()));
        // A key that signed nothing here vouches for nothing.
        let told = with(&["--keyring", &made.path("other.pub")]);
        assert_eq!(told.iter().filter(|(_, what)| what == "unknown").count(), 7);
    }
}

#[test]
fn the_pcr_says_which_entries_are_vouched_for() {
    let made = Made::new();
    let mut list = List::new();
    list.file("/a", b"a", &made.signature("a"));
    list.file("/b", b"b", &made.signature("b"));
    let quoted = hex::encode(list.sha256);
    for path in list.write(made.dir.path()) {
        let (code, told, _) = verify(&path, &["--pcr10", &quoted]);
        assert_eq!((code, &told["pcr"]["vouched_for"]), (0, &Value::from(2)));
        let (code, told, _) = verify(&path, &["--pcr10", &format!("sha256:{}", "11".repeat(32))]);
        assert_eq!((code, &told["pcr"]["vouched_for"]), (1, &Value::Null), "{told}");
        let (code, _, said) = verify(&path, &["--pcr10", "md5:00"]);
        assert_eq!(code, 2, "{said}");
    }
    // It went on after the quote.
    list.file("/late", b"late", b"");
    for path in list.write(made.dir.path()) {
        let (code, told, _) = verify(&path, &["--pcr10", &quoted]);
        assert_eq!((code, &told["pcr"]["vouched_for"]), (0, &Value::from(2)));
        assert_eq!(told["entries"], 3);
    }
    // One letter of a name.
    let [ascii, _] = list.write(made.dir.path());
    fs::write(&ascii, list.text.replace(" /b ", " /c ")).unwrap();
    let (code, told, _) = verify(&ascii, &["--pcr10", &quoted]);
    assert_eq!((code, faults(&told)), (1, vec![(2, "broken")]));
}

#[test]
fn a_list_that_is_cut_or_of_an_unknown_template_is_named() {
    let made = Made::new();
    let mut list = List::new();
    list.file("/a", b"a", b"");
    let whole = list.binary.len();
    list.add("ima-next", &[digest(b"a"), text("/a")]);
    let [ascii, binary] = list.write(made.dir.path());
    for path in [&ascii, &binary] {
        let (code, told, said) = verify(path, &[]);
        assert_eq!((code, &told["entries"]), (2, &Value::from(1)));
        assert!(said.contains("entry 2: template `ima-next` is not known"), "{said}");
    }
    fs::write(&binary, &list.binary[..whole - 1]).unwrap();
    let (code, _, said) = verify(&binary, &[]);
    assert!(code == 2 && said.contains("ends within entry 1"), "{said}");
    fs::write(&binary, &list.binary[..whole]).unwrap();
    assert_eq!(verify(&binary, &[]).0, 0, "premise");
    fs::write(&binary, "").unwrap();
    let (code, _, said) = verify(&binary, &[]);
    assert!(code == 2 && said.contains("is empty"), "{said}");
}

/// A program on a mount that has no path is listed by its last part.
#[test]
fn a_program_that_is_called_boot_aggregate_is_none() {
    let made = Made::new();
    let key = made.path("key.pub");
    let boot = hex::encode(Sha256::digest(b"the boot"));
    let mut list = List::new();
    list.file("boot_aggregate", b"the boot", b"");
    let [ascii, _] = list.write(made.dir.path());
    for args in [&["--keyring", &key][..], &["--keyring", &key, "--boot-aggregate", &boot]] {
        assert_eq!(verify(&ascii, args).0, 0, "premise");
    }
    list.file("boot_aggregate", b"a program", b"");
    let [ascii, _] = list.write(made.dir.path());
    for args in [&["--keyring", &key][..], &["--keyring", &key, "--boot-aggregate", &boot]] {
        let (code, told, _) = verify(&ascii, args);
        assert_eq!((code, faults(&told)), (1, vec![(2, "unknown")]));
    }
}

/// What the field's own tool says of the same list.
#[test]
fn evmctl_replays_to_the_same_pcr() {
    let made = Made::new();
    let mut list = List::new();
    list.file("/a", b"a", &made.signature("a"));
    list.file("/b", b"b", b"");
    let [_, binary] = list.write(made.dir.path());
    let pcrs = made.path("pcrs");
    let evmctl = |value: &str| {
        // As the kernel shows the PCRs of a TPM 1.2; all 24 are wanted.
        let line = |number| {
            let bytes = if number == 10 { hex::decode(value).unwrap() } else { vec![0; 32] };
            let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("PCR-{number:02}: {}\n", bytes.join(" "))
        };
        fs::write(&pcrs, (0..24).map(line).collect::<String>()).unwrap();
        let ran = Command::new("evmctl")
            .args(["ima_measurement", "--pcrs", &format!("sha256,{pcrs}")])
            .arg(&binary)
            .output();
        match ran {
            Ok(ran) => Some(ran.status.success()),
            Err(_) if std::env::var_os("MSEC_REQUIRE_TOOLS").is_none() => None,
            Err(error) => panic!("evmctl: {error}"),
        }
    };
    let quoted = hex::encode(list.sha256);
    let Some(taken) = evmctl(&quoted) else { return };
    assert!(taken);
    assert_eq!(verify(&binary, &["--pcr10", &quoted]).0, 0);
    let other = "11".repeat(32);
    assert_eq!(evmctl(&other), Some(false), "premise");
    assert_eq!(verify(&binary, &["--pcr10", &other]).0, 1);
}

/// Entries are read in the memory of one: the address space holds the program and its
/// libraries, and the list has more bytes than that.
#[test]
fn a_long_list_takes_no_memory() {
    const ENTRIES: usize = 250_000;
    const KIB: u64 = 40 << 10;
    let dir = tempfile::tempdir().unwrap();
    let mut list = List::new();
    list.file(
        "/usr/lib/aarch64-linux-gnu/a-library-with-a-name-of-some-length.so.6",
        b"a",
        &[3; 72],
    );
    let path = dir.path().join("list");
    fs::write(&path, list.binary.repeat(ENTRIES)).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > KIB << 10);
    let limited = |kib: u64| {
        let line = format!("ulimit -v {kib}; exec \"$0\" verify \"$1\" --format json");
        Command::new("sh")
            .args(["-c", &line, env!("CARGO_BIN_EXE_ima-policy")])
            .arg(&path)
            .output()
            .unwrap()
    };
    let ran = limited(KIB);
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((ran.status.code(), &told["entries"]), (Some(0), &Value::from(ENTRIES)));
    assert!(!limited(2 << 10).status.success(), "premise: there is a limit");
}
