//! `initramfs-unseal` for the target.

use super::static_program::{self, Libraries, Program};
use super::{BuildError, Chosen, Component, Files, Spec, job::Job};

pub(super) const SPEC: Spec = Spec {
    name: "initramfs-unseal",
    about: "initramfs-unseal and msec-update, a static file each",
    code: concat!(
        include_str!("unseal.rs"),
        include_str!("static_program.rs"),
        include_str!("static_program/linked.rs"),
        include_str!("static_lib.rs")
    ),
    sources: &[],
    needs: &[Component::Tss, Component::Devmapper, Component::Cryptsetup],
    series: None,
    files: &[
        Files::One("Cargo.toml"),
        Files::One("Cargo.lock"),
        Files::Crate("initramfs-unseal"),
        Files::Crate("pcr-measure"),
    ],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

const PROGRAM: Program = Program {
    package: "initramfs-unseal",
    features: &[],
    files: &["initramfs-unseal", "msec-update"],
    crates: &["initramfs-unseal", "pcr-measure"],
    needs: SPEC.needs,
    libraries: &[Libraries::Of(Component::Tss), Libraries::Of(Component::Cryptsetup)],
    environment: &[],
    // The whole initramfs shall stay below 3 MiB.
    size_limit: 3 << 20,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    static_program::build(job, &PROGRAM)
}
