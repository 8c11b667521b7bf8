//! U-Boot with our patches: measures into the TPM, and fails closed. Without its
//! control DTB, which holds the key and is a component of its own. What must be absent
//! from its configuration is checked to be.

use super::{BuildError, CROSS, Chosen, Component, Files, Spec, job::Job, kconfig, plan};
use crate::recipe::{Board, Firmware, Purpose, Target};

pub(super) const SPEC: Spec = Spec {
    name: "u-boot",
    about: "U-Boot without its control DTB, and its tools",
    code: include_str!("u_boot.rs"),
    sources: &["u-boot"],
    needs: &[],
    series: Some("uboot-patches/u-boot"),
    files: &[Files::One(ABSENT)],
    certificate: None,
    chosen,
    build,
};

/// U-Boot's own configuration of a board.
fn defconfig(board: Board) -> &'static str {
    match board {
        Board::Rpi3 => "rpi_3_defconfig",
        Board::Virt => "qemu_arm64_defconfig",
    }
}

/// What is added to it, in the order in which it is merged: what is alike for every board,
/// the board's part, and that of whoever starts U-Boot.
fn fragments(target: &Target) -> Vec<&'static str> {
    let mut fragments = vec!["uboot-patches/u-boot/common.config"];
    fragments.extend_from_slice(match (target.board, target.firmware) {
        (Board::Rpi3, Firmware::TfA(_)) => {
            &["uboot-patches/u-boot/rpi3.config", "uboot-patches/u-boot/rpi3-tf-a.config"]
        }
        (Board::Rpi3, Firmware::UBoot) => {
            &["uboot-patches/u-boot/rpi3.config", "uboot-patches/u-boot/rpi3-u-boot.config"]
        }
        (Board::Virt, _) => &["uboot-patches/u-boot/virt.config"],
    });
    fragments
}

/// Options that must be off, whatever the fragments and the defaults say.
const ABSENT: &str = "uboot-patches/u-boot/must-be-absent";

/// Fragments for the lab, on top of the other; what they ask for need not be absent.
const DEVELOPMENT: &[Files] = &[Files::Dir("uboot-patches/u-boot/development", "config")];

fn for_the_lab(target: &Target) -> &'static [Files] {
    match target.u_boot {
        Purpose::Release => &[],
        Purpose::Development => DEVELOPMENT,
    }
}

fn chosen(target: &Target) -> Chosen {
    let files = fragments(target).into_iter().map(Files::One);
    let files = files.chain(for_the_lab(target).iter().copied()).collect();
    Chosen { files, ..Chosen::default() }
}

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("u-boot")?;
    let output = job.work.join("output");
    let make = || {
        let mut command = job.command("make", &source);
        // An empty LOCALVERSION keeps scripts/setlocalversion from adding a `+`. The tools
        // shall not tell where they were built either.
        command
            .arg(format!("O={}", output.display()))
            .arg("LOCALVERSION=")
            .arg(format!("HOSTCFLAGS=-ffile-prefix-map={}=.", job.work.display()))
            .env("CROSS_COMPILE", CROSS);
        command
    };
    let target = &job.context.target;
    let fragments: Vec<_> = fragments(target).into_iter().map(|path| job.tree(path)).collect();
    job.run("defconfig", make().arg(defconfig(target.board)))?;
    let config = output.join(".config");
    let mut merge = job.command(source.join("scripts/kconfig/merge_config.sh"), &source);
    merge.args(["-m", "-r", "-O"]).arg(&output).arg(&config).args(&fragments);
    let mut release = String::new();
    for path in &fragments {
        release.push_str(&text(job.read(path)?));
    }
    let mut development = String::new();
    for path in plan::files(&job.context.tree, for_the_lab(target))
        .map_err(|(path, source)| BuildError::Input { component: Component::UBoot, path, source })?
    {
        let path = job.context.tree.join(path);
        development.push_str(&text(job.read(&path)?));
        merge.arg(path);
    }
    job.run("merging the configuration", &mut merge)?;
    job.run("configure", make().arg("olddefconfig"))?;
    let absent = text(job.read(&job.tree(ABSENT))?);
    let got = text(job.read(&config)?);
    let mut wrong = kconfig::missing(&format!("{release}\n{development}"), &got);
    wrong.extend(kconfig::present(&absent, &development, &got));
    wrong.extend(kconfig::Defined::in_tree(job, &source)?.unknown(&absent));
    if !wrong.is_empty() {
        return Err(job.wrong(format!(
            "the configuration is not what uboot-patches/u-boot/ asks for (a dependency is off, or \
             an option has gone or got another name?):\n  {}",
            wrong.join("\n  ")
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

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
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
    use super::{kconfig, version};

    /// The lab's shell and its commands are none of a release: its build refuses them.
    #[test]
    fn what_the_development_variant_switches_on_must_be_absent_from_a_release() {
        let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/../uboot-patches/u-boot/");
        let read = |name: &str| std::fs::read_to_string(format!("{tree}{name}")).unwrap();
        let (development, absent) = (read("development/shell.config"), read("must-be-absent"));
        let commands = |text: &str| {
            let names = text.lines().filter_map(|line| line.strip_prefix("CONFIG_"));
            let on = names.filter_map(|line| line.strip_suffix("=y"));
            on.filter(|name| name.starts_with("CMD_")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(commands(&development).contains(&"CMD_MEMORY".to_owned()));
        for command in commands(&development) {
            let refused = kconfig::present(&absent, "", &format!("CONFIG_{command}=y\n"));
            assert_eq!(refused, [format!("{command} must be off, and is y")]);
        }
        let release = read("common.config");
        for no_shell in ["CONFIG_BOOTDELAY=-2", "CONFIG_AUTOBOOT_FAIL_PANIC=y"] {
            assert_eq!(kconfig::missing(no_shell, &release), [""; 0]);
            assert_eq!(kconfig::missing(no_shell, &development).len(), 1, "{no_shell}");
        }
    }

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
