//! The Debian package: what dpkg finds in it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "tests may fail"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use image_builder::deb;

fn run(program: &str, args: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(args).arg(file).output().expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_package_holds_program_hooks_and_manual_and_runs_no_script() {
    let dir = tempfile::tempdir().unwrap();
    let path = deb::make(b"program", " one 1.0 MIT\n", dir.path()).unwrap();
    assert!(path.file_name().unwrap().to_str().unwrap().ends_with("_arm64.deb"), "{path:?}");

    let contents = run("dpkg-deb", &["--contents"], &path);
    let files: Vec<(&str, &str)> = contents
        .lines()
        .filter(|line| !line.starts_with('d'))
        .map(|line| {
            let mut words = line.split_whitespace();
            let mode = words.next().unwrap();
            assert_eq!(words.next(), Some("root/root"), "{line}");
            (mode, words.next_back().unwrap())
        })
        .collect();
    let (plain, program) = ("-rw-r--r--", "-rwxr-xr-x");
    let module = "./usr/lib/dracut/modules.d/90initramfs-unseal";
    let expected = [
        (plain, "./etc/initramfs-unseal.json.example".to_owned()),
        (program, format!("{module}/module-setup.sh")),
        (program, format!("{module}/unlock.sh")),
        (program, "./usr/sbin/initramfs-unseal".to_owned()),
        (plain, "./usr/share/doc/initramfs-unseal/copyright".to_owned()),
        (plain, "./usr/share/doc/initramfs-unseal/other-initramfs.md".to_owned()),
        (program, "./usr/share/initramfs-tools/hooks/initramfs-unseal".to_owned()),
        (program, "./usr/share/initramfs-tools/scripts/local-top/initramfs-unseal".to_owned()),
        (plain, "./usr/share/man/man8/initramfs-unseal-unlock.8.gz".to_owned()),
        (plain, "./usr/share/man/man8/initramfs-unseal.8.gz".to_owned()),
    ];
    for (mode, name) in &expected {
        assert!(files.contains(&(*mode, name.as_str())), "{mode} {name} in {contents}");
    }
    assert!(
        run("dpkg-deb", &["--field"], &path)
            .contains("\nDepends: initramfs-tools-core | dracut-core\n")
    );
    let control = dir.path().join("control");
    let args = ["--control", path.to_str().unwrap()];
    run("dpkg-deb", &args, &control);
    let mut names: Vec<_> =
        fs::read_dir(&control).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["conffiles", "control", "triggers"], "no script of a maintainer");
}

#[test]
fn the_same_inputs_give_the_same_package() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = deb::make(b"program", "", &dir.path().join(name)).unwrap();
        fs::read(path).unwrap()
    };
    assert_eq!(make("one"), make("two"));
}

#[test]
fn the_scripts_are_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let path = deb::make(b"program", "", dir.path()).unwrap();
    let root = dir.path().join("root");
    run("dpkg-deb", &["--extract", path.to_str().unwrap()], &root);
    for (shell, name) in [
        ("sh", "usr/share/initramfs-tools/hooks/initramfs-unseal"),
        ("sh", "usr/share/initramfs-tools/scripts/local-top/initramfs-unseal"),
        ("sh", "usr/lib/dracut/modules.d/90initramfs-unseal/unlock.sh"),
        ("bash", "usr/lib/dracut/modules.d/90initramfs-unseal/module-setup.sh"),
    ] {
        run(shell, &["-n"], &root.join(name));
    }
}
