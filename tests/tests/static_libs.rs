//! What our patches to the static libraries promise, shown by the very files that
//! go into `/init`, under QEMU's user mode emulation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "tests may fail")]

use image_builder::component::Component;
use msec_tests::built::{built, scratch, tree};
use std::process::Command;

/// Multiples of P-256's base point: 379 and 552 have an x-coordinate that begins
/// with a zero byte, 43 and 444 such a y-coordinate, 2 neither.
const EPHEMERAL: [&str; 5] = ["2", "43", "379", "444", "552"];

/// Both sides of a salted session pad a coordinate to the size of the curve, or
/// one unlock in 256 fails.
#[test]
fn a_coordinate_that_begins_with_zeros_keeps_its_size() {
    let dir = scratch("static-libs");
    let tss = built().component(Component::Tss).join("usr");
    let program = dir.join("ecdh");
    let compiled = Command::new("aarch64-linux-gnu-gcc")
        .args(["-O1", "-Wall", "-Werror", "-static", "-Wl,--wrap=mbedtls_ecdh_gen_public", "-o"])
        .args([&program, &tree().join("tests/tests/static_libs/ecdh.c")])
        .args(["-isystem", "/usr/include", "-isystem", "/usr/include/aarch64-linux-gnu"])
        .arg(format!("-I{}", tss.join("include").display()))
        .arg(format!("-L{}", tss.join("lib").display()))
        .args(["-L/usr/lib/aarch64-linux-gnu", "-Wl,--gc-sections"])
        .args(["-ltss2-esys", "-ltss2-sys", "-ltss2-mu", "-lmbedcrypto"])
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));

    let run = Command::new("qemu-aarch64").arg(&program).args(EPHEMERAL).output().unwrap();
    assert!(run.status.success(), "{}: {}", run.status, String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8(run.stdout).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    let private: Vec<&str> = lines.iter().map(|line| line[0]).collect();
    assert_eq!(private, EPHEMERAL);
    let mut short = [0, 0, 0];
    for line in &lines {
        assert_eq!(line[1], line[3], "the shared point is the ephemeral one");
        for (coordinate, short) in line[1..].iter().zip(&mut short) {
            assert_eq!(coordinate.len(), 64, "{line:?}");
            *short += usize::from(coordinate.starts_with("00"));
        }
    }
    assert_eq!(short, [2, 2, 2], "the numbers are the ones that matter");
}
