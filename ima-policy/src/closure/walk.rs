//! From programs to everything that runs when they do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::elf::{ElfError, Object, is_elf};
use super::loader::Directories;
use super::modules::{Module, Modules, named};
use super::script::Shebang;
use crate::root::Root;

/// Where programs are looked for that are named without a path (Debian's `login.defs`).
const SEARCH: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Scripts that are started by scripts: the kernel follows five (fs/exec.c, `exec_binprm`).
const MAX_SCRIPTS: usize = 5;

/// What a file is to those that need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An ELF program.
    Program,
    /// A text that an interpreter runs.
    Script,
    /// The dynamic loader.
    Loader,
    /// A shared library.
    Library,
    /// A module of the kernel.
    Module,
}

/// A file of the closure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Who needs it, by paths in the root; nobody for what was asked for.
    pub needed_by: BTreeSet<PathBuf>,
}

/// What was needed and is nowhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// Its name or path.
    pub name: String,
    /// Who needs it; none for what was asked for.
    pub needed_by: Option<PathBuf>,
}

/// Files by their own paths in the root, and what is missing.
///
/// What a program opens by itself while it runs (`dlopen`: NSS, PAM, plug-ins) no file says;
/// name such a library as one of the programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// The files.
    pub files: BTreeMap<PathBuf, Member>,
    /// What was not found.
    pub missing: BTreeSet<Missing>,
}

/// Why a closure cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// A file of the root.
    #[error("{path} in the root cannot be read: {cause}")]
    Read {
        /// Its path in the root.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A file that is damaged.
    #[error("{path} in the root: {cause}")]
    Elf {
        /// Its path in the root.
        path: PathBuf,
        /// What is wrong with it.
        cause: ElfError,
    },
}

/// Finds everything that these programs need. A name without a slash is looked for in the
/// usual directories.
///
/// # Errors
/// [`ClosureError`]; a file that is not there is none, it is listed.
pub fn closure(root: &Root, programs: &[&str]) -> Result<Closure, ClosureError> {
    let conf = Path::new("/etc/ld.so.conf");
    let directories = Directories::of(root).map_err(failed(conf))?;
    let mut walk = Walk { root, directories, found: Closure::default() };
    for program in programs {
        walk.program(program, None, MAX_SCRIPTS)?;
    }
    Ok(walk.found)
}

/// Adds the modules of these names or aliases to a closure, with all that they need and all
/// that is loaded with them, of the kernel of this release. Modules that are part of the kernel
/// have no file.
///
/// # Errors
/// [`ClosureError`]; a module that is not there is none, it is listed.
pub fn modules(
    root: &Root,
    release: &str,
    names: &[String],
    found: &mut Closure,
) -> Result<(), ClosureError> {
    let base = Path::new("/lib/modules").join(release);
    let text = |name: &str| match root.find(&base.join(name)) {
        Ok(mut file) => {
            let bytes = file.read().map_err(failed(&file.path))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Err(error) if absent(&error) => Ok(String::new()),
        Err(error) => Err(failed(&base.join(name))(error)),
    };
    let known = Modules::parse(
        &text("modules.dep")?,
        &text("modules.softdep")?,
        &text("modules.alias")?,
        &text("modules.builtin")?,
    );
    let queue = names.iter().map(|name| (name.clone(), None)).collect();
    let mut walk = ModuleWalk { root, base, known, queue, seen: BTreeSet::new(), found };
    while let Some((name, by)) = walk.queue.pop_front() {
        walk.named(&name, by.as_deref())?;
    }
    Ok(())
}

/// The modules that a root loads when it starts, whatever the hardware: /etc/modules and
/// modules-load.d(5).
///
/// # Errors
/// [`ClosureError::Read`].
pub fn modules_to_load(root: &Root) -> Result<Vec<String>, ClosureError> {
    let mut files = vec![PathBuf::from("/etc/modules")];
    for dir in ["/etc/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d"] {
        match root.names(Path::new(dir)) {
            Ok(names) => {
                let is_conf = |name: &&OsString| name.as_encoded_bytes().ends_with(b".conf");
                files.extend(names.iter().filter(is_conf).map(|name| Path::new(dir).join(name)));
            }
            Err(error) if absent(&error) => {}
            Err(error) => return Err(failed(Path::new(dir))(error)),
        }
    }
    let mut names = BTreeSet::new();
    for path in files {
        match root.find(&path) {
            Ok(mut file) => {
                let bytes = file.read().map_err(failed(&path))?;
                names.extend(named(&String::from_utf8_lossy(&bytes)).map(str::to_owned));
            }
            Err(error) if absent(&error) => {}
            Err(error) => return Err(failed(&path)(error)),
        }
    }
    Ok(names.into_iter().collect())
}

struct ModuleWalk<'w> {
    root: &'w Root,
    base: PathBuf,
    known: Modules,
    /// Names that are still to be looked at, and by whom they are wanted.
    queue: VecDeque<(String, Option<PathBuf>)>,
    /// Modules whose company has been looked at: it may lead back to them.
    seen: BTreeSet<PathBuf>,
    found: &'w mut Closure,
}

impl ModuleWalk<'_> {
    /// The modules of a name, and what belongs to them.
    fn named(&mut self, name: &str, by: Option<&Path>) -> Result<(), ClosureError> {
        let mut files = Vec::new();
        let modules = self.known.find(name);
        let is_known = !modules.is_empty();
        for module in modules {
            if let Module::Files(path, needs) = module {
                files.push((path.to_owned(), needs.to_owned()));
            }
        }
        if !is_known {
            let needed_by = by.map(Path::to_owned);
            self.found.missing.insert(Missing { name: name.to_owned(), needed_by });
        }
        for (path, needs) in files {
            let Some(own) = self.file(&path, by)? else { continue };
            for need in needs {
                if let Some(needed) = self.file(&need, Some(&own))? {
                    self.soft(&need, &needed);
                }
            }
            self.soft(&path, &own);
        }
        Ok(())
    }

    /// What is loaded with a module, once for each.
    fn soft(&mut self, path: &Path, own: &Path) {
        if self.seen.insert(own.to_owned()) {
            // What is loaded with it only where it is there is not missed.
            let is_there = |name: &&str| !self.known.find(name).is_empty();
            let names = self.known.soft(path).filter(is_there);
            self.queue.extend(names.map(|name| (name.to_owned(), Some(own.to_owned()))));
        }
    }

    /// Notes a module's file; its own path.
    fn file(&mut self, path: &Path, by: Option<&Path>) -> Result<Option<PathBuf>, ClosureError> {
        let at = self.base.join(path);
        let own = match self.root.find(&at) {
            Ok(found) => found.path,
            Err(error) if absent(&error) => {
                let (name, needed_by) = (at.display().to_string(), by.map(Path::to_owned));
                self.found.missing.insert(Missing { name, needed_by });
                return Ok(None);
            }
            Err(error) => return Err(failed(&at)(error)),
        };
        let member = self.found.files.entry(own.clone());
        let member = member.or_insert(Member { kind: Kind::Module, needed_by: BTreeSet::new() });
        member.needed_by.extend(by.map(Path::to_owned));
        Ok(Some(own))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> ClosureError + use<> {
    let path = path.to_owned();
    move |cause| ClosureError::Read { path, cause }
}

struct Walk<'r> {
    root: &'r Root,
    directories: Directories,
    found: Closure,
}

/// A library on its way: its name, and who led to it, from the one that needs it to the
/// program.
struct Wanted {
    name: String,
    chain: Vec<usize>,
}

impl Walk<'_> {
    /// Reads a file that may not be there.
    fn read(&self, path: &Path) -> Result<Option<(PathBuf, Vec<u8>)>, ClosureError> {
        match self.root.find(path) {
            Ok(mut found) => {
                let bytes = found.read().map_err(failed(path))?;
                Ok(Some((found.path, bytes)))
            }
            Err(error) if absent(&error) => Ok(None),
            Err(error) => Err(failed(path)(error)),
        }
    }

    /// Notes a file; whether it is new.
    fn note(&mut self, path: &Path, kind: Kind, by: Option<&Path>) -> bool {
        let is_new = !self.found.files.contains_key(path);
        let member = self.found.files.entry(path.to_owned());
        let member = member.or_insert(Member { kind, needed_by: BTreeSet::new() });
        member.needed_by.extend(by.map(Path::to_owned));
        is_new
    }

    fn miss(&mut self, name: &str, by: Option<&Path>) {
        let needed_by = by.map(Path::to_owned);
        self.found.missing.insert(Missing { name: name.to_owned(), needed_by });
    }

    /// A program or a script, by path or by name, and all that it needs.
    fn program(
        &mut self,
        name: &str,
        by: Option<&Path>,
        scripts: usize,
    ) -> Result<(), ClosureError> {
        let places: Vec<PathBuf> = match name.contains('/') {
            true => vec![name.into()],
            false => SEARCH.iter().map(|dir| Path::new(dir).join(name)).collect(),
        };
        for place in places {
            let Some((path, bytes)) = self.read(&place)? else { continue };
            if is_elf(&bytes) {
                return self.object(&path, &bytes, by);
            }
            let is_new = self.note(&path, Kind::Script, by);
            if let (true, Some(next), Some(shebang)) =
                (is_new, scripts.checked_sub(1), Shebang::parse(&bytes))
            {
                self.program(&shebang.interpreter, Some(&path), next)?;
                if let Some(through) = shebang.through_env() {
                    self.program(through, Some(&path), next)?;
                }
            }
            return Ok(());
        }
        self.miss(name, by);
        Ok(())
    }

    /// An ELF program, or a library that was asked for, and all that it needs.
    fn object(&mut self, path: &Path, bytes: &[u8], by: Option<&Path>) -> Result<(), ClosureError> {
        let program = parse(path, bytes)?;
        let is_library = program.interpreter.is_none() && program.soname.is_some();
        let kind = if is_library { Kind::Library } else { Kind::Program };
        if !self.note(path, kind, by) {
            return Ok(());
        }
        let loader = program.interpreter.clone().unwrap_or_default();
        let mut names = BTreeSet::new();
        if !loader.is_empty() {
            match self.read(Path::new(&loader))? {
                Some((at, bytes)) => {
                    self.note(&at, Kind::Loader, Some(path));
                    // libc needs it by name as well, and it is there by then.
                    names.extend(parse(&at, &bytes)?.soname);
                }
                None => self.miss(&loader, Some(path)),
            }
        }
        // Breadth first, as the loader does: the first library of a name is everybody's.
        let machine = program.machine;
        let mut objects = vec![(path.to_owned(), program)];
        let mut queue: VecDeque<Wanted> = wanted(&objects, 0, &[]).collect();
        while let Some(Wanted { name, chain }) = queue.pop_front() {
            let who: Vec<(&Path, &Object)> = chain
                .iter()
                .filter_map(|at| objects.get(*at))
                .map(|(path, object)| (path.as_path(), object))
                .collect();
            let by = who.first().map(|(path, _)| path.to_path_buf());
            let candidates = self.directories.candidates(&name, &who, &loader);
            if !names.insert(name.clone()) {
                // It is there; who needs it is told all the same.
                if let Some((at, _)) =
                    objects.iter().find(|(_, o)| o.soname.as_ref() == Some(&name))
                {
                    let at = at.clone();
                    self.note(&at, Kind::Library, by.as_deref());
                }
                continue;
            }
            let mut library = None;
            for candidate in candidates {
                let Some((at, bytes)) = self.read(&candidate)? else { continue };
                // What is no library of this machine is passed over.
                match Object::parse(&bytes) {
                    Ok(object) if is_elf(&bytes) && object.machine == machine => {
                        library = Some((at, object));
                        break;
                    }
                    _ => {}
                }
            }
            let Some((at, object)) = library else {
                self.miss(&name, by.as_deref());
                continue;
            };
            self.note(&at, Kind::Library, by.as_deref());
            names.extend(object.soname.clone());
            objects.push((at, object));
            queue.extend(wanted(&objects, objects.len() - 1, &chain));
        }
        Ok(())
    }
}

/// What the object at `at` needs, with itself in front of who led to it.
fn wanted<'a>(
    objects: &'a [(PathBuf, Object)],
    at: usize,
    chain: &'a [usize],
) -> impl Iterator<Item = Wanted> + use<> {
    let needed = objects.get(at).map(|(_, object)| object.needed.clone()).unwrap_or_default();
    let chain: Vec<usize> = [at].into_iter().chain(chain.iter().copied()).collect();
    needed.into_iter().map(move |name| Wanted { name, chain: chain.clone() })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Object, ClosureError> {
    Object::parse(bytes).map_err(|cause| ClosureError::Elf { path: path.to_owned(), cause })
}

/// Whether a path leads nowhere; a link that goes in circles does not either.
fn absent(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
    [NotFound, NotADirectory, InvalidInput].contains(&error.kind())
        || error.raw_os_error() == Some(nix::libc::ELOOP)
}
