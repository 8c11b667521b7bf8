//! Who may log in: the recipe's tables `[[users]]`.
//!
//! A recipe holds no password, and the root that is made from it has none.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::values::{ValueError, refuse};

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The name.
    pub name: UserName,
    /// Groups beside the user's own.
    #[serde(default)]
    pub groups: Vec<UserName>,
    /// Whether the user may become root by `sudo`, without a password: there is none.
    #[serde(default)]
    pub sudo: bool,
    /// Public keys that open an SSH session.
    #[serde(default)]
    pub ssh_keys: Vec<SshKey>,
    /// More of them, in files beside the recipe, one a line (`authorized_keys`).
    /// [`super::Recipe::load`] reads them into `ssh_keys`.
    #[serde(default)]
    pub ssh_key_files: Vec<Spanned<PathBuf>>,
}

/// The name of a user or a group: 1 to 32 of `a-z`, `0-9`, `_` and `-`, a letter or `_` first
/// (shadow-utils, useradd(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
        if text.len() > 32 || !first || !text.bytes().all(allowed) {
            return refuse(format!(
                "`{}` is no name of a user or group: 1 to 32 of a-z, 0-9, `_` and `-`, a letter or \
                 `_` first",
                text.escape_debug()
            ));
        }
        Ok(Self(text))
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key as OpenSSH writes it: `TYPE BASE64 [COMMENT]` (sshd(8), AUTHORIZED_KEYS FILE
/// FORMAT), without options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SshKey(String);

/// The types of key that Debian's OpenSSH takes (ssh(1), `-Q key-sig`), less certificates.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

impl SshKey {
    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SshKey {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        let line = text.trim();
        if line.contains("PRIVATE KEY") {
            return refuse("this is a private key: the public one is in the file ending in .pub");
        }
        if line.contains(|c: char| c.is_control()) {
            return refuse("a public key is one line");
        }
        let mut words = line.split(' ').filter(|word| !word.is_empty());
        let kind = words.next().unwrap_or_default();
        if !TYPES.contains(&kind) {
            return refuse(format!(
                "no public key of OpenSSH: it begins with `{}`, not with one of {}",
                kind.chars().take(40).collect::<String>().escape_debug(),
                TYPES.join(", ")
            ));
        }
        let body = STANDARD.decode(words.next().unwrap_or_default()).unwrap_or_default();
        // RFC 4253, 6.6: the type again, as a string with its length in front.
        let length = u32::try_from(kind.len()).unwrap_or_default().to_be_bytes();
        let begins = [&length, kind.as_bytes()].concat();
        if body.len() <= begins.len() || !body.starts_with(&begins) {
            return refuse(format!("this {kind} key is cut or damaged"));
        }
        Ok(Self(line.to_owned()))
    }
}

impl From<SshKey> for String {
    fn from(key: SshKey) -> Self {
        key.0
    }
}

/// The keys of a file: one a line, `#` begins a comment.
///
/// # Errors
/// With the number of the line.
pub(super) fn keys_of(text: &str) -> Result<Vec<SshKey>, ValueError> {
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        keys.push(
            SshKey::try_from(line.to_owned())
                .map_err(|why| ValueError(format!("line {number}: {why}")))?,
        );
    }
    if keys.is_empty() {
        return refuse("it holds no key");
    }
    Ok(keys)
}

/// Whether these users can be made in one system.
///
/// # Errors
/// What to write instead.
pub(super) fn check(users: &[User], debian: bool) -> Result<(), ValueError> {
    if !users.is_empty() && !debian {
        return refuse("[[users]] need system = \"debian\" in [root]: busybox has root alone");
    }
    for (index, user) in users.iter().enumerate() {
        let User { name, groups, .. } = user;
        if name.as_str() == "root" {
            return refuse("[[users]] name = \"root\": root is locked; give a user sudo = true");
        }
        if users.iter().take(index).any(|other| other.name == *name) {
            return refuse(format!("[[users]] name = \"{name}\" is there twice"));
        }
        for (index, group) in groups.iter().enumerate() {
            if groups.iter().take(index).any(|other| other == group) {
                return refuse(format!("[[users]] {name}: group `{group}` is named twice"));
            }
        }
    }
    Ok(())
}

/// The number of the line in which a byte of a text stands.
pub(super) fn line_of(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|byte| *byte == b'\n').count()
}

/// A path beside a recipe.
pub(super) fn beside(recipe: &Path, file: &Path) -> PathBuf {
    recipe.parent().unwrap_or(Path::new(".")).join(file)
}
