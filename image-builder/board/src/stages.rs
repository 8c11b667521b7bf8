//! Boot stages, told from what the consoles printed.

use std::{sync::LazyLock, time::Duration};

use regex::Regex;
use serde::Serialize;

use crate::console::Line;

/// One stage of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its name, from [`STAGES`].
    pub name: &'static str,
    /// When its first line was printed, since power-on.
    #[serde(serialize_with = "milliseconds", rename = "at_ms")]
    pub at: Duration,
    /// How long until the next stage that was reached. Zero for the last one.
    #[serde(serialize_with = "milliseconds", rename = "took_ms")]
    pub took: Duration,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn milliseconds<S: serde::Serializer>(time: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// The stages in the order of the chain, each with the line it starts with. Not
/// every boot has all: a board that unlocks by itself neither provisions nor asks.
pub const STAGES: &[(&str, &str)] = &[
    ("TF-A BL1", r"^NOTICE: +(Booting Trusted Firmware|BL1: v)"),
    ("TF-A BL2", r"^NOTICE: +BL2: v"),
    ("TF-A BL31", r"^NOTICE: +BL31: v"),
    ("OP-TEE", r"^I/TC: +OP-TEE version"),
    ("U-Boot", r"^U-Boot \d{4}\.\d{2}"),
    ("FIT loaded", r"^## Loading (kernel|fdt|ramdisk|init) .*from FIT"),
    ("Linux", r"^Starting kernel \.\.\."),
    ("initramfs-unseal", r"initramfs-unseal: msec-boot "),
    ("provisioning", r"initramfs-unseal: provisioning: "),
    ("recovery prompt", r"initramfs-unseal: enter the recovery key"),
    ("unlocked", r"initramfs-unseal: (unlocked by |provisioned: )"),
    ("switch root", r"initramfs-unseal: switching root to "),
    ("userland", r"msec-boot: userland on .* reached"),
];

static PATTERNS: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    STAGES.iter().filter_map(|(name, p)| Some((*name, Regex::new(p).ok()?))).collect()
});

/// The stages that `lines` show, the first one being `power-on` at zero. The lines
/// of several consoles may be given together, in any order.
///
/// A stage starts with the first line that names it, and only later than the stage
/// before it: a line a guest prints too early cannot reorder the chain.
#[must_use]
pub fn stages(lines: &[Line]) -> Vec<Stage> {
    let mut sorted: Vec<&Line> = lines.iter().collect();
    sorted.sort_by_key(|line| line.at);
    let mut starts = vec![("power-on", Duration::ZERO)];
    let mut from = 0;
    for (name, pattern) in PATTERNS.iter() {
        let rest = sorted.get(from..).unwrap_or_default();
        if let Some(index) = rest.iter().position(|line| pattern.is_match(&line.text)) {
            starts.push((name, rest.get(index).map_or(Duration::ZERO, |line| line.at)));
            from += index + 1;
        }
    }
    let next: Vec<Duration> = starts.iter().skip(1).map(|(_, at)| *at).collect();
    starts
        .iter()
        .enumerate()
        .map(|(i, &(name, at))| Stage {
            name,
            at,
            took: next.get(i).map_or(Duration::ZERO, |next| next.saturating_sub(at)),
        })
        .collect()
}

/// Reads a console log as [`crate::Console`] writes it, for boots that are over.
/// Lines without a time stamp are left out.
#[must_use]
pub fn parse_log(text: &str) -> Vec<Line> {
    text.lines()
        .filter_map(|line| {
            let (time, text) = line.strip_prefix('[')?.split_once("] ")?;
            let at = Duration::try_from_secs_f64(time.trim().parse().ok()?).ok()?;
            Some(Line { at, text: text.to_owned() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_is_one() {
        assert_eq!(PATTERNS.len(), STAGES.len());
    }

    #[test]
    fn no_lines_are_a_board_that_is_on_and_silent() {
        let only = Stage { name: "power-on", at: Duration::ZERO, took: Duration::ZERO };
        assert_eq!(stages(&[]), [only]);
    }

    /// A real boot, both consoles, as this crate logged it.
    #[test]
    fn a_recorded_boot_has_all_stages() {
        let mut lines = parse_log(include_str!("testdata/unlock.log"));
        lines.extend(parse_log(include_str!("testdata/unlock-secure.log")));
        let found: Vec<_> =
            stages(&lines).into_iter().map(|s| (s.name, s.at.as_millis())).collect();
        let expected = [
            ("power-on", 0),
            ("TF-A BL1", 407),
            ("TF-A BL2", 418),
            ("TF-A BL31", 434),
            ("OP-TEE", 493),
            ("U-Boot", 544),
            ("FIT loaded", 5730),
            ("Linux", 6499),
            ("initramfs-unseal", 10531),
            ("unlocked", 12198),
            ("switch root", 12738),
            ("userland", 15866),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_of_two_consoles_are_merged_and_early_words_do_not_reorder() {
        let log = "\
[    0.100] NOTICE:  Booting Trusted Firmware
[    0.500] U-Boot 2025.01-msec
[    2.000] ## Loading kernel (any) from FIT Image at 20000000 ...
[    2.100] Starting kernel ...
[    4.000] initramfs-unseal: msec-boot 0.1.0
[    4.500] initramfs-unseal: unlocked by the TPM
[    4.600] initramfs-unseal: switching root to /dev/mapper/root
[    4.900] msec-boot: userland on /dev/mapper/root reached
[    0.300] I/TC: OP-TEE version: 4.10.0
[    0.050] Starting kernel ... says someone far too early
no time stamp
";
        let found: Vec<_> = stages(&parse_log(log))
            .into_iter()
            .map(|s| (s.name, s.at.as_millis(), s.took.as_millis()))
            .collect();
        let expected = [
            ("power-on", 0, 100),
            ("TF-A BL1", 100, 200),
            ("OP-TEE", 300, 200),
            ("U-Boot", 500, 1500),
            ("FIT loaded", 2000, 100),
            ("Linux", 2100, 1900),
            ("initramfs-unseal", 4000, 500),
            ("unlocked", 4500, 100),
            ("switch root", 4600, 300),
            ("userland", 4900, 0),
        ];
        assert_eq!(found, expected);
    }
}
