//! tpm2-tss for the target, static, with what an unlock needs and no more.

use super::static_lib::{TARGET, configure, lib, relocate};
use super::{BuildError, Chosen, Spec, job::Job};
use crate::cache::IoContext;

pub(super) const SPEC: Spec = Spec {
    name: "tss",
    about: "static tpm2-tss for the target",
    code: concat!(include_str!("tss.rs"), include_str!("static_lib.rs")),
    sources: &["tpm2-tss"],
    needs: &[],
    series: Some("image-builder/patches/tpm2-tss"),
    files: &[],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

/// The ways to a TPM that are kept: the device, and swtpm for tests.
const TCTIS: [&str; 2] = ["device", "swtpm"];

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("tpm2-tss")?;
    job.run("bootstrap", &mut job.command("./bootstrap", &source))?;
    let mut command = configure(job, &source, &[]);
    command.args([
        "--disable-shared",
        "--enable-static",
        "--with-crypto=mbed",
        // A static program cannot load a TCTI: it is linked in.
        "--enable-nodl",
        // Its messages would go to the console; every error comes back as a code.
        "--with-maxloglevel=none",
        "--disable-fapi",
        "--disable-policy",
        "--disable-doxygen-doc",
    ]);
    command.args(OTHER_TCTIS.map(|name| format!("--disable-tcti-{name}")));
    job.run("configure", &mut command)?;
    job.run("make", job.command("make", &source).arg(job.jobs()))?;
    let destination = format!("DESTDIR={}", job.out.display());
    job.run("install", job.command("make", &source).args(["install", &destination]))?;

    for unused in ["usr/share", "usr/var"] {
        let dir = job.out.join(unused);
        std::fs::remove_dir_all(&dir).on("cannot remove", &dir)?;
    }
    // Every TCTI exports the same symbol: with two of them linking fails.
    for name in TCTIS {
        let mut objcopy = job.command(format!("{TARGET}-objcopy"), &job.work);
        objcopy.arg("--localize-symbol=Tss2_Tcti_Info");
        job.run("objcopy", objcopy.arg(lib(job, &format!("libtss2-tcti-{name}.a"))))?;
    }
    // With --enable-nodl the loader refers to the TCTIs; its file does not say so.
    let loader = lib(job, "pkgconfig/tss2-tctildr.pc");
    let mut text = String::from_utf8_lossy(&job.read(&loader)?).into_owned();
    text.push_str(&format!(
        "Requires.private: {}\n",
        TCTIS.map(|name| format!("tss2-tcti-{name}")).join(" ")
    ));
    std::fs::write(&loader, text).on("cannot write", &loader)?;
    relocate(job)
}

const OTHER_TCTIS: [&str; 10] = [
    "cmd",
    "i2c-ftdi",
    "i2c-helper",
    "libtpms",
    "mssim",
    "pcap",
    "spi-ftdi",
    "spi-helper",
    "spi-ltt2go",
    "spidev",
];
