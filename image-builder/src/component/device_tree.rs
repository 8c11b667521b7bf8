//! The device tree that Linux is given: the board's, and our overlay with the
//! TPM, the event log's memory and OP-TEE.

use super::{BuildError, Component, Files, Spec, job::Job};

pub(super) const SPEC: Spec = Spec {
    name: "device-tree",
    about: "device tree of the board with our overlay",
    code: include_str!("device_tree.rs"),
    sources: &[],
    needs: &[Component::Kernel],
    series: None,
    files: &[Files::One(OVERLAY)],
    certificate: false,
    build,
};

/// The overlay for a TPM on I2C1, for Linux and for U-Boot's control DTB.
pub(super) const OVERLAY: &str = "kernel-config/overlays/rpi3-tpm-i2c.dtso";

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let board = job.need(Component::Kernel).join("board.dtb");
    apply_overlay(job, &board, "linux.dtb")
}

/// Compiles the overlay and applies it to `base`; the result is delivered.
pub(super) fn apply_overlay(
    job: &Job<'_>,
    base: &std::path::Path,
    result: &str,
) -> Result<(), BuildError> {
    let overlay = job.work.join("overlay.dtbo");
    let mut dtc = job.command("dtc", &job.work);
    dtc.args(["-@", "-I", "dts", "-O", "dtb", "-o"]).arg(&overlay).arg(job.tree(OVERLAY));
    job.run("compiling the overlay", &mut dtc)?;
    let mut fdtoverlay = job.command("fdtoverlay", &job.work);
    fdtoverlay.arg("-i").arg(base).arg("-o").arg(job.out.join(result)).arg(&overlay);
    job.run("applying the overlay", &mut fdtoverlay)
}
