//! libcryptsetup for the target, static: LUKS with mbed TLS as the cryptography
//! that is small enough, and libargon2.

use super::static_lib::{configure, relocate};
use super::{BuildError, Chosen, Component, Spec, job::Job};

pub(super) const SPEC: Spec = Spec {
    name: "cryptsetup",
    about: "static libcryptsetup for the target",
    code: concat!(include_str!("cryptsetup.rs"), include_str!("static_lib.rs")),
    sources: &["cryptsetup"],
    needs: &[Component::Devmapper],
    series: Some("image-builder/patches/cryptsetup"),
    files: &[],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("cryptsetup")?;
    job.run("autogen", &mut job.command("./autogen.sh", &source))?;
    let mut command = configure(job, &source, SPEC.needs);
    command.args([
        "--disable-shared",
        "--enable-static",
        "--with-crypto_backend=mbedtls",
        "--enable-libargon2",
        "--disable-dependency-tracking",
        "--disable-external-tokens",
        "--disable-ssh-token",
        "--disable-asciidoc",
        "--disable-nls",
        "--disable-udev",
        "--disable-selinux",
        "--disable-blkid",
        "--disable-hw-opal",
        // The programs; the library is what we are after.
        "--disable-cryptsetup",
        "--disable-veritysetup",
        "--disable-integritysetup",
    ]);
    // A static library's needs are its users' needs.
    job.run("configure", command.env("PKG_CONFIG_ALL_STATIC", "1"))?;
    job.run("make", job.command("make", &source).args([&job.jobs(), "libcryptsetup.la"]))?;
    job.keep(&source.join(".libs/libcryptsetup.a"), "usr/lib/libcryptsetup.a")?;
    job.keep(&source.join("lib/libcryptsetup.h"), "usr/include/libcryptsetup.h")?;
    job.keep(&source.join("lib/libcryptsetup.pc"), "usr/lib/pkgconfig/libcryptsetup.pc")?;
    relocate(job)
}
