//! Which parts of a rule go together (`ima_validate_rule`).

use super::RuleError;
use super::rule::{Action, AppraiseType, Hook, Rule};

/// What a rule has said, beside action and hook.
struct Said {
    word: &'static str,
    is_said: bool,
    /// The hooks that take it.
    takes: fn(Hook) -> bool,
}

const fn files(hook: Hook) -> bool {
    !matches!(hook, Hook::KeyCheck | Hook::CriticalData | Hook::SetxattrCheck)
}

const fn contents(hook: Hook) -> bool {
    files(hook) && !matches!(hook, Hook::KexecCmdline)
}

/// Hooks of files that have no appended signatures.
const fn plain(hook: Hook) -> bool {
    contents(hook) && !appended(hook)
}

const fn appended(hook: Hook) -> bool {
    matches!(hook, Hook::ModuleCheck | Hook::KexecKernelCheck | Hook::KexecInitramfsCheck)
}

const fn not_setxattr(hook: Hook) -> bool {
    !matches!(hook, Hook::SetxattrCheck)
}

/// The kernel looks at `uid` and `gid` there, and at nothing else that is about who acts.
const fn effective(hook: Hook) -> bool {
    files(hook)
}

impl Rule {
    /// Whether a kernel of the newest kind would take it, with everything built in.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn validate(&self) -> Result<(), RuleError> {
        self.action_fits()?;
        self.hook_fits()?;
        let is_signed = self.appraise_type.is_some();
        if self.action == Action::Appraise && self.is_verity && !is_signed {
            return Err(RuleError::Needs { word: "digest_type", needs: "appraise_type=sigv3" });
        }
        Ok(())
    }

    fn action_fits(&self) -> Result<(), RuleError> {
        let of = |word, is_said: bool, action: Action| {
            let action_is_other = self.action != action;
            (is_said && action_is_other).then_some((word, self.action))
        };
        let wrong = [
            of("pcr", self.pcr.is_some(), Action::Measure),
            of("template", self.template.is_some(), Action::Measure),
            of("appraise_type", self.appraise_type.is_some(), Action::Appraise),
            of("appraise_algos", !self.hashes.is_empty(), Action::Appraise),
        ];
        match wrong.into_iter().flatten().next() {
            Some((word, action)) => Err(RuleError::Action { word, action: action.word() }),
            None => Ok(()),
        }
    }

    fn hook_fits(&self) -> Result<(), RuleError> {
        let by = |subject: Option<super::Subject>, wanted: bool| {
            subject.is_some_and(|subject| subject.is_effective == wanted)
        };
        let is_appended = self.appraise_type == Some(AppraiseType::SignatureOrAppended);
        let said = [
            Said { word: "mask", is_said: self.mask.is_some(), takes: contents },
            Said { word: "fsmagic", is_said: self.fsmagic.is_some(), takes: files },
            Said { word: "fsname", is_said: self.fsname.is_some(), takes: files },
            Said { word: "fsuuid", is_said: self.fsuuid.is_some(), takes: files },
            Said { word: "uid", is_said: by(self.user, false), takes: not_setxattr },
            Said { word: "gid", is_said: by(self.group, false), takes: not_setxattr },
            Said { word: "euid", is_said: by(self.user, true), takes: effective },
            Said { word: "egid", is_said: by(self.group, true), takes: effective },
            Said { word: "fowner", is_said: self.file_user.is_some(), takes: files },
            Said { word: "fgroup", is_said: self.file_group.is_some(), takes: files },
            Said { word: "pcr", is_said: self.pcr.is_some(), takes: not_setxattr },
            Said { word: "labels", is_said: !self.labels.is_empty(), takes: files },
            Said {
                word: "keyrings",
                is_said: !self.keyrings.is_empty(),
                takes: |hook| hook == Hook::KeyCheck,
            },
            Said {
                word: "label",
                is_said: !self.kinds.is_empty(),
                takes: |hook| hook == Hook::CriticalData,
            },
            Said { word: "digest_type", is_said: self.is_verity, takes: plain },
            Said { word: "imasig|modsig", is_said: is_appended, takes: appended },
            Said { word: "appraise_type", is_said: self.appraise_type.is_some(), takes: contents },
            Said {
                word: "appraise_algos",
                is_said: !self.hashes.is_empty(),
                takes: |hook| contents(hook) || hook == Hook::SetxattrCheck,
            },
            Said { word: "permit_directio", is_said: self.permits_direct_io, takes: contents },
        ];
        // A rule for all hooks has what a rule for opened files may have.
        let hook = self.hook.unwrap_or(Hook::FileCheck);
        if let Some(wrong) = said.iter().find(|said| said.is_said && !(said.takes)(hook)) {
            return Err(RuleError::Hook { word: wrong.word, hook: hook.word() });
        }
        let measures = matches!(self.action, Action::Measure | Action::DontMeasure);
        match hook {
            Hook::KexecCmdline | Hook::KeyCheck | Hook::CriticalData if !measures => {
                Err(RuleError::Hook { word: self.action.word(), hook: hook.word() })
            }
            Hook::SetxattrCheck if self.action != Action::Appraise => {
                Err(RuleError::Hook { word: self.action.word(), hook: hook.word() })
            }
            Hook::SetxattrCheck if self.hashes.is_empty() => {
                Err(RuleError::Needs { word: "func=SETXATTR_CHECK", needs: "appraise_algos" })
            }
            _ => Ok(()),
        }
    }
}
