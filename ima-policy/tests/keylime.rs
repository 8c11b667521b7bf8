//! Our runtime policies are those that Keylime's own tool makes (`keylime-policy create
//! runtime`, 7.14.3), and its verifier's functions take them. Keylime comes from PyPI, pinned
//! by hash, into the cache (`keylime/install.rs`).

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

#[path = "keylime/install.rs"]
mod install;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use install::{keylime, python, said};
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What Keylime's tool makes of these arguments, but for when.
fn theirs(keylime: &Path, args: &[&OsStr]) -> Value {
    let out = tempfile::NamedTempFile::new().unwrap();
    let main = "from keylime.cmd.keylime_policy import main; main()";
    let all =
        [&["create".as_ref(), "runtime".as_ref()], args, &["-o".as_ref(), out.path().as_ref()]];
    let output = python(keylime, main, &all.concat());
    assert!(output.status.success(), "{}", said(&output));
    without_time(&fs::read(out.path()).unwrap())
}

fn ours(args: &[&OsStr]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_ima-policy"))
        .args(["reference", "--as=keylime"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output.stdout
}

/// Parsed by Python, which takes names that are no UTF-8; they come back written as here.
fn without_time(json: &[u8]) -> Value {
    // Lone surrogates are no strings of Rust's.
    let text = String::from_utf8(json.to_vec()).unwrap().replace("\\udc", "\\\\udc");
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["meta"].as_object_mut().unwrap().remove("timestamp");
    value
}

fn compare(keylime: &Path, their_args: &[&OsStr], our_args: &[&OsStr]) -> Value {
    let (theirs, ours) = (theirs(keylime, their_args), ours(our_args));
    let valid = "import json, sys; from keylime.ima import ima; \
                 ima.validate_runtime_policy(json.load(sys.stdin))";
    let mut child = Command::new(keylime.join("bin/python3"))
        .args(["-c", valid])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &ours).unwrap();
    assert!(child.wait().unwrap().success());
    let ours = without_time(&ours);
    assert_eq!(ours, theirs);
    ours
}

/// A line with the template digest that its data have.
fn line(template: &str, digest: &str, name: &str, more: Option<&[u8]>) -> String {
    let (algorithm, hash) = digest.split_once(':').unwrap();
    let digest_field = [algorithm.as_bytes(), b":\0", &hex::decode(hash).unwrap()].concat();
    let name_field = [name.as_bytes(), b"\0"].concat();
    let mut fields = vec![digest_field, name_field];
    fields.extend(more.map(<[u8]>::to_vec));
    let mut data = Sha1::new();
    for field in &fields {
        data.update(u32::try_from(field.len()).unwrap().to_le_bytes());
        data.update(field);
    }
    let more = more.map(|more| format!(" {}", hex::encode(more))).unwrap_or_default();
    format!("10 {} {template} {digest} {name}{more}\n", hex::encode(data.finalize()))
}

fn sha256(text: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(text)))
}

/// A certificate, as the kernel measures a key.
fn certificate(dir: &Path) -> Vec<u8> {
    let der = dir.join("certificate");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=test", "-outform", "DER", "-keyout"])
        .arg(dir.join("key"))
        .arg("-out")
        .arg(&der)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    fs::read(der).unwrap()
}

/// A list with everything that the tool treats in a way of its own.
fn list(dir: &Path) -> String {
    let certificate = certificate(dir);
    let trailing = [&certificate[..], b"\0"].concat();
    let sha1 = "ab".repeat(20);
    let zeros = "00".repeat(20);
    let v2 = format!("10 {} ima-ngv2 verity:{} /verity\n", "11".repeat(20), sha256(b"v"));
    [
        line("ima-ng", &sha256(b"boot"), "boot_aggregate", None),
        line("ima-ng", &sha256(b"1"), "/init", None),
        line("ima-ng", &sha256(b"2"), "/bin/sh", None),
        line("ima-ng", &sha256(b"3"), "/bin/sh", None),
        line("ima-ng", &sha256(b"2"), "/bin/sh", None),
        line("ima-sig", &sha256(b"4"), "/lib/ä", Some(b"\x03\x02")),
        line("ima-sig", &sha256(b"5"), "/lib/unsigned", Some(b"")),
        line("ima-ng", &format!("sha1:{sha1}"), "/old", None),
        line("ima-ng", &format!("sha512:{}", "cd".repeat(64)), "/new", None),
        // Left out: another template, another PCR.
        format!("10 {} ima {sha1} /oldest\n", "22".repeat(20)),
        v2,
        format!(" 9 {} ima-ng {} /nine\n", "33".repeat(20), sha256(b"9")),
        format!("11 {} ima-ng {} /eleven\n", "33".repeat(20), sha256(b"11")),
        // A violation.
        format!("10 {zeros} ima-ng sha256:{} /violated\n", "00".repeat(32)),
        // A blank, which no kernel writes.
        line("ima-ng", &sha256(b"6"), "/a b", None),
        line("ima-buf", &sha256(&certificate), ".ima", Some(&certificate)),
        line("ima-buf", &sha256(&certificate), ".evm", Some(&certificate)),
        line("ima-buf", &sha256(&trailing), ".platform", Some(&trailing)),
        line("ima-buf", &sha256(b"quiet"), "kexec-cmdline", Some(b"quiet")),
        line("ima-buf", &sha256(b""), "empty", Some(b"")),
    ]
    .concat()
}

#[test]
fn policies_of_lists_are_equal() {
    let Some(keylime) = keylime() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("list");
    let (list_arg, m) = (path.as_os_str(), OsStr::new("-m"));
    let both = ["-k".as_ref(), "-b".as_ref(), m, list_arg];
    fs::write(&path, list(dir.path())).unwrap();
    let policy = compare(keylime, &both, &["--from-list".as_ref(), list_arg]);
    assert_eq!(policy["digests"].as_object().unwrap().len(), 10);
    assert_eq!(policy["keyrings"].as_object().unwrap().len(), 2);
    assert_eq!(policy["ima-buf"].as_object().unwrap().len(), 3);

    let excludes = dir.path().join("excludes");
    fs::write(&excludes, "/var/log/.*\n\n/tmp/\n").unwrap();
    let more: [&OsStr; 6] = [
        "--ignored-keyrings".as_ref(),
        ".evm".as_ref(),
        "--ignored-keyrings".as_ref(),
        "*".as_ref(),
        "-e".as_ref(),
        excludes.as_ref(),
    ];
    let ours: [&OsStr; 6] = [
        "--from-list".as_ref(),
        list_arg,
        "--exclude=/tmp/".as_ref(),
        "--exclude=/var/log/.*".as_ref(),
        "--ignore-keyring=.evm".as_ref(),
        "--ignore-keyring=*".as_ref(),
    ];
    let policy = compare(keylime, &[&both[..], &more].concat(), &ours);
    assert_eq!(policy["keyrings"].as_object().unwrap().len(), 1);
}

#[test]
fn policies_of_roots_are_equal() {
    let Some(keylime) = keylime() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Mounts of this machine's own names are left out by the tool, of a root too.
    let root = dir.path().join("root");
    for name in ["usr/bin", "var/lib", "usr/var", "a b", "opt/skipped", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
        fs::write(root.join(name).join("file"), name).unwrap();
    }
    fs::write(root.join("a b/c d"), "c d").unwrap();
    fs::write(root.join("usr/ä\"\\\t"), "letters").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"usr/\xff\xe2\x82")), "no text").unwrap();
    fs::write(root.join("usr/somebodys"), "x").unwrap();
    std::os::unix::fs::chown(root.join("usr/somebodys"), Some(1000), None).unwrap();
    std::os::unix::fs::symlink("file", root.join("usr/link")).unwrap();
    let skipped = root.join("opt/skipped");
    let rootfs: [&OsStr; 4] = ["--rootfs".as_ref(), root.as_ref(), "-s".as_ref(), skipped.as_ref()];
    let ours: [&OsStr; 2] = [root.as_ref(), "--skip=/opt/skipped".as_ref()];
    let policy = compare(keylime, &rootfs, &ours);
    let files: Vec<_> = policy["digests"].as_object().unwrap().keys().collect();
    assert_eq!(files.len(), 6, "{files:?}");
    // With a list of SHA-1, the root has SHA-1 as well.
    let list = dir.path().join("list");
    let aggregate = format!("sha1:{}", "0a".repeat(20));
    fs::write(&list, line("ima-ng", &aggregate, "boot_aggregate", None)).unwrap();
    let with = [&rootfs[..], &["-m".as_ref(), list.as_ref()]].concat();
    let policy =
        compare(keylime, &with, &[&ours[..], &["--from-list".as_ref(), list.as_ref()]].concat());
    assert_eq!(policy["digests"]["/usr/bin/file"][0].as_str().unwrap().len(), 40);
    for hash in ["sha384", "sha512"] {
        let flag = format!("--hash={hash}");
        let with = [&rootfs[..], &["--algo".as_ref(), hash.as_ref()]].concat();
        compare(keylime, &with, &[&ours[..], &[flag.as_ref()]].concat());
    }
}

/// Its verifier takes a list by our policy, and not one with a file that is changed.
#[test]
fn its_verifier_judges_by_our_policy() {
    let Some(keylime) = keylime() else { return };
    let dir = tempfile::tempdir().unwrap();
    let good = [
        line("ima-ng", &sha256(b"boot"), "boot_aggregate", None),
        line("ima-sig", &sha256(b"1"), "/bin/ls", Some(b"")),
        line("ima-buf", &sha256(b"quiet"), "kexec-cmdline", Some(b"quiet")),
    ];
    let list = dir.path().join("list");
    fs::write(&list, good.concat()).unwrap();
    let policy = dir.path().join("policy");
    fs::write(&policy, ours(&["--from-list".as_ref(), list.as_ref()])).unwrap();
    let judge = "import json, sys; from keylime.ima import ima\n\
        lines = open(sys.argv[2]).read().split('\\n')\n\
        _, failure = ima.process_measurement_list(None, lines, json.load(open(sys.argv[1])))\n\
        sys.exit(3 if failure else 0)";
    let judged = |text: String| {
        fs::write(&list, text).unwrap();
        python(keylime, judge, &[policy.as_ref(), list.as_ref()]).status.code()
    };
    assert_eq!(judged(good.concat()), Some(0));
    let changed = line("ima-sig", &sha256(b"2"), "/bin/ls", Some(b""));
    assert_eq!(judged(good.concat() + &changed), Some(3));
    let unknown = line("ima-sig", &sha256(b"1"), "/bin/la", Some(b""));
    assert_eq!(judged(good.concat() + &unknown), Some(3));
}
