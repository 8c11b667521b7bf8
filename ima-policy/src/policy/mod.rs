//! IMA's policy: rules, and whether a kernel takes them.
//!
//! The kernel answers a rule that it does not take with `EINVAL` and no word more, and what it
//! has taken before stays: half a policy. So rules are read and checked here as the kernel does
//! it, before one is written to it.
//!
//! Source: Linux 6.12, security/integrity/ima/ima_policy.c (`ima_parse_rule`,
//! `ima_validate_rule`); Documentation/ABI/testing/ima_policy.

mod check;
mod error;
mod kernel;
mod parse;
pub mod profile;
mod rule;
#[cfg(test)]
mod tests;

pub use error::{PolicyError, RuleError};
pub use kernel::{Kernel, KernelError, Version};
pub use rule::{Access, Action, AppraiseType, Compare, Hook, Label, Mask, Owner, Rule, Subject};

/// Longest policy that is read, in bytes.
pub const MAX_POLICY: usize = 1 << 20;
/// Longest rule, in bytes: the kernel takes less than a page in one write
/// (`ima_write_policy`).
pub const MAX_RULE: usize = 4095;

/// Reads the rules of a policy, with the number of the line that each stands on. Lines that
/// are empty or begin with `#` are none (`ima_parse_add_rule`).
///
/// # Errors
/// All lines that are no rules, each with its reason.
pub fn parse(text: &str) -> Result<Vec<(usize, Rule)>, Vec<PolicyError>> {
    let mut rules = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match Rule::parse(line) {
            Ok(rule) => rules.push((index + 1, rule)),
            Err(cause) => errors.push(PolicyError::new(index + 1, line, cause)),
        }
    }
    if errors.is_empty() { Ok(rules) } else { Err(errors) }
}
