//! Checks that a configuration has what the fragments ask for. Kconfig drops
//! an option with an unmet dependency without a word.

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
        .filter_map(|(option, value)| {
            let got = config
                .lines()
                .filter_map(setting)
                .find_map(|(name, value)| (name == option).then_some(value))
                .flatten();
            match (value, got) {
                (value, got) if value == got => None,
                (None, Some(got)) => Some(format!("{option} must be off, and is {got}")),
                (Some(value), got) => {
                    Some(format!("{option} must be {value}, and is {}", got.unwrap_or("off")))
                }
                (None, None) => None,
            }
        })
        .collect()
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
    use super::missing;

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
}
