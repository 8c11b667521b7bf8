//! Names of kernel modules, as files and as the kernel lists them.

use std::collections::{BTreeSet, HashSet};
use std::hash::{BuildHasher as _, RandomState};

/// The kernel's name of the module in this file; `None` if the name is none of a module's.
///
/// `kernel/fs/my-fs.ko.xz` is `my_fs`: the build makes `_` of `-` (Linux,
/// scripts/Makefile.lib, `name-fix`).
pub(super) fn of_path(path: &[u8]) -> Option<String> {
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let name = [&b".xz"[..], b".gz", b".zst"]
        .into_iter()
        .find_map(|packed| name.strip_suffix(packed))
        .unwrap_or(name);
    let name = name.strip_suffix(b".ko").filter(|name| !name.is_empty())?;
    let name = std::str::from_utf8(name).ok()?;
    Some(name.replace('-', "_"))
}

/// The names in `/proc/modules`: the first word of each line. Lines that are none of it are
/// left out.
#[must_use]
pub fn of_proc(text: &[u8]) -> BTreeSet<String> {
    let lines = text.split(|byte| *byte == b'\n');
    let names = lines.filter_map(|line| line.split(|byte| *byte == b' ').next());
    names
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// Modules that have a record. It keeps no more than a kernel has modules: a list with more
/// names than that makes it forget the earlier ones, which are then told as unmeasured.
#[derive(Debug, Default)]
pub(super) struct Explained {
    hasher: RandomState,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// Most names of one generation. Debian's kernel has about 4300 modules.
const MAX: usize = 8192;

impl Explained {
    /// There is a record of it.
    pub(super) fn add(&mut self, name: String) {
        if self.young.len() >= MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(self.hasher.hash_one(name));
    }

    /// Whether there is a record of it.
    pub(super) fn has(&self, name: &str) -> bool {
        let hash = self.hasher.hash_one(name);
        [&self.young, &self.old].into_iter().any(|names| names.contains(&hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_told_by_its_name() {
        for (path, want) in [
            ("/usr/lib/modules/6.12/kernel/fs/my-fs.ko", Some("my_fs")),
            ("/lib/modules/x/a.ko.xz", Some("a")),
            ("/tmp/evil.ko.zst", Some("evil")),
            ("evil.ko.gz", Some("evil")),
            ("/lib/modules/6.12/modules.dep", None),
            ("/tmp/.ko", None),
            ("/tmp/a.ko.bz2", None),
            ("/tmp/a.ko/b", None),
            ("/tmp/a.kox", None),
            ("", None),
        ] {
            assert_eq!(of_path(path.as_bytes()).as_deref(), want, "{path}");
        }
        assert_eq!(of_path(b"/\xff.ko"), None);
    }

    #[test]
    fn the_kernel_lists_modules_by_line() {
        let text = b"my_fs 12288 0 - Live 0x0000000000000000\nloop 40960 2 my_fs,b, Live 0x0 (O)\n";
        assert_eq!(of_proc(text).into_iter().collect::<Vec<_>>(), ["loop", "my_fs"]);
        assert!(of_proc(b"").is_empty());
        assert_eq!(of_proc(b"\n\xff 1\nx").len(), 2);
    }

    #[test]
    fn names_are_kept_to_a_bound() {
        let mut explained = Explained::default();
        (0..3 * MAX).for_each(|number| explained.add(number.to_string()));
        assert!(explained.young.len() + explained.old.len() <= 2 * MAX);
        assert!(explained.has(&(3 * MAX - 1).to_string()) && !explained.has("0"));
    }
}
