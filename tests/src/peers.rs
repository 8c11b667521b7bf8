//! The other programs that unlock a root by a TPM, as Debian has them for arm64: a
//! partition that the emulated board runs them from, and the stopwatch that runs them.
//!
//! The packages are pinned in `tests/peers/peers.lock`. None of their maintainer
//! scripts runs.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use image_builder::{
    cache::{
        entry::Entry,
        key::{Description, Kind},
    },
    emu::card::Card,
    image::{
        mbr,
        packages::{self, Package},
    },
    progress::Progress,
    recipe::Recipe,
    sources::{newer::WhenGone, store::Store},
};

use crate::{
    built::{Built, tree},
    unpack::{self, run},
};

/// Size of their file system in bytes.
const SIZE: u64 = 104 << 20;
/// What no program reads.
const TRIMMED: [&str; 4] = ["usr/share/man", "usr/share/doc", "usr/share/locale", "usr/share/info"];
/// What the guest's own initramfs gets.
const BUSYBOX: &str = "busybox";
/// Where the partition table's third entry stands (a classic MBR).
const THIRD_ENTRY: u64 = 446 + 2 * 16;
/// Where nothing else lies on a card of [`Peers::put_on`].
const START: u64 = 64 << 20;

/// How this works, as an input of what it makes.
const CODE: [(&str, &[u8]); 2] =
    [("peers.rs", include_bytes!("peers.rs")), ("unpack.rs", include_bytes!("unpack.rs"))];

/// The programs beside ours.
#[derive(Debug)]
pub struct Peers {
    dir: PathBuf,
    packages: Vec<Package>,
}

impl Peers {
    /// Makes their file system, once for the same packages.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn of(built: &Built) -> Self {
        let path = tree().join("tests/peers/peers.toml");
        let recipe = Recipe::load(&path).expect("the list of packages");
        let store = Store::new(built.cache());
        let packages =
            packages::obtain(&recipe, &path, &store, WhenGone::from_env(), &Progress::hidden());
        let packages = packages.expect("the packages");
        let mut description = Description::new("peers");
        for package in &packages {
            description.text(Kind::Source, &package.name, &package.version);
        }
        for (name, bytes) in CODE {
            description.contents(Kind::Code, name, bytes);
        }
        let entry = Entry::new(built.cache(), "test-peers", &description.key());
        let claim = entry.claim(|| ()).expect("the cache");
        if !entry.exists() {
            let out = entry.begin(&claim).expect("the cache");
            let root = entry.work().join("root");
            unpack::all(&packages, &root, entry.log());
            for path in TRIMMED {
                // Not every version brings each of them.
                let _ = fs::remove_dir_all(root.join(path));
            }
            fs::copy(root.join("usr/bin").join(BUSYBOX), out.join(BUSYBOX)).expect("busybox");
            fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("a file");
            let mut make = Command::new("mke2fs");
            make.args(["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^has_journal", "-d"]).arg(&root);
            make.arg(out.join("peers.ext4")).arg(format!("{}k", SIZE / 1024));
            run(&mut make, entry.log());
            entry.finish(claim, &description.to_text()).expect("the cache");
        }
        Self { dir: entry.dir().to_owned(), packages }
    }

    /// A static busybox.
    #[must_use]
    pub fn busybox(&self) -> PathBuf {
        self.dir.join(BUSYBOX)
    }

    /// The version of a package.
    #[must_use]
    pub fn version(&self, package: &str) -> String {
        let found = self.packages.iter().find(|p| p.name == package);
        found.map_or_else(String::new, |p| p.version.clone())
    }

    /// Puts the file system on a card of 256 MiB, as its third partition.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put_on(&self, card: &Card) {
        let file = fs::OpenOptions::new().write(true).open(card.path()).expect("the card");
        let lba = |bytes: u64| u32::try_from(bytes / mbr::SECTOR).expect("a small card");
        let mut entry = [0; 16];
        entry[4] = mbr::TYPE_LINUX;
        entry[8..12].copy_from_slice(&lba(START).to_le_bytes());
        entry[12..].copy_from_slice(&lba(SIZE).to_le_bytes());
        file.write_all_at(&entry, THIRD_ENTRY).expect("the partition table");
        let bytes = fs::read(self.dir.join("peers.ext4")).expect("the peers' file system");
        file.write_all_at(&bytes, START).expect("the third partition");
    }
}

/// Compiles the stopwatch for the board; gives its path in `dir`.
///
/// # Panics
/// When the compiler is missing or fails.
#[must_use]
pub fn stopwatch(dir: &Path) -> PathBuf {
    let program = dir.join("stopwatch");
    let mut compile = Command::new("aarch64-linux-gnu-gcc");
    compile.args(["-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o"]).arg(&program);
    compile.arg(tree().join("tests/peers/stopwatch.c"));
    run(&mut compile, &dir.join("stopwatch.log"));
    program
}
