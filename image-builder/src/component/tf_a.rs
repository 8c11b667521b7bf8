//! TF-A with OP-TEE as BL32 and U-Boot as BL33: `armstub8.bin`, what the
//! VideoCore firmware starts.

use super::{BuildError, CROSS, Chosen, Component, Spec, job::Job, optee};

pub(super) const SPEC: Spec = Spec {
    name: "tf-a",
    about: "TF-A with OP-TEE and U-Boot inside",
    code: include_str!("tf_a.rs"),
    sources: &["arm-trusted-firmware"],
    needs: &[Component::UBootKey, Component::Optee],
    series: Some("uboot-patches/tf-a"),
    files: &[],
    certificate: false,
    chosen: Chosen::nothing,
    build,
};

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("arm-trusted-firmware")?;
    let optee = job.need(Component::Optee);
    let [header, pager, pageable] =
        optee::IMAGES.map(|name| optee.join(name).display().to_string());
    let u_boot = job.need(Component::UBootKey).join("u-boot.bin");
    let version = job.context.lock.source("arm-trusted-firmware")?.upstream_version();
    let output = job.work.join("output");
    let mut make = job.command("make", &source);
    make.args([
        &job.jobs(),
        "PLAT=rpi3",
        "DEBUG=0",
        &format!("CROSS_COMPILE={CROSS}"),
        &format!("BUILD_BASE={}", output.display()),
        // Where the VideoCore firmware loads the device tree (config.txt says so),
        // and the request to pass that address on to U-Boot.
        "RPI3_PRELOADED_DTB_BASE=0x01000000",
        "RPI3_DIRECT_LINUX_BOOT=1",
        // BL2 has its images in memory and needs no SD card.
        "RPI3_BL2_SDHOST=0",
        // PL011, as Linux; not the mini-UART.
        "RPI3_RUNTIME_UART=0",
        "SPD=opteed",
        &format!("BL32={header}"),
        &format!("BL32_EXTRA1={pager}"),
        &format!("BL32_EXTRA2={pageable}"),
        &format!("BL33={}", u_boot.display()),
        &format!("BUILD_STRING={version}-msec"),
        "BUILD_MESSAGE_TIMESTAMP=\"2026-01-01\"",
        "all",
        "fip",
    ]);
    job.run("make", &mut make)?;
    job.keep(&output.join("rpi3/release/armstub8.bin"), "armstub8.bin")
}
