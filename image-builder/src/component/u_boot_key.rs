//! U-Boot's control DTB: its own, our overlays with the TPM, and the public key
//! without whose signature no configuration boots.
//!
//! It lies inside U-Boot's binary. A control DTB from the boot partition could be
//! exchanged together with the key in it.

use super::device_tree::{self, apply_overlays, of_machine};
use super::{BuildError, Chosen, Component, Files, Spec, job::Job};
use crate::artifacts::KeyDir;
use crate::keys::Role;
use crate::recipe::{Board, Purpose, Target};

pub(super) const SPEC: Spec = Spec {
    name: "u-boot-key",
    about: "U-Boot's control DTB with the key that it demands",
    code: concat!(include_str!("u_boot_key.rs"), include_str!("device_tree.rs")),
    sources: &[],
    needs: &[Component::UBoot],
    series: None,
    files: &[],
    certificate: Some(Role::Fit),
    chosen,
    build,
};

/// The overlays that only this tree has: what the development variant's shell can bind.
fn overlays(target: &Target) -> &'static [&'static str] {
    match target.u_boot {
        Purpose::Release => &[],
        Purpose::Development => &["uboot-patches/u-boot/development/spi-gpio.dtso"],
    }
}

fn chosen(target: &Target) -> Chosen {
    let mut chosen = device_tree::inputs(target);
    chosen.files.extend(overlays(target).iter().copied().map(Files::One));
    chosen
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let u_boot = job.need(Component::UBoot);
    let base = match job.context.target.board {
        Board::Rpi3 => u_boot.join("u-boot.dtb"),
        // U-Boot has an empty one for it.
        Board::Virt => of_machine(job)?,
    };
    apply_overlays(job, &base, overlays(&job.context.target), "control.dtb")?;
    let control = job.out.join("control.dtb");
    let mut tool = job.command(u_boot.join("fdt_add_pubkey"), &job.work);
    // Only the certificate is read. `conf`: a configuration without a good
    // signature does not boot.
    tool.args(["-a", "sha256,rsa3072", "-r", "conf", "-n", KeyDir::HINT, "-k"]);
    job.run("adding the key", tool.arg(job.context.signing_key.dir()).arg(&control))?;
    // CONFIG_OF_SEPARATE: the control DTB follows U-Boot's binary.
    let mut binary = job.read(&u_boot.join("u-boot-nodtb.bin"))?;
    binary.extend(job.read(&control)?);
    job.keep_bytes(&binary, "u-boot.bin")
}
