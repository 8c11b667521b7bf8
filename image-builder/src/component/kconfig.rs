//! Checks that a configuration has what was asked for, and has not what must be
//! absent. Kconfig drops an option with an unmet dependency without a word, and sets
//! one that another option selects.

use std::collections::BTreeSet;
use std::path::Path;

use super::{BuildError, job::Job};

/// The options that a fragment asks for and the configuration has not, one
/// message each. A later line of the fragment overrides an earlier one.
pub(super) fn missing(fragment: &str, config: &str) -> Vec<String> {
    let mut wanted: Vec<(&str, Option<&str>)> = Vec::new();
    for (option, value) in fragment.lines().filter_map(setting) {
        wanted.retain(|(name, _)| *name != option);
        wanted.push((option, value));
    }
    wanted
        .into_iter()
        .filter_map(|(option, wanted)| match (wanted, value(config, option)) {
            (wanted, got) if wanted == got => None,
            (None, Some(got)) => Some(must_be_off(option, got)),
            (Some(wanted), got) => {
                Some(format!("{option} must be {wanted}, and is {}", got.unwrap_or("off")))
            }
            (None, None) => None,
        })
        .collect()
}

/// The options of a list that a configuration has, one message each. Those that
/// `exempt`, a fragment, asks for by name may be there.
pub(super) fn present(list: &str, exempt: &str, config: &str) -> Vec<String> {
    listed(list)
        .filter(|option| value(exempt, option).is_none())
        .filter_map(|option| value(config, option).map(|got| must_be_off(option, got)))
        .collect()
}

fn must_be_off(option: &str, got: &str) -> String {
    format!("{option} must be off, and is {got}")
}

/// The options that Kconfig files define.
#[derive(Debug, Default)]
pub(super) struct Defined(BTreeSet<String>);

impl Defined {
    /// Those of all Kconfig files in a source tree.
    pub(super) fn in_tree(job: &Job<'_>, dir: &Path) -> Result<Self, BuildError> {
        let mut defined = Self::default();
        defined.read_tree(job, dir)?;
        Ok(defined)
    }

    fn read_tree(&mut self, job: &Job<'_>, dir: &Path) -> Result<(), BuildError> {
        let wrong = |error: std::io::Error| job.wrong(format!("{}: {error}", dir.display()));
        for entry in std::fs::read_dir(dir).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            if entry.file_type().map_err(wrong)?.is_dir() {
                self.read_tree(job, &entry.path())?;
            } else if entry.file_name().to_string_lossy().starts_with("Kconfig") {
                self.read(&String::from_utf8_lossy(&job.read(&entry.path())?));
            }
        }
        Ok(())
    }

    /// Takes in the text of a Kconfig file.
    pub(super) fn read(&mut self, kconfig: &str) {
        self.0.extend(kconfig.lines().filter_map(|line| {
            let line = line.trim_start();
            let name = line.strip_prefix("menuconfig ").or_else(|| line.strip_prefix("config "))?;
            Some(name.trim().to_owned())
        }));
    }

    /// The options of a list that no file defines, one message each: whatever is
    /// misspelt is off for ever.
    pub(super) fn unknown(&self, list: &str) -> Vec<String> {
        listed(list)
            .filter(|option| !self.0.contains(*option))
            .map(|option| format!("{option} is no option of this source"))
            .collect()
    }
}

/// The options of a list: one a line, `#` begins a comment.
fn listed(list: &str) -> impl Iterator<Item = &str> {
    list.lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
}

/// An option's value in a configuration (without `CONFIG_`; a string with its quotes);
/// none when it is off, or there is no such option.
#[must_use]
pub fn value<'a>(config: &'a str, option: &str) -> Option<&'a str> {
    config
        .lines()
        .filter_map(setting)
        .find_map(|(name, value)| (name == option).then_some(value))
        .flatten()
}

/// `CONFIG_A=v` or `# CONFIG_A is not set`; everything else is a comment. `n` is
/// another way to say "off".
fn setting(line: &str) -> Option<(&str, Option<&str>)> {
    if let Some(off) = line.strip_prefix("# CONFIG_") {
        let name = off.strip_suffix(" is not set")?;
        return Some((name, None));
    }
    let (name, value) = line.trim_end().strip_prefix("CONFIG_")?.split_once('=')?;
    Some((name, Some(value).filter(|value| *value != "n")))
}

#[cfg(test)]
mod tests {
    use super::{Defined, missing, present};

    #[test]
    fn what_kconfig_dropped_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"x=y\"\nCONFIG_N=12\n";
        let cases: [(&str, &[&str]); 11] = [
            ("CONFIG_A=y\n", &[]),
            ("# a comment\n\nCONFIG_S=\"x=y\"\n", &[]),
            ("# CONFIG_B is not set\n", &[]),
            ("CONFIG_B=n\n", &[]),
            ("# CONFIG_C is not set\n", &[]),
            ("CONFIG_B=y\n", &["B must be y, and is off"]),
            ("CONFIG_C=y\n", &["C must be y, and is off"]),
            ("# CONFIG_A is not set\n", &["A must be off, and is y"]),
            ("CONFIG_N=13\n", &["N must be 13, and is 12"]),
            ("CONFIG_A=m\nCONFIG_A=y\n", &[]),
            ("CONFIG_A=y\nCONFIG_A=m\n", &["A must be m, and is y"]),
        ];
        for (fragment, expected) in cases {
            assert_eq!(missing(fragment, config), expected, "{fragment:?}");
        }
    }
    #[test]
    fn what_must_be_absent_is_named_when_it_is_there() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_S=\"x\"\nCONFIG_AB=y\n";
        let cases: [(&str, &[&str]); 7] = [
            ("", &[]),
            ("# A\n\n  # A\n", &[]),
            ("B\nC\n", &[]),
            ("A\n", &["A must be off, and is y"]),
            ("  A  # a way in\nB # none", &["A must be off, and is y"]),
            ("B\nS\nAB", &["S must be off, and is \"x\"", "AB must be off, and is y"]),
            ("CONFIG_A\n", &[]),
        ];
        for (list, expected) in cases {
            assert_eq!(present(list, "", config), expected, "{list:?}");
        }
    }

    #[test]
    fn a_fragment_for_the_lab_exempts_what_it_asks_for_and_no_more() {
        let config = "CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n";
        let exempt = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_D=y\n";
        let expected = ["B must be off, and is y", "C must be off, and is y"];
        assert_eq!(present("A\nB\nC\nD\n", exempt, config), expected);
    }

    #[test]
    fn an_option_that_no_file_defines_is_named() {
        let mut defined = Defined::default();
        defined.read("config A\n\tbool \"a\"\n\nmenuconfig B\n\tdepends on C\n");
        defined.read("if A\n\tconfig D \n# config E\nendif\n\thelp\n\t  configures F\n");
        assert_eq!(defined.unknown("A\nB # b\nD\n"), [""; 0]);
        let expected =
            ["C", "E", "F", "CONFIG_A"].map(|o| format!("{o} is no option of this source"));
        assert_eq!(defined.unknown("A\nC\nE\nF\nCONFIG_A\n"), expected);
    }
}
