//! What the static C libraries have in common: the cross compiler, the flags, and
//! pkg-config files that work wherever the directory lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BuildError, Component, job::Job};
use crate::cache::IoContext;

/// GNU's name of the target.
pub(super) const TARGET: &str = "aarch64-linux-gnu";

/// Debian's own libraries for the target.
const DEBIAN_PC: &str = "/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig";

/// Small code first; what nothing uses can be dropped when linking. Nobody unwinds
/// through these libraries: the program aborts where it panics.
const CFLAGS: &str = "-Os -g0 -ffunction-sections -fdata-sections \
                      -fno-asynchronous-unwind-tables -fno-unwind-tables";

/// Where pkg-config looks, our components before Debian's.
pub(super) fn pkg_config_path(job: &Job<'_>, needs: &[Component]) -> String {
    let mut path: Vec<String> = needs
        .iter()
        .map(|need| job.need(*need).join("usr/lib/pkgconfig").display().to_string())
        .collect();
    path.push(DEBIAN_PC.to_owned());
    path.join(":")
}

/// `./configure` for the target, with the libraries of these components.
pub(super) fn configure(job: &Job<'_>, source: &Path, needs: &[Component]) -> Command {
    let mut command = job.command("./configure", source);
    let lists = |option: &str, dir: &str| -> String {
        needs
            .iter()
            .map(|need| format!(" {option}{}", job.need(*need).join(dir).display()))
            .collect()
    };
    command
        .args([&format!("--host={TARGET}"), "--prefix=/usr", "--libdir=/usr/lib"])
        .env("CC", format!("{TARGET}-gcc"))
        .env("AR", format!("{TARGET}-gcc-ar"))
        .env("RANLIB", format!("{TARGET}-gcc-ranlib"))
        .env("CFLAGS", format!("{CFLAGS} -ffile-prefix-map={}=.", source.display()))
        .env("CPPFLAGS", lists("-I", "usr/include"))
        .env("LDFLAGS", format!("-Wl,--gc-sections{}", lists("-L", "usr/lib")))
        .env("PKG_CONFIG_LIBDIR", pkg_config_path(job, needs));
    command
}

/// Makes the pkg-config files say "beside me" instead of `/usr`.
pub(super) fn relocate(job: &Job<'_>) -> Result<(), BuildError> {
    let dir = job.out.join("usr/lib/pkgconfig");
    for entry in fs::read_dir(&dir).on("cannot read", &dir)? {
        let path = entry.on("cannot read", &dir)?.path();
        let text = fs::read_to_string(&path).on("cannot read", &path)?;
        fs::write(&path, relocated(&text)).on("cannot write", &path)?;
    }
    Ok(())
}

fn relocated(text: &str) -> String {
    let mut result = String::new();
    for line in text.lines() {
        let line = if line.starts_with("prefix=") {
            "prefix=${pcfiledir}/../..".to_owned()
        } else {
            line.replace("/usr/", "${prefix}/")
        };
        result.push_str(&line);
        result.push('\n');
    }
    result
}

/// Where a library is installed: below `usr` of what the component delivers.
pub(super) fn lib(job: &Job<'_>, name: &str) -> PathBuf {
    job.out.join("usr/lib").join(name)
}

#[cfg(test)]
mod tests {
    use super::relocated;

    #[test]
    fn a_pkg_config_file_finds_what_lies_beside_it() {
        assert_eq!(
            relocated(
                "prefix=/usr\nlibdir=/usr/lib\nLibs: -L${libdir} -lx\nCflags: -I/usr/include\n"
            ),
            "prefix=${pcfiledir}/../..\nlibdir=${prefix}/lib\nLibs: -L${libdir} -lx\nCflags: -I${prefix}/include\n"
        );
    }
}
