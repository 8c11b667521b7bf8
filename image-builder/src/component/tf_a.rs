//! TF-A with U-Boot as BL33, and OP-TEE as BL32 where the recipe wants it: what the
//! VideoCore firmware starts on a Raspberry Pi, what lies in the secure flash of `virt`.

use super::{BuildError, CROSS, Chosen, Component, Spec, job::Job, optee};
use crate::image::arm_image::ArmImage;
use crate::recipe::{Board, Firmware, SecureWorld, Target};

pub(super) const SPEC: Spec = Spec {
    name: "tf-a",
    about: "TF-A with OP-TEE, if there is one, and U-Boot inside",
    code: include_str!("tf_a.rs"),
    sources: &["arm-trusted-firmware"],
    needs: &[Component::UBootKey],
    series: Some("uboot-patches/tf-a"),
    files: &[],
    certificate: None,
    chosen,
    build,
};

fn chosen(target: &Target) -> Chosen {
    let needs = match target.firmware {
        Firmware::TfA(SecureWorld::OpTee) => vec![Component::Optee],
        Firmware::TfA(SecureWorld::None) | Firmware::UBoot => vec![],
    };
    let sources = match target.board {
        Board::Rpi3 => Vec::new(),
        Board::Virt => vec![MBEDTLS],
    };
    let words = vec![("board", target.board.to_string())];
    Chosen { needs, sources, words, ..Chosen::default() }
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

/// TF-A has no SHA-256 of its own.
const MBEDTLS: &str = "mbedtls";

/// What the board's port is asked for, and where it puts what we deliver.
fn port(job: &Job<'_>) -> Result<(Vec<String>, &'static str), BuildError> {
    match job.context.target.board {
        Board::Rpi3 => {
            let options = [
                "PLAT=rpi3",
                // Where the VideoCore firmware loads the device tree (config.txt says so),
                // and the request to pass that address on to U-Boot.
                "RPI3_PRELOADED_DTB_BASE=0x01000000",
                "RPI3_DIRECT_LINUX_BOOT=1",
                // BL2 has its images in memory and needs no SD card.
                "RPI3_BL2_SDHOST=0",
                // PL011, as Linux; not the mini-UART.
                "RPI3_RUNTIME_UART=0",
            ];
            Ok((options.map(str::to_owned).into(), "rpi3/release/armstub8.bin"))
        }
        Board::Virt => {
            let mbedtls = job.unpack(MBEDTLS)?;
            let options = [
                "PLAT=qemu".to_owned(),
                // BL1 and BL2 record what they load; U-Boot extends it into the TPM.
                "MEASURED_BOOT=1".to_owned(),
                format!("MBEDTLS_DIR={}", mbedtls.display()),
                // Its headers declare some functions twice.
                "CFLAGS=-Wno-redundant-decls".to_owned(),
            ];
            Ok((options.into(), "qemu/release/qemu_fw.bios"))
        }
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
        "DEBUG=0",
        &format!("CROSS_COMPILE={CROSS}"),
        &format!("BUILD_BASE={}", output.display()),
        &format!("BL33={}", u_boot.display()),
        &format!("BUILD_STRING={version}-msec"),
        "BUILD_MESSAGE_TIMESTAMP=\"2026-01-01\"",
        "all",
        "fip",
    ]);
    let (options, built) = port(job)?;
    job.run("make", make.args(secure_world).args(options))?;
    job.keep(&output.join(built), ArmImage::of(&job.context.target).file_name())
}
