//! Names of files as IMA has them, and as JSON can hold them.

use std::fmt::Write as _;
use std::path::Path;

use std::os::unix::ffi::OsStrExt as _;

/// The name of a file in a list: its path, with `_` for each blank (Linux,
/// ima_template_lib.c, `ima_write_template_field_data`). No other byte is changed.
///
/// `path` is the path in its root; it begins with `/` or gets one.
#[must_use]
pub fn of_path(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let named = path.iter().map(|byte| if *byte == b' ' { b'_' } else { *byte });
    std::iter::once(b'/').chain(named).collect()
}

/// As text: bytes that are no UTF-8 become `%` and two digits, and `%` becomes `%25`.
pub(crate) fn escaped(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        out.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            // Into a string: it cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The name behind such a text. `None`: [`escaped`] does not write it so; each name has one
/// text.
pub(super) fn unescaped(text: &str) -> Option<Vec<u8>> {
    if !text.contains('%') {
        return Some(text.as_bytes().to_vec());
    }
    let mut parts = text.split('%');
    let mut out = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        out.extend(hex::decode(digits).ok()?);
        out.extend(rest.as_bytes());
    }
    (escaped(&out) == text).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn a_blank_is_an_underscore() {
        for (path, want) in
            [("/a b/c", "/a_b/c"), ("usr/%", "/usr/%"), ("", "/"), ("/a\nb", "/a\nb")]
        {
            assert_eq!(of_path(Path::new(path)), want.as_bytes());
        }
        assert_eq!(of_path(Path::new(OsStr::from_bytes(b"/\xff "))), b"/\xff_");
    }

    #[test]
    fn every_name_has_one_text() {
        for (name, text) in [
            (&b"/usr/bin/sh"[..], "/usr/bin/sh"),
            (b"/a%b\\x2d", "/a%25b\\x2d"),
            ("/ä€".as_bytes(), "/ä€"),
            (b"/\xff\xe2\x82z", "/%FF%E2%82z"),
            (b"%41", "%2541"),
        ] {
            assert_eq!(escaped(name), text);
            assert_eq!(unescaped(text).unwrap(), name);
        }
        for text in ["%", "%4", "%41", "%ff", "%zz", "a%C3%A4", "%€", "%2"] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }
}
