//! Keys in a PKCS#11 token: the URI in place of the key, and OpenSSL's configuration that
//! makes it usable.
//!
//! The private key never leaves the token. What lies in the directory is the URI (RFC 7512)
//! in the PEM form that pkcs11-provider reads where a program asks for a private key in a
//! file, `ROLE.crt` with the public half, and `pkcs11.cnf`, which loads provider and module.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pcr_measure::Algorithm;
use pcr_measure::digest::Digest;

use super::{KeysError, Role, certify, keep, read};
use crate::artifacts::KeyDir;
use crate::image::tool::{Tool, ToolError};

/// The label of the PEM form (provider-pkcs11(7), "URIs in PEM files").
const LABEL: &str = "PKCS#11 PROVIDER URI";

/// What stands before the URI in it.
const DESCRIPTION: &[u8] = b"PKCS#11 Provider URI v1.0";

// Tags of DER (X.690, 8.1.2 and 8.23; X.680, 8.6).
const SEQUENCE: u8 = 0x30;
const VISIBLE_STRING: u8 = 0x1a;
const UTF8_STRING: u8 = 0x0c;

/// Characters in a line of PEM (RFC 7468, 2).
const LINE: usize = 64;

/// Longest URI that is taken, in bytes; DER's short and first long form of a length cover it.
const MAX_URI: usize = 200;

/// Why a token's key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The URI is none.
    #[error(
        "`{uri}` names no private key of a token: pkcs11:token=LABEL;object=LABEL;type=private, and \
         ?pin-source=file:PATH for a PIN that nobody types (RFC 7512); at most {MAX_URI} characters"
    )]
    Uri {
        /// The URI.
        uri: String,
    },
    /// Another module is in use.
    #[error("{} loads another PKCS#11 module already: one directory, one module", .0.display())]
    OtherModule(PathBuf),
    /// No such module.
    #[error("{} is no PKCS#11 module: name its shared library in full", .0.display())]
    NoModule(PathBuf),
    /// The provider is missing.
    #[error("OpenSSL's provider for PKCS#11 is not here (pkcs11.so): install pkcs11-provider")]
    NoProvider,
}

/// The URI of a private key in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Takes a URI.
    ///
    /// # Errors
    /// [`TokenError::Uri`] if it is none, or holds a PIN: this file is no secret.
    pub fn new(uri: &str) -> Result<Self, TokenError> {
        let plain = uri.bytes().all(|byte| byte.is_ascii_graphic()) && uri.len() <= MAX_URI;
        let names_key = uri.contains("object=") || uri.contains("id=");
        let has_pin = uri.contains("pin-value");
        if uri.starts_with("pkcs11:") && plain && names_key && !has_pin {
            Ok(Self(uri.to_owned()))
        } else {
            Err(TokenError::Uri { uri: uri.to_owned() })
        }
    }

    /// The URI.
    pub fn uri(&self) -> &str {
        &self.0
    }

    /// The URI in a key file; `None` if it holds something else.
    pub fn of(pem: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(pem).ok()?;
        let body = text.split_once(&format!("-----BEGIN {LABEL}-----"))?.1;
        let body = body.split_once(&format!("-----END {LABEL}-----"))?.0;
        let lines: String = body.split_ascii_whitespace().collect();
        let der = STANDARD.decode(lines).ok()?;
        let (inner, _) = field(&der, SEQUENCE)?;
        let (description, rest) = field(inner, VISIBLE_STRING)?;
        let (uri, _) = field(rest, UTF8_STRING)?;
        if description != DESCRIPTION {
            return None;
        }
        Self::new(std::str::from_utf8(uri).ok()?).ok()
    }

    /// The key file.
    pub fn pem(&self) -> String {
        let inner =
            [put(VISIBLE_STRING, DESCRIPTION), put(UTF8_STRING, self.0.as_bytes())].concat();
        let text = STANDARD.encode(put(SEQUENCE, &inner));
        let mut pem = format!("-----BEGIN {LABEL}-----\n");
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(LINE));
            pem += line;
            pem.push('\n');
            rest = more;
        }
        pem + &format!("-----END {LABEL}-----\n")
    }
}

/// A field of DER: tag, length, contents (X.690, 8.1).
fn put(tag: u8, contents: &[u8]) -> Vec<u8> {
    // Nothing here is longer: `MAX_URI`.
    let length = u8::try_from(contents.len()).unwrap_or(u8::MAX);
    let head: &[u8] = if length < 0x80 { &[tag, length] } else { &[tag, 0x81, length] };
    [head, contents].concat()
}

/// The contents of the field of DER that this begins with, and what follows it.
fn field(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (length, rest) = match rest.split_first()? {
        (0x81, rest) => rest.split_first()?,
        (length, rest) if *length < 0x80 => (length, rest),
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(usize::from(*length)))?
}

/// OpenSSL's configuration for a key, if it is in a token.
pub fn openssl_conf(keys: &KeyDir, role: Role) -> Option<PathBuf> {
    let pem = read(&keys.private(role)).ok()?;
    Token::of(&pem).map(|_| keys.dir().join("pkcs11.cnf"))
}

/// Lets a role's key be the one of this URI, in the token that `module` drives.
///
/// # Errors
/// [`KeysError::Exists`]; a token that does not have the key, or does not sign.
pub fn use_token(keys: &KeyDir, role: Role, uri: &str, module: &Path) -> Result<(), KeysError> {
    let token = Token::new(uri)?;
    let path = keys.private(role);
    if path.exists() {
        return Err(KeysError::Exists { role, path });
    }
    if !module.is_absolute() || !module.is_file() {
        return Err(TokenError::NoModule(module.to_owned()).into());
    }
    let conf = keys.dir().join("pkcs11.cnf");
    let text = configuration(&provider()?, module);
    match std::fs::read_to_string(&conf) {
        Ok(there) if there != text => return Err(TokenError::OtherModule(conf).into()),
        Ok(_) => {}
        Err(_) => keep(keys, &conf, text.as_bytes())?,
    }
    keep(keys, &path, token.pem().as_bytes())?;
    certify(keys, role).inspect_err(|_| {
        // The token has not shown that it has the key.
        let _ = std::fs::remove_file(&path);
    })
}

/// OpenSSL's configuration with provider and module.
///
/// A module that is built on OpenSSL itself (SoftHSM) would be torn down twice, hence
/// `no-deinit`, and would load the provider again from within it, hence `early`. No section
/// is called `default`: every other one would read it.
fn configuration(provider: &Path, module: &Path) -> String {
    format!(
        "openssl_conf = init\n\n\
         [init]\nproviders = providers\n\n\
         [providers]\ndefault = built_in\npkcs11 = token\n\n\
         [built_in]\nactivate = 1\n\n\
         [token]\nmodule = {}\npkcs11-module-path = {}\n\
         pkcs11-module-quirks = no-deinit\npkcs11-module-load-behavior = early\nactivate = 1\n",
        provider.display(),
        module.display()
    )
}

/// The provider, where this OpenSSL looks for its own.
fn provider() -> Result<PathBuf, KeysError> {
    let said = Tool::new("openssl", "say where its providers are").args(["version", "-m"]).run()?;
    let said = String::from_utf8_lossy(&said);
    let dir = said.split('"').nth(1).unwrap_or_default();
    let provider = Path::new(dir).join("pkcs11.so");
    if provider.is_file() { Ok(provider) } else { Err(TokenError::NoProvider.into()) }
}

/// Has a token sign a message, RSASSA-PKCS1-v1_5.
pub(super) fn sign(
    key: &Path,
    conf: Option<&Path>,
    hash: Algorithm,
    message: &[u8],
) -> Result<Vec<u8>, ToolError> {
    let scratch = scratch(message)?;
    let mut tool = Tool::new("openssl", format!("sign with {}", key.display()))
        .arg("dgst")
        .arg(format!("-{hash}"))
        .arg("-sign")
        .arg(key)
        .arg(scratch.path());
    if let Some(conf) = conf {
        tool = tool.env("OPENSSL_CONF", conf);
    }
    tool.run()
}

/// Has a token sign a digest, RSASSA-PKCS1-v1_5.
pub(super) fn sign_digest(
    key: &Path,
    conf: Option<&Path>,
    digest: &Digest,
) -> Result<Vec<u8>, ToolError> {
    let scratch = scratch(digest.as_bytes())?;
    let mut tool = Tool::new("openssl", format!("sign with {}", key.display()))
        .args(["pkeyutl", "-sign", "-pkeyopt", "rsa_padding_mode:pkcs1", "-pkeyopt"])
        .arg(format!("digest:{}", digest.algorithm()))
        .arg("-inkey")
        .arg(key)
        .arg("-in")
        .arg(scratch.path());
    if let Some(conf) = conf {
        tool = tool.env("OPENSSL_CONF", conf);
    }
    tool.run()
}

/// A file with these bytes, as long as it is held.
fn scratch(bytes: &[u8]) -> Result<tempfile::NamedTempFile, ToolError> {
    tempfile::NamedTempFile::new()
        .and_then(|file| std::fs::write(file.path(), bytes).map(|()| file))
        .map_err(|source| ToolError::Start { tool: std::env::temp_dir(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_survives_its_pem() {
        let long = format!("pkcs11:token={};object=fit", "t".repeat(150));
        for uri in ["pkcs11:object=fit", "pkcs11:token=a;id=%01;type=private", &long] {
            let token = Token::new(uri).unwrap();
            let pem = token.pem();
            assert_eq!(Token::of(pem.as_bytes()), Some(token), "{pem}");
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            assert_eq!(Token::of(pem.replace("M", "A").as_bytes()), None);
        }
        // As pkcs11-provider 1.0 takes it.
        let pem = "-----BEGIN PKCS#11 PROVIDER URI-----\n\
                   MEYaGVBLQ1MjMTEgUHJvdmlkZXIgVVJJIHYxLjAMKXBrY3MxMTp0b2tlbj1tc2Vj\n\
                   O29iamVjdD1maXQ7dHlwZT1wcml2YXRl\n\
                   -----END PKCS#11 PROVIDER URI-----\n";
        let token = Token::of(pem.as_bytes()).unwrap();
        assert_eq!(token.uri(), "pkcs11:token=msec;object=fit;type=private");
        assert_eq!(token.pem(), pem);
    }

    #[test]
    fn what_is_no_uri_of_a_key_is_refused() {
        let long = format!("pkcs11:object={}", "x".repeat(200));
        for uri in [
            "",
            "fit.key",
            "pkcs11:token=a",
            "pkcs11:object=a b",
            "pkcs11:object=a?pin-value=1",
            &long,
        ] {
            let error = Token::new(uri).unwrap_err().to_string();
            assert!(error.contains("pin-source"), "{error}");
        }
        for pem in [&b""[..], b"-----BEGIN PRIVATE KEY-----\n", b"\xff\xfe"] {
            assert_eq!(Token::of(pem), None);
        }
    }
}
