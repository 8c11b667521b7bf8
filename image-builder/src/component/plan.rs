//! From specifications to keys: what would be built, and what is there already.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{BuildError, Component, Files, Spec};
use crate::artifacts::KeyDir;
use crate::cache::Cache;
use crate::cache::entry::Entry;
use crate::cache::key::{Description, Key, Kind};
use crate::recipe::Target;
use crate::sources::lock::Lock;

/// What identifies the tools: the build root's package list with versions, as a
/// hash. It makes a place a build root.
pub(crate) const TOOLS: &str = "/etc/msec-buildroot";

/// Where a plan takes its inputs from.
#[derive(Debug, Clone)]
pub struct Context {
    /// The checkout.
    pub tree: PathBuf,
    /// The cache.
    pub cache: Cache,
    /// The pinned sources.
    pub lock: Lock,
    /// What identifies the tools.
    pub tools: String,
    /// The key that signs images; its certificate goes into U-Boot.
    pub signing_key: KeyDir,
    /// What the recipe chooses.
    pub target: Target,
}

impl Context {
    /// Reads what identifies the tools of the build root that we run in.
    ///
    /// # Errors
    /// [`BuildError::NoBuildRoot`] when we run in none.
    pub fn tools() -> Result<String, BuildError> {
        let text = fs::read_to_string(TOOLS).map_err(|_| BuildError::NoBuildRoot)?;
        Ok(text.trim_end().to_owned())
    }
}

/// A component with its key and its place.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The canonical description of its inputs.
    pub description: Description,
    /// The hash of that.
    pub key: Key,
    /// Its place in the cache.
    pub entry: Entry,
}

/// All components that were asked for and those that they need.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    components: BTreeMap<Component, Planned>,
    cache: PathBuf,
}

impl Plan {
    /// Computes the keys of these components and of all that they need. Reads
    /// inputs and builds nothing.
    ///
    /// # Errors
    /// When an input cannot be read, or a source is not locked.
    pub fn new(context: &Context, wanted: &[Component]) -> Result<Self, BuildError> {
        let mut plan = Self { components: BTreeMap::new(), cache: context.cache.components() };
        for component in wanted {
            plan.add(context, *component)?;
        }
        Ok(plan)
    }

    fn add(&mut self, context: &Context, component: Component) -> Result<Key, BuildError> {
        if let Some(planned) = self.components.get(&component) {
            return Ok(planned.key);
        }
        let spec = component.spec();
        let mut description = describe(context, component, spec)?;
        for need in component.needs(&context.target) {
            let key = self.add(context, need)?;
            description.text(Kind::Component, need.name(), &key.to_string());
        }
        let key = description.key();
        let planned =
            Planned { entry: Entry::new(&context.cache, spec.name, &key), description, key };
        self.components.insert(component, planned);
        Ok(key)
    }

    /// The components in the order of building.
    pub fn components(&self) -> impl Iterator<Item = (Component, &Planned)> {
        self.components.iter().map(|(component, planned)| (*component, planned))
    }

    /// What is planned for this component.
    pub fn get(&self, component: Component) -> Option<&Planned> {
        self.components.get(&component)
    }

    /// The directory that a component has, or will have. For one that is not
    /// planned it is a path that never exists.
    pub fn dir(&self, component: Component) -> PathBuf {
        match self.components.get(&component) {
            Some(planned) => planned.entry.dir().to_owned(),
            None => self.cache.join(format!("{component}-not-planned")),
        }
    }
}

/// Everything about a component but the components it needs.
fn describe(
    context: &Context,
    component: Component,
    spec: &Spec,
) -> Result<Description, BuildError> {
    let mut d = Description::new(spec.name);
    d.contents(Kind::Code, "build", significant(spec.code).as_bytes());
    d.contents(Kind::Code, "environment", significant(include_str!("environment.rs")).as_bytes());
    d.contents(Kind::Code, "source", significant(include_str!("source.rs")).as_bytes());
    d.text(Kind::Tools, "build root", &context.tools);
    for name in component.sources(&context.target) {
        for file in &context.lock.source(name)?.files {
            d.text(Kind::Source, &format!("{name} {}", file.name), file.sha256.as_str());
        }
    }
    let read = |path: &Path| {
        fs::read(path).map_err(|source| BuildError::Input {
            component,
            path: path.to_owned(),
            source,
        })
    };
    if let Some(dir) = spec.series {
        let mut patches = Vec::new();
        for name in series(&context.tree.join(dir)).map_err(|source| BuildError::Input {
            component,
            path: context.tree.join(dir).join("series"),
            source,
        })? {
            let contents = read(&context.tree.join(dir).join(&name))?;
            patches.push((name, contents));
        }
        d.series(patches.iter().map(|(name, contents)| (name.as_str(), contents.as_slice())));
    }
    let chosen = (spec.chosen)(&context.target);
    for (about, choice) in &chosen.words {
        d.text(Kind::Value, about, choice);
    }
    let inputs = [spec.files, &chosen.files].concat();
    for path in files(&context.tree, &inputs).map_err(|(path, source)| BuildError::Input {
        component,
        path,
        source,
    })? {
        d.contents(Kind::File, &path.to_string_lossy(), &read(&context.tree.join(&path))?);
    }
    if let Some(role) = spec.certificate {
        let certificate = context.signing_key.certificate_of(role);
        d.contents(Kind::File, "signing certificate", &read(&certificate)?);
    }
    Ok(d)
}

/// What of a build's code can change its result: neither comments nor the tests
/// at a file's end. Rewording a comment does not build the kernel again.
pub(crate) fn significant(code: &str) -> String {
    let mut lines = Vec::new();
    let mut in_tests = false;
    for line in code.lines() {
        // A further file begins with its own documentation.
        in_tests = (in_tests || line == "#[cfg(test)]") && !line.starts_with("//!");
        if !in_tests && !line.trim_start().starts_with("//") {
            lines.push(line);
        }
    }
    lines.join("\n")
}

/// The patches of a series in their order; `#` begins a comment. No series file,
/// no patches: the directory may hold fragments alone.
pub(crate) fn series(dir: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(dir.join("series"))?;
    Ok(text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect())
}

/// The paths, relative to the checkout and sorted, that these inputs stand for.
pub(crate) fn files(tree: &Path, inputs: &[Files]) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut paths = Vec::new();
    for input in inputs {
        match input {
            Files::One(path) => paths.push(PathBuf::from(path)),
            Files::Dir(dir, ending) => collect(tree, Path::new(dir), &[ending], false, &mut paths)?,
            Files::Crate(dir) => {
                paths.push(Path::new(dir).join("Cargo.toml"));
                collect(tree, &Path::new(dir).join("src"), &["rs"], true, &mut paths)?;
            }
        }
    }
    paths.sort();
    Ok(paths)
}

fn collect(
    tree: &Path,
    dir: &Path,
    endings: &[&str],
    deep: bool,
    paths: &mut Vec<PathBuf>,
) -> Result<(), (PathBuf, io::Error)> {
    let full = tree.join(dir);
    let fail = |error| (full.clone(), error);
    for entry in fs::read_dir(&full).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name();
        let path = dir.join(&name);
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type().map_err(fail)?.is_dir() {
            if deep {
                collect(tree, &path, endings, deep, paths)?;
            }
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
