//! What the running system's code is held to: the recipe's table `[integrity]`.

use serde::{Deserialize, Serialize};

use super::values::ValueError;

/// What the running system's code is held to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Integrity {
    /// The profile, if the recipe says.
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<Profile>,
    /// Whether the initramfs is another one than ours, which loads no policy.
    #[serde(skip)]
    other_initramfs: bool,
}

/// How much IMA demands of the running system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Nothing: no policy is loaded.
    None,
    /// All code is measured into PCR 10.
    Measure,
    /// Beside that, all code from files has to be signed. The root is, by image-builder.
    Appraise,
    /// Beside that, no code from memory, and what root reads of its own is measured.
    Lockdown,
}

impl Profile {
    /// Whether files have to be signed.
    #[must_use]
    pub fn appraises(self) -> bool {
        self.policy() > Some(ima_policy::policy::profile::Profile::Measure)
    }

    /// The policy; none where none is loaded.
    #[must_use]
    pub fn policy(self) -> Option<ima_policy::policy::profile::Profile> {
        use ima_policy::policy::profile::Profile;
        match self {
            Self::None => None,
            Self::Measure => Some(Profile::Measure),
            Self::Appraise => Some(Profile::Appraise),
            Self::Lockdown => Some(Profile::Lockdown),
        }
    }
}

impl Integrity {
    /// What holds for this recipe: what it says, or [`Profile::Measure`] where our initramfs
    /// is there to load it.
    #[must_use]
    pub fn profile(self) -> Profile {
        let usual = if self.other_initramfs { Profile::None } else { Profile::Measure };
        self.profile.unwrap_or(usual)
    }

    /// The same, knowing whether the initramfs is another one than ours.
    ///
    /// # Errors
    /// If a policy is asked for that nobody loads.
    pub(super) fn with_initramfs(self, other: bool) -> Result<Self, ValueError> {
        if other && self.profile.is_some_and(|profile| profile != Profile::None) {
            return Err(ValueError(
                "[integrity] profile: the policy is loaded by our initramfs, and [initramfs] file \
                 names another one; leave the profile out, or say \"none\""
                    .to_owned(),
            ));
        }
        Ok(Self { other_initramfs: other, ..self })
    }
}
