//! Where the dynamic loader looks for a library (ld.so(8)).

use std::io;
use std::path::{Path, PathBuf};

use super::elf::Object;
use crate::root::Root;

/// Most files that `ld.so.conf` may draw in: it may name itself.
const MAX_CONF: usize = 256;

/// The directories that a root's loaders search for every program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Directories {
    /// Those of `/etc/ld.so.conf`, in order.
    configured: Vec<PathBuf>,
}

/// Directories that glibc searches last, for each of Debian's architectures and without one.
fn trusted(interpreter: &str) -> Vec<PathBuf> {
    let base = interpreter.rsplit('/').next().unwrap_or_default();
    if base.starts_with("ld-musl-") {
        return ["/lib", "/usr/local/lib", "/usr/lib"].map(PathBuf::from).into();
    }
    let triplet = match base {
        "ld-linux-aarch64.so.1" => Some("aarch64-linux-gnu"),
        "ld-linux-armhf.so.3" => Some("arm-linux-gnueabihf"),
        "ld-linux-x86-64.so.2" => Some("x86_64-linux-gnu"),
        "ld-linux.so.2" => Some("i386-linux-gnu"),
        "ld-linux-riscv64-lp64d.so.1" => Some("riscv64-linux-gnu"),
        _ => None,
    };
    let places = ["/lib", "/usr/lib"];
    let own = triplet.into_iter().flat_map(|own| places.map(|place| format!("{place}/{own}")));
    let wide = ["/lib64", "/usr/lib64"].map(str::to_owned);
    own.chain(places.map(str::to_owned)).chain(wide).map(PathBuf::from).collect()
}

impl Directories {
    /// Reads `/etc/ld.so.conf`; one that is not there names none.
    pub(super) fn of(root: &Root) -> io::Result<Self> {
        let mut found = Self::default();
        let mut files = vec![PathBuf::from("/etc/ld.so.conf")];
        let mut count = 0;
        // The last one is the next one: what is drawn in stands where it is named.
        while let Some(path) = files.pop() {
            count += 1;
            if count > MAX_CONF {
                let why = "/etc/ld.so.conf includes too many files";
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            let bytes = match root.find(&path) {
                Ok(mut file) => file.read()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let mut included = Vec::new();
            for line in String::from_utf8_lossy(&bytes).lines() {
                let line = line.split('#').next().unwrap_or_default().trim();
                if let Some(pattern) = line.strip_prefix("include").map(str::trim)
                    && line.len() > pattern.len()
                {
                    let pattern = Path::new("/etc").join(pattern);
                    included.extend(matching(root, &pattern)?);
                } else if line.starts_with('/') {
                    found.configured.push(line.into());
                }
            }
            files.extend(included.into_iter().rev());
        }
        Ok(found)
    }

    /// The paths at which a library of this name may be, in the order in which they are
    /// tried. `chain` are the objects that led to it with their own paths: the one that
    /// needs it first, the program last.
    pub(super) fn candidates(
        &self,
        name: &str,
        chain: &[(&Path, &Object)],
        interpreter: &str,
    ) -> Vec<PathBuf> {
        if name.contains('/') {
            return vec![name.into()];
        }
        let mut dirs = Vec::new();
        let add = |dirs: &mut Vec<PathBuf>, of: &Path, listed: &[String]| {
            dirs.extend(listed.iter().map(|dir| expanded(dir, of, interpreter)));
        };
        if let Some((path, object)) = chain.first() {
            if object.runpath.is_empty() {
                for (path, object) in chain.iter().filter(|(_, object)| object.runpath.is_empty()) {
                    add(&mut dirs, path, &object.rpath);
                }
            }
            add(&mut dirs, path, &object.runpath);
        }
        dirs.extend(self.configured.iter().cloned());
        dirs.extend(trusted(interpreter));
        dirs.into_iter().map(|dir| dir.join(name)).collect()
    }
}

/// `$ORIGIN` and `$LIB` in a path.
fn expanded(dir: &str, of: &Path, interpreter: &str) -> PathBuf {
    let origin = of.parent().unwrap_or(Path::new("/")).to_string_lossy();
    let lib = trusted(interpreter)
        .first()
        .map_or("lib".to_owned(), |dir| dir.to_string_lossy().trim_start_matches('/').to_owned());
    ["ORIGIN", "LIB"]
        .into_iter()
        .zip([origin.as_ref(), &lib])
        .fold(dir.to_owned(), |text, (name, value)| {
            text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value)
        })
        .into()
}

/// The files that a pattern names whose last part may have `*` in it, in order.
fn matching(root: &Root, pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = pattern.parent().unwrap_or(Path::new("/"));
    let mut found: Vec<_> = match root.names(dir) {
        Ok(names) => names.into_iter().filter(|its| fits(&name, &its.to_string_lossy())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    found.sort();
    Ok(found.into_iter().map(|name| dir.join(name)).collect())
}

/// Whether a name fits a pattern in which `*` stands for anything.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM: &str = "/lib/ld-linux-aarch64.so.1";

    fn texts(paths: Vec<PathBuf>) -> Vec<String> {
        paths.into_iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn configured_directories_stand_where_they_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = Root::open(dir.path()).unwrap();
        let dirs = || Directories::of(&root).map(|dirs| texts(dirs.configured));
        assert!(dirs().unwrap().is_empty());
        put("etc/ld.so.conf", "/first # one\ninclude ld.so.conf.d/*.conf\n/last\n");
        put("etc/ld.so.conf.d/b.conf", "/b\n");
        put("etc/ld.so.conf.d/a.conf", "# none\n/a\n");
        put("etc/ld.so.conf.d/a.txt", "/never\n");
        assert_eq!(dirs().unwrap(), ["/first", "/last", "/a", "/b"]);
        put("etc/ld.so.conf", "include ld.so.conf\n");
        assert!(dirs().unwrap_err().to_string().contains("too many files"));
    }

    #[test]
    fn a_library_is_looked_for_as_the_loader_does() {
        let dirs = Directories { configured: vec!["/conf".into()] };
        let object = |rpath: &[&str], runpath: &[&str]| {
            let own = |dirs: &[&str]| dirs.iter().map(|dir| (*dir).to_owned()).collect();
            Object { rpath: own(rpath), runpath: own(runpath), ..Object::default() }
        };
        let (program, library) = (object(&["/p"], &[]), object(&["$ORIGIN/../l"], &[]));
        let (at, lib) = (Path::new("/usr/bin/x"), Path::new("/opt/l/a.so"));
        let tail = ["/conf/n", "/lib/aarch64-linux-gnu/n", "/usr/lib/aarch64-linux-gnu/n"];
        let found = |chain: &[(&Path, &Object)]| {
            texts(dirs.candidates("n", chain, ARM)).into_iter().take(5).collect::<Vec<_>>()
        };
        // RPATH goes on from the library to who loaded it.
        let both = found(&[(lib, &library), (at, &program)]);
        assert_eq!(both, [&["/opt/l/../l/n", "/p/n"][..], &tail].concat());
        // RUNPATH is for its own libraries alone, and RPATH is none beside it.
        let runpath = object(&["/never"], &["/r", "${ORIGIN}"]);
        let own = found(&[(at, &runpath)]);
        assert_eq!(own, [&["/r/n", "/usr/bin/n"][..], &tail].concat());
        let below = found(&[(lib, &object(&[], &[])), (at, &runpath)]);
        assert_eq!(below[..3], tail);
        assert_eq!(texts(dirs.candidates("./a/n", &[], ARM)), ["./a/n"]);
        let musl = texts(dirs.candidates("n", &[], "/lib/ld-musl-aarch64.so.1"));
        assert_eq!(musl, ["/conf/n", "/lib/n", "/usr/local/lib/n", "/usr/lib/n"]);
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, want) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".conf", true),
            ("*.conf", "a.conf.old", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "ac", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, name), want, "{pattern} {name}");
        }
    }
}
