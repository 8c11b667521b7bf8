//! Modules of a kernel, and those that they need (modprobe(8), modules.dep(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What `depmod` has written for one kernel.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// By name: path, and the paths of all that it needs, as modules.dep has them.
    paths: BTreeMap<String, (PathBuf, Vec<PathBuf>)>,
    /// By name: modules that are loaded with it where they are there (modules.softdep).
    soft: BTreeMap<String, Vec<String>>,
    /// Patterns of other names (modules.alias).
    aliases: Vec<(String, String)>,
    /// Those that are part of the kernel (modules.builtin).
    builtin: BTreeSet<String>,
}

/// A module by its name.
pub(super) enum Module<'m> {
    /// Files: the module's own, and those of the modules that it needs.
    Files(&'m Path, &'m [PathBuf]),
    /// It is part of the kernel.
    Builtin,
}

impl Modules {
    /// Reads the four files; what is no line of such a file is passed over, as `modprobe` does.
    pub(super) fn parse(dep: &str, softdep: &str, alias: &str, builtin: &str) -> Self {
        let mut modules = Self::default();
        for line in dep.lines() {
            let Some((path, needs)) = line.split_once(':') else { continue };
            let needs = needs.split_ascii_whitespace().map(PathBuf::from).collect();
            if let Some(name) = name_of(path) {
                modules.paths.insert(name, (PathBuf::from(path), needs));
            }
        }
        for line in softdep.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some("softdep"), Some(name)) = (words.next(), words.next()) else { continue };
            let names = words.filter(|word| !matches!(*word, "pre:" | "post:")).map(normal);
            modules.soft.entry(normal(name)).or_default().extend(names);
        }
        for line in alias.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                modules.aliases.push((normal(pattern), normal(name)));
            }
        }
        modules.builtin = builtin.lines().filter_map(name_of).collect();
        modules
    }

    /// The modules of a name: its own, or those whose alias it is.
    pub(super) fn find(&self, name: &str) -> Vec<Module<'_>> {
        let name = normal(name);
        if let Some(module) = self.own(&name) {
            return vec![module];
        }
        let fits = |pattern: &str| super::loader::fits(pattern, &name);
        let by_alias = self.aliases.iter().filter(|(pattern, _)| fits(pattern));
        by_alias.filter_map(|(_, name)| self.own(name)).collect()
    }

    fn own(&self, name: &str) -> Option<Module<'_>> {
        match self.paths.get(name) {
            Some((path, needs)) => Some(Module::Files(path, needs)),
            None => self.builtin.contains(name).then_some(Module::Builtin),
        }
    }

    /// What is loaded with a module, by its path, without being needed.
    pub(super) fn soft(&self, path: &Path) -> impl Iterator<Item = &str> {
        let name = path.to_str().and_then(name_of);
        let names = name.and_then(|name| self.soft.get(&name));
        names.into_iter().flatten().map(String::as_str)
    }
}

/// The modules that a file of modules-load.d(5) or /etc/modules names.
pub(super) fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_comment = |line: &&str| line.starts_with(['#', ';']);
    let lines = text.lines().map(str::trim).filter(move |line| !is_comment(line));
    // Parameters stand behind a name in /etc/modules.
    lines.filter_map(|line| line.split_ascii_whitespace().next())
}

/// `_` and `-` are one letter in the names of modules.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// `kernel/drivers/net/a-b.ko.xz` is `a_b`.
fn name_of(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, end) = file.split_once(".ko")?;
    matches!(end, "" | ".gz" | ".xz" | ".zst").then(|| normal(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_files_with_all_that_they_need() {
        let modules = Modules::parse(
            "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz\n\
             kernel/lib/crc16.ko.xz:\nkernel/fs/mbcache.ko.xz:\nkernel/a-b.ko:\nno line\n",
            "softdep a_b pre: crc16 post: mbcache\n# softdep x\n",
            "# aliases\nalias fs-ext3 ext4\nalias usb:v1D6Bp* a_b\nalias mmc:* sdhci\n",
            "kernel/drivers/sdhci.ko\n",
        );
        let found = |name: &str| -> Vec<String> {
            let of = |module: Module<'_>| match module {
                Module::Builtin => "builtin".to_owned(),
                Module::Files(path, needs) => format!("{} {}", path.display(), needs.len()),
            };
            modules.find(name).into_iter().map(of).collect()
        };
        assert_eq!(found("ext4"), ["kernel/fs/ext4/ext4.ko.xz 2"]);
        assert_eq!(found("fs_ext3"), ["kernel/fs/ext4/ext4.ko.xz 2"]);
        assert_eq!(found("a-b"), ["kernel/a-b.ko 0"]);
        assert_eq!(found("usb:v1D6Bp0002"), ["kernel/a-b.ko 0"]);
        assert_eq!(found("sdhci"), ["builtin"]);
        assert_eq!(found("mmc:block"), ["builtin"]);
        assert!(found("none").is_empty());
        let soft: Vec<_> = modules.soft(Path::new("kernel/a-b.ko")).collect();
        assert_eq!(soft, ["crc16", "mbcache"]);
        let text = "# x\n\n loop \nbonding mode=1\n;y\n";
        assert_eq!(named(text).collect::<Vec<_>>(), ["loop", "bonding"]);
    }
}
