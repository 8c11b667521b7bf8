//! The key that signs boot images: made once, kept in the cache, or the user's own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::BuildError;
use crate::artifacts::KeyDir;
use crate::cache::Cache;

/// The signing key: in `own`, if that is given, else in the cache, where it is
/// made when it is not there. The private key is readable by its owner alone.
///
/// # Errors
/// [`BuildError::Key`] when a file is missing, or openssl cannot make them.
pub fn ensure(cache: &Cache, own: Option<&Path>) -> Result<KeyDir, BuildError> {
    let dir = KeyDir::new(own.map_or_else(|| cache.keys(), Path::to_owned));
    let missing: Vec<_> =
        [dir.key(), dir.certificate()].into_iter().filter(|path| !path.is_file()).collect();
    match missing.as_slice() {
        [] => Ok(dir),
        [one] => Err(BuildError::Key(format!(
            "{} is missing, but the other half is there; bring it back, or move {} away to get a new pair \
             (boards with the old key will not boot images signed with the new one)",
            one.display(),
            dir.dir().display()
        ))),
        _ if own.is_some() => Err(BuildError::Key(format!(
            "neither {} nor {} is there. Make them: openssl req -new -x509 -newkey rsa:3072 -noenc \
             -subj /CN=fit -keyout fit.key -out fit.crt",
            dir.key().display(),
            dir.certificate().display()
        ))),
        _ => make(&dir).map(|()| dir),
    }
}

/// Makes the pair in a directory of its own and renames that when complete.
fn make(dir: &KeyDir) -> Result<(), BuildError> {
    let failed = |what: &str, error: std::io::Error| BuildError::Key(format!("{what}: {error}"));
    let parent = dir.dir().parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| failed("cannot create the cache", e))?;
    let new = tempfile::Builder::new()
        .prefix("keys-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(|e| failed("cannot create a directory", e))?;
    let pair = KeyDir::new(new.path());
    let openssl = Command::new("openssl")
        .args(["req", "-batch", "-new", "-x509", "-newkey", "rsa:3072", "-noenc", "-sha256"])
        .args(["-days", "36500", "-subj", "/CN=msec-boot FIT", "-keyout"])
        .arg(pair.key())
        .arg("-out")
        .arg(pair.certificate())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed("cannot run openssl", e))?;
    if !openssl.status.success() {
        return Err(BuildError::Key(String::from_utf8_lossy(&openssl.stderr).into_owned()));
    }
    fs::set_permissions(pair.key(), Permissions::from_mode(0o600))
        .map_err(|e| failed("cannot protect the key", e))?;
    if dir.dir().is_dir() {
        // An empty directory of that name may be there; a full one stops the rename.
        fs::remove_dir(dir.dir()).map_err(|e| failed("cannot replace the key directory", e))?;
    }
    fs::rename(new.keep(), dir.dir()).map_err(|e| failed("cannot name the key directory", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache"));
        let keys = ensure(&cache, None).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(keys.dir()), mode(&keys.key())), (0o700, 0o600));
        let first = fs::read(keys.key()).unwrap();
        assert_eq!(ensure(&cache, None).unwrap(), keys);
        assert_eq!(fs::read(keys.key()).unwrap(), first);
    }

    #[test]
    fn half_a_pair_is_never_completed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path());
        let keys = ensure(&cache, None).unwrap();
        fs::remove_file(keys.key()).unwrap();
        let error = ensure(&cache, None).unwrap_err().to_string();
        assert!(error.contains("fit.key is missing"), "{error}");
    }

    #[test]
    fn an_own_directory_is_never_filled() {
        let dir = tempfile::tempdir().unwrap();
        let error = ensure(&Cache::at(dir.path()), Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains("openssl req"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
