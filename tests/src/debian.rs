//! An initramfs as a user of Debian gets it: made by Debian's own initramfs-tools or
//! dracut for arm64, with our package installed there.
//!
//! Their tools run by qemu-user in a tree of pinned packages (`tests/debian/arm64`). No
//! maintainer script has run in it; the few lines of theirs that matter stand in
//! [`SETUP`].

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command};

use image_builder::{
    cache::{
        entry::Entry,
        key::{Description, Kind},
    },
    component::Component,
    deb,
    image::packages::{self, Package},
    progress::Progress,
    recipe::Recipe,
    sources::{newer::WhenGone, store::Store},
};

use crate::{
    built::{Built, tree},
    unpack::{self, run},
};

/// Who makes the initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// initramfs-tools, with cryptsetup's hook.
    InitramfsTools,
    /// dracut, with udev and without systemd.
    Dracut,
}

impl Maker {
    fn name(self) -> &'static str {
        match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::Dracut => "dracut",
        }
    }

    /// What is run. The kernel has no modules: everything is built in.
    fn command(self) -> &'static str {
        match self {
            Self::InitramfsTools => "mkinitramfs -m list -o /boot/initrd.img $1",
            Self::Dracut => {
                "dracut --no-hostonly --no-kernel --force --reproducible --gzip \
                 --omit 'systemd systemd-initrd dracut-systemd' /boot/initrd.img $1"
            }
        }
    }
}

/// What maintainer scripts would have done.
const SETUP: [(&str, &str); 2] =
    [("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), ("etc/group", "root:x:0:\n")];

/// The root in the words of a system that has it encrypted.
const TABLES: [(&str, &str); 2] = [
    ("etc/fstab", "/dev/mapper/root / ext4 errors=remount-ro 0 1\n"),
    ("etc/crypttab", "root /dev/mmcblk0p2 none luks,initramfs\n"),
];

/// How this works, as an input of what it makes.
const CODE: [(&str, &[u8]); 3] = [
    ("debian.rs", include_bytes!("debian.rs")),
    ("unpack.rs", include_bytes!("unpack.rs")),
    ("arm64", include_bytes!("../debian/arm64")),
];

impl Built {
    /// The initramfs that `maker` makes for the built kernel, with our package and this
    /// configuration. Made once for the same inputs: it takes a minute.
    ///
    /// # Panics
    /// When it cannot be made; the log's path is in the message.
    #[must_use]
    pub fn debian_initramfs(&self, maker: Maker, config: &serde_json::Value) -> PathBuf {
        let (debian, debian_key) = self.debian();
        let kernel = self.component(Component::Kernel);
        let program = fs::read(self.component(Component::Unseal).join(deb::NAME));
        let program = program.expect("the built program");
        let mut description = Description::new(maker.name());
        description.text(Kind::Component, "debian", &debian_key);
        description.text(Kind::Component, "kernel", &kernel.display().to_string());
        description.text(Kind::Value, "config", &config.to_string());
        let made = tempfile::tempdir_in(self.cache().root()).expect("a directory");
        let package = deb::make(&program, "", made.path()).expect("our package");
        description.contents(Kind::File, "deb", &fs::read(&package).expect("our package"));

        let name = format!("test-{}", maker.name());
        let entry = Entry::new(self.cache(), &name, &description.key());
        let image = entry.dir().join("initrd.img");
        let claim = entry.claim(|| ()).expect("the cache");
        if !entry.exists() {
            let out = entry.begin(&claim).expect("the cache");
            let root = entry.work().join("root");
            run(Command::new("cp").args(["-al", "--"]).args([&debian, &root]), entry.log());
            unpack::one(&package, &root, entry.log());
            let release = fs::read_to_string(kernel.join("release")).expect("the kernel's release");
            let release = release.trim();
            let modules = root.join("usr/lib/modules").join(release);
            fs::create_dir_all(&modules).expect("a directory for modules");
            for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
                fs::write(modules.join(name), "").expect("an empty list of modules");
            }
            let to = root.join(format!("boot/config-{release}"));
            fs::copy(kernel.join("config"), to).expect("the kernel's configuration");
            fs::write(root.join("etc/initramfs-unseal.json"), config.to_string()).expect("a file");
            let mut make = Command::new(tree().join("tests/debian/arm64"));
            make.arg(&root).args(["sh", "-euc", maker.command(), "make", release]);
            run(&mut make, entry.log());
            fs::copy(root.join("boot/initrd.img"), out.join("initrd.img")).expect("the initramfs");
            entry.finish(claim, &description.to_text()).expect("the cache");
        }
        image
    }

    /// A tree of Debian's packages, opened once, and its key.
    fn debian(&self) -> (PathBuf, String) {
        let path = tree().join("tests/debian/debian.toml");
        let recipe = Recipe::load(&path).expect("the list of packages");
        let store = Store::new(self.cache());
        let packages =
            packages::obtain(&recipe, &path, &store, WhenGone::from_env(), &Progress::hidden());
        let packages: Vec<Package> = packages.expect("the packages");
        let mut description = Description::new("debian");
        for package in &packages {
            description.text(Kind::Source, &package.name, &package.version);
        }
        for (name, bytes) in CODE {
            description.contents(Kind::Code, name, bytes);
        }
        let key = description.key();
        let entry = Entry::new(self.cache(), "test-debian", &key);
        let claim = entry.claim(|| ()).expect("the cache");
        if !entry.exists() {
            let root = entry.begin(&claim).expect("the cache").join("root");
            unpack::all(&packages, &root, entry.log());
            for (name, text) in SETUP.into_iter().chain(TABLES) {
                fs::write(root.join(name), text).expect("a file of the tree");
            }
            symlink("mawk", root.join("usr/bin/awk")).expect("a link");
            fs::copy("/usr/bin/qemu-aarch64", root.join("qemu")).expect("qemu-user");
            let mut ldconfig = Command::new(tree().join("tests/debian/arm64"));
            run(ldconfig.arg(&root).arg("ldconfig"), entry.log());
            entry.finish(claim, &description.to_text()).expect("the cache");
        }
        (entry.dir().join("root"), key.to_string())
    }
}
