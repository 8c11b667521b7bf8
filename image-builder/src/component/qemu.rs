//! QEMU with a TPM on SPI and a watchdog that counts: no release has either. One
//! machine and its devices alone, tested by QEMU's own tests of what our series adds
//! and of what it touches.

use std::fs;

use super::{BuildError, Chosen, Files, Spec, job::Job};
use crate::cache::IoContext;

pub(super) const SPEC: Spec = Spec {
    name: "qemu",
    about: "the emulator of boards with a TPM on SPI or a watchdog",
    code: include_str!("qemu.rs"),
    sources: &["qemu"],
    needs: &[],
    series: Some("tests/qemu"),
    files: &[Files::One(DEVICES)],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

/// The program, as the component delivers it.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// Which devices are built.
const DEVICES: &str = "tests/qemu/board.mak";

/// QEMU's tests that have to pass: the new ones, then those of the same models.
const TESTS: [&str; 6] = [
    "bcm2835-spi-test",
    "bcm2835-powermgt-test",
    "tpm-tis-spi-test",
    "tpm-tis-spi-swtpm-test",
    "bcm2835-i2c-test",
    "bcm2835-dma-test",
];

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("qemu")?;
    let devices = source.join("configs/devices/aarch64-softmmu/board.mak");
    fs::copy(job.tree(DEVICES), &devices).on("cannot write", &devices)?;
    let output = job.work.join("output");
    fs::create_dir(&output).on("cannot create", &output)?;

    let mut configure = job.command(source.join("configure"), &output);
    configure.args([
        "--target-list=aarch64-softmmu",
        "--without-default-features",
        "--without-default-devices",
        "--with-devices-aarch64=board",
        "--enable-system",
        "--enable-tcg",
        "--enable-tpm",
        "--enable-fdt=system",
        "--enable-slirp",
        // What configure misses it must not fetch.
        "--disable-download",
        // A debugger's data would hold the place of the build.
        "--disable-debug-info",
        "--disable-install-blobs",
        "--disable-docs",
    ]);
    job.run("configure", &mut configure)?;

    let mut ninja = job.command("ninja", &output);
    ninja.args([&job.jobs(), PROGRAM]).args(TESTS.map(|test| format!("tests/qtest/{test}")));
    job.run("ninja", &mut ninja)?;

    // A test that fails leaves its swtpm behind: it ends with this namespace.
    let mut tests = job.command("unshare", &output);
    tests
        .args(["--pid", "--fork", "--kill-child"])
        .arg(output.join("pyvenv/bin/meson"))
        .args(["test", "--no-rebuild", "--print-errorlogs"])
        .args(TESTS.map(|test| format!("qtest-aarch64/{test}")));
    job.run("tests", &mut tests)?;

    let mut strip = job.command("strip", &output);
    job.run("strip", strip.arg(PROGRAM))?;
    job.keep(&output.join(PROGRAM), PROGRAM)
}
