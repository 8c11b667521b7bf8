//! `ima-policy` for the target, with OpenSSL and tpm2-tss inside.

use super::static_program::{self, Libraries, Program};
use super::{BuildError, Chosen, Component, Files, Spec, job::Job};

pub(super) const SPEC: Spec = Spec {
    name: "ima-policy",
    about: "ima-policy for the running system, one static file",
    code: concat!(
        include_str!("ima_policy.rs"),
        include_str!("static_program.rs"),
        include_str!("static_program/linked.rs"),
        include_str!("static_lib.rs")
    ),
    sources: &[],
    needs: &[Component::Tss],
    series: None,
    files: &[
        Files::One("Cargo.toml"),
        Files::One("Cargo.lock"),
        Files::Crate("ima-policy"),
        Files::Crate("pcr-measure"),
    ],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

const PROGRAM: Program = Program {
    package: "ima-policy",
    features: &["cli", "keylime"],
    files: &["ima-policy"],
    crates: &["ima-policy", "pcr-measure"],
    needs: SPEC.needs,
    libraries: &[Libraries::Of(Component::Tss), Libraries::Named("openssl")],
    environment: &[("AARCH64_UNKNOWN_LINUX_GNU_OPENSSL_STATIC", "1")],
    size_limit: 12 << 20,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    static_program::build(job, &PROGRAM)
}
