//! The device tree that Linux is given: the board's, and our overlays with the event
//! log's memory, and the firmware and the TPM that the recipe names.

use std::path::{Path, PathBuf};

use emulated_board::VIRT;

use super::{BuildError, Chosen, Component, Files, Spec, job::Job};
use crate::cache::IoContext;
use crate::recipe::{Board, Firmware, SecureWorld, SpiTpm, Target, TpmBus};

pub(super) const SPEC: Spec = Spec {
    name: "device-tree",
    about: "device tree of the board with our overlays",
    code: include_str!("device_tree.rs"),
    sources: &[],
    needs: &[],
    series: None,
    files: &[],
    certificate: None,
    chosen,
    build,
};

/// The overlays for Linux's DTB and for U-Boot's control DTB, in the order in which
/// they are applied: a later one refers to labels of an earlier one.
fn overlays(target: &Target) -> Vec<&'static str> {
    const TF_A: &str = "kernel-config/overlays/rpi3-tf-a.dtso";
    const OP_TEE: &str = "kernel-config/overlays/rpi3-op-tee.dtso";
    let firmware: &[_] = match target.firmware {
        Firmware::TfA(SecureWorld::OpTee) => &[TF_A, OP_TEE],
        Firmware::TfA(SecureWorld::None) => &[TF_A],
        Firmware::UBoot => &[],
    };
    let tpm = match target.tpm {
        TpmBus::I2c => "kernel-config/overlays/rpi3-tpm-i2c.dtso",
        TpmBus::Spi(SpiTpm::Stpm4raspi) => "kernel-config/overlays/rpi3-tpm-stpm4raspi.dtso",
        TpmBus::Spi(SpiTpm::Slb9670) => "kernel-config/overlays/rpi3-tpm-slb9670.dtso",
        // `virt` has one chain and one place for the TPM.
        TpmBus::Mmio => return vec!["kernel-config/overlays/virt.dtso"],
    };
    [&["kernel-config/overlays/rpi3.dtso"], firmware, &[tpm]].concat()
}

fn chosen(target: &Target) -> Chosen {
    let needs = match target.board {
        Board::Rpi3 => vec![Component::Kernel],
        Board::Virt => Vec::new(),
    };
    Chosen { needs, ..inputs(target) }
}

/// The overlays are inputs of whatever is built from them, and so is the machine where
/// QEMU describes it.
pub(super) fn inputs(target: &Target) -> Chosen {
    let files = overlays(target).into_iter().map(Files::One).collect();
    let words = match target.board {
        Board::Rpi3 => Vec::new(),
        Board::Virt => vec![("machine", VIRT.join(" "))],
    };
    Chosen { files, words, ..Chosen::default() }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let board = match job.context.target.board {
        Board::Rpi3 => job.need(Component::Kernel).join("board.dtb"),
        Board::Virt => of_machine(job)?,
    };
    apply_overlays(job, &board, &[], "linux.dtb")
}

/// The device tree that QEMU makes of the machine `virt`.
pub(super) fn of_machine(job: &Job<'_>) -> Result<PathBuf, BuildError> {
    let tree = job.work.join("machine.dtb");
    // Any will do: with a firmware, QEMU does not describe a PSCI of its own.
    let firmware = job.work.join("firmware");
    std::fs::write(&firmware, [0]).on("cannot write", &firmware)?;
    let mut qemu = job.command("qemu-system-aarch64", &job.work);
    qemu.args(VIRT)
        .arg("-machine")
        .arg(format!("dtb-randomness=off,dumpdtb={}", tree.display()))
        .args(["-nodefaults", "-display", "none", "-serial", "null", "-serial", "null", "-bios"])
        .arg(firmware);
    job.run("asking QEMU for the machine's device tree", &mut qemu)?;
    Ok(tree)
}

/// Compiles the overlays and applies them to `base`, those of `more` last; the result is
/// delivered.
pub(super) fn apply_overlays(
    job: &Job<'_>,
    base: &Path,
    more: &[&str],
    result: &str,
) -> Result<(), BuildError> {
    let mut fdtoverlay = job.command("fdtoverlay", &job.work);
    fdtoverlay.arg("-i").arg(base).arg("-o").arg(job.out.join(result));
    let all = [&overlays(&job.context.target), more].concat();
    for (index, source) in all.into_iter().enumerate() {
        let compiled = job.work.join(format!("{index}.dtbo"));
        let mut dtc = job.command("dtc", &job.work);
        dtc.args(["-@", "-I", "dts", "-O", "dtb", "-o"]).arg(&compiled).arg(job.tree(source));
        job.run(&format!("compiling {source}"), &mut dtc)?;
        fdtoverlay.arg(compiled);
    }
    job.run("applying the overlays", &mut fdtoverlay)
}
