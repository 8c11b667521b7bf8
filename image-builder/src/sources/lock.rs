//! The lock file: which sources, in which version, with which contents.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SourceError;
use crate::cache::IoContext;

/// What the first line of a lock file must say.
const SCHEMA: &str = "msec-boot/sources-lock/1";

/// What is written above the sources.
const HEADER: &str = "\
# Every source of what is built, pinned by the SHA-256 of its files.
# `image-builder sources lock [NAME...]` takes the versions that the suites have now.
";

/// Is this a name, version or file name that can go into a path and a command?
/// Debian Policy 5.6.1 and 5.6.12 allow no more; `_` and `%` stand in file names.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || ".+-~:_%".contains(c))
}

/// The kinds of package that a source can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A source package: a `.dsc` and the archives that it names.
    DebSrc,
    /// A binary package, one `.deb`.
    Deb,
}

/// A SHA-256 in hexadecimal, lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Hex(String);

impl TryFrom<String> for Sha256Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let lower = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() == 64 && text.bytes().all(lower) {
            Ok(Self(text))
        } else {
            Err(format!("`{text}` is no SHA-256 (64 digits 0-9 a-f)"))
        }
    }
}

impl From<Sha256Hex> for String {
    fn from(value: Sha256Hex) -> Self {
        value.0
    }
}

impl fmt::Display for Sha256Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Sha256Hex {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// The file's name, without directories.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The hash of its contents.
    pub sha256: Sha256Hex,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The package's name.
    pub name: String,
    /// Source or binary package.
    pub kind: Kind,
    /// The suite whose versions `sources lock` takes.
    pub suite: String,
    /// The package's version.
    pub version: String,
    /// The architecture of a binary package; `all` when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Its files.
    #[serde(rename = "file", default)]
    pub files: Vec<PinnedFile>,
}

impl Source {
    /// The version without epoch and Debian revision: `4.1.3` for `2:4.1.3-1.2`.
    pub fn upstream_version(&self) -> &str {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, v)| v);
        version.rsplit_once('-').map_or(version, |(v, _)| v)
    }

    /// The file that everything starts from: the `.dsc`, or the `.deb`.
    pub fn main_file(&self) -> Option<&PinnedFile> {
        let ending = match self.kind {
            Kind::DebSrc => ".dsc",
            Kind::Deb => ".deb",
        };
        self.files.iter().find(|file| file.name.ends_with(ending))
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let mut words = vec![name, &self.suite, &self.version];
        words.extend(&self.arch);
        words.extend(self.files.iter().map(|file| &file.name));
        if let Some(bad) = words.into_iter().find(|word| !is_plain(word)) {
            return Err(format!("source {name}: `{bad}` holds characters that no package has"));
        }
        if self.kind == Kind::DebSrc && self.arch.is_some() {
            return Err(format!("source {name}: a source package has no `arch`"));
        }
        if !self.files.is_empty() && self.main_file().is_none() {
            return Err(format!("source {name}: neither .dsc nor .deb among its files"));
        }
        Ok(())
    }
}

/// A lock file's contents, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    schema: String,
    #[serde(rename = "source", default)]
    sources: Vec<Source>,
}

impl Lock {
    /// Reads a lock file's text. `path` appears in errors alone.
    ///
    /// # Errors
    /// [`SourceError::Lock`] when it is no TOML, has unknown fields, another
    /// schema, a source twice, or names that no package has.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SourceError> {
        let refuse = |reason: String| SourceError::Lock { path: path.to_owned(), reason };
        let lock: Self = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if lock.schema != SCHEMA {
            return Err(refuse(format!("schema `{}`: expected `{SCHEMA}`", lock.schema)));
        }
        for (place, source) in lock.sources.iter().enumerate() {
            source.check().map_err(refuse)?;
            if lock.sources.iter().take(place).any(|other| other.name == source.name) {
                return Err(refuse(format!("source {} is named twice", source.name)));
            }
        }
        Ok(lock)
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// As [`Lock::parse`], and when the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        let text = fs::read_to_string(path).map_err(|error| SourceError::Lock {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::parse(&text, path)
    }

    /// The text of the lock file.
    ///
    /// # Errors
    /// When it cannot be expressed in TOML, which no checked lock meets.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!("{HEADER}\n{}", toml::to_string(self)?))
    }

    /// Writes the lock file, complete or not at all.
    ///
    /// # Errors
    /// When the file system refuses; what was there before stays.
    pub(crate) fn write(&self, path: &Path) -> Result<(), SourceError> {
        let text = self.to_text().map_err(|error| SourceError::Lock {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let new = path.with_extension("lock.new");
        fs::write(&new, text).on("cannot write", &new)?;
        Ok(fs::rename(&new, path).on("cannot replace", path)?)
    }

    /// All sources, in the file's order.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// All sources, to be changed by `sources lock`.
    pub(crate) fn sources_mut(&mut self) -> &mut [Source] {
        &mut self.sources
    }

    /// The source of this name.
    ///
    /// # Errors
    /// [`SourceError::NotLocked`] when there is none, or it has no files yet.
    pub fn source(&self, name: &str) -> Result<&Source, SourceError> {
        self.sources
            .iter()
            .find(|source| source.name == name && !source.files.is_empty())
            .ok_or_else(|| SourceError::NotLocked { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "58a5f218191fe32900102760250741bed4e4f058ca915eb91f5f9a48a16562d7";

    fn text(body: &str) -> String {
        format!("schema = \"{SCHEMA}\"\n{body}")
    }

    fn source(fields: &str) -> String {
        text(&format!(
            "[[source]]\nname = \"cryptsetup\"\nkind = \"deb-src\"\nsuite = \"sid\"\nversion = \"2:2.8.8-1\"\n\
             {fields}\n[[source.file]]\nname = \"cryptsetup_2.8.8-1.dsc\"\nsize = 3673\nsha256 = \"{HASH}\"\n"
        ))
    }

    fn error(text: &str) -> String {
        Lock::parse(text, Path::new("s.lock")).unwrap_err().to_string()
    }

    #[test]
    fn the_shipped_lock_file_is_valid_and_complete() {
        let lock =
            Lock::parse(include_str!("../../sources.lock"), Path::new("sources.lock")).unwrap();
        assert!(!lock.sources().is_empty());
        for source in lock.sources() {
            assert_eq!(lock.source(&source.name).unwrap(), source);
        }
    }

    #[test]
    fn a_lock_file_survives_being_written_and_read() {
        let lock = Lock::parse(&source(""), Path::new("s")).unwrap();
        assert_eq!(Lock::parse(&lock.to_text().unwrap(), Path::new("s")).unwrap(), lock);
    }

    #[test]
    fn upstream_versions() {
        let mut s = Lock::parse(&source(""), Path::new("s")).unwrap().sources.remove(0);
        for (version, upstream) in [
            ("2:2.8.8-1", "2.8.8"),
            ("2025.01-3.2", "2025.01"),
            ("2.12.1+dfsg-1", "2.12.1+dfsg"),
            ("1.0", "1.0"),
        ] {
            s.version = version.into();
            assert_eq!(s.upstream_version(), upstream);
        }
    }

    #[test]
    fn bad_lock_files_are_refused_with_the_reason() {
        let cases = [
            ("schema = \"other/1\"\n".to_owned(), "schema `other/1`"),
            ("# empty\n".to_owned(), "missing field `schema`"),
            (text("colour = 1\n"), "unknown field `colour`"),
            (source("colour = 1"), "unknown field `colour`"),
            (source("").replace("deb-src", "rpm"), "unknown variant `rpm`"),
            (source("").replace(HASH, "00"), "is no SHA-256"),
            (source("").replace(HASH, &HASH.to_uppercase()), "is no SHA-256"),
            (source("").replace("2:2.8.8-1\"", "../x\""), "`../x` holds characters"),
            (source("").replace("_2.8.8-1.dsc", "/x.dsc"), "`cryptsetup/x.dsc` holds characters"),
            (source("").replace("\"sid\"", "\"-o=x\""), "`-o=x` holds characters"),
            (source("").replace(".dsc", ".txt"), "neither .dsc nor .deb"),
            (source("arch = \"arm64\""), "has no `arch`"),
            (source("").replace("size = 3673", "size = -1"), "size"),
            (source("") + &source("").replace(&text(""), ""), "named twice"),
        ];
        for (text, expected) in cases {
            let error = error(&text);
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
            assert!(error.starts_with("s.lock: "), "{error}");
        }
    }

    #[test]
    fn a_source_without_files_is_not_locked() {
        let body = source("");
        let body = body.split("[[source.file]]").next().unwrap();
        let lock = Lock::parse(body, Path::new("s")).unwrap();
        assert!(matches!(lock.source("cryptsetup"), Err(SourceError::NotLocked { .. })));
    }
}
