//! What is handed out beside an image, judged by the tools that an operator has: this runs
//! in the build root, and needs no network.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail like tests"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Said};

use cyclonedx_bom::prelude::{Bom, SpecVersion, Validate as _};
use image_builder::artifacts::KeyDir;
use image_builder::component::provenance::{Patch, Provenance};
use image_builder::component::{Component, Crate, Library, Linked};
use image_builder::deliver::{self, Compression, Materials, Options, Output};
use image_builder::image::card::Draft;
use image_builder::image::mbr::Table;
use image_builder::image::packages::Package;
use image_builder::image::verify::Outcome;
use image_builder::image::{Image, Sizes, fat};
use image_builder::keys::{self, Role};
use image_builder::progress::Progress;
use image_builder::recipe::{MIB, Recipe};
use image_builder::sources::lock::{Kind, PinnedFile, Sha256Hex, Source};
use pcr_measure::manifest::Manifest;
use pcr_measure::slots::Slot;
use tempfile::TempDir;

const RECIPE: &str = "name = \"one\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n";

fn ask(program: &str, args: &[&str]) -> Said {
    Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; this test runs in the build root, which has it")
    })
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let said = ask(program, args);
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{program} {args:?}: {error}");
    said.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A small image with both file systems, and what it is said to be made of.
struct Bench {
    dir: TempDir,
    recipe: Recipe,
    image: Image,
    packages: Vec<Package>,
    built: Vec<Provenance>,
    linked: [(&'static str, Linked); 1],
    keys: KeyDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let recipe = Recipe::parse(RECIPE, "test").unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let manifest = Manifest::builder("one", "rpi3")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .seal(&[0])
            .build()
            .unwrap();
        let image = Image {
            path: out.join("one.img"),
            manifest_path: out.join("one.manifest.json"),
            reference_path: Some(out.join("one.reference.json")),
            manifest,
            sizes: Sizes {
                fit: 1,
                kernel: 1,
                initramfs: 1,
                root: image_builder::image::ext4::Usage { size: 1, used: 1 },
            },
        };
        fs::write(&image.manifest_path, "{}").unwrap();
        fs::write(out.join("one.inventory.json"), "{}").unwrap();
        fs::write(out.join("one.reference.json"), "{}").unwrap();
        fs::write(out.join("one.unseal.json"), "{}").unwrap();
        write_image(&recipe, &image.path, dir.path());
        let digest = Sha256Hex::of(b"x");
        let keys = KeyDir::new(dir.path().join("keys"));
        keys::new(&keys, Role::Sums).unwrap();
        Self {
            packages: vec![package(dir.path())],
            built: vec![Provenance {
                component: Component::UBoot,
                sources: vec![Source {
                    name: "u-boot".to_owned(),
                    kind: Kind::DebSrc,
                    suite: "sid".to_owned(),
                    version: "2025.01-3".to_owned(),
                    arch: None,
                    files: vec![PinnedFile {
                        name: "u-boot_2025.01.orig.tar.bz2".to_owned(),
                        size: 1,
                        sha256: digest.clone(),
                    }],
                }],
                patches: vec![Patch { path: "uboot-patches/0001-a.patch".into(), sha256: digest }],
            }],
            linked: [(
                "initramfs-unseal",
                Linked {
                    crates: [Crate {
                        name: "initramfs-unseal".to_owned(),
                        version: "0.1.0".to_owned(),
                        licence: Some("MIT OR Apache-2.0".to_owned()),
                        sha256: None,
                    }]
                    .into(),
                    libraries: [Library {
                        name: "libargon2-dev".to_owned(),
                        version: "0~20190702".to_owned(),
                        architecture: "arm64".to_owned(),
                        source: "argon2".to_owned(),
                        source_version: "0~20190702".to_owned(),
                    }]
                    .into(),
                },
            )],
            dir,
            recipe,
            image,
            keys,
        }
    }

    fn deliver(&self, options: &Options) -> Vec<Output> {
        let cache = self.dir.path().join("facts");
        let materials = Materials {
            packages: &self.packages,
            built: &self.built,
            linked: &self.linked,
            cache: &cache,
        };
        let key = keys::signing(&self.keys, Role::Sums).unwrap();
        deliver::withdraw(self.out(), &self.recipe, options).unwrap();
        let progress = Progress::hidden();
        deliver::deliver(&self.recipe, &self.image, &materials, Some(&key), options, &progress)
            .unwrap()
    }

    fn out(&self) -> &Path {
        self.image.path.parent().unwrap()
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.out().join(format!("one.{ending}"))
    }

    fn public(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, keys::public(&self.keys, Role::Sums).unwrap().to_pem().unwrap()).unwrap();
        path
    }

    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = fs::read_dir(self.out()).unwrap();
        files
            .map(|file| file.unwrap().path())
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect()
    }
}

/// An image with files in both file systems, zeros in the midst of them too.
fn write_image(recipe: &Recipe, path: &Path, dir: &Path) {
    let files = dir.join("files");
    fs::create_dir_all(files.join("sub")).unwrap();
    let zeros = [vec![1; 4096], vec![0; 64 << 10], vec![2; 4096]].concat();
    fs::write(files.join("sub/with-zeros"), &zeros).unwrap();
    fs::write(files.join("text"), "text").unwrap();
    let root = dir.join("root.ext4");
    let kib = format!("{}k", recipe.disk.root_size() / 1024);
    run("mke2fs", &["-q", "-t", "ext4", "-b", "4096", "-d", text(&files), text(&root), &kib]);
    let table = Table::from(&recipe.disk);
    let draft = Draft::new(path, recipe.disk.size()).unwrap();
    draft.sector(&table.encode(1).unwrap()).unwrap();
    fat::format(draft.file(), table.boot, 1).unwrap();
    let names = ["bootcode.bin", "start.elf", "fixup.dat", "LICENCE.broadcom", "config.txt"];
    let mut boot: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, zeros.as_slice())).collect();
    boot.push(("bcm2710-rpi-3-b.dtb", b"dtb"));
    boot.push(("armstub8.bin", b"stub"));
    boot.push((Slot::A.fit(), b"fit"));
    boot.push((Slot::A.manifest(), b"{}"));
    draft.boot_files(table, boot).unwrap();
    draft.copy(&File::open(&root).unwrap(), table.root.start, table.root.size).unwrap();
    draft.finish().unwrap();
}

fn package(dir: &Path) -> Package {
    let root = dir.join("package");
    fs::create_dir_all(root.join("usr/share/doc/libx+1")).unwrap();
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::write(
        root.join("usr/share/doc/libx+1/copyright"),
        "Format: doc/packaging-manuals/copyright-format/1.0/\n\n\
         Files: *\nCopyright: t\nLicense: GPL-2+\n",
    )
    .unwrap();
    fs::write(
        root.join("DEBIAN/control"),
        "Package: libx+1\nVersion: 1:2+b1\nSource: x (1:2)\nArchitecture: arm64\n\
         Maintainer: t <t@t>\nDescription: t\n",
    )
    .unwrap();
    let deb = dir.join("x.deb");
    run("dpkg-deb", &["--root-owner-group", "-b", text(&root), text(&deb)]);
    Package { name: "libx+1".to_owned(), version: "1:2+b1".to_owned(), deb }
}

fn everything() -> Options {
    Options {
        compression: Some(Compression::Xz),
        base_url: Some("https://example.org/images/".parse().unwrap()),
        date: "2026-11-28".parse().unwrap(),
    }
}

#[test]
fn what_is_handed_out_is_complete_repeatable_and_checked_by_other_tools() {
    let bench = Bench::new();
    let outputs = bench.deliver(&everything());
    let first = bench.contents();
    assert_eq!(first.len(), outputs.len(), "nothing half-written, nothing unnamed");
    let image = fs::read(&bench.image.path).unwrap();
    assert!(run("xz", &["-dc", text(&bench.file("img.xz"))]) == image);

    let sums = bench.file("SHA256SUMS");
    let check = |dir: &Path| {
        let mut command = Command::new("sha256sum");
        command.args(["--check", "--strict", text(&sums)]).current_dir(dir);
        command.output().unwrap().status.success()
    };
    assert!(check(bench.out()));
    assert_eq!(fs::read_to_string(&sums).unwrap().lines().count(), outputs.len() - 2);
    let public = bench.public("sums.pem");
    let openssl = || {
        let signature = bench.file("SHA256SUMS.sig");
        let args = [
            "dgst",
            "-sha256",
            "-verify",
            text(&public),
            "-signature",
            text(&signature),
            text(&sums),
        ];
        ask("openssl", &args).status.success()
    };
    assert!(openssl());

    let list: serde_json::Value =
        serde_json::from_slice(&fs::read(bench.file("imager.json")).unwrap()).unwrap();
    let entry = &list["os_list"][0];
    let output = |ending: &str| {
        let path = bench.file(ending);
        outputs.iter().find(|output| output.path == path).unwrap()
    };
    assert_eq!(entry["url"], "https://example.org/images/one.img.xz");
    assert_eq!(entry["extract_size"], 128 * MIB);
    assert_eq!(entry["extract_sha256"], output("img").sha256);
    assert_eq!(entry["image_download_size"], output("img.xz").size);
    assert_eq!(entry["image_download_sha256"], output("img.xz").sha256);

    bench.deliver(&everything());
    for (path, bytes) in bench.contents() {
        assert!(first.get(&path) == Some(&bytes), "{} differs", path.display());
    }

    // What is not asked for any more does not stay from the last time.
    bench.deliver(&Options { compression: Some(Compression::Zst), ..Options::default() });
    assert!(!bench.file("img.xz").exists() && !bench.file("imager.json").exists());
    assert!(run("zstd", &["-dc", text(&bench.file("img.zst"))]) == image);
    assert!(check(bench.out()) && openssl());
    fs::write(bench.file("bmap"), "another").unwrap();
    assert!(!check(bench.out()), "premise: sha256sum looks");
    fs::write(&sums, "another").unwrap();
    assert!(!openssl(), "premise: openssl looks");
}

#[test]
fn the_bill_of_materials_is_valid_and_names_everything() {
    let bench = Bench::new();
    bench.deliver(&Options::default());
    let bill = fs::read(bench.file("cdx.json")).unwrap();
    let bom = Bom::parse_from_json(bill.as_slice()).unwrap();
    let result = bom.validate_version(SpecVersion::V1_5);
    assert!(result.passed(), "{result:?}");
    let bill: serde_json::Value = serde_json::from_slice(&bill).unwrap();
    let components = bill["components"].as_array().unwrap();
    let find = |reference: &str| {
        let mut found = components.iter().filter(|one| one["bom-ref"] == reference);
        let one = found.next().unwrap_or_else(|| panic!("no {reference}: {bill:#}"));
        assert!(found.next().is_none(), "{reference} twice");
        one
    };
    let package = find("pkg:deb/debian/libx%2B1@1:2%2Bb1?arch=arm64&distro=debian-13");
    assert_eq!(package["licenses"][0]["license"]["name"], "GPL-2+");
    assert_eq!(package["properties"][0]["value"], "x");
    let u_boot = find("component:u-boot/u-boot");
    assert_eq!(u_boot["pedigree"]["patches"][0]["diff"]["url"], "uboot-patches/0001-a.patch");
    let digest = Sha256Hex::of(b"x");
    assert_eq!(u_boot["externalReferences"][0]["hashes"][0]["content"], digest.as_str());
    let fit = find("file:boot/boot-a.itb");
    assert_eq!(fit["hashes"][0]["content"], Sha256Hex::of(b"fit").as_str());
    find("pkg:cargo/initramfs-unseal@0.1.0");
    find("pkg:deb/debian/libargon2-dev@0~20190702?arch=arm64&distro=debian-13");

    // Every reference is to something that is there.
    let mut known: Vec<&str> =
        components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
    known.push("image");
    for dependency in bill["dependencies"].as_array().unwrap() {
        for reference in dependency["dependsOn"].as_array().unwrap() {
            assert!(known.contains(&reference.as_str().unwrap()), "{reference}");
        }
    }
}

/// The ranges of a block map, in bytes.
fn ranges(map: &str) -> Vec<std::ops::Range<u64>> {
    let lines = map.lines().filter_map(|line| line.trim().strip_prefix("<Range "));
    lines
        .map(|line| {
            let blocks = line.split(['>', '<']).nth(1).unwrap().trim();
            let (first, last) = blocks.split_once('-').unwrap_or((blocks, blocks));
            let number = |text: &str| text.parse::<u64>().unwrap();
            number(first) * 4096..(number(last) + 1) * 4096
        })
        .collect()
}

/// Writes these ranges of an image to a card that is full of other bytes.
fn used_card(image: &Path, ranges: &[std::ops::Range<u64>], to: &Path) {
    let image = fs::read(image).unwrap();
    let mut card = vec![0xff; image.len()];
    for range in ranges {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        card[range.clone()].copy_from_slice(&image[range]);
    }
    fs::write(to, card).unwrap();
}

/// What the tools of both file systems say of a card: nothing wrong, and the files.
fn file_systems(card: &Path, recipe: &Recipe, dir: &Path) -> (bool, Vec<u8>) {
    let table = Table::from(&recipe.disk);
    let bytes = fs::read(card).unwrap();
    let part = |start: u64, size: u64, name: &str| {
        let path = dir.join(name);
        let start = usize::try_from(start).unwrap();
        fs::write(&path, &bytes[start..start + usize::try_from(size).unwrap()]).unwrap();
        path
    };
    let boot = part(table.boot.start, table.boot.size, "p1");
    let root = part(table.root.start, table.root.size, "p2");
    let good = ask("fsck.fat", &["-n", text(&boot)]).status.success()
        && ask("e2fsck", &["-fn", text(&root)]).status.success();
    let files = [
        ask("debugfs", &["-R", "cat /sub/with-zeros", text(&root)]).stdout,
        ask("mtype", &["-i", text(&boot), "::start.elf"]).stdout,
    ];
    (good, files.concat())
}

#[test]
fn a_card_with_a_past_is_good_when_it_was_written_by_the_map() {
    let bench = Bench::new();
    bench.deliver(&Options::default());
    let map = ranges(&fs::read_to_string(bench.file("bmap")).unwrap());
    let image = &bench.image.path;
    let scratch = bench.dir.path();
    let (good, files) = file_systems(image, &bench.recipe, scratch);
    assert!(good && files.len() == 2 * (72 << 10), "premise: {}", files.len());

    let card = scratch.join("card");
    used_card(image, &map, &card);
    assert!(file_systems(&card, &bench.recipe, scratch) == (true, files.clone()));
    let disk = &bench.recipe.disk;
    let reserve = disk.boot_start() + disk.boot_size()..disk.root_start();
    let mut left = vec![1; usize::try_from(reserve.end - reserve.start).unwrap()];
    File::open(&card).unwrap().read_exact_at(&mut left, reserve.start).unwrap();
    assert!(left.iter().all(|byte| *byte == 0), "an old LUKS header would stay");

    // Not everything is in the map, and not only what is not zero.
    let mapped: u64 = map.iter().map(|range| range.end - range.start).sum();
    assert!(mapped < 80 * MIB, "{mapped}");
    let bytes = fs::read(image).unwrap();
    let naive: Vec<_> = (0..128 * MIB / 4096)
        .map(|block| block * 4096..(block + 1) * 4096)
        .filter(|range| {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            !is_zero(&bytes[range])
        })
        .collect();
    for range in &naive {
        let start = range.start;
        let inside = map.iter().any(|one| one.contains(&start));
        assert!(inside, "block {} has data and is not in the map", start / 4096);
    }
    used_card(image, &naive, &card);
    assert!(file_systems(&card, &bench.recipe, scratch) != (true, files), "premise: zeros matter");
}

#[test]
fn bmaptool_copies_by_the_map_and_tells_one_changed_byte() {
    let bench = Bench::new();
    bench.deliver(&everything());
    let target = bench.dir.path().join("target");
    let copy = |image: &Path| ask("bmaptool", &["copy", text(image), text(&target)]);
    for image in [bench.file("img"), bench.file("img.xz")] {
        let said = copy(&image);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert!(fs::read(&target).unwrap() == fs::read(&bench.image.path).unwrap());
    }

    let map = bench.file("bmap");
    let good = fs::read_to_string(&map).unwrap();
    let digit = if good.contains(" 0-") { (" 0-", " 1-") } else { (" 0 ", " 1 ") };
    fs::write(&map, good.replacen(digit.0, digit.1, 1)).unwrap();
    assert!(!copy(&bench.file("img")).status.success(), "a changed map");
    fs::write(&map, &good).unwrap();
    let image = File::options().read(true).write(true).open(&bench.image.path).unwrap();
    let last = ranges(&good).last().unwrap().end - 1;
    for at in [0, 4096, last] {
        let mut byte = [0];
        image.read_exact_at(&mut byte, at).unwrap();
        image.write_all_at(&[byte[0] ^ 1], at).unwrap();
        assert!(!copy(&bench.file("img")).status.success(), "a changed byte at {at}");
        image.write_all_at(&byte, at).unwrap();
    }
    assert!(copy(&bench.file("img")).status.success(), "premise");
}

#[test]
fn verify_follows_the_key_to_the_image() {
    let bench = Bench::new();
    let check = |key: Option<&Path>| deliver::check_sums(&bench.image.path, key).unwrap();
    let key = bench.public("sums.pem");
    assert!(check(None).is_none(), "nothing is there to look at");
    assert_eq!(check(Some(&key)).unwrap().outcome, Outcome::Bad, "and what was asked for lacks");
    bench.deliver(&Options::default());
    let skipped = check(None).unwrap();
    assert_eq!(skipped.outcome, Outcome::Skipped);
    assert!(skipped.detail.contains("--sums-key"), "{skipped:?}");
    let judge = |what: &str| {
        let check = check(Some(&key)).unwrap();
        (check.outcome == Outcome::Good, format!("{what}: {}", check.detail))
    };
    assert!(judge("as built").0);

    let other = KeyDir::new(bench.dir.path().join("other"));
    keys::new(&other, Role::Sums).unwrap();
    let stranger = bench.dir.path().join("stranger.pem");
    fs::write(&stranger, keys::public(&other, Role::Sums).unwrap().to_pem().unwrap()).unwrap();
    assert_eq!(check(Some(&stranger)).unwrap().outcome, Outcome::Bad);
    let private = bench.keys.private(Role::Sums);
    assert!(deliver::check_sums(&bench.image.path, Some(&private)).is_err(), "the wrong half");

    for ending in ["img", "SHA256SUMS", "SHA256SUMS.sig"] {
        let path = bench.file(ending);
        let before = fs::read(&path).unwrap();
        let mut changed = before.clone();
        changed[100] ^= 1;
        fs::write(&path, &changed).unwrap();
        let (good, said) = judge(ending);
        assert!(!good, "{said}");
        fs::write(&path, &before).unwrap();
        assert!(judge("again").0);
    }
    fs::remove_file(bench.file("SHA256SUMS.sig")).unwrap();
    assert!(!judge("unsigned").0);
}

/// Bytes in a block of the map.
const BLOCK: usize = 4096;

fn is_zero(bytes: &[u8]) -> bool {
    // A comparison of memory, where going through the bytes takes minutes.
    bytes.chunks(BLOCK).all(|block| block == &[0; BLOCK][..block.len()])
}

/// Bytes that a private key cannot do without: its first prime.
fn secret(keys: &KeyDir, role: Role) -> Vec<u8> {
    let pem = fs::read(keys.private(role)).unwrap();
    let key = openssl::pkey::PKey::private_key_from_pem(&pem).unwrap();
    key.rsa().unwrap().p().unwrap().to_vec()
}

#[test]
fn no_private_key_is_in_anything_that_is_handed_out() {
    let bench = Bench::new();
    bench.deliver(&Options { compression: None, ..everything() });
    let prime = secret(&bench.keys, Role::Sums);
    let pem = fs::read_to_string(bench.keys.private(Role::Sums)).unwrap();
    let line = pem.lines().nth(3).unwrap().as_bytes().to_vec();
    // Blocks of zeros hold nothing, and an image is mostly zeros; a block and what follows it
    // are looked at together.
    let holds = |bytes: &[u8]| {
        let blocks =
            (0..bytes.len()).step_by(BLOCK).map(|at| &bytes[at..bytes.len().min(at + 2 * BLOCK)]);
        let data = blocks.filter(|block| !is_zero(block));
        data.into_iter().any(|block| {
            [&prime, &line]
                .iter()
                .any(|part| block.windows(part.len()).any(|run| run == part.as_slice()))
        })
    };
    for (path, bytes) in bench.contents() {
        assert!(!holds(&bytes), "{}", path.display());
    }
    let bad = [fs::read(&bench.image.path).unwrap(), pem.into_bytes()].concat();
    assert!(holds(&bad), "premise");
}
