//! The sums of what is handed out, and their signature.
//!
//! `sha256sum -c` takes the one, `openssl dgst -verify` the other: an operator needs nothing
//! of ours to check a download. RSASSA-PKCS1-v1_5 over SHA-256, because every openssl (and
//! LibreSSL) of the last twenty years verifies it in one line, tokens sign it, and the same
//! sums get the same signature each time. minisign and signify would have to be installed
//! first, and neither signs with a key in a token.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use pcr_measure::Algorithm;
use pcr_measure::key::{PublicKey, Scheme};
use sha2::{Digest as _, Sha256};

use crate::image::verify::{Check, Outcome};
use crate::sources::lock::Sha256Hex;

/// What the file's name ends with.
pub(super) const SUMS: &str = "SHA256SUMS";

/// What the signature's name ends with.
pub(super) const SIGNATURE: &str = "SHA256SUMS.sig";

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// The largest file of sums or signature that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What is signed, and how.
pub(super) const HASH: Algorithm = Algorithm::Sha256;

/// The hash of a file. `moved` is told how many bytes were read.
///
/// # Errors
/// If it cannot be read.
pub(super) fn digest(path: &Path, mut moved: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(hex::encode(hash.finalize())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hash.update(buffer.get(..count).unwrap_or_default());
        done += count as u64;
        moved(done);
    }
}

/// The file, as `sha256sum --binary` writes it.
pub(super) fn text<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    files.into_iter().map(|(name, sha256)| format!("{sha256} *{name}\n")).collect()
}

/// The hash that sums name for a file; `None` if there is none, or more than one.
fn find(sums: &str, name: &str) -> Option<Sha256Hex> {
    let mut found = sums.lines().filter_map(|line| {
        let (sha256, rest) = line.split_once(' ')?;
        let file = rest.strip_prefix(['*', ' '])?;
        (file == name).then(|| Sha256Hex::try_from(sha256.to_owned()).ok())?
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// Whether the sums beside an image have its hash and are signed with `key`; without a key,
/// a word that nobody looked, if there are any.
///
/// # Errors
/// If the key is none, or a file cannot be read.
pub fn check(image: &Path, key: Option<&Path>) -> io::Result<Option<Check>> {
    let is_file = std::fs::metadata(image)?.is_file();
    let sums = beside(image, SUMS);
    let outcome =
        |outcome, detail: String| Ok(Some(Check { what: "sums".to_owned(), outcome, detail }));
    let Some(key) = key else {
        if !is_file || !sums.is_file() {
            return Ok(None);
        }
        let detail = format!("{} was not looked at: no --sums-key was given", sums.display());
        return outcome(Outcome::Skipped, detail);
    };
    let named = |path: &Path| {
        let path = path.display().to_string();
        move |error: &dyn std::fmt::Display| io::Error::other(format!("{path}: {error}"))
    };
    let pem = std::fs::read(key).map_err(|error| named(key)(&error))?;
    let public = PublicKey::parse(&pem).map_err(|error| named(key)(&error))?;
    let read = |path: &Path| -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(path) {
            Ok(file) => file.take(MAX_FILE).read_to_end(&mut bytes).map(|_| Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(path)(&error)),
        }
    };
    let signature = beside(image, SIGNATURE);
    let (Some(text), Some(signed)) = (read(&sums)?, read(&signature)?) else {
        let detail = format!("{} and {} are not both there", sums.display(), signature.display());
        return outcome(Outcome::Bad, detail);
    };
    let verified = public.verify(Scheme::RsaSsa, HASH, &text, &signed);
    if !verified.map_err(|error| named(key)(&error))? {
        let detail = format!("{} is not this key's signature", signature.display());
        return outcome(Outcome::Bad, detail);
    }
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let Some(listed) = find(&String::from_utf8_lossy(&text), &name) else {
        return outcome(Outcome::Bad, format!("{} does not list {name}", sums.display()));
    };
    let found = digest(image, |_| ())?;
    if found != listed.as_str() {
        return outcome(Outcome::Bad, format!("{name} is not the file that was signed"));
    }
    outcome(Outcome::Good, format!("{name} is listed, and the list is signed with this key"))
}

/// `DIR/NAME.img` to `DIR/NAME.ending`.
fn beside(image: &Path, ending: &str) -> PathBuf {
    image.with_extension(ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_found_as_they_are_written() {
        let (one, other) = ("ab".repeat(32), "cd".repeat(32));
        let sums = text([("a.img", one.as_str()), ("b.img", &other)]);
        assert_eq!(find(&sums, "b.img").unwrap().as_str(), other);
        assert_eq!(find(&sums.replace('*', " "), "a.img").unwrap().as_str(), one);
        assert_eq!(find(&sums, "c.img"), None);
        assert_eq!(find(&sums.replace("ab", "AB"), "a.img"), None, "no hash as we write it");
        let twice = format!("{sums}{other} *a.img\n");
        assert_eq!(find(&twice, "a.img"), None, "which of them?");
        assert_eq!(find("", ""), None);
    }
}
