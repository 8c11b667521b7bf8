//! The kernel's modules in a root, signed.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::path::Path;

use super::integrity::{IntegrityError, age, failed, put};
use super::tool::Tool;
use crate::artifacts::Artifacts;
use crate::keys::{self, Role};

/// Puts the kernel's modules where modprobe looks for them, each signed, and works out which
/// need which.
///
/// # Errors
/// If a file cannot be read, signed or written.
pub(super) fn install(
    modules: &Path,
    artifacts: &Artifacts,
    root: &Path,
) -> Result<(), IntegrityError> {
    let release = &artifacts.kernel_version;
    let from = modules.join("lib/modules").join(release);
    // A Debian's /lib is a link.
    let lib = if root.join("lib").is_symlink() { "usr/lib" } else { "lib" };
    let to = root.join(lib).join("modules").join(release);
    copy(&from, &to, &|path, to| {
        let mut module = fs::read(path).map_err(failed(path))?;
        if path.extension().is_some_and(|end| end == "ko") {
            append_signature(path, &mut module, artifacts)?;
        }
        put(to, &module)
    })?;
    Tool::new("depmod", format!("tell which modules of {release} need which"))
        .arg("--basedir")
        .arg(root)
        .arg(release)
        .run()?;
    age(&to)
}

/// Copies a tree of directories and files; `file` copies one of the latter.
fn copy(
    from: &Path,
    to: &Path,
    file: &dyn Fn(&Path, &Path) -> Result<(), IntegrityError>,
) -> Result<(), IntegrityError> {
    fs::create_dir_all(to).map_err(failed(to))?;
    for entry in fs::read_dir(from).map_err(failed(from))? {
        let entry = entry.map_err(failed(from))?;
        let to = to.join(entry.file_name());
        let kind = entry.file_type().map_err(failed(from))?;
        if kind.is_dir() {
            copy(&entry.path(), &to, file)?;
        } else if kind.is_file() {
            file(&entry.path(), &to)?;
        }
    }
    Ok(())
}

/// What stands behind the signature of a module (Linux, include/linux/module_signature.h).
const MAGIC: &CStr = c"~Module signature appended~\n";
/// `PKEY_ID_PKCS7`.
const PKCS7: u8 = 2;

/// Signs a module as Linux's `scripts/sign-file` does: a CMS message without the data, the
/// certificates and signed attributes behind the module, its length, and a magic text.
fn append_signature(
    path: &Path,
    module: &mut Vec<u8>,
    artifacts: &Artifacts,
) -> Result<(), IntegrityError> {
    let keys = &artifacts.signing_key;
    let mut tool = Tool::new("openssl", format!("sign the module {}", path.display()))
        .args(["cms", "-sign", "-binary", "-noattr", "-nocerts", "-nosmimecap", "-md", "sha256"])
        .args(["-outform", "DER", "-signer"])
        .arg(keys.certificate_of(Role::Ima))
        .arg("-inkey")
        .arg(keys.private(Role::Ima))
        .arg("-in")
        .arg(path);
    if let Some(conf) = keys::openssl_conf(keys, Role::Ima) {
        tool = tool.env("OPENSSL_CONF", conf);
    }
    let signature = tool.run()?;
    let length = u32::try_from(signature.len())
        .map_err(|_| failed(path)(io::Error::other("its signature is too long")))?;
    module.extend(signature);
    // Algorithm, hash: none; what it is; lengths of signer and key identifier: none; padding.
    module.extend([0, 0, PKCS7, 0, 0, 0, 0, 0]);
    module.extend(length.to_be_bytes());
    module.extend(MAGIC.to_bytes());
    Ok(())
}
