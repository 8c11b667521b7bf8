//! The key of a built thing: SHA-256 over a canonical description of its inputs.
//!
//! The description is text, one line per input, so that a person can compare two
//! of them and see what changed. It holds hashes of contents and nothing of the
//! machine: no path outside the checkout, no time, no user.

use std::collections::BTreeSet;
use std::fmt;

use sha2::{Digest, Sha256};

/// The first line of every description; a change of the format changes all keys.
const FORMAT: &str = "msec-boot/component-inputs/1";

/// SHA-256 of a description. Its name is not secret, and it authenticates
/// nothing: it finds a directory in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The first 16 hexadecimal digits, enough for a directory's name.
    pub fn short(&self) -> String {
        self.0.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What kind of input a line describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The code that builds: a change of the commands changes the result.
    Code,
    /// Another component, by its key.
    Component,
    /// A file of the checkout, by its contents.
    File,
    /// A patch, by its place in the series and its contents.
    Patch,
    /// A file of a pinned source, by its contents.
    Source,
    /// The tools: the build root's package list.
    Tools,
    /// A setting.
    Value,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Component => "component",
            Self::File => "file",
            Self::Patch => "patch",
            Self::Source => "source",
            Self::Tools => "tools",
            Self::Value => "value",
        }
    }
}

/// Collects the inputs of one component. The order of adding does not matter;
/// where order has a meaning (patches), the name carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    component: String,
    lines: BTreeSet<(Kind, String, String)>,
}

impl Description {
    /// An empty description of this component.
    pub fn new(component: &str) -> Self {
        Self { component: component.to_owned(), lines: BTreeSet::new() }
    }

    /// Adds an input by the hash of its contents.
    pub fn contents(&mut self, kind: Kind, name: &str, contents: &[u8]) {
        let digest = hex::encode(Sha256::digest(contents));
        self.lines.insert((kind, name.to_owned(), digest));
    }

    /// Adds an input by a text that already identifies it: a hash, a key, a
    /// setting.
    pub fn text(&mut self, kind: Kind, name: &str, text: &str) {
        self.lines.insert((kind, name.to_owned(), text.to_owned()));
    }

    /// Adds the patches of a series, in their order.
    pub fn series<'a>(&mut self, patches: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
        for (place, (name, contents)) in patches.into_iter().enumerate() {
            self.contents(Kind::Patch, &format!("{:04} {name}", place + 1), contents);
        }
    }

    /// The canonical text. Names and values are quoted, so no content of one
    /// field can be taken for another field or line.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FORMAT}\n{:?}\n", self.component);
        for (kind, name, value) in &self.lines {
            text.push_str(&format!("{} {name:?} {value:?}\n", kind.word()));
        }
        text
    }

    /// The key.
    pub fn key(&self) -> Key {
        Key(Sha256::digest(self.to_text()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Description {
        let mut d = Description::new("kernel");
        d.contents(Kind::File, "kernel-config/tpm.config", b"CONFIG_TCG_TPM=y\n");
        d.text(Kind::Value, "arch", "arm64");
        d.text(Kind::Tools, "packages", "00ff");
        d.series([("a.patch", &b"one"[..]), ("b.patch", &b"two"[..])]);
        d
    }

    #[test]
    fn the_description_is_canonical_text() {
        assert_eq!(
            sample().to_text(),
            "msec-boot/component-inputs/1\n\"kernel\"\n\
             file \"kernel-config/tpm.config\" \"11b90ee9e2d32a50570af33d8415fda5625bdb0ce01fc64c45730e95f48f6daa\"\n\
             patch \"0001 a.patch\" \"7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed\"\n\
             patch \"0002 b.patch\" \"3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3\"\n\
             tools \"packages\" \"00ff\"\nvalue \"arch\" \"arm64\"\n"
        );
    }

    #[test]
    fn the_order_of_adding_does_not_matter() {
        let mut other = Description::new("kernel");
        other.series([("a.patch", &b"one"[..]), ("b.patch", &b"two"[..])]);
        other.text(Kind::Tools, "packages", "00ff");
        other.text(Kind::Value, "arch", "arm64");
        other.contents(Kind::File, "kernel-config/tpm.config", b"CONFIG_TCG_TPM=y\n");
        assert_eq!(other.key(), sample().key());
    }

    #[test]
    fn every_change_of_an_input_changes_the_key() {
        type Change = fn(&mut Description);
        let changes: [(&str, Change); 8] = [
            ("another component", |d| d.component = "optee".into()),
            ("a new value", |d| d.text(Kind::Value, "debug", "1")),
            ("another kind", |d| d.text(Kind::File, "arch", "arm64")),
            ("other contents", |d| d.contents(Kind::File, "kernel-config/tpm.config", b"")),
            ("a further file", |d| d.contents(Kind::File, "x", b"")),
            ("a further patch", |d| d.contents(Kind::Patch, "0003 c.patch", b"")),
            ("other tools", |d| d.text(Kind::Tools, "packages", "00fe")),
            ("a name that looks like a line", |d| d.text(Kind::Value, "x\" \"y\"\nvalue \"z", "1")),
        ];
        let mut seen = vec![sample().key()];
        for (what, change) in changes {
            let mut d = sample();
            change(&mut d);
            assert!(!seen.contains(&d.key()), "{what}");
            seen.push(d.key());
        }
    }

    #[test]
    fn the_order_of_patches_matters() {
        let mut a = Description::new("u-boot");
        a.series([("a", &b"1"[..]), ("b", &b"2"[..])]);
        let mut b = Description::new("u-boot");
        b.series([("b", &b"2"[..]), ("a", &b"1"[..])]);
        assert_ne!(a.key(), b.key());
    }

    #[test]
    fn no_field_can_pose_as_two() {
        let mut a = Description::new("c");
        a.text(Kind::Value, "a", "b");
        a.text(Kind::Value, "c", "d");
        let mut b = Description::new("c");
        b.text(Kind::Value, "a\" \"b\"\nvalue \"c", "d");
        assert_ne!(a.key(), b.key());
    }

    #[test]
    fn the_short_form_is_the_beginning_of_the_long_one() {
        let key = sample().key();
        assert_eq!(key.short().len(), 16);
        assert!(key.to_string().starts_with(&key.short()));
    }
}
