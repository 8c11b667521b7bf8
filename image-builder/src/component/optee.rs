//! OP-TEE, the secure world, with the trusted applications that the recipe names
//! inside.
//!
//! Nothing is loaded into the secure world later: what runs there is in BL32, which
//! U-Boot measures into PCR 0. OP-TEE left to itself loads whatever the running system
//! hands it, if it is signed with the key whose private half lies in its sources.

use super::{BuildError, CROSS, Chosen, Spec, job::Job};
use crate::recipe::{Board, Purpose, Target, TrustedApps};

pub(super) const SPEC: Spec = Spec {
    name: "optee",
    about: "OP-TEE, the secure world",
    code: include_str!("optee.rs"),
    sources: &["optee-os"],
    needs: &[],
    series: Some("uboot-patches/optee"),
    files: &[],
    certificate: None,
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
            "CFG_DT_DRIVER_EMBEDDED_TEST=n",
        ],
    }
}

fn chosen(target: &Target) -> Chosen {
    let mut words = vec![("platform", platform(target.board).join(" "))];
    if !target.trusted_apps.is_empty() {
        words.push(("trusted applications", in_tree(target.trusted_apps)));
    }
    if target.op_tee == Purpose::Development {
        words.push(("OP-TEE", "development".to_owned()));
    }
    Chosen { words, ..Chosen::default() }
}

/// The value of `CFG_IN_TREE_EARLY_TAS`: trusted applications that become part of OP-TEE.
fn in_tree(apps: TrustedApps) -> String {
    let apps: Vec<_> =
        apps.iter().map(|app| format!("{}/{}", app.directory(), app.uuid())).collect();
    apps.join(" ")
}

/// What OP-TEE's configuration has to hold in the end. All of it is asked for, and all of
/// it is looked for in what the build made of it.
fn demanded(target: &Target) -> Vec<(&'static str, &'static str)> {
    let lab = target.op_tee == Purpose::Development;
    // Without an application there is nothing that could be asked for anything.
    let user = lab || !target.trusted_apps.is_empty();
    let yes_if = |yes: bool| if yes { "y" } else { "n" };
    let mut options = vec![
        ("CFG_WITH_USER_TA", yes_if(user)),
        // Trusted applications from the file system of the running system: directly, or
        // by way of secure storage, of which the key is no secret on this board.
        ("CFG_REE_FS_TA", yes_if(lab)),
        ("CFG_SECSTOR_TA", "n"),
        ("CFG_SECSTOR_TA_MGMT_PTA", "n"),
        // Secure storage: files that tee-supplicant keeps.
        ("CFG_REE_FS", yes_if(user)),
        ("CFG_REE_FS_ALLOW_RESET", "n"),
        ("CFG_RPMB_FS", "n"),
        ("CFG_WITH_SOFTWARE_PRNG", "y"),
        // Services for tests, for measurements of the code, and for a kernel that would
        // look for devices behind OP-TEE.
        ("CFG_ENABLE_EMBEDDED_TESTS", "n"),
        ("CFG_TEE_CORE_EMBED_INTERNAL_TESTS", "n"),
        ("CFG_WITH_STATS", "n"),
        ("CFG_TA_STATS", "n"),
        ("CFG_TA_GPROF_SUPPORT", "n"),
        ("CFG_FTRACE_SUPPORT", "n"),
        ("CFG_SYSCALL_FTRACE", "n"),
        ("CFG_ATTESTATION_PTA", "n"),
        ("CFG_REMOTEPROC_PTA", "n"),
        ("CFG_DEVICE_ENUM_PTA", "n"),
        ("CFG_CORE_ASLR", "y"),
        ("CFG_TA_ASLR", "y"),
        ("CFG_WITH_STACK_CANARIES", "y"),
        ("CFG_CORE_STACK_PROTECTOR_STRONG", "y"),
        ("CFG_TA_STACK_PROTECTOR_STRONG", "y"),
        ("CFG_CORE_RWDATA_NOEXEC", "y"),
        // Errors, and the lines that say that it has started.
        ("CFG_TEE_CORE_LOG_LEVEL", "2"),
        ("CFG_TEE_TA_LOG_LEVEL", "1"),
    ];
    if target.board == Board::Rpi3 {
        options.extend([
            // Without it nothing that is derived from a hardware key can be had, as there is
            // none. With it that key is zeros: storage cannot do without.
            ("CFG_INSECURE", yes_if(user)),
            ("CFG_BCM2835_RNG", "y"),
        ]);
    }
    options
}

/// What verifies a signature under OP-TEE's key: where this is not linked in, no
/// application from outside can be accepted.
const VERIFIES_APPLICATIONS: &str = "shdr_verify_signature";

/// An application to try the lab's OP-TEE with, signed with the key that everybody has: the
/// UUID of `ta/avb` in OP-TEE's sources. It lies beside the images.
pub const SAMPLE: &str = "023f8f1a-292a-432b-8fc4-de8471358067";

fn build(job: &Job<'_>) -> Result<(), BuildError> {
    let source = job.unpack("optee-os")?;
    let version = job.context.lock.source("optee-os")?.upstream_version();
    let target = &job.context.target;
    let demanded = demanded(target);
    let mut make = job.command("make", &source);
    make.args([
        &job.jobs(),
        "CFG_ARM64_core=y",
        "CFG_USER_TA_TARGETS=ta_arm64",
        &format!("CROSS_COMPILE={CROSS}"),
        &format!("CROSS_COMPILE64={CROSS}"),
        "DEBUG=0",
        // Without it the version comes from git, which is not there.
        &format!("TEE_IMPL_VERSION={version}"),
        "O=out",
    ]);
    make.args(platform(target.board));
    make.args(demanded.iter().map(|(option, value)| format!("{option}={value}")));
    if !target.trusted_apps.is_empty() {
        make.arg(format!("CFG_IN_TREE_EARLY_TAS={}", in_tree(target.trusted_apps)));
    }
    job.run("make", make.arg("all"))?;

    let core = source.join("out/core");
    let config = source.join("out/conf.mk");
    let mut wrong = differences(&demanded, &String::from_utf8_lossy(&job.read(&config)?));
    let elf = job.read(&core.join("tee.elf"))?;
    let name = [VERIFIES_APPLICATIONS.as_bytes(), b"\0"].concat();
    let verifies = elf.windows(name.len()).any(|window| window == name);
    if verifies != (target.op_tee == Purpose::Development) {
        wrong.push(format!(
            "{VERIFIES_APPLICATIONS} is {}in the binary",
            if verifies { "" } else { "not " }
        ));
    }
    if !wrong.is_empty() {
        return Err(job.wrong(format!(
            "the configuration is not what was asked for (a dependency, or another name in this \
             version?):\n  {}",
            wrong.join("\n  ")
        )));
    }
    for name in IMAGES {
        job.keep(&core.join(name), name)?;
    }
    if target.op_tee == Purpose::Development {
        let app = format!("{SAMPLE}.ta");
        job.keep(&source.join("out/ta/avb").join(&app), &app)?;
    }
    job.keep(&config, "conf.mk")
}

/// Header, resident part, pageable part (empty: these platforms have no pager).
pub(super) const IMAGES: [&str; 3] =
    ["tee-header_v2.bin", "tee-pager_v2.bin", "tee-pageable_v2.bin"];

/// The options whose value in `conf.mk` (`NAME=value`, one a line) is not the one that is
/// demanded, one message each. An option that is not there has no value, not even `n`: it
/// may have got another name.
fn differences(demanded: &[(&str, &str)], conf: &str) -> Vec<String> {
    let value = |option: &str| {
        let mut settings = conf.lines().filter_map(|line| line.split_once('='));
        settings.find_map(|(name, value)| (name == option).then_some(value))
    };
    demanded
        .iter()
        .filter_map(|(option, wanted)| match value(option) {
            Some(got) if got == *wanted => None,
            Some(got) => Some(format!("{option} must be {wanted}, and is {got}")),
            None => Some(format!("{option} must be {wanted}, and there is no such option")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::TrustedApp;

    fn target(apps: &[TrustedApp], op_tee: Purpose) -> Target {
        let trusted_apps = TrustedApps::try_from(apps.to_vec()).unwrap();
        Target { trusted_apps, op_tee, ..Target::default() }
    }

    #[test]
    fn what_the_build_made_of_an_option_is_compared() {
        let conf = "CFG_A=y\nCFG_B=n\nCFG_N=12\nCFG_S=a=b c\n";
        type Options = &'static [(&'static str, &'static str)];
        let cases: [(Options, &[&str]); 5] = [
            (&[("CFG_A", "y"), ("CFG_B", "n"), ("CFG_S", "a=b c")], &[]),
            (&[("CFG_A", "n")], &["CFG_A must be n, and is y"]),
            (&[("CFG_N", "1")], &["CFG_N must be 1, and is 12"]),
            (&[("CFG_C", "n")], &["CFG_C must be n, and there is no such option"]),
            (&[("CFG", "y")], &["CFG must be y, and there is no such option"]),
        ];
        for (demanded, expected) in cases {
            assert_eq!(differences(demanded, conf), expected, "{demanded:?}");
        }
    }

    #[test]
    fn only_the_lab_takes_applications_from_the_running_system() {
        let value = |apps: &[TrustedApp], purpose, option| {
            let all = demanded(&target(apps, purpose));
            all.into_iter().find(|(name, _)| *name == option).unwrap().1
        };
        let some = [TrustedApp::Pkcs11];
        for apps in [&[][..], &some] {
            assert_eq!(value(apps, Purpose::Release, "CFG_REE_FS_TA"), "n");
            assert_eq!(value(apps, Purpose::Development, "CFG_REE_FS_TA"), "y");
            assert_eq!(value(apps, Purpose::Development, "CFG_SECSTOR_TA"), "n");
        }
        assert_eq!(value(&[], Purpose::Release, "CFG_WITH_USER_TA"), "n");
        assert_eq!(value(&some, Purpose::Release, "CFG_WITH_USER_TA"), "y");
        assert_eq!(value(&[], Purpose::Release, "CFG_INSECURE"), "n");
    }

    #[test]
    fn applications_are_named_as_op_tee_names_them() {
        let set = target(&[TrustedApp::Pkcs11], Purpose::Release).trusted_apps;
        assert_eq!(in_tree(set), "pkcs11/fd02c9da-306c-48c7-a49c-bbd827ae86ee");
    }
}
