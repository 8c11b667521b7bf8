//! What the closure of this machine's own programs is, held against the loader's word.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ima_policy::closure::{Closure, Kind, closure, is_elf, modules, modules_to_load};
use ima_policy::root::Root;

/// What the loader maps for a program (ld.so(8), `LD_TRACE_LOADED_OBJECTS`); `None` where
/// it maps nothing.
fn loaded(program: &Path) -> Option<BTreeSet<PathBuf>> {
    let said = Command::new("ldd").arg(program).output().unwrap();
    if !said.status.success() {
        return None;
    }
    let text = String::from_utf8(said.stdout).unwrap();
    let of_line = |line: &str| {
        let path = line.split_once(" => ").map_or(line.trim(), |(_, path)| path);
        let path = path.split(" (0x").next().unwrap().trim();
        path.starts_with('/').then(|| fs::canonicalize(path).unwrap())
    };
    assert!(!text.contains("not found"), "{}: {text}", program.display());
    Some(text.lines().filter_map(of_line).collect())
}

#[test]
fn libraries_are_those_that_the_loader_maps() {
    let root = Root::open(Path::new("/")).unwrap();
    let mut compared = 0;
    let mut libraries = BTreeSet::new();
    let mut programs: Vec<_> =
        fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().path()).collect();
    programs.sort();
    for program in programs {
        let Ok(own) = fs::canonicalize(&program) else { continue };
        if !own.is_file() || !fs::read(&own).is_ok_and(|bytes| is_elf(&bytes)) {
            continue;
        }
        let Some(want) = loaded(&own) else { continue };
        let found = closure(&root, &[own.to_str().unwrap()]).unwrap();
        let is_loaded = |kind| matches!(kind, Kind::Library | Kind::Loader);
        let have: BTreeSet<_> = found
            .files
            .iter()
            .filter(|(_, member)| is_loaded(member.kind))
            .map(|(path, _)| path.clone())
            .collect();
        assert_eq!(have, want, "{}", program.display());
        assert!(found.missing.is_empty(), "{}: {:?}", program.display(), found.missing);
        libraries.extend(have);
        compared += 1;
        if compared == 200 {
            break;
        }
    }
    assert!(compared > 50 && libraries.len() > 20, "{compared} programs, {}", libraries.len());
}

#[test]
fn a_script_needs_its_interpreter_and_what_that_needs() {
    let root = Root::open(Path::new("/")).unwrap();
    let found = closure(&root, &["ldd", "no-such-program"]).unwrap();
    let kinds = |kind| found.files.iter().filter(move |(_, member)| member.kind == kind);
    let scripts: Vec<_> = kinds(Kind::Script).map(|(path, _)| path.as_path()).collect();
    assert_eq!(scripts, [Path::new("/usr/bin/ldd")]);
    let (shell, member) = kinds(Kind::Program).next().unwrap();
    assert_eq!(shell, &fs::canonicalize("/bin/bash").unwrap());
    assert!(member.needed_by.contains(Path::new("/usr/bin/ldd")));
    assert!(kinds(Kind::Library).count() > 0 && kinds(Kind::Loader).count() == 1);
    let missing: Vec<_> = found.missing.iter().map(|missing| missing.name.as_str()).collect();
    assert_eq!(missing, ["no-such-program"]);
}

/// Modules as `depmod` reads them: what a module exports stands in `__ksymtab_strings`, what it
/// needs are undefined symbols, and what is said about it stands in `.modinfo`.
const MODULES: [(&str, &str); 5] = [
    ("net", "EXPORT(net); USES(bus); INFO(\"alias=usb:v1D6Bp*\");"),
    ("bus", "EXPORT(bus); USES(core); INFO(\"softdep=pre: aid post: none-such\");"),
    ("core", "EXPORT(core);"),
    ("aid", "EXPORT(aid); INFO(\"softdep=post: net\");"),
    ("other", "EXPORT(other);"),
];
const SOURCE: &str = "#define SECTION(name) __attribute__((section(name), used))
#define EXPORT(x) static const char exported[] SECTION(\"__ksymtab_strings\") = #x; int x
#define USES(x) extern int x; int *used_##x = &x
#define INFO(x) static const char info[] SECTION(\".modinfo\") = x
";
const RELEASE: &str = "6.12.0-test";

fn system(line: &str) -> String {
    let ran = Command::new("sh").args(["-euc", line]).output().unwrap();
    assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

#[test]
fn modules_are_those_that_modprobe_would_load() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let kernel = format!("{at}/lib/modules/{RELEASE}/kernel");
    fs::create_dir_all(&kernel).unwrap();
    fs::create_dir_all(format!("{at}/etc/modules-load.d")).unwrap();
    fs::write(format!("{at}/etc/modules-load.d/a.conf"), "# x\nother\n").unwrap();
    for (name, text) in MODULES {
        fs::write(format!("{at}/{name}.c"), format!("{SOURCE}{text}\n")).unwrap();
        system(&format!("cc -c -o {kernel}/{name}.ko {at}/{name}.c"));
    }
    system(&format!("depmod -b {at} {RELEASE}"));
    let root = Root::open(dir.path()).unwrap();
    let found = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut found = Closure::default();
        modules(&root, RELEASE, &names, &mut found).unwrap();
        found
    };
    for name in ["net", "bus", "core", "aid", "other", "usb:v1D6Bp0002"] {
        let said = system(&format!("modprobe -d {at} -S {RELEASE} --show-depends {name}"));
        let want: BTreeSet<PathBuf> = said
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
            .map(|path| {
                Path::new("/").join(path.trim().strip_prefix(at).unwrap().trim_matches('/'))
            })
            .collect();
        let have = found(&[name]);
        assert_eq!(have.files.keys().cloned().collect::<BTreeSet<_>>(), want, "{name}: {said}");
        assert!(have.missing.is_empty() && !want.is_empty());
    }
    let missing = found(&["none-such"]).missing;
    assert_eq!(missing.iter().map(|its| its.name.as_str()).collect::<Vec<_>>(), ["none-such"]);
    assert_eq!(modules_to_load(&root).unwrap(), ["other"]);
}
