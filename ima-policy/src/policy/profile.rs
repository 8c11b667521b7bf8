//! Policies of ours: what is measured and what is appraised, and why.
//!
//! They look at what runs, and not at what is read: a program can be started, mapped or loaded
//! into the kernel from wherever it lies, so no file system is left out, and a list stays as
//! short as the number of different programs and libraries. (The kernel's own `tcb` measures
//! all that root reads, and nothing on tmpfs.)

use std::fmt;

use super::rule::{Access, Action, AppraiseType, Hook, Rule};
use super::{Kernel, RuleError};

/// How much a policy demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// All code is measured; nothing is refused.
    Measure,
    /// Beside that, all code from files has to be signed.
    Appraise,
    /// Beside that, no code from memory, no other signature written, and everything that root
    /// reads of its own measured.
    Lockdown,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measure => "measure",
            Self::Appraise => "appraise",
            Self::Lockdown => "lockdown",
        })
    }
}

/// A rule, and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// The rule.
    pub rule: Rule,
    /// Why it is there.
    pub why: &'static str,
}

/// File systems whose files the kernel makes up, or that are memory (Linux,
/// include/uapi/linux/magic.h): what is read there differs from boot to boot.
const PSEUDO: [u64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x1cd1,      // devpts
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x4249_4e4d, // binfmt_misc
    0x6e73_6673, // nsfs
    TMPFS,
];
const TMPFS: u64 = 0x0102_1994;

/// Hashes that a signature may be over.
const HASHES: [&str; 3] = ["sha256", "sha384", "sha512"];

/// The rules of a profile for a kernel, in order.
///
/// # Errors
/// That the kernel does not take one of them: the profile is more than it can give.
pub fn rules(profile: Profile, kernel: &Kernel) -> Result<Vec<Explained>, RuleError> {
    let mut rules = measured(profile, kernel);
    if profile >= Profile::Appraise {
        rules.extend(appraised(profile, kernel));
    }
    for Explained { rule, .. } in &rules {
        rule.validate()?;
        kernel.takes(rule)?;
    }
    Ok(rules)
}

fn measured(profile: Profile, kernel: &Kernel) -> Vec<Explained> {
    let mut rules = Vec::new();
    let mut add = |rule: Rule, why| rules.push(Explained { rule, why });
    let at = |hook| {
        let mut rule = Rule::new(Action::Measure).at(hook);
        rule.template = Some("ima-sig".to_owned());
        rule
    };
    add(at(Hook::BprmCheck), "every program and script that is started, with its signature");
    let mut mapped = at(Hook::MmapCheck);
    mapped.mask = Some(super::Mask { access: Access::Exec, among_others: false });
    add(mapped, "every library that is mapped to run");
    add(at(Hook::ModuleCheck), "every module that the kernel loads");
    add(at(Hook::FirmwareCheck), "every firmware that it hands to a device");
    add(at(Hook::PolicyCheck), "every policy that is loaded behind this one");
    if kernel.has("CONFIG_KEXEC_FILE") {
        add(at(Hook::KexecKernelCheck), "the kernel that would be started without a reset");
        add(at(Hook::KexecInitramfsCheck), "its initramfs");
        add(Rule::new(Action::Measure).at(Hook::KexecCmdline), "its command line");
    }
    if kernel.has("CONFIG_IMA_MEASURE_ASYMMETRIC_KEYS") {
        add(Rule::new(Action::Measure).at(Hook::KeyCheck), "every key that verifies signatures");
    }
    add(
        Rule::new(Action::Measure).at(Hook::CriticalData),
        "the kernel's version, and what its security modules are set to",
    );
    if profile == Profile::Lockdown {
        for magic in PSEUDO {
            add(
                Rule::new(Action::DontMeasure).at(Hook::FileCheck).on(magic),
                "what is read there is made up by the kernel, or memory",
            );
        }
        add(
            at(Hook::FileCheck).when_opened_to(Access::Read).by_user(0).of_user(0),
            "everything of root's that root reads: settings, and scripts that a shell is told to read",
        );
    }
    rules
}

fn appraised(profile: Profile, kernel: &Kernel) -> Vec<Explained> {
    let mut rules = Vec::new();
    let mut add = |rule: Rule, why| rules.push(Explained { rule, why });
    let at = |hook| {
        let mut rule = Rule::new(Action::Appraise).at(hook).signed(AppraiseType::Signature);
        rule.hashes = HASHES.map(str::to_owned).to_vec();
        rule
    };
    if profile == Profile::Appraise {
        add(
            Rule::new(Action::DontAppraise).at(Hook::MmapCheck).on(TMPFS),
            "memory that a program makes code of itself (a compiler for regular expressions, libffi) is no file that could be signed",
        );
    }
    add(at(Hook::BprmCheck), "nothing is started that is not signed, wherever it lies");
    let mut mapped = at(Hook::MmapCheck);
    mapped.mask = Some(super::Mask { access: Access::Exec, among_others: false });
    add(mapped, "no library runs that is not signed");
    let mut module = at(Hook::ModuleCheck);
    if kernel.has("CONFIG_IMA_APPRAISE_MODSIG") && kernel.has("CONFIG_MODULE_SIG") {
        module.appraise_type = Some(AppraiseType::SignatureOrAppended);
    }
    add(module, "no module that is not signed");
    add(at(Hook::FirmwareCheck), "no firmware that is not signed");
    add(at(Hook::PolicyCheck), "no other policy that is not signed");
    if kernel.has("CONFIG_KEXEC_FILE") {
        add(at(Hook::KexecKernelCheck), "no other kernel that is not signed");
        add(at(Hook::KexecInitramfsCheck), "and none with another initramfs");
    }
    if profile == Profile::Lockdown {
        let mut written = Rule::new(Action::Appraise).at(Hook::SetxattrCheck);
        written.hashes = HASHES.map(str::to_owned).to_vec();
        add(written, "no signature over a weak hash is written to a file");
    }
    rules
}

/// A policy as a file: each rule behind its reason, said once for those that share it.
#[must_use]
pub fn text(head: &str, rules: &[Explained]) -> String {
    let mut text = String::new();
    for line in head.lines() {
        text.push_str(&format!("# {line}\n"));
    }
    let mut before = "";
    for Explained { rule, why } in rules {
        if *why != before {
            text.push_str(&format!("\n# {why}\n"));
        }
        before = why;
        text.push_str(&format!("{rule}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILES: [Profile; 3] = [Profile::Measure, Profile::Appraise, Profile::Lockdown];

    #[test]
    fn every_kernel_takes_its_policies() {
        let kernel = |config: &str| {
            let kernel = Kernel::new("6.12").unwrap();
            if config.is_empty() { kernel } else { kernel.with_config(config).unwrap() }
        };
        let mut lengths = Vec::new();
        for config in ["", "CONFIG_IMA=y\nCONFIG_IMA_APPRAISE=y\n"] {
            for profile in PROFILES {
                let kernel = kernel(config);
                let rules = rules(profile, &kernel).unwrap();
                let read = super::super::parse(&text("a\nb", &rules)).unwrap();
                let read: Vec<Rule> = read.into_iter().map(|(_, rule)| rule).collect();
                let ours: Vec<Rule> = rules.into_iter().map(|its| its.rule).collect();
                assert_eq!(read, ours);
                lengths.push(ours.len());
            }
        }
        assert_eq!(lengths, [10, 18, 30, 6, 12, 24]);
    }

    #[test]
    fn code_is_left_out_nowhere() {
        let kernel = Kernel::new("6.12").unwrap();
        for profile in PROFILES {
            for Explained { rule, .. } in rules(profile, &kernel).unwrap() {
                let is_left_out = matches!(rule.action, Action::DontMeasure | Action::DontAppraise);
                let is_file = rule.hook == Some(Hook::FileCheck);
                // Code from memory, in one profile.
                let is_memory = profile == Profile::Appraise
                    && (rule.hook, rule.fsmagic) == (Some(Hook::MmapCheck), Some(TMPFS));
                assert!(!is_left_out || is_file || is_memory, "{profile:?}: {rule}");
            }
        }
    }

    #[test]
    fn appraisal_wants_an_appraising_kernel() {
        let kernel = Kernel::new("6.12").unwrap().with_config("CONFIG_IMA=y\n").unwrap();
        assert!(rules(Profile::Measure, &kernel).is_ok());
        let error = rules(Profile::Appraise, &kernel).unwrap_err().to_string();
        assert!(error.contains("CONFIG_IMA_APPRAISE"), "{error}");
    }
}
