//! Asking OP-TEE for a session with a trusted application, and applications that were
//! signed for anybody.

use std::{fs, path::Path, process::Command};

use image_builder::image::packages::Package;

use crate::{built::tree, unpack::run};

/// OP-TEE has no application of this UUID (TEE Client API Specification 1.0, 4.4.2:
/// `TEEC_ERROR_ITEM_NOT_FOUND`, said by `TEEC_ORIGIN_TEE`).
pub const NOT_FOUND: &str = "0xffff0008 from 3\n";
/// A session was opened (`TEEC_SUCCESS`, said by `TEEC_ORIGIN_TRUSTED_APP`).
pub const SESSION: &str = "0x00000000 from 4\n";

/// Compiles a program for the board that asks for a session with the application `uuid`
/// and prints what came of it.
///
/// # Panics
/// When the compiler is missing or fails.
#[must_use]
pub fn open_session(uuid: &str, dir: &Path) -> Vec<u8> {
    let digits: String = uuid.chars().filter(|c| *c != '-').collect();
    assert_eq!(digits.len(), 32, "{uuid}");
    let bytes: Vec<String> =
        digits.as_bytes().chunks(2).map(|b| format!("0x{}", String::from_utf8_lossy(b))).collect();
    let program = dir.join("open-session");
    let mut compile = Command::new("aarch64-linux-gnu-gcc");
    compile.args(["-Os", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding"]);
    compile.args(["-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fno-builtin", "-s"]);
    compile.args(["-Wl,-n", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]);
    compile.arg(format!("-DUUID={{{}}}", bytes.join(",")));
    compile.arg("-o").arg(&program).arg(tree().join("tests/op-tee/open-session.c"));
    run(&mut compile, &dir.join("open-session.log"));
    fs::read(&program).expect("the program")
}

/// A package with the application `uuid` where tee-supplicant looks for applications, from
/// this file.
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn application_package(file: &Path, uuid: &str, dir: &Path) -> Package {
    let root = dir.join("application");
    let place = root.join("usr/lib/optee_armtz");
    fs::create_dir_all(&place).expect("a directory");
    fs::create_dir_all(root.join("DEBIAN")).expect("a directory");
    fs::copy(file, place.join(format!("{uuid}.ta"))).expect("the application");
    let control = "Package: application\nVersion: 1\nArchitecture: all\nMaintainer: nobody\n\
                   Description: a trusted application\n";
    fs::write(root.join("DEBIAN/control"), control).expect("a file");
    let deb = dir.join("application.deb");
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&root).arg(&deb);
    run(&mut build, &dir.join("application.log"));
    Package { name: "application".to_owned(), version: "1".to_owned(), deb }
}
