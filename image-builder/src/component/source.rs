//! From the store to a source tree: verified, unpacked, patched. This file's text is
//! part of every component's key.

use std::fs;
use std::path::{Path, PathBuf};

use super::plan;
use super::{BuildError, job::Job};
use crate::cache::IoContext;
use crate::sources::lock::Kind;
use crate::sources::store::Store;

impl Job<'_> {
    /// Verifies a source and unpacks it: a source package with Debian's patches, a
    /// binary package as it would be installed, or the sources in it if it carries
    /// some. Applies the component's series, which is for its first source, and returns
    /// the directory.
    ///
    /// No build applies its series itself, so none can forget it.
    pub(crate) fn unpack(&self, name: &str) -> Result<PathBuf, BuildError> {
        let source = self.context.lock.source(name)?;
        let store = Store::new(&self.context.cache);
        let files = self.work.join(format!("{name}.files"));
        fs::create_dir_all(&files).on("cannot create", &files)?;
        for file in &source.files {
            let link = files.join(&file.name);
            std::os::unix::fs::symlink(store.verified(file)?, &link).on("cannot link", &link)?;
        }
        let main = source
            .main_file()
            .map(|file| files.join(&file.name))
            .ok_or_else(|| self.wrong(format!("source {name} has no main file")))?;
        let dir = self.work.join(name);
        let mut command = match source.kind {
            Kind::DebSrc => self.command("dpkg-source", &self.work),
            Kind::Deb => self.command("dpkg-deb", &self.work),
        };
        match source.kind {
            // The lock file's SHA-256 stand for the signature.
            Kind::DebSrc => command.args(["--no-check", "--no-copy", "--extract"]),
            Kind::Deb => command.arg("--extract"),
        };
        self.run(&format!("unpacking {name}"), command.arg(main).arg(&dir))?;
        let dir = self.carried(name, dir)?;
        if self.component.spec().sources.first() == Some(&name) {
            self.patch(&dir)?;
        }
        Ok(dir)
    }

    /// The sources that an unpacked binary package carries as `linux-source-*` does, in
    /// a tarball of its name; else the package itself.
    fn carried(&self, name: &str, package: PathBuf) -> Result<PathBuf, BuildError> {
        let tarball = package.join(format!("usr/src/{name}.tar.xz"));
        if !tarball.is_file() {
            return Ok(package);
        }
        let dir = self.work.join(format!("{name}.sources"));
        fs::create_dir(&dir).on("cannot create", &dir)?;
        let mut tar = self.command("tar", &dir);
        tar.args(["--extract", "--strip-components=1", "--file"]).arg(tarball);
        self.run(&format!("unpacking the sources in {name}"), &mut tar)?;
        Ok(dir)
    }

    /// Applies the component's series.
    fn patch(&self, dir: &Path) -> Result<(), BuildError> {
        let Some(series) = self.component.spec().series.map(|path| self.tree(path)) else {
            return Ok(());
        };
        for name in plan::series(&series).on("cannot read the series in", &series)? {
            // No fuzz: a patch that no longer fits exactly wants a person's eye.
            let mut command = self.command("patch", dir);
            command.args(["--strip=1", "--forward", "--fuzz=0", "--input"]).arg(series.join(&name));
            self.run(&format!("patch {name}"), &mut command)?;
        }
        Ok(())
    }
}
