//! One file: read, judged, signed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use openssl::hash::{Hasher, MessageDigest};
use pcr_measure::digest::{Algorithm, Digest};
use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr, openat2};
use rustix::io::Errno;

use super::plan::cause;
use super::{Cause, Options};
use crate::evm::{self, Metadata};
use crate::root::{Root, WITHIN};
use crate::signature::{Kind, Signature, SigningKey, Version};
use crate::verity;

/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;
/// Most bytes of an attribute, and of the list of their names (`XATTR_SIZE_MAX`,
/// `XATTR_LIST_MAX`, include/uapi/linux/limits.h).
const MAX_ATTRIBUTE: usize = 65536;
/// Bytes that are enough for nearly all of them.
const ATTRIBUTE: usize = 1024;

/// What all files are signed with.
pub(super) struct Signer<'a> {
    pub(super) root: &'a Root,
    pub(super) key: &'a SigningKey,
    pub(super) options: Options,
    pub(super) progress: &'a (dyn Fn(u64) + Sync),
}

/// A file that is signed.
pub(super) struct Done {
    /// Whether it was not before.
    pub(super) is_new: bool,
    /// Bytes of it.
    pub(super) bytes: u64,
}

/// What a thread reads into.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; PIECE]
}

/// What tells that a file was written or got another owner or mode.
#[derive(Debug, Clone, Copy, PartialEq)]
struct State {
    size: u64,
    modified: (i64, i64),
    /// Attributes move it as well.
    changed: (i64, i64),
    metadata: Metadata,
}

impl State {
    fn of(file: &File) -> Result<Self, Cause> {
        let its = file.metadata().map_err(Cause::Read)?;
        if !its.is_file() {
            return Err(Cause::NotRegular);
        }
        // Type and permissions, sixteen bits.
        let mode = (its.mode() & 0xffff) as u16;
        Ok(Self {
            size: its.len(),
            modified: (its.mtime(), its.mtime_nsec()),
            changed: (its.ctime(), its.ctime_nsec()),
            metadata: Metadata { uid: its.uid(), gid: its.gid(), mode },
        })
    }
}

impl Signer<'_> {
    /// Signs a file, by its path from the root.
    pub(super) fn sign(&self, path: &Path, buffer: &mut [u8]) -> Result<Done, Cause> {
        let file = open(self.root, path).map_err(cause)?;
        let before = State::of(&file)?;
        let digest = self.digest(&file, buffer).map_err(Cause::Read)?;
        if State::of(&file)? != before {
            return Err(Cause::Changed);
        }
        let names = names(&file)?;
        let has = |name: &str| names.split(|byte| *byte == 0).any(|its| its == name.as_bytes());
        let get = |name: &str| if has(name) { get(&file, name) } else { Ok(None) };

        let (kind, version) = (self.options.kind(), self.options.version);
        let there = get(evm::IMA)?;
        let keeps_ima = there.as_deref().is_some_and(|its| self.is_mine(its, kind, &digest));
        if !keeps_ima && !self.options.evm && has(evm::ATTRIBUTE) {
            return Err(Cause::Covered);
        }
        let ima = match there {
            Some(there) if keeps_ima => there,
            _ => {
                let ima = self.key.sign(kind, version, &digest)?;
                self.set(&file, evm::IMA, &ima)?;
                ima
            }
        };
        let keeps_evm = !self.options.evm || {
            let mut values = Vec::new();
            for name in evm::GUARDED {
                let value = if name == evm::IMA { Some(ima.clone()) } else { get(name)? };
                values.extend(value.map(|value| (name, value)));
            }
            let value = |name: &str| {
                values.iter().find(|(its, _)| *its == name).map(|(_, value)| value.as_slice())
            };
            let digest = evm::digest(self.options.hash, value, before.metadata)
                .map_err(|e| Cause::Read(io::Error::other(e)))?;
            let there = get(evm::ATTRIBUTE)?;
            let is_mine = |its: &[u8]| self.is_mine(its, Kind::Portable, &digest);
            let keeps = there.as_deref().is_some_and(is_mine);
            if !keeps {
                let evm = self.key.sign(Kind::Portable, Version::V2, &digest)?;
                self.set(&file, evm::ATTRIBUTE, &evm)?;
            }
            keeps
        };
        if (State { changed: before.changed, ..State::of(&file)? }) != before {
            return Err(Cause::Changed);
        }
        Ok(Done { is_new: !(keeps_ima && keeps_evm), bytes: before.size })
    }

    /// Whether an attribute is what this run would set: by this key, over this digest.
    fn is_mine(&self, attribute: &[u8], kind: Kind, digest: &Digest) -> bool {
        let version = if kind == Kind::Verity { Version::V3 } else { Version::V2 };
        let Ok(its) = Signature::parse(attribute) else { return false };
        let Ok(signed) = Signature::signed(kind, version, digest) else { return false };
        (its.kind, its.version, its.key) == (kind, version, self.key.id())
            && its.algorithm == digest.algorithm()
            && self.key.public().signed(&signed, &its.bytes)
    }

    fn set(&self, file: &File, name: &'static str, value: &[u8]) -> Result<(), Cause> {
        if self.options.dry_run {
            return Ok(());
        }
        fsetxattr(file, name, value, XattrFlags::empty())
            .map_err(|error| Cause::Set { name, cause: error.into() })
    }

    /// The digest that is signed.
    fn digest(&self, file: &File, buffer: &mut [u8]) -> io::Result<Digest> {
        let mut told = Told { file, progress: self.progress };
        match self.options.version {
            Version::V3 => verity::digest(self.options.hash, &mut told),
            Version::V2 => hash(self.options.hash, &mut told, buffer),
        }
    }
}

/// A file that tells how much of it has been read.
struct Told<'a> {
    file: &'a File,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        (self.progress)(read as u64);
        Ok(read)
    }
}

/// Hashes by OpenSSL, which has the processor's own instructions on every machine.
fn hash(algorithm: Algorithm, reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<Digest> {
    let md = match algorithm {
        Algorithm::Sha256 => MessageDigest::sha256(),
        Algorithm::Sha384 => MessageDigest::sha384(),
        Algorithm::Sha512 => MessageDigest::sha512(),
        other => return Err(io::Error::other(other.to_string())),
    };
    let mut hasher = Hasher::new(md)?;
    loop {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(read) => hasher.update(buffer.get(..read).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Digest::new(algorithm, &hasher.finish()?).map_err(io::Error::other)
}

/// Opens a file of the root for reading. Its time of access stays where that is allowed.
fn open(root: &Root, path: &Path) -> io::Result<File> {
    // A pipe that took its place must not be waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = flags | OFlags::CLOEXEC;
    let open = |more| openat2(root.dir(), path, flags | more, Mode::empty(), WITHIN);
    let fd = match open(OFlags::NOATIME) {
        // Of somebody else's file.
        Err(Errno::PERM) => open(OFlags::empty()),
        result => result,
    };
    Ok(File::from(fd?))
}

/// The names of a file's attributes, each with NUL behind it.
fn names(file: &File) -> Result<Vec<u8>, Cause> {
    sized(|buffer| flistxattr(file, buffer))
        .map_err(|e| Cause::Get { name: "list".to_owned(), cause: e.into() })
}

/// An attribute of a file.
fn get(file: &File, name: &str) -> Result<Option<Vec<u8>>, Cause> {
    match sized(|buffer| fgetxattr(file, name, buffer)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(Cause::Get { name: name.to_owned(), cause: error.into() }),
    }
}

/// What a system call writes into a buffer that may be too small.
fn sized(mut call: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; ATTRIBUTE];
    let size = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(MAX_ATTRIBUTE, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(size);
    Ok(buffer)
}
