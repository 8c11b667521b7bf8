//! TF-A with U-Boot as BL33, and OP-TEE as BL32 where the recipe wants it:
//! `armstub8.bin`, what the VideoCore firmware starts.

use super::{BuildError, CROSS, Chosen, Component, Spec, job::Job, optee};
use crate::recipe::{Firmware, SecureWorld, Target};

pub(super) const SPEC: Spec = Spec {
    name: "tf-a",
    about: "TF-A with OP-TEE, if there is one, and U-Boot inside",
    code: include_str!("tf_a.rs"),
    sources: &["arm-trusted-firmware"],
    needs: &[Component::UBootKey],
    series: Some("uboot-patches/tf-a"),
    files: &[],
    certificate: false,
    chosen,
    build,
};

fn chosen(target: &Target) -> Chosen {
    let needs = match target.firmware {
        Firmware::TfA(SecureWorld::OpTee) => vec![Component::Optee],
        Firmware::TfA(SecureWorld::None) | Firmware::UBoot => vec![],
    };
    Chosen { needs, ..Chosen::default() }
}

/// The arguments that put the secure world into the package.
fn secure_world(job: &Job<'_>) -> Result<Vec<String>, BuildError> {
    match job.context.target.firmware {
        Firmware::TfA(SecureWorld::OpTee) => {
            let optee = job.need(Component::Optee);
            let [header, pager, pageable] =
                optee::IMAGES.map(|name| optee.join(name).display().to_string());
            Ok(vec![
                "SPD=opteed".to_owned(),
                format!("BL32={header}"),
                format!("BL32_EXTRA1={pager}"),
                format!("BL32_EXTRA2={pageable}"),
            ])
        }
        Firmware::TfA(SecureWorld::None) => Ok(vec![]),
        Firmware::UBoot => Err(job.wrong(
            "the recipe's firmware is U-Boot alone, which is made for another place in memory \
             than TF-A's BL33",
        )),
    }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("arm-trusted-firmware")?;
    let secure_world = secure_world(job)?;
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
        &format!("BL33={}", u_boot.display()),
        &format!("BUILD_STRING={version}-msec"),
        "BUILD_MESSAGE_TIMESTAMP=\"2026-01-01\"",
        "all",
        "fip",
    ]);
    job.run("make", make.args(secure_world))?;
    job.keep(&output.join("rpi3/release/armstub8.bin"), "armstub8.bin")
}
