//! What the closure of this machine's own programs is, held against the loader's word.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ima_policy::closure::{Kind, closure, is_elf};
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
