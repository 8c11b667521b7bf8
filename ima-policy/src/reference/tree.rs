//! The files of a root, from a directory or an image, with their digests.
//!
//! Hashing is OpenSSL's: it has hand-made code for every processor of ours, with and without
//! instructions for SHA.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use openssl::error::ErrorStack;
use openssl::md::Md;
use openssl::md_ctx::MdCtx;
use pcr_measure::digest::Algorithm;
use rayon::prelude::*;

use super::image::Image;
use super::of_path;
use crate::list::{FileDigest, kernel_name};
use crate::root::Root;

/// Bytes that are read at a time.
const PIECE: usize = 128 << 10;

/// A root whose files cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A file or directory in it.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Its path in the root.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The root itself.
    #[error("{}: {what}", path.display())]
    Root {
        /// The directory or image.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// OpenSSL has no such hash.
    #[error("OpenSSL cannot hash by {algorithm}: {source}")]
    Hash {
        /// The kernel's name of it.
        algorithm: &'static str,
        /// What OpenSSL says.
        source: ErrorStack,
    },
}

/// Which files, and how they are hashed.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Directories that are left out, by path in the root, without `/` in front.
    pub skip: BTreeSet<PathBuf>,
    /// Whether files of other users than root are left out.
    pub only_roots: bool,
    /// By which algorithms.
    pub algorithms: Vec<Algorithm>,
}

/// Who wants to know how far it is.
pub trait Progress: Sync {
    /// So many files there are.
    fn found(&self, files: usize);
    /// One more is hashed.
    fn hashed(&self);
}

/// Nobody.
impl Progress for () {
    fn found(&self, _: usize) {}
    fn hashed(&self) {}
}

/// A file's name in lists, and its digests.
pub type Hashed = (Vec<u8>, Vec<FileDigest>);

/// Hashes the files of a directory, or of the ext4 in an image, a partition or a device.
/// Neither links nor other mounts are entered.
///
/// # Errors
/// The first file that cannot be read.
pub fn hash(
    path: &Path,
    selection: &Selection,
    progress: &dyn Progress,
) -> Result<Vec<Hashed>, TreeError> {
    let wrong = |what: String| TreeError::Root { path: path.to_owned(), what };
    let hashes = Hashes::new(&selection.algorithms)?;
    let only_roots = selection.only_roots;
    if path.is_dir() {
        let root = Root::open(path).map_err(|error| wrong(error.to_string()))?;
        let walk = root.walk(Path::new(""), &selection.skip).whole();
        let walk = walk.map_err(|(path, source)| TreeError::File { path, source })?;
        let files: Vec<_> = walk.files.into_iter().map(|entry| entry.path).collect();
        let open = |(): &mut (), path: &Path| {
            let Some(file) = root.open_file(path)? else { return Ok(None) };
            let is_wanted = !only_roots || file.metadata()?.uid() == 0;
            Ok(is_wanted.then_some(file))
        };
        return all(&files, &hashes, || Ok(()), open, progress);
    }
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let image = Image::find(file).map_err(|error| wrong(error.to_string()))?;
    let system = image.mount().map_err(|error| wrong(error.to_string()))?;
    let files =
        system.files(&selection.skip).map_err(|(path, source)| TreeError::File { path, source })?;
    // A mounted one is not shared between threads.
    let open = |system: &mut super::image::Mounted, path: &Path| system.open(path, only_roots);
    all(&files, &hashes, || image.mount(), open, progress)
}

/// Hashes files in parallel. `open` answers `None` for one that is not wanted.
fn all<S, R: Read>(
    files: &[PathBuf],
    hashes: &Hashes,
    start: impl Fn() -> io::Result<S> + Sync,
    open: impl Fn(&mut S, &Path) -> io::Result<Option<R>> + Sync,
    progress: &dyn Progress,
) -> Result<Vec<Hashed>, TreeError> {
    progress.found(files.len());
    let begin = || -> io::Result<_> { Ok((start()?, hashes.hasher()?)) };
    let found: Result<Vec<_>, _> = files
        .par_iter()
        .map_init(begin, |state, path| {
            let failed = |source| TreeError::File { path: Path::new("/").join(path), source };
            let (state, hasher) = match state {
                Ok(state) => state,
                Err(error) => return Err(failed(io::Error::other(error.to_string()))),
            };
            let file = open(state, path).map_err(failed)?;
            let digests = file.map(|mut file| hasher.digests(&mut file)).transpose();
            let digests = digests.map_err(failed)?;
            progress.hashed();
            Ok(digests.map(|digests| (of_path(path), digests)))
        })
        .collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Hash functions, looked up once.
struct Hashes(Vec<(&'static str, Md)>);

impl Hashes {
    fn new(algorithms: &[Algorithm]) -> Result<Self, TreeError> {
        let fetched = algorithms.iter().map(|algorithm| {
            // OpenSSL's names are the kernel's.
            let algorithm = kernel_name(*algorithm);
            let md = Md::fetch(None, algorithm, None);
            let md = md.map_err(|source| TreeError::Hash { algorithm, source })?;
            Ok((algorithm, md))
        });
        fetched.collect::<Result<_, _>>().map(Self)
    }

    fn hasher(&self) -> io::Result<Hasher<'_>> {
        let contexts = self.0.iter().map(|(name, md)| Ok((*name, md, MdCtx::new()?)));
        let contexts = contexts.collect::<Result<_, ErrorStack>>()?;
        Ok(Hasher { contexts, piece: vec![0; PIECE] })
    }
}

struct Hasher<'a> {
    contexts: Vec<(&'static str, &'a Md, MdCtx)>,
    piece: Vec<u8>,
}

impl Hasher<'_> {
    /// The digests of all that a reader has.
    fn digests(&mut self, reader: &mut impl Read) -> io::Result<Vec<FileDigest>> {
        for (_, md, context) in &mut self.contexts {
            context.digest_init(md)?;
        }
        loop {
            let read = match reader.read(&mut self.piece) {
                Ok(0) => break,
                Ok(read) => self.piece.get(..read).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for (_, _, context) in &mut self.contexts {
                context.digest_update(read)?;
            }
        }
        let digests = self.contexts.iter_mut().map(|(algorithm, md, context)| {
            let mut bytes = vec![0; md.size()];
            context.digest_final(&mut bytes)?;
            Ok(FileDigest { prefix: None, algorithm: (*algorithm).to_owned(), bytes })
        });
        digests.collect()
    }
}
