//! The cache: one directory per built thing, named by the hash of its inputs.
//!
//! Layout below the root: `sources/` (pinned files by SHA-256), `components/`
//! (build results by key), `build/` (trees in work), `logs/`, `keys/` (the key
//! that signs images), `buildroot-*/`, `cargo/`, `target/`.

pub mod entry;
pub mod key;

use std::io;
use std::path::{Path, PathBuf};

/// A failure to find or to write the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// No variable says where the cache is.
    #[error("no cache directory: set MSEC_CACHE to one (XDG_CACHE_HOME and HOME are unset too)")]
    Nowhere,
    /// The file system refused something.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Adds what was tried, and on what, to an I/O error.
pub(crate) trait IoContext<T> {
    /// `what` reads on before the path: "cannot read", "cannot create".
    fn on(self, what: &'static str, path: &Path) -> Result<T, CacheError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, CacheError> {
        self.map_err(|source| CacheError::Io { what, path: path.to_owned(), source })
    }
}

/// Where everything lies that can be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
    sources: PathBuf,
}

impl Cache {
    /// A cache in this directory; nothing is made yet.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { sources: root.join("sources"), root }
    }

    /// An empty cache in another directory, with the sources of this one.
    pub fn again(&self, root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), sources: self.sources.clone() }
    }

    /// The cache that the environment names: `MSEC_CACHE`, else `msec-boot` in
    /// `XDG_CACHE_HOME`, else in `~/.cache`.
    ///
    /// # Errors
    /// [`CacheError::Nowhere`] when none of the variables is set.
    pub fn from_env() -> Result<Self, CacheError> {
        Self::from_variables(|name| {
            std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
        })
        .ok_or(CacheError::Nowhere)
    }

    fn from_variables(get: impl Fn(&str) -> Option<PathBuf>) -> Option<Self> {
        get("MSEC_CACHE")
            .or_else(|| get("XDG_CACHE_HOME").map(|dir| dir.join("msec-boot")))
            .or_else(|| get("HOME").map(|dir| dir.join(".cache/msec-boot")))
            .map(Self::at)
    }

    /// The cache directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Pinned source files.
    pub fn sources(&self) -> PathBuf {
        self.sources.clone()
    }

    /// Built components.
    pub fn components(&self) -> PathBuf {
        self.root.join("components")
    }

    /// Source trees in work; removed when a build succeeds.
    pub fn build(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Build logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The signing key that is made when the user brings none.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_variable_wins() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(Variables, Option<&str>); 4] = [
            (&[("MSEC_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/c")),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/x/msec-boot")),
            (&[("HOME", "/h")], Some("/h/.cache/msec-boot")),
            (&[], None),
        ];
        for (variables, expected) in cases {
            let cache = Cache::from_variables(|name| {
                variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v))
            });
            assert_eq!(cache, expected.map(Cache::at), "{variables:?}");
        }
    }
}
