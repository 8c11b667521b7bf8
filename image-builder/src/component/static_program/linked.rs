//! What the linker was given for a program of ours: the crates, and the static libraries
//! with the packages that they come from. It is kept beside the program, for the bill of
//! materials of an image.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::static_lib::{TARGET, pkg_config_path};
use super::super::{BuildError, job::Job};
use super::{Libraries, Program, RUST_TARGET};

/// The file beside the program.
const FILE: &str = "linked.json";

/// The list of what was linked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// Crates, those of this repository included.
    pub crates: BTreeSet<Crate>,
    /// Packages of Debian whose static libraries were linked.
    pub libraries: BTreeSet<Library>,
}

/// A crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// SPDX licence expression, as its manifest has it.
    pub licence: Option<String>,
    /// SHA-256 of the `.crate` file; none for a crate of this repository.
    pub sha256: Option<String>,
}

/// A package with a static library.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Library {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The name of its source package.
    pub source: String,
    /// The version of that.
    pub source_version: String,
}

impl Linked {
    /// Reads the list beside the program.
    ///
    /// # Errors
    /// If it is not there, or cannot be used.
    pub fn beside(program: &Path) -> io::Result<Self> {
        let path = program.with_file_name(FILE);
        let named = |error: &dyn std::fmt::Display| {
            io::Error::other(format!("cannot use {}: {error}", path.display()))
        };
        let text = std::fs::read(&path).map_err(|error| named(&error))?;
        serde_json::from_slice(&text).map_err(|error| named(&error))
    }
}

/// Writes the list.
pub(super) fn keep(job: &Job<'_>, program: &Program) -> Result<(), BuildError> {
    let linked = Linked { crates: crates(job, program)?, libraries: libraries(job, program)? };
    let text = serde_json::to_vec_pretty(&linked).map_err(|error| job.wrong(error.to_string()))?;
    job.keep_bytes(&text, FILE)
}

fn crates(job: &Job<'_>, program: &Program) -> Result<BTreeSet<Crate>, BuildError> {
    let mut tree = job.command("cargo", &job.context.tree);
    // Neither what runs while building nor what expands code is in the program.
    Job::with_network(&mut tree)
        .args(["tree", "--locked", "--edges=normal,no-proc-macro"])
        .arg(format!("--package={}", program.package))
        .arg(format!("--features={}", program.features.join(",")))
        .args(["--prefix=none", "--format={p}|{l}", &format!("--target={RUST_TARGET}")]);
    let lock = job.read(&job.tree("Cargo.lock"))?;
    let checksums = checksums(&String::from_utf8_lossy(&lock))
        .map_err(|error| job.wrong(format!("Cargo.lock: {error}")))?;
    let mut crates = BTreeSet::new();
    for line in output(job, "cargo tree", tree)?.lines() {
        let one = parse_crate(line, &checksums);
        crates.insert(one.ok_or_else(|| job.wrong(format!("cargo tree says `{line}`")))?);
    }
    Ok(crates)
}

/// A line of cargo's: `NAME vVERSION[ (PATH)]|LICENCE[ (*)]`.
fn parse_crate(line: &str, checksums: &BTreeMap<(String, String), String>) -> Option<Crate> {
    let (package, licence) = line.split_once('|')?;
    let mut words = package.split(' ');
    let name = words.next()?.to_owned();
    let version = words.next()?.strip_prefix('v')?.to_owned();
    let licence = licence.trim_end_matches(" (*)");
    // An older way to write OR.
    let licence = (!licence.is_empty()).then(|| licence.replace('/', " OR "));
    let sha256 = checksums.get(&(name.clone(), version.clone())).cloned();
    Some(Crate { name, version, licence, sha256 })
}

/// The checksums in a `Cargo.lock`.
fn checksums(lock: &str) -> Result<BTreeMap<(String, String), String>, toml::de::Error> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock)?;
    let packages = lock.package.into_iter();
    Ok(packages.filter_map(|one| Some(((one.name, one.version), one.checksum?))).collect())
}

/// The packages with the static libraries that pkg-config names, with C's own and Rust's.
/// What our components deliver is in the list of components.
fn libraries(job: &Job<'_>, program: &Program) -> Result<BTreeSet<Library>, BuildError> {
    let mut names = Vec::new();
    for libraries in program.libraries {
        let need = match *libraries {
            Libraries::Of(component) => component,
            Libraries::Named(name) => {
                names.push(name.to_owned());
                continue;
            }
        };
        let dir = job.need(need).join("usr/lib/pkgconfig");
        for entry in
            std::fs::read_dir(&dir).map_err(|error| job.wrong(error.to_string()))?.flatten()
        {
            names.extend(entry.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort_unstable();
    let mut flags = job.command("pkg-config", &job.work);
    flags.args(["--static", "--libs"]).args(&names);
    flags.env("PKG_CONFIG_LIBDIR", pkg_config_path(job, program.needs));
    let flags = output(job, "pkg-config", flags)?;
    let mut archives = BTreeSet::new();
    let system = format!("/usr/lib/{TARGET}");
    for library in flags.split_whitespace().filter_map(|word| word.strip_prefix("-l")) {
        let path = Path::new(&system).join(format!("lib{library}.a"));
        if path.is_file() {
            archives.insert(path);
        }
    }
    for question in ["-print-file-name=libc.a", "-print-libgcc-file-name"] {
        let mut gcc = job.command(format!("{TARGET}-gcc"), &job.work);
        gcc.arg(question);
        let path = PathBuf::from(output(job, "asking gcc", gcc)?.trim());
        archives.insert(
            path.canonicalize()
                .map_err(|error| job.wrong(format!("{}: {error}", path.display())))?,
        );
    }
    let mut rustc = job.command("rustc", &job.work);
    rustc.args(["--print=target-libdir", &format!("--target={RUST_TARGET}")]);
    let mut paths: Vec<PathBuf> = archives.into_iter().collect();
    paths.push(PathBuf::from(output(job, "asking rustc", rustc)?.trim()));
    paths.iter().map(|path| owner(job, path)).collect()
}

/// What dpkg-query is asked, in the order of [`Library`]'s fields.
const FORMAT: &str =
    "--showformat=${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}";

/// The package that a file or directory of the build root belongs to.
fn owner(job: &Job<'_>, path: &Path) -> Result<Library, BuildError> {
    let mut search = job.command("dpkg-query", &job.work);
    search.arg("--search").arg(path);
    let said = output(job, "dpkg-query --search", search)?;
    // Of a directory that several packages share: the one for the target.
    let (packages, _) = said.split_once(": ").unwrap_or_default();
    let wanted = packages.split(", ").find(|name| name.ends_with(":arm64")).unwrap_or(packages);
    let mut show = job.command("dpkg-query", &job.work);
    show.args(["--show", FORMAT, wanted]);
    let shown = output(job, "dpkg-query --show", show)?;
    let mut fields = shown.split('\t').map(str::to_owned);
    let mut next = || {
        let field = fields.next().filter(|field| !field.is_empty());
        field.ok_or_else(|| job.wrong(format!("dpkg-query says `{shown}` of {}", path.display())))
    };
    Ok(Library {
        name: next()?,
        version: next()?,
        architecture: next()?,
        source: next()?,
        source_version: next()?,
    })
}

/// What a short command prints.
fn output(
    job: &Job<'_>,
    step: &str,
    mut command: std::process::Command,
) -> Result<String, BuildError> {
    let output = command.output().map_err(|error| job.wrong(format!("{step}: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(job.wrong(format!("{step} failed ({}): {}", output.status, said.trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_with_their_checksums() {
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\
                    checksum = \"ab\"\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n";
        let checksums = checksums(lock).unwrap();
        let read = |line| parse_crate(line, &checksums).unwrap();
        let one = |name: &str, version: &str, licence: Option<&str>, sha256: Option<&str>| Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.map(str::to_owned),
            sha256: sha256.map(str::to_owned),
        };
        assert_eq!(
            read("a v1.0.0|MIT/Apache-2.0 (*)"),
            one("a", "1.0.0", Some("MIT OR Apache-2.0"), Some("ab"))
        );
        assert_eq!(read("a v2.0.0|MIT"), one("a", "2.0.0", Some("MIT"), None));
        assert_eq!(read("own v0.1.0 (/src/own)|"), one("own", "0.1.0", None, None));
        for line in ["", "a|MIT", "a 1.0.0|MIT"] {
            assert_eq!(parse_crate(line, &checksums), None, "{line}");
        }
    }
}
