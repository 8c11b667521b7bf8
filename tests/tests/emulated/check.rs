//! What several tests look for.

use std::{fs, path::Path, process::Command};

use emulated_board::Line;
use image_builder::{
    demo::record::pcr_rows,
    emu::{
        card::Card,
        shell::{Shell, Status},
    },
};
use pcr_measure::{Algorithm, PcrBank, PcrIndex, eventlog::EventLog, manifest::Manifest};

use crate::unseal_again::must;

/// The firmware's event log, as Linux gives it out.
const EVENT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Prompts of a shell or a boot loader. None of them may ever show where a boot
/// went wrong.
const PROMPTS: [&str; 8] =
    ["U-Boot>", "=> ", "/ # ", "~ # ", "sh-5", "Please press Enter", "(initramfs)", "dracut:/"];

/// No prompt was shown.
pub(crate) fn no_shell(lines: &[Line]) {
    for line in lines {
        for prompt in PROMPTS {
            assert!(!line.text.contains(prompt), "a prompt: {}", line.text);
        }
    }
}

/// Some line holds `text`.
pub(crate) fn says(lines: &[Line], text: &str) -> bool {
    lines.iter().any(|line| line.text.contains(text))
}

/// The lines up to the switch to the root, whose userland may have a shell.
pub(crate) fn before_the_userland(lines: &[Line]) -> &[Line] {
    let end = lines.iter().position(|line| line.text.contains("switching root to"));
    lines.get(..end.unwrap_or(lines.len())).unwrap_or_default()
}

/// The TPM has in the firmware's PCRs what the image's manifest says, in all of them.
pub(crate) fn as_predicted(manifest: &Manifest, measured: &PcrBank) {
    let rows = pcr_rows(manifest, manifest, measured);
    assert_eq!(rows.len(), 10);
    for row in rows {
        assert!(row.agrees(), "PCR {} is not as predicted: {row:?}", row.pcr);
    }
}

/// The event log leads to what the TPM has in the firmware's PCRs, all of them.
pub(crate) fn event_log_replays(shell: &mut Shell<'_>, status: &Status) {
    must(shell, "[ -e /sys/kernel/security/ima ] || mount -t securityfs none /sys/kernel/security");
    let text = must(shell, &format!("hexdump -v -e '32/1 \"%02x\" \"\\n\"' {EVENT_LOG}"));
    let digits: String = text.split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    let log: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    let replayed = EventLog::parse(&log).replay(Algorithm::Sha256).unwrap();
    for number in 0..10 {
        let pcr = PcrIndex::new(number).unwrap();
        assert!(replayed.sha256(pcr).is_some(), "the log has nothing for PCR {number}");
        assert_eq!(replayed.sha256(pcr), status.pcrs.sha256(pcr), "PCR {number}");
    }
}

/// Puts a file on a card's boot partition.
pub(crate) fn put(card: &Card, name: &str, content: &[u8], dir: &Path) {
    let file = dir.join(name);
    fs::write(&file, content).unwrap();
    let image = format!("{}@@{}", card.path().display(), card.table().boot.start);
    let mut mcopy = Command::new("mcopy");
    mcopy.args(["-o", "-i", &image]).arg(&file).arg(format!("::{name}"));
    let copied = mcopy.output().unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}
