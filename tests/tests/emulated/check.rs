//! What several tests look for.

use emulated_board::Line;

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
