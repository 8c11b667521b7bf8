//! Linux, from Debian's source, our patches and our configuration fragments alone:
//! what no fragment asks for is off, and what must be absent is checked to be.
//!
//! It has no key: a recipe's certificate comes into the finished kernel
//! ([`super::kernel_key`]), so that a new key does not ask for a new build.

use super::{BuildError, CROSS, Chosen, Component, Files, Spec, job::Job, kconfig, plan};
use crate::recipe::{Board, Purpose, Target};

pub(super) const SPEC: Spec = Spec {
    name: "kernel",
    about: "Linux for the board",
    code: include_str!("kernel.rs"),
    sources: &["linux-source-6.12"],
    needs: &[],
    series: Some("kernel-config/patches"),
    files: INPUTS,
    certificate: None,
    chosen,
    build,
};

/// Fragments for every board.
const FRAGMENTS: Files = Files::Dir("kernel-config", "config");

/// Those for one.
fn board(board: Board) -> Files {
    Files::Dir(
        match board {
            Board::Rpi3 => "kernel-config/rpi3",
            Board::Virt => "kernel-config/virt",
        },
        "config",
    )
}

/// Options that must be off, whatever the fragments say or do not say.
const ABSENT: &str = "kernel-config/must-be-absent";

/// Fragments for the lab; what they ask for need not be absent.
const DEVELOPMENT: Files = Files::Dir("kernel-config/development", "config");

/// Fragments for a kernel that loads modules; what they ask for need not be absent either.
fn modules(board: Board) -> Vec<Files> {
    let dirs: &[&str] = match board {
        Board::Rpi3 => &["kernel-config/modules", "kernel-config/rpi3/modules"],
        Board::Virt => &["kernel-config/modules"],
    };
    dirs.iter().map(|dir| Files::Dir(dir, "config")).collect()
}

/// What a recipe's choices exempt from what must be absent.
fn exempt(target: &Target) -> Vec<Files> {
    let mut files = Vec::new();
    if target.modules {
        files.extend(modules(target.board));
    }
    if target.kernel == Purpose::Development {
        files.push(DEVELOPMENT);
    }
    files
}

fn chosen(target: &Target) -> Chosen {
    let files = [vec![board(target.board)], exempt(target)].concat();
    Chosen { files, ..Chosen::default() }
}

/// The linked kernel, an ELF file with its symbols.
pub(super) const LINKED: &str = "vmlinux";
/// Linux's own tool that puts a certificate into it.
pub(super) const INSERT: &str = "insert-sys-cert";
/// Where the modules are, in `lib/modules/RELEASE`, where there are any.
pub(super) const MODULES: &str = "modules";

const INPUTS: &[Files] = &[FRAGMENTS, Files::One(ABSENT)];

/// The board's device tree in the kernel's own tree.
fn tree(board: Board) -> Option<&'static str> {
    match board {
        Board::Rpi3 => Some("broadcom/bcm2837-rpi-3-b.dtb"),
        // QEMU makes it.
        Board::Virt => None,
    }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("linux-source-6.12")?;

    let target = &job.context.target;
    let exempt = fragments(job, &exempt(target))?;
    let wanted = fragments(job, &[FRAGMENTS, board(target.board)])? + &exempt;
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
    let got = String::from_utf8_lossy(&job.read(&config)?).into_owned();
    let absent = String::from_utf8_lossy(&job.read(&job.tree(ABSENT))?).into_owned();
    let defined = kconfig::Defined::in_tree(job, &source)?;
    let mut wrong = kconfig::missing(&wanted, &got);
    wrong.extend(kconfig::present(&absent, &exempt, &got));
    wrong.extend(defined.unknown(&absent));
    if !wrong.is_empty() {
        return Err(job.wrong(format!(
            "the configuration is not what kernel-config/ asks for (a dependency is off, or an \
             option has gone or got another name?):\n  {}",
            wrong.join("\n  ")
        )));
    }
    // -@: overlays refer to the tree's labels.
    let tree = tree(target.board);
    job.run("make Image", make().args([&job.jobs(), "DTC_FLAGS=-@", "Image"]).args(tree))?;
    let boot = output.join("arch/arm64/boot");
    job.keep(&boot.join("Image"), "Image")?;
    if let Some(tree) = tree {
        job.keep(&boot.join("dts").join(tree), "board.dtb")?;
    }
    // For the certificate that comes later: the linked kernel with its symbols, and the tool.
    let linked = job.work.join(LINKED);
    let mut strip = job.command(format!("{CROSS}objcopy"), &job.work);
    job.run("strip vmlinux", strip.arg("--strip-debug").arg(output.join("vmlinux")).arg(&linked))?;
    job.keep(&linked, LINKED)?;
    job.keep(&output.join("scripts").join(INSERT), INSERT)?;
    if target.modules {
        job.run("make modules", make().args([&job.jobs(), "modules"]))?;
        let to = format!("INSTALL_MOD_PATH={}", job.out.join(MODULES).display());
        // What depends on what is worked out where they are installed, by the root's release.
        let install = ["INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"];
        job.run("make modules_install", make().arg(to).args(install))?;
        let build = job.out.join(MODULES).join("lib/modules");
        for release in std::fs::read_dir(&build).map_err(|error| job.wrong(error.to_string()))? {
            let release = release.map_err(|error| job.wrong(error.to_string()))?.path();
            // A link to where it was built.
            let _ = std::fs::remove_file(release.join("build"));
        }
    }
    job.keep(&output.join("include/config/kernel.release"), "release")?;
    job.keep(&config, "config")
}

/// The text of these fragments, one after the other.
fn fragments(job: &Job<'_>, files: &[Files]) -> Result<String, BuildError> {
    let mut text = String::new();
    for path in plan::files(&job.context.tree, files).map_err(|(path, source)| {
        BuildError::Input { component: Component::Kernel, path, source }
    })? {
        text.push_str(&String::from_utf8_lossy(&job.read(&job.context.tree.join(path))?));
        text.push('\n');
    }
    Ok(text)
}
