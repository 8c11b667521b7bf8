//! What the running system is held to: the kernel is given certificate and policy, for IMA and
//! EVM, before the root's first program runs. Either all of it holds, or the root is not
//! entered.
//!
//! Both come from the initramfs, which is measured. That they fit this kernel is checked when
//! the image is built; here the kernel's own word counts.
//!
//! Source: Linux 6.12, security/integrity/ima/ima_fs.c, ima_policy.c; evm/evm_secfs.c;
//! Documentation/ABI/testing/ima_policy, evm.

use crate::sys::{self, KeySerial};
use serde::Deserialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest policy or certificate that is read, in bytes.
const MAX_LEN: u64 = 64 * 1024;
/// The kernel takes less than a page at a time, and cuts off the rest (`ima_write_policy`).
const MAX_RULE: usize = 4094;
/// Keyrings of IMA and EVM. Nobody can make another one of such a name: a dot in front is the
/// kernel's (security/keys/keyctl.c, `key_get_type_from_user`).
const KEYRINGS: [&str; 2] = [".ima", ".evm"];
/// EVM verifies portable signatures (`EVM_INIT_X509`, 2), and that is all that it is told in
/// this boot (`EVM_SETUP_COMPLETE`): what has no signature stays free to be changed.
const EVM: &str = "0x80000002";

/// The table `integrity` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Integrity {
    /// File of the initramfs with IMA's policy.
    pub policy: PathBuf,
    /// File of the initramfs with the certificate (X.509, DER) that signatures are verified
    /// by. None where nothing is appraised.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
}

/// Where the kernel is spoken to.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The mount of securityfs.
    pub security: &'a Path,
    /// The list of keys.
    pub keys: &'a Path,
}

impl Default for Kernel<'static> {
    fn default() -> Self {
        Self { security: Path::new("/sys/kernel/security"), keys: Path::new("/proc/keys") }
    }
}

/// Why the running system would not be held to what it is to be.
#[derive(Debug, thiserror::Error)]
pub enum IntegrityError {
    /// A file of the initramfs.
    #[error("{}: {cause}; build the image anew", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// A file of the kernel's.
    #[error("{}: {cause}: this kernel has no IMA, or no EVM, or they are set up already", path.display())]
    Interface {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// A keyring is missing.
    #[error("the kernel has no keyring {0}")]
    NoKeyring(&'static str),
    /// The certificate is not taken.
    #[error(
        "the kernel does not take the certificate into {keyring} ({cause}): it takes those alone that a key of its own has signed"
    )]
    Certificate {
        /// Into which keyring.
        keyring: &'static str,
        /// What it says.
        cause: io::Error,
    },
    /// A policy without rules.
    #[error("{} has no rules", .0.display())]
    Empty(PathBuf),
    /// A rule is not taken.
    #[error("the kernel does not take the IMA rule `{rule}` ({cause})")]
    Rule {
        /// The rule.
        rule: String,
        /// What it says.
        cause: io::Error,
    },
    /// All were taken, and they are not what holds.
    #[error("the kernel has taken {written} IMA rules, and {found} hold")]
    NotInForce {
        /// How many were written.
        written: usize,
        /// How many it shows.
        found: usize,
    },
}

/// What holds from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// Rules of IMA's policy.
    pub rules: usize,
    /// Whether signatures are verified.
    pub signatures: bool,
}

impl std::fmt::Display for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rules, signatures } = self;
        let signed = if *signatures { ", signatures are verified" } else { "" };
        write!(f, "IMA policy in force: {rules} rules{signed}")
    }
}

impl Integrity {
    /// Gives certificate and policy to the kernel.
    ///
    /// # Errors
    /// [`IntegrityError`]. The root must not be entered then.
    pub fn enforce(&self, kernel: Kernel<'_>) -> Result<InForce, IntegrityError> {
        let policy = read(&self.policy)?;
        let policy = String::from_utf8_lossy(&policy);
        if let Some(certificate) = &self.certificate {
            trust(&read(certificate)?, kernel)?;
        }
        let written = load(&policy, &kernel.security.join("ima/policy"))?;
        if written == 0 {
            return Err(IntegrityError::Empty(self.policy.clone()));
        }
        Ok(InForce { rules: written, signatures: self.certificate.is_some() })
    }
}

/// The certificate is what signatures are verified by.
fn trust(certificate: &[u8], kernel: Kernel<'_>) -> Result<(), IntegrityError> {
    let interface = |path: PathBuf| move |cause| IntegrityError::Interface { path, cause };
    let keys = fs::read(kernel.keys).map_err(interface(kernel.keys.to_owned()))?;
    let keys = String::from_utf8_lossy(&keys);
    for keyring in KEYRINGS {
        let serial = keyring_in(&keys, keyring).ok_or(IntegrityError::NoKeyring(keyring))?;
        sys::add_certificate(certificate, serial)
            .map_err(|cause| IntegrityError::Certificate { keyring, cause })?;
    }
    let evm = kernel.security.join("evm");
    let mut file = OpenOptions::new().write(true).open(&evm).map_err(interface(evm.clone()))?;
    file.write_all(EVM.as_bytes()).map_err(interface(evm))
}

/// Writes the rules one by one, so that the one that is refused can be named, and looks whether
/// they are what holds. Returns how many there are.
fn load(policy: &str, path: &Path) -> Result<usize, IntegrityError> {
    let interface = |cause| IntegrityError::Interface { path: path.to_owned(), cause };
    let mut file = OpenOptions::new().write(true).open(path).map_err(interface)?;
    let mut written = 0;
    for rule in rules(policy) {
        give(&mut file, rule)
            .map_err(|cause| IntegrityError::Rule { rule: rule.to_owned(), cause })?;
        written += 1;
    }
    // The kernel puts them in force when the file is closed, and tells no one if it does not.
    drop(file);
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(interface)?;
    let found = rules(&text).count();
    if found == written { Ok(written) } else { Err(IntegrityError::NotInForce { written, found }) }
}

fn give(file: &mut File, rule: &str) -> io::Result<()> {
    if rule.len() > MAX_RULE {
        return Err(io::Error::other("it is longer than a page"));
    }
    let line = format!("{rule}\n");
    // In one call: each is a rule to the kernel.
    let taken = file.write(line.as_bytes())?;
    if taken == line.len() { Ok(()) } else { Err(io::Error::other("it was taken in part")) }
}

/// The rules of a policy: one a line, `#` begins a comment.
fn rules(policy: &str) -> impl Iterator<Item = &str> {
    policy.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// A keyring of the kernel's in its list of keys (security/keys/proc.c, `proc_keys_show`):
/// serial number, flags, uses, expiry, permissions, owner, group, type, description.
fn keyring_in(keys: &str, name: &str) -> Option<KeySerial> {
    keys.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let serial = fields.next()?;
        let [owner, _, kind, description] = [4, 0, 0, 0].map(|skip| fields.nth(skip));
        let is_it = owner == Some("0")
            && kind == Some("keyring")
            && description.and_then(|text| text.strip_suffix(':')) == Some(name);
        is_it.then(|| i32::from_str_radix(serial, 16).ok())?.map(KeySerial)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, IntegrityError> {
    let error = |cause| IntegrityError::File { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(error)?;
    let length = file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(error)?;
    if length as u64 > MAX_LEN {
        return Err(error(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str =
        "# IMA policy\n\n# why\nmeasure func=BPRM_CHECK\n  measure func=MODULE_CHECK \n";

    #[test]
    fn rules_are_what_is_no_comment() {
        let found: Vec<&str> = rules(POLICY).collect();
        assert_eq!(found, ["measure func=BPRM_CHECK", "measure func=MODULE_CHECK"]);
    }

    #[test]
    fn a_keyring_is_the_kernel_s_own() {
        let keys = "\
            00fc32a4 I------     1 perm 1f030000     0     0 asymmetri msec: 0d0fa4b2: X509.rsa 0d0fa4b2 []\n\
            1c2d7b9e I------     1 perm 1f0f0000  1000     0 keyring   .ima: empty\n\
            2a1b3c4d I--Q---     4 perm 1f3f0000     0 65534 keyring   _uid.0: empty\n\
            3f1e2d3c I------     1 perm 1f0f0000     0     0 keyring   .ima: 1\n\
            0b2f1a3c I------     1 perm 1f0f0000     0     0 keyring   .evm: empty\n\
            0b2f1a3d I------     1 perm 1f0f0000     0     0 user      .late: 3\n\n#\n";
        for (name, want) in [
            (".ima", Some(0x3f1e_2d3c)),
            (".evm", Some(0x0b2f_1a3c)),
            (".late", None),
            (".im", None),
            (".builtin_trusted_keys", None),
        ] {
            assert_eq!(keyring_in(keys, name), want.map(KeySerial), "{name}");
        }
    }

    #[test]
    fn what_does_not_come_into_force_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        // A kernel that keeps what it was given.
        fs::write(&path, "").unwrap();
        assert_eq!(load(POLICY, &path).unwrap(), 2);
        // One that drops it.
        assert!(matches!(
            load(POLICY, Path::new("/dev/null")).unwrap_err(),
            IntegrityError::NotInForce { written: 2, found: 0 }
        ));
        // One that does not take a rule.
        let error = load(POLICY, Path::new("/dev/full")).unwrap_err().to_string();
        assert!(error.contains("rule `measure func=BPRM_CHECK`"), "{error}");
        let error = load(POLICY, &dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("has no IMA"), "{error}");
        let long = format!("measure {}", "x".repeat(MAX_RULE));
        assert!(matches!(load(&long, &path).unwrap_err(), IntegrityError::Rule { .. }));
    }

    #[test]
    fn an_empty_policy_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("p");
        fs::write(&policy, "# nothing\n").unwrap();
        fs::create_dir(dir.path().join("ima")).unwrap();
        fs::write(dir.path().join("ima/policy"), "").unwrap();
        let kernel = Kernel { security: dir.path(), keys: Path::new("/dev/null") };
        let integrity = |certificate| Integrity { policy: policy.clone(), certificate };
        let error = integrity(None).enforce(kernel).unwrap_err();
        assert!(matches!(error, IntegrityError::Empty(_)), "{error}");
        // A certificate without a keyring to go to.
        let error = integrity(Some(policy.clone())).enforce(kernel).unwrap_err();
        assert!(matches!(error, IntegrityError::NoKeyring(".ima")), "{error}");
        let error = integrity(Some("/dev/zero".into())).enforce(kernel).unwrap_err().to_string();
        assert!(error.contains("/dev/zero"), "{error}");
    }
}
