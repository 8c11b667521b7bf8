//! What several tests look for.

use emulated_board::Line;

/// Prompts of a shell or a boot loader. None of them may ever show where a boot
/// went wrong.
const PROMPTS: [&str; 6] = ["U-Boot>", "=> ", "/ # ", "~ # ", "sh-5", "Please press Enter"];

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
