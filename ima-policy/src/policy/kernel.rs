//! What a kernel knows: by its version, and by what it was built with.

use std::fmt;

use pcr_measure::text::printable;

use super::RuleError;
use super::rule::{Action, AppraiseType, Hook, Rule};

/// A version of Linux: 6.12.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 6.
    pub major: u16,
    /// 12.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// The oldest that is known here: Debian 12's.
    pub const OLDEST: Self = Self { major: 6, minor: 1 };

    /// Reads what `uname -r` says; what stands behind the second number is not looked at.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        Some(Self { major: number()?, minor: number()? })
    }
}

/// Why a kernel is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// Too old.
    #[error("Linux {0} is older than {oldest}: its rules are not known here", oldest = Version::OLDEST)]
    Old(Version),
    /// No version.
    #[error("`{0}` is no version of a kernel")]
    Version(String),
    /// Built without IMA.
    #[error("this kernel is built without {0}: it takes no such policy")]
    Without(&'static str),
}

/// A kernel that is to take a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    version: Version,
    /// What its `.config` sets; `None` where that is not known, and everything is built in.
    options: Option<Vec<String>>,
}

/// Where [`Hook::MmapCheckReqprot`] came from.
const REQPROT: Version = Version { major: 6, minor: 3 };

impl Kernel {
    /// A kernel of this release with everything built in that a rule may want.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn new(release: &str) -> Result<Self, KernelError> {
        let version = Version::parse(release);
        let version = version.ok_or_else(|| KernelError::Version(printable(release)))?;
        if version < Version::OLDEST {
            return Err(KernelError::Old(version));
        }
        Ok(Self { version, options: None })
    }

    /// The same kernel, built with this `.config`.
    ///
    /// # Errors
    /// That it has no IMA, or none whose policy can be set.
    pub fn with_config(mut self, config: &str) -> Result<Self, KernelError> {
        let set = |line: &str| {
            let (name, value) = line.split_once('=')?;
            (value == "y").then(|| name.to_owned())
        };
        let options: Vec<String> =
            config.lines().filter(|line| line.starts_with("CONFIG_")).filter_map(set).collect();
        if !options.iter().any(|option| option == "CONFIG_IMA") {
            return Err(KernelError::Without("CONFIG_IMA"));
        }
        self.options = Some(options);
        Ok(self)
    }

    /// Its version.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// Whether it is built with an option, as far as that is known.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.as_ref().is_none_or(|options| options.iter().any(|its| its == option))
    }

    /// Whether this kernel takes a rule that is one ([`Rule::validate`]).
    ///
    /// # Errors
    /// [`RuleError::Kernel`].
    pub fn takes(&self, rule: &Rule) -> Result<(), RuleError> {
        let no = |word: &str, why: String| Err(RuleError::Kernel { word: word.to_owned(), why });
        let without = |option: &str| format!("built without {option}");
        let hook = rule.hook.map_or("", Hook::word);
        if rule.hook == Some(Hook::MmapCheckReqprot) && self.version < REQPROT {
            return no(hook, format!("it is Linux {}, and that came with {REQPROT}", self.version));
        }
        let appended = rule.appraise_type == Some(AppraiseType::SignatureOrAppended);
        let appraises = matches!(rule.action, Action::Appraise | Action::DontAppraise);
        let wants = [
            (appraises, rule.action.word(), "CONFIG_IMA_APPRAISE"),
            (rule.hook == Some(Hook::KeyCheck), hook, "CONFIG_IMA_MEASURE_ASYMMETRIC_KEYS"),
            (!rule.keyrings.is_empty(), "keyrings", "CONFIG_IMA_MEASURE_ASYMMETRIC_KEYS"),
            (appended, "imasig|modsig", "CONFIG_IMA_APPRAISE_MODSIG"),
            (!rule.labels.is_empty(), "labels", "CONFIG_IMA_LSM_RULES"),
        ];
        for (is_wanted, word, option) in wants {
            if is_wanted && !self.has(option) {
                return no(word, without(option));
            }
        }
        // Labels are of SELinux and Smack; no other module has rules of this kind for files.
        let labelled = ["CONFIG_SECURITY_SELINUX", "CONFIG_SECURITY_SMACK"];
        if !rule.labels.is_empty() && !labelled.iter().any(|option| self.has(option)) {
            return no("labels", without("SELinux and Smack"));
        }
        Ok(())
    }
}
