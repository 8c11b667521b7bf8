//! libdevmapper for the target, static, out of LVM2's source.

use super::static_lib::{configure, lib, relocate};
use super::{BuildError, Chosen, Spec, job::Job};
use crate::cache::IoContext;

pub(super) const SPEC: Spec = Spec {
    name: "devmapper",
    about: "static libdevmapper for the target",
    code: concat!(include_str!("devmapper.rs"), include_str!("static_lib.rs")),
    sources: &["lvm2"],
    needs: &[],
    series: None,
    files: &[],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("lvm2")?;
    let mut command = configure(job, &source, &[]);
    // Its configure tests malloc(0) by running a program, which a cross build cannot.
    command
        .env("ac_cv_func_malloc_0_nonnull", "yes")
        .env("ac_cv_func_realloc_0_nonnull", "yes")
        .args([
            "--enable-static_link",
            "--enable-pkgconfig",
            "--disable-selinux",
            "--disable-readline",
            "--disable-nls",
            "--disable-dmeventd",
            "--without-udev",
            "--without-systemd",
            "--without-blkid",
        ]);
    job.run("configure", &mut command)?;
    job.run("make include", job.command("make", &source).args([&job.jobs(), "-C", "include"]))?;
    let mut make = job.command("make", &source);
    job.run("make libdm", make.args([&job.jobs(), "-C", "libdm", "ioctl/libdevmapper.a"]))?;

    job.keep(&source.join("libdm/ioctl/libdevmapper.a"), "usr/lib/libdevmapper.a")?;
    job.keep(&source.join("libdm/libdevmapper.h"), "usr/include/libdevmapper.h")?;
    let version = String::from_utf8_lossy(&job.read(&source.join("VERSION_DM"))?).into_owned();
    let version = version.split([' ', '(']).next().unwrap_or_default().to_owned();
    let pc = lib(job, "pkgconfig/devmapper.pc");
    let dir = lib(job, "pkgconfig");
    std::fs::create_dir_all(&dir).on("cannot create", &dir)?;
    let text = format!(
        "prefix=/usr\nName: devmapper\nDescription: static libdevmapper\nVersion: {version}\n\
         Cflags: -I/usr/include\nLibs: -L/usr/lib -ldevmapper\nLibs.private: -lm -lpthread\n"
    );
    std::fs::write(&pc, text).on("cannot write", &pc)?;
    relocate(job)
}
