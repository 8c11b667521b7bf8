//! Changes to a manifest as the command line gives them: `NAME=PATH` and
//! `NAME=STRING`, with `LABEL:` in front for a variant.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use pcr_measure::text::printable;

/// What stands for a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Artifact {
    /// What this file holds.
    File(PathBuf),
    /// This text and a NUL.
    Text(String),
}

/// One component with another artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// The component's name in the manifest.
    pub(super) component: String,
    /// What is measured instead.
    pub(super) artifact: Artifact,
}

/// A change that is made in one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labelled {
    /// The variant.
    pub(super) label: String,
    /// What differs in it.
    pub(super) change: Change,
}

/// Reads `NAME=PATH`.
pub(super) fn file() -> impl TypedValueParser<Value = Change> {
    OsStringValueParser::new().try_map(|argument: OsString| to_file(&argument))
}

/// Reads `NAME=STRING`.
pub(super) fn text() -> impl TypedValueParser<Value = Change> {
    OsStringValueParser::new().try_map(|argument: OsString| to_text(&argument))
}

/// Reads `LABEL:NAME=PATH`.
pub(super) fn labelled_file() -> impl TypedValueParser<Value = Labelled> {
    OsStringValueParser::new().try_map(|argument: OsString| labelled(&argument, to_file))
}

/// Reads `LABEL:NAME=STRING`.
pub(super) fn labelled_text() -> impl TypedValueParser<Value = Labelled> {
    OsStringValueParser::new().try_map(|argument: OsString| labelled(&argument, to_text))
}

fn to_file(argument: &OsStr) -> Result<Change, String> {
    let (component, path) = split(argument, b'=', "NAME=PATH")?;
    if path.is_empty() {
        return Err(format!("no file is named for {component:?}: NAME=PATH is needed"));
    }
    Ok(Change { component, artifact: Artifact::File(path.into()) })
}

fn to_text(argument: &OsStr) -> Result<Change, String> {
    let (component, text) = split(argument, b'=', "NAME=STRING")?;
    let text = text.to_str().ok_or_else(|| format!("the text of {component:?} is not UTF-8"))?;
    Ok(Change { component, artifact: Artifact::Text(text.to_owned()) })
}

fn labelled(
    argument: &OsStr,
    to_change: impl Fn(&OsStr) -> Result<Change, String>,
) -> Result<Labelled, String> {
    let (label, rest) = split(argument, b':', "LABEL:NAME=...")?;
    let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if label.is_empty() || !label.bytes().all(plain) {
        let label = printable(&label);
        return Err(format!("the label {label:?} is not of a-z, 0-9 and -: LABEL:NAME=..."));
    }
    Ok(Labelled { label, change: to_change(rest)? })
}

/// What stands before and behind the first `mark`.
fn split<'a>(argument: &'a OsStr, mark: u8, form: &str) -> Result<(String, &'a OsStr), String> {
    let bytes = argument.as_bytes();
    let mut halves = bytes.splitn(2, |byte| *byte == mark);
    match (halves.next().map(std::str::from_utf8), halves.next()) {
        (Some(Ok(name)), Some(rest)) => Ok((name.to_owned(), OsStr::from_bytes(rest))),
        _ => Err(format!("{form} is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mark_divides() {
        let change =
            |component: &str, artifact| Change { component: component.to_owned(), artifact };
        assert_eq!(
            to_file(OsStr::new("device tree=a=b:c")),
            Ok(change("device tree", Artifact::File("a=b:c".into())))
        );
        assert_eq!(
            to_text(OsStr::new("command line=root=/dev/sda")),
            Ok(change("command line", Artifact::Text("root=/dev/sda".to_owned())))
        );
        assert_eq!(
            labelled(OsStr::new("next:kernel=x:y"), to_file),
            Ok(Labelled {
                label: "next".to_owned(),
                change: change("kernel", Artifact::File("x:y".into()))
            })
        );
        assert_eq!(to_text(OsStr::new("t=")), Ok(change("t", Artifact::Text(String::new()))));
        // A path need not be UTF-8.
        let path = OsStr::from_bytes(b"kernel=\xff");
        let got = to_file(path).unwrap().artifact;
        assert_eq!(got, Artifact::File(OsStr::from_bytes(b"\xff").into()));
    }

    #[test]
    fn other_forms_are_refused_by_name() {
        let cases = [
            (to_file(OsStr::new("kernel")).unwrap_err(), "NAME=PATH"),
            (to_file(OsStr::new("kernel=")).unwrap_err(), "no file is named for \"kernel\""),
            (to_text(OsStr::from_bytes(b"a=\xff")).unwrap_err(), "not UTF-8"),
            (labelled(OsStr::new("kernel=x"), to_file).unwrap_err(), "LABEL:"),
            (labelled(OsStr::new("Next:a=b"), to_file).unwrap_err(), "the label \"Next\""),
            (labelled(OsStr::new(":a=b"), to_file).unwrap_err(), "the label \"\""),
            (labelled(OsStr::new("next:a"), to_file).unwrap_err(), "NAME=PATH"),
        ];
        for (error, want) in cases {
            assert!(error.contains(want), "{error}");
        }
    }
}
