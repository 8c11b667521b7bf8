//! A version that the mirror has dropped, with apt itself and an archive of the
//! test's own. Runs in the build root, which has apt and dpkg.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// A checkout that is nothing but a lock file, and a mirror that apt asks.
struct Place(TempDir);

impl Place {
    /// The lock names version 1 of the package `thing`.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for dir in ["tree/image-builder", "mirror", "apt/lists/partial", "apt/cache/partial"] {
            fs::create_dir_all(place.at(dir)).unwrap();
        }
        let root = place.0.path().display();
        let conf = format!(
            "Dir::State \"{root}/apt\";\nDir::State::lists \"{root}/apt/lists\";\n\
             Dir::Cache \"{root}/apt/cache\";\nDir::Etc::sourcelist \"{root}/sources.list\";\n\
             Dir::Etc::sourceparts \"-\";\n"
        );
        fs::write(place.at("apt.conf"), conf).unwrap();
        let list = format!("deb [trusted=yes arch=arm64] file:{root}/mirror some main\n");
        fs::write(place.at("sources.list"), list).unwrap();
        let (file, size, sha256) = place.publish("1");
        let lock = format!(
            "schema = \"msec-boot/sources-lock/1\"\n\n[[source]]\nname = \"thing\"\nkind = \"deb\"\n\
             suite = \"some\"\nversion = \"1\"\narch = \"arm64\"\n\n[[source.file]]\nname = \"{file}\"\n\
             size = {size}\nsha256 = \"{sha256}\"\n"
        );
        fs::write(place.lock(), lock).unwrap();
        place
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn lock(&self) -> PathBuf {
        self.at("tree/image-builder/sources.lock")
    }

    /// Makes this version the one that the mirror has. Name, size and hash of its file.
    fn publish(&self, version: &str) -> (String, usize, String) {
        let control = format!(
            "Package: thing\nVersion: {version}\nArchitecture: arm64\n\
             Maintainer: none <none@localhost>\nDescription: a thing\n"
        );
        let package = self.at("package");
        fs::create_dir_all(package.join("DEBIAN")).unwrap();
        fs::write(package.join("DEBIAN/control"), &control).unwrap();
        let pool = self.at("mirror/pool");
        let _ = fs::remove_dir_all(&pool);
        fs::create_dir_all(&pool).unwrap();
        let name = format!("thing_{version}_arm64.deb");
        let deb = pool.join(&name);
        run(Command::new("dpkg-deb").arg("--build").arg(&package).arg(&deb));
        let bytes = fs::read(&deb).unwrap();
        let sha256 = hex::encode(Sha256::digest(&bytes));
        let index = self.at("mirror/dists/some/main/binary-arm64");
        fs::create_dir_all(&index).unwrap();
        let record =
            format!("{control}Filename: pool/{name}\nSize: {}\nSHA256: {sha256}\n", bytes.len());
        fs::write(index.join("Packages"), &record).unwrap();
        let release = format!(
            "Suite: some\nCodename: some\nArchitectures: arm64\nComponents: main\nSHA256:\n {} {} \
             main/binary-arm64/Packages\n",
            hex::encode(Sha256::digest(&record)),
            record.len()
        );
        fs::write(self.at("mirror/dists/some/Release"), release).unwrap();
        (name, bytes.len(), sha256)
    }

    /// Runs image-builder there.
    fn builder(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_image-builder"))
            .arg("--tree")
            .arg(self.at("tree"))
            .args(arguments)
            .env("MSEC_CACHE", self.at("cache"))
            .env("APT_CONFIG", self.at("apt.conf"))
            .env_remove("MSEC_TAKE_NEWER")
            .output()
            .unwrap()
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; this test runs in the build root, which has it")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_locked_version_is_fetched_and_needs_no_mirror_afterwards() {
    let place = Place::new();
    let fetched = place.builder(&["sources", "fetch"]);
    assert!(fetched.status.success(), "{}", said(&fetched));
    place.publish("2");
    let again = place.builder(&["sources", "fetch"]);
    assert!(again.status.success(), "the store keeps what it has: {}", said(&again));
}

#[test]
fn a_version_that_is_gone_is_an_error_that_says_what_to_do() {
    let place = Place::new();
    place.publish("2");
    let output = place.builder(&["sources", "fetch"]);
    assert_eq!(output.status.code(), Some(2));
    let text = said(&output);
    for part in [
        "source thing: the mirror has version 1 no longer; it has 2 (some)",
        "image-builder sources lock thing",
        "--take-newer",
        "sources/import:",
        "thing_1_arm64.deb",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_newer_version_is_taken_when_asked_for_and_kept() {
    let place = Place::new();
    let before = fs::read(place.lock()).unwrap();
    place.publish("2");
    let output = place.builder(&["--take-newer", "sources", "fetch"]);
    assert!(output.status.success(), "{}", said(&output));
    let text = said(&output);
    assert!(text.contains("thing: version 1 has gone from the mirror, taking 2"), "{text}");
    assert_eq!(fs::read(place.lock()).unwrap(), before, "the checkout's lock stays as it is");
    assert_eq!(names(&place.at("cache/sources/newer")).len(), 1, "what was taken is locked");

    // A mirror that has gone on needs not be asked again, nor is it.
    place.publish("3");
    let again = place.builder(&["--take-newer", "sources", "fetch"]);
    assert!(again.status.success(), "{}", said(&again));
    assert!(!said(&again).contains("taking"), "{}", said(&again));
    let shown = place.builder(&["--take-newer", "sources", "show"]);
    assert!(said(&shown).contains("thing                 2 "), "{}", said(&shown));
    // Who does not ask for it gets the error still.
    assert_eq!(place.builder(&["sources", "fetch"]).status.code(), Some(2));
}

#[test]
fn a_changed_file_is_refused_newer_or_not() {
    let place = Place::new();
    // The mirror serves other bytes than its index says.
    place.publish("2");
    let deb = place.at("mirror/pool/thing_2_arm64.deb");
    let mut bytes = fs::read(&deb).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&deb, bytes).unwrap();
    let output = place.builder(&["--take-newer", "sources", "fetch"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}
