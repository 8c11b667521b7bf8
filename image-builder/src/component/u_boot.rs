//! U-Boot with our patches: measures into the TPM, and fails closed. Without its
//! control DTB, which holds the key and is a component of its own.

use super::{BuildError, CROSS, Chosen, Files, Spec, job::Job, kconfig};
use crate::recipe::{Board, Target};

pub(super) const SPEC: Spec = Spec {
    name: "u-boot",
    about: "U-Boot without its control DTB, and its tools",
    code: include_str!("u_boot.rs"),
    sources: &["u-boot"],
    needs: &[],
    series: Some("uboot-patches/u-boot"),
    files: &[Files::One(POLICY)],
    certificate: false,
    chosen,
    build,
};

/// What is configured alike for every board.
const POLICY: &str = "uboot-patches/u-boot/common.config";

/// U-Boot's own configuration of a board, and what we add to it.
fn board(board: Board) -> (&'static str, &'static str) {
    match board {
        Board::Rpi3 => ("rpi_3_defconfig", "uboot-patches/u-boot/rpi3.config"),
        Board::Virt => ("qemu_arm64_defconfig", "uboot-patches/u-boot/virt.config"),
    }
}

fn chosen(target: &Target) -> Chosen {
    let (_, fragment) = board(target.board);
    Chosen { files: vec![Files::One(fragment)], ..Chosen::default() }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("u-boot")?;
    let output = job.work.join("output");
    let make = || {
        let mut command = job.command("make", &source);
        // An empty LOCALVERSION keeps scripts/setlocalversion from adding a `+`.
        command
            .arg(format!("O={}", output.display()))
            .arg("LOCALVERSION=")
            .env("CROSS_COMPILE", CROSS);
        command
    };
    let (defconfig, board) = board(job.context.target.board);
    let fragments = [POLICY, board].map(|path| job.tree(path));
    job.run("defconfig", make().arg(defconfig))?;
    let config = output.join(".config");
    let mut merge = job.command(source.join("scripts/kconfig/merge_config.sh"), &source);
    merge.args(["-m", "-r", "-O"]).arg(&output).arg(&config).args(&fragments);
    job.run("merging the configuration", &mut merge)?;
    job.run("configure", make().arg("olddefconfig"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let mut wanted = String::new();
    for fragment in &fragments {
        wanted.push_str(&text(job.read(fragment)?));
    }
    let missing = kconfig::missing(&wanted, &text(job.read(&config)?));
    if !missing.is_empty() {
        return Err(job.wrong(format!(
            "kconfig did not take all of {POLICY} and {board} (a dependency is off?):\n  {}",
            missing.join("\n  ")
        )));
    }
    // -@: the overlay with the TPM refers to the tree's labels.
    job.run("make", make().args([&job.jobs(), "DTC_FLAGS=-@", "all"]))?;

    let binary = output.join("u-boot-nodtb.bin");
    let upstream = job.context.lock.source("u-boot")?.upstream_version();
    let version = version(&job.read(&binary)?, upstream).map_err(|reason| job.wrong(reason))?;
    job.keep_bytes(&version, "version")?;
    job.keep(&binary, "u-boot-nodtb.bin")?;
    job.keep(&output.join("u-boot.dtb"), "u-boot.dtb")?;
    job.keep(&config, "config")?;
    for tool in ["mkimage", "fit_check_sign", "fdt_add_pubkey"] {
        job.keep(&output.join("tools").join(tool), tool)?;
    }
    Ok(())
}

/// The bytes that U-Boot measures as its version, with the NUL: the string
/// `U-Boot <version>... (<date>...)` of `cmd/version.c`.
///
/// It is looked up rather than derived: what is measured is what is in there.
fn version(binary: &[u8], upstream: &str) -> Result<Vec<u8>, String> {
    let beginning = format!("U-Boot {upstream}");
    let mut found: Vec<&[u8]> = binary
        .split_inclusive(|byte| *byte == 0)
        .filter(|string| string.starts_with(beginning.as_bytes()) && string.contains(&b'('))
        .filter(|string| string.ends_with(&[0]) && string.len() <= 256)
        .collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [one] => Ok(one.to_vec()),
        [] => Err(format!("no version string `{beginning}... (date)` in u-boot-nodtb.bin")),
        _ => Err(format!("several version strings `{beginning}...` in u-boot-nodtb.bin")),
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn the_version_is_found_with_its_nul() {
        let one = b"\x7f\0U-Boot 2025.01\0junk\0U-Boot 2025.01-3 (Jan 01 2026)\0more";
        assert_eq!(version(one, "2025.01").unwrap(), b"U-Boot 2025.01-3 (Jan 01 2026)\0");
        let twice = [&one[..], one].concat();
        assert_eq!(version(&twice, "2025.01").unwrap(), b"U-Boot 2025.01-3 (Jan 01 2026)\0");
    }

    #[test]
    fn no_version_or_a_doubtful_one_is_an_error() {
        for binary in [
            &b""[..],
            b"U-Boot 2025.01 (no end",
            b"U-Boot 2024.10 (x)\0",
            b"U-Boot 2025.01 (a)\0U-Boot 2025.01 (b)\0",
        ] {
            version(binary, "2025.01").unwrap_err();
        }
    }
}
