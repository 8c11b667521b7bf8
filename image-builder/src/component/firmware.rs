//! What the VideoCore needs to start the board: firmware without source, out of
//! Debian's non-free-firmware.

use super::{BuildError, Chosen, Spec, job::Job};

pub(super) const SPEC: Spec = Spec {
    name: "firmware",
    about: "VideoCore firmware",
    code: include_str!("firmware.rs"),
    sources: &["raspi-firmware"],
    needs: &[],
    series: None,
    files: &[],
    certificate: None,
    chosen: Chosen::nothing,
    build,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let package = job.unpack("raspi-firmware")?;
    let firmware = package.join("usr/lib/raspi-firmware");
    for name in ["bootcode.bin", "start.elf", "fixup.dat"] {
        job.keep(&firmware.join(name), name)?;
    }
    // The licence asks to go along with the files.
    job.keep(&package.join("usr/share/doc/raspi-firmware/copyright"), "LICENCE.broadcom")
}
