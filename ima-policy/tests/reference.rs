//! The command `ima-policy reference`, from its arguments to its files.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

use ima_policy::reference::Reference;
use serde_json::Value;

fn reference(args: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ima-policy")).arg("reference").args(args).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(args: &[&OsStr]) -> Value {
    let output = reference(args);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert!(Reference::from_json(&output.stdout).is_ok());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A root with all that a root may have.
fn root(dir: &Path) {
    for name in ["usr/bin", "var/cache/apt", "a b", "empty"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    fs::write(dir.join("usr/bin/sh"), "shell").unwrap();
    fs::write(dir.join("a b/c d"), vec![7; 1 << 20]).unwrap();
    fs::write(dir.join("a b/c_d"), "another one of that name").unwrap();
    fs::write(dir.join("var/cache/apt/x"), "").unwrap();
    fs::write(dir.join(OsStr::from_bytes(b"\xff%")), "no text").unwrap();
    symlink("usr/bin", dir.join("bin")).unwrap();
    symlink("/etc/passwd", dir.join("passwd")).unwrap();
    Command::new("mkfifo").arg(dir.join("pipe")).status().unwrap();
}

/// What `sha256sum` says of a file.
fn sum(program: &str, path: &Path) -> String {
    let output = Command::new(program).arg("-b").arg("-z").arg(path).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().to_owned()
}

#[test]
fn a_roots_files_have_the_digests_that_coreutils_finds() {
    let dir = tempfile::tempdir().unwrap();
    root(dir.path());
    let found = json(&[dir.path().as_ref(), "--hash=sha256".as_ref(), "--hash=sha1".as_ref()]);
    let mut want: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, name) in [
        (OsStr::new("usr/bin/sh"), "/usr/bin/sh"),
        (OsStr::new("a b/c d"), "/a_b/c_d"),
        (OsStr::new("a b/c_d"), "/a_b/c_d"),
        (OsStr::new("var/cache/apt/x"), "/var/cache/apt/x"),
        (OsStr::from_bytes(b"\xff%"), "/%FF%25"),
    ] {
        want.entry(name.to_owned()).or_default().push(sum("sha256sum", &dir.path().join(path)));
    }
    want.values_mut().for_each(|digests| digests.sort());
    let files = found["files"].as_object().unwrap();
    let have: BTreeMap<String, Vec<String>> = files
        .iter()
        .map(|(name, its)| (name.clone(), serde_json::from_value(its["sha256"].clone()).unwrap()))
        .collect();
    assert_eq!(have, want);
    let sha1 = sum("sha1sum", &dir.path().join("usr/bin/sh"));
    assert_eq!(found["files"]["/usr/bin/sh"]["sha1"], serde_json::json!([sha1]));
    let skipped = json(&[dir.path().as_ref(), "--skip=/var/cache".as_ref()]);
    assert_eq!(skipped["files"].as_object().unwrap().len(), want.len() - 1);
}

#[test]
fn a_mount_in_a_root_is_not_entered() {
    let root = Path::new("/proc/self");
    let (inside, outside) = (root.join("root/proc/version"), root.join("root/etc/passwd"));
    assert!(inside.exists() && outside.exists(), "premise");
    let found = json(&[
        "/".as_ref(),
        "--skip=/usr".as_ref(),
        "--skip=/var".as_ref(),
        "--skip=/msec".as_ref(),
    ]);
    let files = found["files"].as_object().unwrap();
    assert!(files.contains_key("/etc/passwd"));
    assert!(!files.keys().any(|name| name.starts_with("/proc/")));
}

/// An image as image-builder makes it: a table of a PC with a FAT and an ext4.
fn image(dir: &Path, from: &Path) -> std::path::PathBuf {
    let (part, image) = (dir.join("part"), dir.join("image"));
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .arg(from)
        .arg(&part)
        .arg("16M")
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", said(&made));
    let mut bytes = vec![0; 1 << 20];
    for (at, kind, first) in [(446, 0x0c, 1_u32), (462, 0x83, 2048)] {
        bytes[at + 4] = kind;
        bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&32768_u32.to_le_bytes());
    }
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes.extend(fs::read(&part).unwrap());
    fs::write(&image, bytes).unwrap();
    image
}

#[test]
fn an_image_has_the_reference_of_the_root_that_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("root");
    fs::create_dir(&from).unwrap();
    root(&from);
    let image = image(dir.path(), &from);
    let want = json(&[from.as_ref()]);
    assert_eq!(json(&[image.as_ref()]), want);
    assert_eq!(json(&[dir.path().join("part").as_ref()]), want);
    assert_eq!(json(&[image.as_ref(), from.as_ref()]), want, "merged with itself");
    // Encrypted, with a second ext4, and cut.
    let good = fs::read(&image).unwrap();
    let mut luks = good.clone();
    luks[1 << 20..(1 << 20) + 6].copy_from_slice(b"LUKS\xba\xbe");
    let mut second = good.clone();
    second[478 + 4] = 0x83;
    second.copy_within(462 + 8..462 + 12, 478 + 8);
    let cut = good[..good.len() / 16].to_vec();
    for (bytes, want) in
        [(luks, "encrypted"), (second, "several"), (cut, ""), (vec![0; 4096], "neither")]
    {
        fs::write(&image, bytes).unwrap();
        let output = reference(&[image.as_ref()]);
        assert_eq!(output.status.code(), Some(2));
        assert!(said(&output).contains(want), "{want}: {}", said(&output));
        assert!(output.stdout.is_empty());
    }
}

/// Root reads everything, so the test is somebody else.
#[test]
fn a_file_that_cannot_be_read_is_named_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    root(dir.path());
    let secret = dir.path().join("usr/bin/secret");
    fs::write(&secret, "x").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let out = tempfile::tempdir().unwrap();
    fs::set_permissions(out.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // Somebody else may not be able to start it where it lies.
    let program = out.path().join("ima-policy");
    // By another process: what this one has open for writing, children of other tests inherit, and
    // then it cannot be started.
    let built = env!("CARGO_BIN_EXE_ima-policy");
    assert!(Command::new("cp").arg(built).arg(&program).status().unwrap().success());
    let output = out.path().join("reference.json");
    let run = || {
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&program)
            .arg("reference")
            .arg(dir.path())
            .arg("--output")
            .arg(&output)
            .output()
            .unwrap()
    };
    let good = run();
    assert_eq!(good.status.code(), Some(0), "premise: {}", said(&good));
    let before = fs::read(&output).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let bad = run();
    assert_eq!(bad.status.code(), Some(2));
    assert!(said(&bad).contains("/usr/bin/secret"), "{}", said(&bad));
    assert_eq!(fs::read(&output).unwrap(), before, "the old one stays");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 2, "nothing is left beside it");
}

#[test]
fn inputs_are_merged_and_the_list_says_by_which_hash() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("root");
    fs::create_dir(&from).unwrap();
    root(&from);
    let list = dir.path().join("list");
    let sha512 = "ab".repeat(64);
    let line = |name: &str| format!("10 {} ima-ng sha512:{sha512} {name}\n", "0f".repeat(20));
    fs::write(&list, line("boot_aggregate") + &line("/init")).unwrap();
    let merged = json(&[from.as_ref(), "--from-list".as_ref(), list.as_ref()]);
    assert_eq!(merged["files"]["/init"]["sha512"][0], sha512);
    let own = &merged["files"]["/usr/bin/sh"];
    assert_eq!(own["sha512"][0], sum("sha512sum", &from.join("usr/bin/sh")));
    let saved = dir.path().join("saved");
    let output =
        reference(&["--from-list".as_ref(), list.as_ref(), "--output".as_ref(), saved.as_ref()]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 files, 0 keyrings, 0 buffers\n");
    let again =
        json(&["--merge".as_ref(), saved.as_ref(), from.as_ref(), "--hash=sha512".as_ref()]);
    assert_eq!(again, merged);
    // A list that is cut teaches nothing.
    let text = fs::read(&list).unwrap();
    fs::write(&list, &text[..text.len() - 3]).unwrap();
    let output = reference(&["--from-list".as_ref(), list.as_ref()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("within entry 2"), "{}", said(&output));
    assert!(output.stdout.is_empty());
    assert_eq!(reference(&[]).status.code(), Some(64));
}

#[test]
fn boots_come_of_manifests_and_nothing_else_does() {
    let manifest = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../pcr-measure/tests/vectors/uboot-expected.manifest.json"
    );
    let run = |line: &str| {
        let args: Vec<&OsStr> = line.split(' ').map(OsStr::new).collect();
        reference(&args)
    };
    let dir = tempfile::tempdir().unwrap();
    // As a boot partition has it.
    let padded = dir.path().join("padded");
    fs::write(&padded, [fs::read(manifest).unwrap(), vec![b'\n'; 4096]].concat()).unwrap();
    let padded = padded.display();
    let output = run(&format!("--as keylime-boot --manifest {manifest} --manifest {padded}"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let boots = value["boots"].as_array().unwrap();
    assert_eq!((boots.len(), boots[0]["events"].as_array().unwrap().len()), (1, 13));

    let policy = dir.path().join("policy");
    let to = format!("--as keylime-boot --manifest {manifest} --output {}", policy.display());
    assert_eq!(run(&to).stdout, b"1 boots\n");
    assert_eq!(fs::read(&policy).unwrap(), output.stdout);
    let other = dir.path().join("other");
    fs::write(&other, r#"{"schema":"x"}"#).unwrap();
    for (line, code, told) in [
        (format!("--as keylime-boot {}", dir.path().display()), 2, "give them with --manifest"),
        (format!("--manifest {manifest}"), 2, "--as keylime-boot alone"),
        (format!("--as keylime-boot --manifest {manifest} --skip x"), 64, "cannot be used with"),
        (format!("--as keylime-boot --manifest {}", other.display()), 2, "cannot use"),
    ] {
        let output = run(&line);
        assert_eq!(output.status.code(), Some(code), "{line}: {}", said(&output));
        assert!(said(&output).contains(told), "{line}: {}", said(&output));
    }
}
