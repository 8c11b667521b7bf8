//! Signatures that the shipped profiles do not use, before a kernel: by P-256, and of version 3
//! over the fs-verity digest. A root is signed by such a key, and files are added that are signed
//! here and verified there.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use ima_policy::{
    root::Root,
    sign::{Options, Plan, sign},
    signature::Version,
};
use image_builder::{
    artifacts::KeyDir,
    demo::journey::provision,
    emu::{card::Card, device::Device, shell::Shell},
    image::{packages::Package, tamper::Tamper},
    keys::{self, Role},
};
use msec_tests::{
    built::{built, scratch, tree},
    program::{call, install, program},
    slots,
};
use pcr_measure::Algorithm;

use crate::unseal_again::must;

/// Exit code of a shell for what may not be run (POSIX, 2.8.2).
const REFUSED: i32 = 126;

/// Files of this user are held to fs-verity, all others as the profile `appraise` does.
const OWNER: u32 = 7;

/// In place of the image's own policy, in its initramfs.
fn policy() -> Tamper {
    let text = format!(
        "measure func=BPRM_CHECK template=ima-sig\n\
         dont_appraise fsmagic=0x1021994\n\
         appraise func=BPRM_CHECK fowner={OWNER} digest_type=verity appraise_type=sigv3\n\
         appraise func=BPRM_CHECK appraise_type=imasig\n"
    );
    Tamper::Initramfs { path: "etc/ima/ima-policy".to_owned(), content: text.into_bytes() }
}

fn done(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    output.stdout
}

/// The keys of the image, but for the one that signs files: P-256.
fn elliptic(dir: &Path) -> KeyDir {
    let keys = KeyDir::new(dir.join("keys"));
    let (key, certificate) = (keys.private(Role::Ima), keys.certificate_of(Role::Ima));
    fs::create_dir(keys.dir()).unwrap();
    // Links: private keys stay where they are, and what is made here is no link.
    for entry in fs::read_dir(built().keys().dir()).unwrap() {
        let entry = entry.unwrap();
        let link = keys.dir().join(entry.file_name());
        if ![&key, &certificate].contains(&&link) {
            std::os::unix::fs::symlink(entry.path(), link).unwrap();
        }
    }
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-sha256", "-days", "3650", "-subj", "/CN=files by P-256"]);
    make.args(curve).args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    make.args(["-addext", "keyUsage=critical,digitalSignature"]);
    done(make.arg("-keyout").arg(key).arg("-out").arg(certificate));
    keys
}

/// A package with the program that sets attributes.
fn attributes(dir: &Path) -> Package {
    let root = dir.join("attributes");
    let program = root.join("usr/bin/attributes");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    let mut compile = Command::new("aarch64-linux-gnu-gcc");
    compile.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"]).arg(program);
    done(compile.arg(tree().join("tests/peers/attributes.c")));
    let control = "Package: attributes\nVersion: 1\nArchitecture: all\nMaintainer: nobody\n\
                   Description: sets attributes\n";
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    let deb = dir.join("attributes.deb");
    let build = ["--root-owner-group", "--build"];
    done(Command::new("dpkg-deb").args(build).arg(&root).arg(&deb));
    Package { name: "attributes".to_owned(), version: "1".to_owned(), deb }
}

/// A file's attributes by a signature of this version, as the board's file will be: `NAME HEX`.
fn signed(dir: &Path, keys: &KeyDir, content: &[u8], owner: u32, version: Version) -> [String; 2] {
    let dir = dir.join(format!("signed-{owner}-{version:?}"));
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("file");
    fs::write(&file, content).unwrap();
    std::os::unix::fs::chown(&file, Some(owner), Some(0)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let root = Root::open(&dir).unwrap();
    let options =
        Options { hash: Algorithm::Sha256, version, evm: true, jobs: None, dry_run: false };
    let key = keys::ima(keys).unwrap();
    let outcome = sign(&root, Plan::whole(&root), &key, options, &|_| ()).unwrap();
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    ["security.ima", "security.evm"].map(|name| {
        let mut get = Command::new("getfattr");
        get.args(["--absolute-names", "--only-values", "-n", name]).arg(&file);
        let hex: String = done(&mut get).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{name} {hex}")
    })
}

/// Puts a program on the board, with attributes.
fn place(shell: &mut Shell<'_>, path: &str, content: &[u8], owner: u32, attributes: &[String; 2]) {
    for command in install(content, path) {
        must(shell, &command);
    }
    must(shell, &format!("chown {owner}:0 {path}; chmod 755 {path}"));
    for attribute in attributes {
        must(shell, &format!("attributes set {path} {attribute}"));
    }
}

/// An image of these keys, whose root takes fs-verity, under the policy above.
fn image(dir: &Path, keys: &KeyDir) -> Card {
    let card = built().small_image_of(dir, keys, vec![attributes(dir)], |recipe| {
        let integrity = toml::Table::from_iter([("profile".to_owned(), "appraise".into())]);
        recipe.insert("integrity".to_owned(), integrity.into());
    });
    // The table of partitions, the boot partition of 34 MiB, the reserve of 4.
    let mut root: PathBuf = card.path().to_owned();
    root.as_mut_os_string().push(format!("?offset={}", (1 + 34 + 4) << 20));
    done(Command::new("tune2fs").args(["-O", "verity"]).arg(root));
    Card::open(&built().variant(&card, &policy(), dir, "verity")).unwrap()
}

#[test]
fn a_kernel_takes_signatures_by_p_256_and_of_version_3_that_are_right() {
    let dir = scratch("signatures");
    let keys = elliptic(&dir);
    let card = image(&dir, &keys);
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("signatures", &dir.join("logs")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    // The root is signed by P-256 alone: that there is a shell says that the kernel takes it.
    let mut shell = boot.userland().unwrap();
    let run = |shell: &mut Shell<'_>, path: &str| shell.run(path).unwrap().code;
    let (good, other) = (program(call::EXIT, 7), program(call::EXIT, 8));
    let v2 = |content, owner| signed(&dir, &keys, content, owner, Version::V2);
    let v3 = |content, owner| signed(&dir, &keys, content, owner, Version::V3);

    // Version 2, of a file that came later.
    place(&mut shell, "/root/v2", &good, 0, &v2(&good, 0));
    assert_eq!(run(&mut shell, "/root/v2"), 7);
    place(&mut shell, "/root/v2-other", &other, 0, &v2(&good, 0));
    assert_eq!(run(&mut shell, "/root/v2-other"), REFUSED);

    // Version 3: with the tree, and not without.
    place(&mut shell, "/root/v3", &good, OWNER, &v3(&good, OWNER));
    assert_eq!(run(&mut shell, "/root/v3"), REFUSED);
    must(&mut shell, "attributes verity /root/v3");
    assert_eq!(run(&mut shell, "/root/v3"), 7);
    // Of other contents; of version 2 where version 3 is asked for.
    place(&mut shell, "/root/v3-other", &other, OWNER, &v3(&good, OWNER));
    place(&mut shell, "/root/v3-not", &good, OWNER, &v2(&good, OWNER));
    for path in ["/root/v3-other", "/root/v3-not"] {
        must(&mut shell, &format!("attributes verity {path}"));
        assert_eq!(run(&mut shell, path), REFUSED, "{path}");
    }
    // EVM: what is signed keeps its mode.
    assert_ne!(run(&mut shell, "chmod 4755 /root/v3 2>/dev/null"), 0);
    shell.power_off().unwrap();
}
