//! Linux, from Debian's source, our patches and our configuration fragments alone:
//! what no fragment asks for is off.

use super::{BuildError, CROSS, Component, Files, Spec, job::Job, kconfig, plan};

pub(super) const SPEC: Spec = Spec {
    name: "kernel",
    about: "Linux for the board",
    code: include_str!("kernel.rs"),
    sources: &["linux-source-6.12"],
    needs: &[],
    series: Some("kernel-config/patches"),
    files: FRAGMENTS,
    certificate: false,
    build,
};

const FRAGMENTS: &[Files] = &[Files::Dir("kernel-config", "config")];

/// The board's device tree in the kernel's own tree.
const DTB: &str = "broadcom/bcm2837-rpi-3-b.dtb";

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("linux-source-6.12")?;

    let mut wanted = String::new();
    for path in plan::files(&job.context.tree, FRAGMENTS).map_err(|(path, source)| {
        BuildError::Input { component: Component::Kernel, path, source }
    })? {
        wanted.push_str(&String::from_utf8_lossy(&job.read(&job.context.tree.join(path))?));
        wanted.push('\n');
    }
    let all = job.work.join("all.config");
    std::fs::write(&all, &wanted).map_err(|error| job.wrong(error.to_string()))?;

    let output = job.work.join("output");
    let make = || {
        let mut command = job.command("make", &source);
        command
            .arg(format!("O={}", output.display()))
            .args(["ARCH=arm64", &format!("CROSS_COMPILE={CROSS}")])
            // Who built it, where and when is part of the kernel's version text.
            .env("KBUILD_BUILD_USER", "msec")
            .env("KBUILD_BUILD_HOST", "boot")
            .env("KBUILD_BUILD_VERSION", "1")
            .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 2026");
        command
    };
    job.run("configure", make().env("KCONFIG_ALLCONFIG", &all).arg("allnoconfig"))?;
    let config = output.join(".config");
    let missing = kconfig::missing(&wanted, &String::from_utf8_lossy(&job.read(&config)?));
    if !missing.is_empty() {
        return Err(job.wrong(format!(
            "kconfig did not take all of kernel-config/ (a dependency is off?):\n  {}",
            missing.join("\n  ")
        )));
    }
    // -@: overlays refer to the tree's labels.
    job.run("make Image", make().args([&job.jobs(), "DTC_FLAGS=-@", "Image", DTB]))?;
    let boot = output.join("arch/arm64/boot");
    job.keep(&boot.join("Image"), "Image")?;
    job.keep(&boot.join("dts").join(DTB), "board.dtb")?;
    job.keep(&output.join("include/config/kernel.release"), "release")?;
    job.keep(&config, "config")
}
