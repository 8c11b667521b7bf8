//! What several tests look for.

use std::{fs, path::Path, process::Command};

use emulated_board::Line;
use image_builder::emu::card::Card;

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
