//! OP-TEE, the secure world.

use super::{BuildError, CROSS, Chosen, Spec, job::Job};
use crate::recipe::{Board, Target};

pub(super) const SPEC: Spec = Spec {
    name: "optee",
    about: "OP-TEE, the secure world",
    code: include_str!("optee.rs"),
    sources: &["optee-os"],
    needs: &[],
    series: None,
    files: &[],
    certificate: false,
    chosen,
    build,
};

/// The board as OP-TEE's build names it, and what its port is asked for besides.
fn platform(board: Board) -> &'static [&'static str] {
    match board {
        Board::Rpi3 => &["PLATFORM=rpi3"],
        Board::Virt => &[
            "PLATFORM=vexpress-qemu_armv8a",
            // The device tree gives its driver no interrupt.
            "CFG_CORE_ASYNC_NOTIF=n",
            "CFG_ENABLE_EMBEDDED_TESTS=n",
            "CFG_DT_DRIVER_EMBEDDED_TEST=n",
        ],
    }
}

fn chosen(target: &Target) -> Chosen {
    Chosen { words: vec![("platform", platform(target.board).join(" "))], ..Chosen::default() }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("optee-os")?;
    let version = job.context.lock.source("optee-os")?.upstream_version();
    let mut make = job.command("make", &source);
    make.args([
        &job.jobs(),
        "CFG_ARM64_core=y",
        "CFG_USER_TA_TARGETS=ta_arm64",
        &format!("CROSS_COMPILE={CROSS}"),
        &format!("CROSS_COMPILE64={CROSS}"),
        "DEBUG=0",
        // Errors, and the lines that say that it has started.
        "CFG_TEE_CORE_LOG_LEVEL=2",
        "CFG_TEE_CORE_EMBED_INTERNAL_TESTS=n",
        "CFG_WITH_STATS=n",
        // Without it the version comes from git, which is not there.
        &format!("TEE_IMPL_VERSION={version}"),
        "O=out",
        "all",
    ]);
    make.args(platform(job.context.target.board));
    job.run("make", &mut make)?;
    for name in IMAGES {
        job.keep(&source.join("out/core").join(name), name)?;
    }
    Ok(())
}

/// Header, resident part, pageable part (empty: these platforms have no pager).
pub(super) const IMAGES: [&str; 3] =
    ["tee-header_v2.bin", "tee-pager_v2.bin", "tee-pageable_v2.bin"];
