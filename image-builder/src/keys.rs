//! The vendor's keys: which there are, making them, and signing with them.
//!
//! A key directory holds one file for each role, `ROLE.key`: a private key in PEM, readable
//! by its owner alone, or in its place the URI of a key in a PKCS#11 token, in the PEM form
//! that the OpenSSL provider for PKCS#11 reads. Whoever signs reads the file and need not
//! know which of the two it is; with a token it has to be told OpenSSL's configuration that
//! lies beside it ([`openssl_conf`]).
//!
//! Nothing here goes into an image: U-Boot, the initramfs and operators get public halves.

mod token;

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ima_policy::signature::{PublicKey as FilePublic, SigningKey as FileKey};
use pcr_measure::key::{KeyError, PublicKey, SigningKey};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::artifacts::KeyDir;
use crate::cache::Cache;
use crate::image::tool::{Tool, ToolError};

pub use token::{Token, openssl_conf, use_token};

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Boot images (FIT).
    Fit,
    /// PCR policies, for the binding `signed`.
    Policy,
    /// Update bundles.
    Update,
    /// The root's files, for IMA and EVM, and kernel modules.
    Ima,
    /// The sums of what a build hands out.
    Sums,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Fit, Self::Policy, Self::Update, Self::Ima, Self::Sums];

    /// Its name, and the stem of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fit => KeyDir::HINT,
            Self::Policy => "policy",
            Self::Update => "update",
            Self::Ima => "ima",
            Self::Sums => "sums",
        }
    }

    /// What it signs.
    pub fn signs(self) -> &'static str {
        match self {
            Self::Fit => "boot images (FIT)",
            Self::Policy => "PCR policies (binding `signed`)",
            Self::Update => "update bundles",
            Self::Ima => "files of the root (IMA, EVM) and kernel modules",
            Self::Sums => "SHA256SUMS of a build",
        }
    }

    /// Who holds the public half, and where.
    pub fn held_by(self) -> &'static str {
        match self {
            Self::Fit => "U-Boot on every card",
            Self::Policy => "the initramfs, and the policy of every sealed root",
            Self::Update => "the configuration in the initramfs",
            Self::Ima => "the kernel, in its trusted keyring",
            Self::Sums => "whoever checks a download",
        }
    }

    /// Length of its RSA modulus in bits. RSA, because all of U-Boot, every TPM, every
    /// PKCS#11 token and any openssl of the last twenty years take it, and because
    /// PKCS #1 v1.5 gives the same signature each time, so that builds can be repeated.
    fn bits(self) -> u32 {
        match self {
            // What every TPM loads (TCG PC Client Platform TPM Profile 1.05, 4.8) and
            // systemd takes.
            Self::Policy | Self::Update => 2048,
            Self::Fit | Self::Ima | Self::Sums => 3072,
        }
    }

    /// True where the public half is wanted as a certificate.
    fn wants_certificate(self) -> bool {
        matches!(self, Self::Fit | Self::Ima)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a key cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// A file could not be read or written.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there already.
    #[error(
        "there is a {role} key already: {}. A new one means work for every device: read docs/keys.md, \
         then move the old one away", path.display()
    )]
    Exists {
        /// Which.
        role: Role,
        /// Its file.
        path: PathBuf,
    },
    /// It is not there.
    #[error(
        "{} is not there. Make it: image-builder --signing-key {} keys new {role}{}", path.display(),
        path.parent().unwrap_or(Path::new(".")).display(),
        if *role == Role::Policy {
            ", or name the vendor's public key in the recipe (policy_key)"
        } else {
            ""
        }
    )]
    Missing {
        /// Which.
        role: Role,
        /// Its file.
        path: PathBuf,
    },
    /// One half of a pair is missing.
    #[error(
        "{} is missing, but the other half is there; bring it back, or move {} away to get a new pair \
         (boards with the old key will not boot images signed with the new one)",
        missing.display(), there.display()
    )]
    Half {
        /// What is missing.
        missing: PathBuf,
        /// What is there.
        there: PathBuf,
    },
    /// The key file holds none.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// The key file holds none that signs files.
    #[error("{}: {source}", path.display())]
    FileKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ima_policy::signature::KeyError,
    },
    /// OpenSSL refused something.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A token, or what was said of it.
    #[error(transparent)]
    Token(#[from] token::TokenError),
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> KeysError + 'a {
    move |source| KeysError::File { what, path: path.to_owned(), source }
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// In the file itself.
    File,
    /// In a token, at this URI.
    Token(String),
}

/// A key of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What it signs.
    pub role: Role,
    /// Where its private half is.
    pub place: Place,
    /// Its file.
    pub path: PathBuf,
    /// SHA-256 of the public half (PKCS #1), in hexadecimal: the `pkfp` of signed policies.
    pub fingerprint: String,
}

/// The directory whose keys are used: the user's own, or the one in the cache.
pub fn dir(cache: &Cache, own: Option<&Path>) -> KeyDir {
    KeyDir::new(own.map_or_else(|| cache.keys(), Path::to_owned))
}

/// The keys of a directory.
///
/// # Errors
/// If one of them cannot be read.
pub fn list(keys: &KeyDir) -> Result<Vec<Entry>, KeysError> {
    let mut entries = Vec::new();
    for role in Role::ALL {
        let path = keys.private(role);
        if !path.is_file() {
            continue;
        }
        let place = match Token::of(&read(&path)?) {
            Some(token) => Place::Token(token.uri().to_owned()),
            None => Place::File,
        };
        let public = public(keys, role)?;
        let digest =
            public.fingerprint().map_err(|source| KeysError::Key { path: path.clone(), source })?;
        entries.push(Entry { role, place, path, fingerprint: digest.to_string() });
    }
    Ok(entries)
}

/// The public half of a key.
///
/// # Errors
/// If there is no such key, or its file holds none.
pub fn public(keys: &KeyDir, role: Role) -> Result<PublicKey, KeysError> {
    let path = keys.private(role);
    let pem = present(keys, role)?;
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |source| KeysError::Key { path, source }
    };
    match Token::of(&pem) {
        None => Ok(SigningKey::from_pem(&pem).map_err(bad(&path))?.public().clone()),
        Some(_) => {
            let certificate = keys.certificate_of(role);
            let spki = Tool::new("openssl", format!("read {}", certificate.display()))
                .args(["x509", "-noout", "-pubkey", "-in"])
                .arg(&certificate)
                .run()?;
            PublicKey::parse(&spki).map_err(bad(&certificate))
        }
    }
}

/// A key to sign with.
///
/// # Errors
/// If there is no such key, or its file holds none. What a token says comes when it signs.
pub fn signing(keys: &KeyDir, role: Role) -> Result<SigningKey, KeysError> {
    let path = keys.private(role);
    let pem = present(keys, role)?;
    if Token::of(&pem).is_none() {
        return SigningKey::from_pem(&pem).map_err(|source| KeysError::Key { path, source });
    }
    let public = public(keys, role)?;
    let conf = openssl_conf(keys, role);
    Ok(SigningKey::elsewhere(public, move |hash, message| {
        token::sign(&path, conf.as_deref(), hash, message).map_err(io::Error::other)
    }))
}

/// The key that signs files for IMA and EVM, by the identifier of its certificate.
///
/// # Errors
/// As [`signing`].
pub fn ima(keys: &KeyDir) -> Result<FileKey, KeysError> {
    let role = Role::Ima;
    let (path, certificate) = (keys.private(role), keys.certificate_of(role));
    let pem = present(keys, role)?;
    let bad = |path: &Path| {
        let path = path.to_owned();
        move |source| KeysError::FileKey { path, source }
    };
    let name = certificate.display().to_string();
    let public = fs::read(&certificate).map_err(failed("read", &certificate))?;
    if Token::of(&pem).is_none() {
        return FileKey::from_pem(&path.display().to_string(), &pem)
            .and_then(|key| key.with_certificate(&name, &public))
            .map_err(bad(&path));
    }
    let public = FilePublic::parse(&name, &public).map_err(bad(&certificate))?;
    let conf = openssl_conf(keys, role);
    Ok(FileKey::elsewhere(public, move |digest| {
        token::sign_digest(&path, conf.as_deref(), digest).map_err(io::Error::other)
    }))
}

/// The bytes of a key's file.
fn present(keys: &KeyDir, role: Role) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let path = keys.private(role);
    if !path.is_file() {
        return Err(KeysError::Missing { role, path });
    }
    read(&path)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    fs::read(path).map(Zeroizing::new).map_err(failed("read", path))
}

/// Sees to it that there is a key for this role. A directory of the user's own is never
/// filled: what is missing there is an error.
///
/// # Errors
/// [`KeysError::Missing`] and [`KeysError::Half`]; whatever [`new`] says.
pub fn ensure(keys: &KeyDir, role: Role, own: bool) -> Result<(), KeysError> {
    let (key, certificate) = (keys.private(role), keys.certificate_of(role));
    let has_certificate = certificate.is_file() || !role.wants_certificate();
    match (key.is_file(), has_certificate) {
        (true, true) => Ok(()),
        // It follows from the key.
        (true, false) if !own => certify(keys, role),
        (true, false) => Err(KeysError::Half { missing: certificate, there: key }),
        (false, true) if role.wants_certificate() => {
            Err(KeysError::Half { missing: key, there: certificate })
        }
        _ if own => Err(KeysError::Missing { role, path: key }),
        _ => new(keys, role),
    }
}

/// The directory with the key that signs boot images: in `own`, if that is given, else in
/// the cache, where it is made when it is not there.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_fit(cache: &Cache, own: Option<&Path>) -> Result<KeyDir, KeysError> {
    let keys = dir(cache, own);
    ensure(&keys, Role::Fit, own.is_some())?;
    Ok(keys)
}

/// As [`ensure`], for the key that signs policies.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_policy(keys: &KeyDir, own: bool) -> Result<(), KeysError> {
    ensure(keys, Role::Policy, own)
}

/// Makes a key in a file.
///
/// # Errors
/// [`KeysError::Exists`]; whatever goes wrong with files and OpenSSL.
pub fn new(keys: &KeyDir, role: Role) -> Result<(), KeysError> {
    let path = keys.private(role);
    if path.exists() {
        return Err(KeysError::Exists { role, path });
    }
    let pem = Tool::new("openssl", format!("make the {role} key"))
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt"])
        .arg(format!("rsa_keygen_bits:{}", role.bits()))
        .run()?;
    keep(keys, &path, &Zeroizing::new(pem))?;
    if role.wants_certificate() { certify(keys, role) } else { Ok(()) }
}

/// Puts the public half of a key into a self-signed certificate beside it: U-Boot's tools
/// read one, and with a token it shows that the key is there and signs.
fn certify(keys: &KeyDir, role: Role) -> Result<(), KeysError> {
    let mut tool = Tool::new("openssl", format!("certify the {role} key"))
        .args(["req", "-batch", "-new", "-x509", "-sha256", "-days", "36500", "-subj"])
        .arg(format!("/CN=msec-boot {}", role.name().to_uppercase()))
        .arg("-key")
        .arg(keys.private(role));
    if role == Role::Ima {
        // What the kernel finds a key by, and what it may do: the same whatever OpenSSL's
        // configuration says.
        for extension in [
            "basicConstraints=critical,CA:FALSE",
            "keyUsage=critical,digitalSignature",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid:always",
        ] {
            tool = tool.args(["-addext", extension]);
        }
    }
    if let Some(conf) = openssl_conf(keys, role) {
        tool = tool.env("OPENSSL_CONF", conf);
    }
    let certificate = tool.run()?;
    let path = keys.certificate_of(role);
    keep(keys, &path, &certificate)?;
    fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(failed("publish", &path))
}

/// Writes a file of the directory: whole under another name first, half a key must not
/// stay; and for its owner alone.
fn keep(keys: &KeyDir, path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
    let mut dirs = DirBuilder::new();
    let dir = dirs.recursive(true).mode(0o700).create(keys.dir());
    dir.map_err(failed("create", keys.dir()))?;
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&new, path))
        .map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcr_measure::Algorithm;
    use pcr_measure::key::Scheme;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let keys = ensure_fit(&cache, None).unwrap();
        assert_eq!((mode(keys.dir()), mode(&keys.key())), (0o700, 0o600));
        let first = fs::read(keys.key()).unwrap();
        assert_eq!(ensure_fit(&cache, None).unwrap(), keys);
        assert_eq!(fs::read(keys.key()).unwrap(), first);
        let error = new(&keys, Role::Fit).unwrap_err().to_string();
        assert!(error.contains("docs/keys.md"), "{error}");
        assert_eq!(fs::read(keys.key()).unwrap(), first);
        assert_eq!(fs::read_dir(keys.dir()).unwrap().count(), 2, "nothing half-written");
    }

    #[test]
    fn half_a_pair_is_completed_only_with_what_follows_from_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let keys = ensure_fit(&cache, None).unwrap();
        fs::remove_file(keys.certificate()).unwrap();
        ensure_fit(&cache, None).unwrap();
        let own = ensure_fit(&cache, Some(keys.dir())).unwrap();
        fs::remove_file(own.key()).unwrap();
        let error = ensure_fit(&cache, None).unwrap_err().to_string();
        assert!(error.contains("fit.key is missing"), "{error}");
        assert!(!own.key().exists());
    }

    #[test]
    fn an_own_directory_is_never_filled() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path());
        for role in Role::ALL {
            let error = ensure(&keys, role, true).unwrap_err().to_string();
            assert!(error.contains(&format!("keys new {role}")), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_role_has_a_key_of_its_own_that_signs() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path().join("keys"));
        for role in Role::ALL {
            ensure(&keys, role, false).unwrap();
            assert_eq!(mode(&keys.private(role)), 0o600);
            let key = signing(&keys, role).unwrap();
            let signature = key.sign(Algorithm::Sha256, b"x").unwrap();
            assert_eq!(signature.len() * 8, role.bits() as usize);
            let public = public(&keys, role).unwrap();
            let good = public.verify(Scheme::RsaSsa, Algorithm::Sha256, b"x", &signature);
            assert!(good.unwrap());
        }
        let entries = list(&keys).unwrap();
        let roles: Vec<Role> = entries.iter().map(|entry| entry.role).collect();
        assert_eq!(roles, Role::ALL);
        let mut prints: Vec<_> = entries.iter().map(|entry| &entry.fingerprint).collect();
        prints.sort_unstable();
        prints.dedup();
        assert_eq!(prints.len(), Role::ALL.len());
    }
}
