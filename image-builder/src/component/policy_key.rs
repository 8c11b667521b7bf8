//! The key that signs the policies of images: made once, beside the key that
//! signs the images themselves. It never enters an image.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::BuildError;
use crate::artifacts::KeyDir;

/// RSA of 2048 bits: what systemd takes and every TPM loads.
const ALGORITHM: [&str; 5] = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

/// Makes the policy key of `keys` if there is none. A directory of the user's
/// own is never filled.
///
/// # Errors
/// [`BuildError::Key`] when it is missing there, or openssl cannot make it.
pub fn ensure(keys: &KeyDir, own: bool) -> Result<(), BuildError> {
    let path = keys.policy_key();
    if path.is_file() {
        return Ok(());
    }
    if own {
        return Err(BuildError::Key(format!(
            "{} is not there. Make it: openssl {} -out policy.key, or name the vendor's public key \
             in the recipe (policy_key)",
            path.display(),
            ALGORITHM.join(" ")
        )));
    }
    let failed = |what: &str, error: std::io::Error| BuildError::Key(format!("{what}: {error}"));
    let openssl = Command::new("openssl")
        .args(ALGORITHM)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed("cannot run openssl", e))?;
    let pem = Zeroizing::new(openssl.stdout);
    if !openssl.status.success() {
        return Err(BuildError::Key(String::from_utf8_lossy(&openssl.stderr).into_owned()));
    }
    // Whole under a name of its own first: half a key must not stay.
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(&pem).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&new, &path)).map_err(|e| failed("cannot keep the key", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path());
        ensure(&keys, false).unwrap();
        let first = fs::read(keys.policy_key()).unwrap();
        let mode = fs::metadata(keys.policy_key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ensure(&keys, false).unwrap();
        assert_eq!(fs::read(keys.policy_key()).unwrap(), first);
        assert!(pcr_measure::key::SigningKey::from_pem(&first).is_ok());
    }

    #[test]
    fn an_own_directory_is_never_filled() {
        let dir = tempfile::tempdir().unwrap();
        let error = ensure(&KeyDir::new(dir.path()), true).unwrap_err().to_string();
        assert!(error.contains("openssl genpkey"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
