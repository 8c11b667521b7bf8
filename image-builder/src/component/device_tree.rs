//! The device tree that Linux is given: the board's, and our overlays with the event
//! log's memory, OP-TEE, and the TPM that the recipe names.

use super::{BuildError, Chosen, Component, Files, Spec, job::Job};
use crate::recipe::{SpiTpm, Target, TpmBus};

pub(super) const SPEC: Spec = Spec {
    name: "device-tree",
    about: "device tree of the board with our overlays",
    code: include_str!("device_tree.rs"),
    sources: &[],
    needs: &[Component::Kernel],
    series: None,
    files: &[],
    certificate: false,
    chosen,
    build,
};

/// The overlays for Linux's DTB and for U-Boot's control DTB, in the order in which
/// they are applied: a later one refers to labels of an earlier one.
fn overlays(tpm: TpmBus) -> [&'static str; 2] {
    let tpm = match tpm {
        TpmBus::I2c => "kernel-config/overlays/rpi3-tpm-i2c.dtso",
        TpmBus::Spi(SpiTpm::Stpm4raspi) => "kernel-config/overlays/rpi3-tpm-stpm4raspi.dtso",
        TpmBus::Spi(SpiTpm::Slb9670) => "kernel-config/overlays/rpi3-tpm-slb9670.dtso",
    };
    ["kernel-config/overlays/rpi3.dtso", tpm]
}

/// The overlays are inputs of whatever is built from them.
pub(super) fn chosen(target: &Target) -> Chosen {
    let files = overlays(target.tpm).into_iter().map(Files::One).collect();
    Chosen { files, ..Chosen::default() }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let board = job.need(Component::Kernel).join("board.dtb");
    apply_overlays(job, &board, &[], "linux.dtb")
}

/// Compiles the overlays and applies them to `base`, those of `more` last; the result is
/// delivered.
pub(super) fn apply_overlays(
    job: &Job<'_>,
    base: &std::path::Path,
    more: &[&str],
    result: &str,
) -> Result<(), BuildError> {
    let mut fdtoverlay = job.command("fdtoverlay", &job.work);
    fdtoverlay.arg("-i").arg(base).arg("-o").arg(job.out.join(result));
    let all = [&overlays(job.context.target.tpm), more].concat();
    for (index, source) in all.into_iter().enumerate() {
        let compiled = job.work.join(format!("{index}.dtbo"));
        let mut dtc = job.command("dtc", &job.work);
        dtc.args(["-@", "-I", "dts", "-O", "dtb", "-o"]).arg(&compiled).arg(job.tree(source));
        job.run(&format!("compiling {source}"), &mut dtc)?;
        fdtoverlay.arg(compiled);
    }
    job.run("applying the overlays", &mut fdtoverlay)
}
