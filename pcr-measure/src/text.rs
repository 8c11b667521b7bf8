//! Foreign text on its way to a console or terminal.

/// Characters that [`printable`] shows at most.
pub const MAX_SHOWN: usize = 120;

/// One line of plain text: control and formatting characters and everything
/// beyond printable ASCII become `?`, so that a forged name or command line
/// cannot move the cursor, write a line of its own or turn the direction of
/// reading. Longer text is cut and ends in `…`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut chars = text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' });
    let mut out: String = chars.by_ref().take(MAX_SHOWN).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// Whether `text` may stand on a console as it is: printable ASCII.
#[must_use]
pub fn is_printable(text: &str) -> bool {
    text.chars().all(|c| matches!(c, ' '..='~'))
}

/// The items as they stand in a message: `0, 1, 15`, or `none`.
#[must_use]
pub fn listed<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_listed() {
        assert_eq!(listed(&[0, 1, 15]), "0, 1, 15");
        assert_eq!(listed::<u8>(&[]), "none");
    }

    #[test]
    fn nothing_but_printable_ascii_comes_out() {
        let cases = [
            ("console=ttyAMA0", "console=ttyAMA0"),
            ("a\x1b[2Jb\nc", "a?[2Jb?c"),
            ("\u{202e}abc\u{7f}", "?abc?"),
        ];
        for (text, want) in cases {
            assert_eq!(printable(text), want);
            assert_eq!(is_printable(text), text == want);
        }
        let long = printable(&"x".repeat(500));
        assert_eq!(long.chars().count(), MAX_SHOWN + 1);
        assert!(long.ends_with('…'));
    }
}
