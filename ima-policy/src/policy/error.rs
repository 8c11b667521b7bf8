//! Why a rule is none.

use pcr_measure::text::printable;

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// Longer than the kernel reads.
    #[error("it has {0} bytes, more than the kernel takes")]
    Long(usize),
    /// A word that no rule has.
    #[error("`{0}` is no word of a rule")]
    Word(String),
    /// A value that such a word has not.
    #[error("`{word}` does not take `{value}`")]
    Value {
        /// The word.
        word: &'static str,
        /// Its value.
        value: String,
    },
    /// The same condition again, or `uid` beside `euid`, which share a place.
    #[error("`{0}` is said twice")]
    Twice(&'static str),
    /// No action.
    #[error("it does not say what to do: measure, appraise, audit, hash, or not")]
    NoAction,
    /// A word that has to stand behind another.
    #[error("`{word}` has to stand behind `{behind}`")]
    Order {
        /// The word.
        word: &'static str,
        /// What comes before it.
        behind: &'static str,
    },
    /// A word that this action has not.
    #[error("`{word}` is not for `{action}`")]
    Action {
        /// The word.
        word: &'static str,
        /// The action.
        action: &'static str,
    },
    /// A word that this hook has not.
    #[error("`{word}` is not for `func={hook}`")]
    Hook {
        /// The word, or the action.
        word: &'static str,
        /// The hook.
        hook: &'static str,
    },
    /// A word without which another one is none.
    #[error("`{word}` needs `{needs}`")]
    Needs {
        /// The word.
        word: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// What the kernel is too old for, or was built without.
    #[error("`{word}`: this kernel does not know it ({why})")]
    Kernel {
        /// The word.
        word: String,
        /// What it lacks.
        why: String,
    },
}

/// A line of a policy that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}: {text}")]
pub struct PolicyError {
    /// Counted from 1.
    pub line: usize,
    /// The line, as it may be shown.
    pub text: String,
    /// What is wrong with it.
    pub cause: RuleError,
}

impl PolicyError {
    /// What is wrong with this line.
    #[must_use]
    pub fn new(line: usize, text: &str, cause: RuleError) -> Self {
        Self { line, text: printable(text), cause }
    }
}
