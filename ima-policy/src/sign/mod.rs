//! Signing the files of a root file system: `security.ima`, and `security.evm` where wanted.
//!
//! Each attribute is set by one system call, `security.evm` after the `security.ima` that it
//! covers, so a run may be cut anywhere: the next one leaves alone what is signed already by
//! this key as it was asked for, and does the rest.
//!
//! What is signed is what the files hold while they are read. Whether that is what they should
//! hold is the caller's to know.

mod file;
mod plan;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use pcr_measure::digest::Algorithm;
use rayon::iter::ParallelIterator as _;
use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefIterator as _};
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;

use crate::evm;
use crate::root::Root;
use crate::signature::{KeyError, Kind, SigningKey, Version};

pub use plan::{Plan, Target};

/// What files get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The hash, of files and of metadata alike: SHA-256, SHA-384 or SHA-512.
    pub hash: Algorithm,
    /// Version 2 signs the file's digest. Version 3 signs its fs-verity digest (SHA-256 or
    /// SHA-512), which the kernel compares once fs-verity is enabled on the file.
    pub version: Version,
    /// Whether metadata is signed as well, portably, in `security.evm`.
    pub evm: bool,
    /// Threads; as many as there are processors if none is said.
    pub jobs: Option<NonZeroUsize>,
    /// Whether everything is done but the setting of attributes.
    pub dry_run: bool,
}

impl Options {
    const fn kind(self) -> Kind {
        match self.version {
            Version::V2 => Kind::File,
            Version::V3 => Kind::Verity,
        }
    }
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// A hash that is not signed in this version.
    #[error("version {} signs no {hash}: sha256 or sha512, and version 2 also sha384", *.version as u8)]
    Hash {
        /// The version.
        version: Version,
        /// The hash.
        hash: Algorithm,
    },
    /// A key that does not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file system on which nothing can be signed.
    #[error(
        "the root's file system has no extended attributes of the kind security.*: copy the root to one that has (ext4, btrfs, xfs, tmpfs)"
    )]
    NoAttributes,
    /// A file system that cannot be written.
    #[error("the root is mounted read-only")]
    ReadOnly,
    /// The root.
    #[error("the root cannot be read: {0}")]
    Root(io::Error),
    /// The threads.
    #[error("cannot start threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// Why a file was not signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// It cannot be opened or read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It is there, and nothing that is signed.
    #[error("is no regular file, nor a directory of them")]
    NotRegular,
    /// Something is mounted over it.
    #[error("lies on another file system")]
    Elsewhere,
    /// Somebody wrote it meanwhile.
    #[error("changed while it was signed: leave the root alone, and sign again")]
    Changed,
    /// `security.evm` would no longer hold.
    #[error("has security.evm, which covers the security.ima that would change: sign both (--evm)")]
    Covered,
    /// An attribute cannot be read.
    #[error("its attribute {name} cannot be read: {cause}")]
    Get {
        /// Its name.
        name: String,
        /// Why.
        cause: io::Error,
    },
    /// An attribute cannot be set.
    #[error("{name} cannot be set: {cause}{}", hint(.cause))]
    Set {
        /// Its name.
        name: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM) => " (it takes CAP_SYS_ADMIN, and a file that is not immutable)",
        Some(Errno::NOSPC) => {
            " (the attributes of a file fit into one block of ext4: shorter signatures are those of ECC)"
        }
        _ => "",
    }
}

/// A file that was not signed.
#[derive(Debug)]
pub struct Failure {
    /// Its path in the root.
    pub path: PathBuf,
    /// Why.
    pub cause: Cause,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files that got a signature, or in a dry run would get one.
    pub signed: u64,
    /// Files that had all that was asked for.
    pub kept: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Files that were not signed, by path.
    pub failed: Vec<Failure>,
}

/// Signs the files of a plan. `progress` is told how many bytes more have been read, from
/// several threads.
///
/// # Errors
/// [`SignError`] if nothing can be signed; what single files say is in the outcome.
pub fn sign(
    root: &Root,
    plan: Plan,
    key: &SigningKey,
    options: Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Outcome, SignError> {
    let Options { hash, version, .. } = options;
    let has = match version {
        Version::V2 => matches!(hash, Algorithm::Sha256 | Algorithm::Sha384 | Algorithm::Sha512),
        Version::V3 => matches!(hash, Algorithm::Sha256 | Algorithm::Sha512),
    };
    if !has {
        return Err(SignError::Hash { version, hash });
    }
    takes_attributes(root, options.dry_run)?;
    // A token that does not sign says so once, before anything is signed.
    let probe = hash.hash(&[]).map_err(io::Error::other).map_err(KeyError::Elsewhere)?;
    key.sign(options.kind(), version, &probe)?;

    let jobs = options.jobs.map_or(0, NonZeroUsize::get);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs).build()?;
    let Plan { files, failed, .. } = plan;
    // The largest first, one at a time: no thread is left with a large one at the end.
    let mut order: Vec<&Target> = files.iter().collect();
    order.sort_by_key(|target| std::cmp::Reverse(target.size));
    let signer = file::Signer { root, key, options, progress };
    let done: Vec<_> = pool.install(|| {
        let one = |buffer: &mut Vec<u8>, target: &&Target| signer.sign(&target.path, buffer);
        order.par_iter().with_max_len(1).map_init(file::buffer, one).collect()
    });
    let mut outcome = Outcome { failed, ..Outcome::default() };
    for (target, result) in order.into_iter().zip(done) {
        match result {
            Ok(file::Done { is_new, bytes }) => {
                outcome.bytes += bytes;
                *if is_new { &mut outcome.signed } else { &mut outcome.kept } += 1;
            }
            Err(cause) => {
                let path = PathBuf::from("/").join(&target.path);
                outcome.failed.push(Failure { path, cause });
            }
        }
    }
    outcome.failed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(outcome)
}

/// Whether attributes can be set at all, asked of the root's directory.
fn takes_attributes(root: &Root, dry_run: bool) -> Result<(), SignError> {
    match rustix::fs::fgetxattr(root.dir(), evm::IMA, &mut [0_u8; 0][..]) {
        Err(Errno::NOTSUP) => return Err(SignError::NoAttributes),
        Ok(_) | Err(Errno::NODATA) => {}
        Err(error) => return Err(SignError::Root(error.into())),
    }
    let flags = rustix::fs::fstatvfs(root.dir()).map_err(|e| SignError::Root(e.into()))?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) && !dry_run {
        return Err(SignError::ReadOnly);
    }
    Ok(())
}
