//! Linux with the certificate that it trusts: what verifies the signatures of files and of
//! modules, and the certificates that come into the keyrings `.ima` and `.evm`.
//!
//! The certificate goes into room that the kernel was linked with
//! (`CONFIG_SYSTEM_EXTRA_CERTIFICATE`), by Linux's own tool.

use super::kernel::{INSERT, LINKED};
use super::{BuildError, CROSS, Chosen, Component, Spec, job::Job};
use crate::keys::Role;

pub(super) const SPEC: Spec = Spec {
    name: "kernel-key",
    about: "Linux with the certificate that it trusts",
    code: include_str!("kernel_key.rs"),
    sources: &[],
    needs: &[Component::Kernel],
    series: None,
    files: &[],
    certificate: Some(Role::Ima),
    chosen: Chosen::nothing,
    build,
};

/// How an `Image` is made of the linked kernel (Linux, arch/arm64/boot/Makefile).
const IMAGE: [&str; 9] =
    ["-O", "binary", "-R", ".note", "-R", ".note.gnu.build-id", "-R", ".comment", "-S"];

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let kernel = job.need(Component::Kernel);
    let image = |linked: &std::path::Path, name: &str| {
        let to = job.work.join(name);
        let mut command = job.command(format!("{CROSS}objcopy"), &job.work);
        job.run("make an Image", command.args(IMAGE).arg(linked).arg(&to))?;
        job.read(&to)
    };
    // That it is made as Linux's build makes it.
    if image(&kernel.join(LINKED), "as-built")? != job.read(&kernel.join("Image"))? {
        return Err(job.wrong("the Image of vmlinux is not the one that Linux's build made of it"));
    }
    let certificate = job.work.join("certificate.der");
    let mut openssl = job.command("openssl", &job.work);
    openssl.args(["x509", "-outform", "DER", "-in"]);
    openssl.arg(job.context.signing_key.certificate_of(Role::Ima)).arg("-out").arg(&certificate);
    job.run("read the certificate", &mut openssl)?;

    let linked = job.work.join(LINKED);
    std::fs::copy(kernel.join(LINKED), &linked).map_err(|error| job.wrong(error.to_string()))?;
    let mut insert = job.command(kernel.join(INSERT), &job.work);
    insert.arg("-b").arg(&linked).arg("-c").arg(&certificate);
    job.run("insert the certificate", &mut insert)?;
    let image = image(&linked, "Image")?;
    let der = job.read(&certificate)?;
    // The tool tells some of its failures on standard error alone.
    if !image.windows(der.len()).any(|window| window == der) {
        return Err(job.wrong("the certificate did not come into the kernel"));
    }
    job.keep_bytes(&image, "Image")?;
    job.keep(&certificate, "certificate.der")
}
