//! Whole images from small stand-ins for the artifacts, judged by the tools of
//! the build root: this runs there, as root, and needs no network.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail like tests"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use image_builder::artifacts::{Artifacts, KeyDir, VideoCore};
use image_builder::cache::Cache;
use image_builder::component::plan::{Context, Plan};
use image_builder::component::{self, Component};
use image_builder::image::arm_image::ArmImage;
use image_builder::image::inventory::{self, Inventory, Item};
use image_builder::image::packages::Package;
use image_builder::image::root::Origin;
use image_builder::image::tamper::{self, Signing, Tamper, TamperError};
use image_builder::image::verify::{Outcome, RootState, verify};
use image_builder::image::{Image, ImageError, assemble, card, fit, inspect};
use image_builder::progress::Progress;
use image_builder::recipe::{MIB, Recipe, Target};
use image_builder::sources::newer::{self, WhenGone};
use image_builder::sources::store::Store;
use pcr_measure::key::SigningKey;
use pcr_measure::policy::Rollback;
use pcr_measure::signed_policy::{SignatureFile, Verdict, policy_with};
use tempfile::TempDir;

const RECIPE: &str = include_str!("../recipes/rpi3-tiny.toml");

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| {
        panic!("{program}: {error}; this test runs in the build root, which has it")
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

/// mkimage of our U-Boot build: Debian's is not in the build root, so that nothing
/// else is used by mistake.
fn mkimage() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cache = Cache::from_env().unwrap();
    let context = Context {
        lock: newer::in_force(
            &tree.join("image-builder/sources.lock"),
            &Store::new(&cache),
            WhenGone::from_env(),
        )
        .unwrap(),
        signing_key: component::ensure_signing_key(&cache, None).unwrap(),
        target: Target::default(),
        tools: Context::tools().unwrap(),
        cache,
        tree: tree.to_owned(),
    };
    let plan = Plan::new(&context, &Component::ALL).unwrap();
    let built = component::artifacts(&plan, &context.target, context.signing_key.clone());
    built.expect("everything is built: run `make image RECIPE=image-builder/recipes/rpi3-tiny.toml` first").mkimage
}

/// A workshop with everything that an image is made of.
struct Bench {
    dir: TempDir,
    artifacts: Artifacts,
    origin: Origin,
}

/// BL1, and a FIP with this BL33.
fn armstub(bl33: &[u8]) -> Vec<u8> {
    let mut stub = vec![0x1b; 0x2_0000];
    stub.extend(0xaa64_0001_u32.to_le_bytes());
    stub.extend([0; 12]);
    stub.extend(0xd6d0_eea7_fcea_d54b_9782_9934_f234_b6e4_u128.to_be_bytes());
    for word in [96, bl33.len() as u64, 0] {
        stub.extend(word.to_le_bytes());
    }
    stub.extend([0; 40]);
    stub.extend(bl33);
    stub
}

impl Bench {
    fn new() -> Self {
        Self::with_keys(None)
    }

    /// With keys that others have as well, in this directory.
    fn with_keys(keys: Option<&Path>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = keys.map_or_else(|| dir.path().join("keys"), Path::to_owned);
        let at = |name: &str| dir.path().join(name);
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        fs::write(at("kernel"), vec![7; 100_000]).unwrap();
        fs::write(at("kernel.config"), "CONFIG_IMA=y\nCONFIG_IMA_APPRAISE=y\n").unwrap();
        fs::write(at("unseal"), b"\x7fNOT-REALLY-ELF").unwrap();
        fs::write(at("update"), b"\x7fNOT-REALLY-ELF").unwrap();
        let version = b"U-Boot 2025.01-test\0";
        let dtb = |source: &str, name: &str| {
            fs::write(at("x.dts"), format!("/dts-v1/; / {{ {source} }};")).unwrap();
            run("dtc", &["-q", "-o", &text(&at(name)), &text(&at("x.dts"))]);
        };
        dtb("compatible = \"test\";", "linux.dtb");
        dtb("signature { key-fit { required = \"conf\"; }; };", "control.dtb");
        let control = fs::read(at("control.dtb")).unwrap();
        fs::write(at("armstub8.bin"), armstub(&[&version[..], &control, b"end"].concat())).unwrap();
        fs::create_dir(at("firmware")).unwrap();
        for name in ["bootcode.bin", "start.elf", "fixup.dat", "LICENCE.broadcom"] {
            fs::write(at("firmware").join(name), name).unwrap();
        }
        let key = ["req", "-batch", "-new", "-newkey", "rsa:3072", "-nodes", "-x509", "-subj"];
        let (private, public) = (text(&keys.join("fit.key")), text(&keys.join("fit.crt")));
        if !keys.exists() {
            fs::create_dir(&keys).unwrap();
            let files = ["/CN=test", "-keyout", &private, "-out", &public];
            run("openssl", &[&key[..], &files].concat());
        }
        let origin = Origin::Packages(vec![busybox(dir.path())]);
        Self {
            artifacts: Artifacts {
                kernel: at("kernel"),
                kernel_config: at("kernel.config"),
                modules: None,
                trusted: None,
                kernel_version: "6.12-test".to_owned(),
                dtb: at("linux.dtb"),
                arm_image: ArmImage::Armstub,
                arm_image_file: at("armstub8.bin"),
                video_core: Some(VideoCore { dir: at("firmware"), board_dtb: at("linux.dtb") }),
                uboot_version: version.to_vec(),
                unseal: at("unseal"),
                update: at("update"),
                ima_policy: None,
                mkimage: mkimage(),
                // The real one comes out of the U-Boot build; the tests on the
                // emulated board have it, and U-Boot's own check.
                fit_check_sign: PathBuf::from("/bin/true"),
                uboot_dtb: at("control.dtb"),
                signing_key: KeyDir::new(keys),
            },
            origin,
            dir,
        }
    }

    fn image(&self, name: &str) -> Image {
        let recipe = RECIPE.replace("name = \"msec-rpi3-tiny\"", &format!("name = \"{name}\""));
        let recipe = Recipe::parse(&recipe, "test").unwrap();
        let out = self.dir.path().join("out");
        assemble(&recipe, &self.artifacts, &self.origin, &out, &Progress::hidden()).unwrap()
    }

    fn signing(&self) -> Signing {
        Signing::from(&self.artifacts)
    }
}

/// A package with a busybox whose table of applets is all there is of it.
fn busybox(dir: &Path) -> Package {
    let source = include_str!("../src/image/userland.rs");
    let names = source
        .split("const COMMANDS")
        .nth(1)
        .and_then(|rest| rest.split("/// Why there is").next())
        .unwrap();
    let mut table = b"busybox [\0[[\0".to_vec();
    for name in names.split('"').skip(1).step_by(2) {
        table.extend_from_slice(name.as_bytes());
        table.push(0);
    }
    let root = dir.join("package");
    fs::create_dir_all(root.join("usr/bin")).unwrap();
    fs::create_dir_all(root.join("usr/share/man/man1")).unwrap();
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::write(root.join("usr/bin/busybox"), table).unwrap();
    fs::set_permissions(root.join("usr/bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("usr/share/man/man1/busybox.1"), "manual").unwrap();
    fs::write(
        root.join("DEBIAN/control"),
        "Package: busybox-static\nVersion: 1\nArchitecture: arm64\nMaintainer: t <t@t>\nDescription: t\n",
    )
    .unwrap();
    let deb = dir.join("busybox.deb");
    run("dpkg-deb", &["-b", root.to_str().unwrap(), deb.to_str().unwrap()]);
    Package { name: "busybox-static".to_owned(), version: "1".to_owned(), deb }
}

/// Copies a partition out of an image.
fn part(image: &Path, start: u64, size: u64, to: &Path) -> String {
    let bytes = fs::read(image).unwrap();
    let start = usize::try_from(start).unwrap();
    fs::write(to, &bytes[start..start + usize::try_from(size).unwrap()]).unwrap();
    to.to_str().unwrap().to_owned()
}

#[test]
fn an_image_is_clean_complete_and_reproducible() {
    let bench = Bench::new();
    let image = bench.image("one");
    let first = fs::read(&image.path).unwrap();
    let manifest = fs::read(&image.manifest_path).unwrap();
    assert_eq!(first.len() as u64, 128 * MIB);
    assert_eq!(bench.image("one"), image);
    assert!(fs::read(&image.path).unwrap() == first, "the second build differs");
    let left = fs::read_dir(bench.dir.path().join("out")).unwrap().count();
    assert_eq!(
        left, 5,
        "image, manifest, inventory, reference, configuration, and nothing half-written"
    );

    let path = image.path.to_str().unwrap();
    run("sfdisk", &["--verify", path]);
    let boot = part(&image.path, MIB, 47 * MIB, &bench.dir.path().join("p1"));
    run("fsck.fat", &["-n", &boot]);
    let root = part(&image.path, 52 * MIB, 52 * MIB, &bench.dir.path().join("p2"));
    run("e2fsck", &["-fn", &root]);
    let etc = run("debugfs", &["-R", "ls -l /etc", &root]);
    assert!(etc.contains("inittab"), "{etc}");
    assert!(etc.contains(" 0      0 "), "root owns it: {etc}");
    let manual = run("debugfs", &["-R", "stat /usr/share/man", &root]);
    assert!(manual.contains("File not found"), "{manual}");

    let card = card::Card::open(&image.path).unwrap();
    assert_eq!(card.good().unwrap().manifest, manifest.trim_ascii_end());
    let contents = fit::Contents::read(&card.good().unwrap().fit).unwrap();
    assert_eq!(contents.command_line, "console=ttyAMA0,115200 panic=10 page_alloc.shuffle=1");

    let report =
        verify(&image.path, Some(&image.manifest_path), None, Some(Path::new("/bin/true")));
    let report = report.unwrap();
    assert!(report.good, "{}", report.text());
    assert_eq!(report.root, RootState::Plain);
    assert_eq!(report.pcrs, Some(image.manifest.predict()));
    assert!(report.checks.iter().all(|c| c.outcome == Outcome::Good), "{}", report.text());
}

#[test]
fn a_signed_image_carries_its_policy_and_never_the_key() {
    let bench = Bench::new();
    let out = bench.dir.path().join("out");
    let build = |text: &str| {
        let recipe = Recipe::parse(text, "test").unwrap();
        assemble(&recipe, &bench.artifacts, &bench.origin, &out, &Progress::hidden())
    };
    let plain = build(RECIPE).unwrap();
    let card = card::Card::open(&plain.path).unwrap();
    assert!(card.good().unwrap().signatures.is_empty(), "premise");

    let signed = RECIPE.replace("binding = \"pcr\"", "binding = \"signed\"\nrollback = 3");
    let error = build(&signed).unwrap_err();
    assert!(matches!(error, ImageError::Policy(_)), "{error}");
    component::ensure_policy_key(&bench.artifacts.signing_key, false).unwrap();
    let image = build(&signed).unwrap();
    let bytes = fs::read(&image.path).unwrap();
    build(&signed).unwrap();
    assert!(fs::read(&image.path).unwrap() == bytes, "the second build differs");
    assert_ne!(image.manifest.predict(), plain.manifest.predict(), "the key is measured");

    let card = card::Card::open(&image.path).unwrap();
    let file = card.good().unwrap().signatures;
    let file = SignatureFile::from_json(&file).unwrap();
    let pem = fs::read_to_string(bench.artifacts.signing_key.policy_key()).unwrap();
    let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
    let (seal, values) = (image.manifest.seal(), image.manifest.sealed_values());
    let rollback = Rollback { counter: 0x0180_6d74, version: 3 };
    let policy = policy_with(seal, &values, Some(&rollback)).unwrap();
    assert_eq!(file.verify_policy(key.public(), seal, policy).unwrap(), Verdict::Signed);
    let secret = pem.lines().nth(3).unwrap().as_bytes();
    assert!(!bytes.windows(secret.len()).any(|run| run == secret), "the private key is in it");
}

#[test]
fn variants_signed_again_are_good_and_differ_in_one_pcr() {
    let bench = Bench::new();
    let image = bench.image("one");
    let before = fs::read(&image.path).unwrap();
    let out = bench.dir.path().join("variant.img");
    let file = Tamper::Initramfs { path: "etc/evil".to_owned(), content: b"evil".to_vec() };
    let words = Tamper::CommandLine("rdinit=/bin/sh".to_owned());
    for (tamper, pcr) in [(words, 1), (file, 9), (Tamper::Kernel, 8), (Tamper::DeviceTree, 1)] {
        let manifest =
            tamper::variant(&image.path, &tamper, &bench.signing(), &out).unwrap().unwrap();
        let report = verify(&out, None, None, Some(Path::new("/bin/true"))).unwrap();
        assert!(report.good, "{tamper:?}: {}", report.text());
        let (old, new) = (image.manifest.predict(), manifest.predict());
        let differ: Vec<u8> = old
            .iter()
            .filter(|(index, value)| {
                new.sha256(*index).as_ref().map(ToString::to_string) != Some(value.to_string())
            })
            .map(|(index, _)| index.get())
            .collect();
        assert_eq!(differ, [pcr], "{tamper:?}");
        // Held against the manifest of the build, the variant is found out.
        let report = verify(&out, Some(&image.manifest_path), None, None).unwrap();
        assert!(!report.good, "{tamper:?}");
        let root = usize::try_from(48 * MIB).unwrap();
        assert!(fs::read(&out).unwrap()[root..] == before[root..], "the root changed");
    }
    assert!(fs::read(&image.path).unwrap() == before, "the original changed");
}

#[test]
fn broken_variants_are_found_out() {
    let bench = Bench::new();
    let image = bench.image("one");
    let other = {
        fs::write(&bench.artifacts.kernel, vec![8; 100_000]).unwrap();
        bench.image("two")
    };
    let firmware = Tamper::Firmware { component: "BL33".to_owned(), text: "end".to_owned() };
    for (tamper, what) in [
        (Tamper::FlippedBit, &["kernel", "FIT"][..]),
        (firmware, &["BL33", "armstub8.bin"]),
        (Tamper::ManifestDigit, &["manifest", "manifest"]),
        (Tamper::ManifestCut, &["manifest", "manifest"]),
        (Tamper::ManifestOf(other.path), &["kernel", "manifest", "inventory"]),
    ] {
        let out = bench.dir.path().join("variant.img");
        fs::copy(&image.path, &out).unwrap();
        // In place, as it is done to a working copy.
        tamper::variant(&out, &tamper, &bench.signing(), &out).unwrap();
        let report = verify(&out, None, None, Some(Path::new("/bin/true"))).unwrap();
        let bad: Vec<&str> = report
            .checks
            .iter()
            .filter(|check| check.outcome == Outcome::Bad)
            .map(|check| check.what.as_str())
            .collect();
        assert_eq!(bad, what, "{tamper:?}: {}", report.text());
        assert!(report.text().contains("The image is NOT good"));
    }
}

#[test]
fn one_changed_byte_is_told_wherever_it_is() {
    let bench = Bench::new();
    component::ensure_policy_key(&bench.artifacts.signing_key, false).unwrap();
    let text = RECIPE.replace("binding = \"pcr\"", "binding = \"signed\"\nrollback = 3");
    let recipe = Recipe::parse(&text, "test").unwrap();
    let out = bench.dir.path().join("out");
    let image = assemble(&recipe, &bench.artifacts, &bench.origin, &out, &Progress::hidden());
    let image = image.unwrap();
    let bad = |path: &Path| -> Vec<String> {
        let report = verify(path, None, None, Some(Path::new("/bin/true"))).unwrap();
        let bad = report.checks.iter().filter(|check| check.outcome == Outcome::Bad);
        bad.map(|check| check.what.clone()).collect()
    };
    assert!(bad(&image.path).is_empty(), "premise");
    let original = inspect::inspect(&image.path).unwrap();
    let card = card::Card::open(&image.path).unwrap();
    let changed = bench.dir.path().join("changed.img");

    let names = original.files.keys().map(String::as_str);
    // What was never installed there says nothing.
    let names: Vec<&str> = names.filter(|name| !name.contains("-b.")).collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let bytes = card.boot_file(name).unwrap();
        let used = match name {
            "boot-a.itb" => card.good().unwrap().fit.len(),
            _ => bytes.trim_ascii_end().len(),
        };
        for at in [0, used / 2, used - 1] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            card.with_boot_files(&[(name, &bytes)], &changed).unwrap();
            let told = verify(&changed, None, None, Some(Path::new("/bin/true")));
            let good = told.is_ok_and(|report| report.good);
            assert!(!good, "byte {at} of {name}");
            let seen = inspect::inspect(&changed);
            assert!(seen.is_err() || seen.unwrap().files != original.files, "{at} of {name}");
        }
    }
    // All over the signed policy, whose fields differ in what a byte of them means.
    let name = "tpm2-pcr-signature-a.json";
    let bytes = card.boot_file(name).unwrap();
    for at in (0..bytes.trim_ascii_end().len()).step_by(41) {
        // White space is no content.
        if !bytes[at].is_ascii_alphanumeric() {
            continue;
        }
        let mut bytes = bytes.clone();
        bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
        card.with_boot_files(&[(name, &bytes)], &changed).unwrap();
        // A letter of base64 at its end may hold bits that count for nothing.
        let same = SignatureFile::from_json(bytes.trim_ascii_end()).ok()
            == SignatureFile::from_json(&card.good().unwrap().signatures).ok();
        assert!(same || bad(&changed) == ["policy"], "byte {at}");
    }
    let root = card.table.root;
    for (what, at) in [
        ("partitions", 0x1b8),
        ("root", root.start + root.size / 2),
        ("root", root.start + root.size - 1),
    ] {
        let mut bytes = fs::read(&image.path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        fs::write(&changed, bytes).unwrap();
        assert_eq!(bad(&changed), [what], "byte {at}");
    }
    // The premise: it is the inventory that tells.
    let changed = card::Card::open(&changed).unwrap();
    let json = changed.boot_file(inventory::FILE).unwrap();
    let mut forged = Inventory::from_json(&json).unwrap();
    forged.root = inventory::root(&changed).unwrap();
    let forged = forged.to_json().unwrap();
    let out = bench.dir.path().join("forged.img");
    changed.with_boot_files(&[(inventory::FILE, forged.as_bytes())], &out).unwrap();
    assert!(bad(&out).is_empty());
    // One of the build does not let itself be forged.
    let of_build = image.path.with_extension("inventory.json");
    let report = verify(&out, None, Some(&of_build), Some(Path::new("/bin/true"))).unwrap();
    assert!(!report.good, "{}", report.text());
}

/// A card after its first boot: the root reaches down over the reserve, where its header is.
#[test]
fn a_provisioned_card_is_good_and_one_byte_of_its_table_is_told() {
    let bench = Bench::new();
    let image = bench.image("one");
    let card = card::Card::open(&image.path).unwrap();
    let json = card.boot_file(inventory::FILE).unwrap();
    let inventory = Inventory::from_json(&json).unwrap();
    let reserve = card.table.root.start - card.table.boot.start - card.table.boot.size;
    let out = bench.dir.path().join("provisioned.img");
    let bad = |bytes: &[u8]| -> Vec<String> {
        fs::write(&out, bytes).unwrap();
        let report = verify(&out, None, None, Some(Path::new("/bin/true"))).unwrap();
        let bad = report.checks.into_iter().filter(|check| check.outcome == Outcome::Bad);
        bad.map(|check| check.what).collect()
    };
    let mut bytes = fs::read(&image.path).unwrap();
    let id = u32::from_le_bytes(bytes[440..444].try_into().unwrap());
    bytes[..512].copy_from_slice(&card.table.provisioned(reserve).encode(id).unwrap());
    assert_eq!(Item::of(&bytes[..512]), inventory.provisioned_table);
    // As long as nothing is encrypted nobody has provisioned it.
    assert_eq!(bad(&bytes), ["partitions", "root"]);
    let header = usize::try_from(card.table.root.start - reserve).unwrap();
    bytes[header..header + 6].copy_from_slice(b"LUKS\xba\xbe");
    assert!(bad(&bytes).is_empty(), "{:?}", bad(&bytes));
    bytes[440] ^= 1;
    assert_eq!(bad(&bytes), ["partitions"]);
}

/// U-Boot alone: the same, with what it holds in the kernel's place.
#[test]
fn an_image_of_u_boot_alone_is_good_until_u_boot_changes() {
    let mut bench = Bench::new();
    let stub = fs::read(&bench.artifacts.arm_image_file).unwrap();
    let u_boot = &stub[ArmImage::Armstub.part(&stub, "BL33").unwrap()];
    bench.artifacts.arm_image = ArmImage::Kernel;
    bench.artifacts.arm_image_file = bench.dir.path().join("u-boot.bin");
    fs::write(&bench.artifacts.arm_image_file, u_boot).unwrap();
    let image = bench.image("one");

    let card = card::Card::open(&image.path).unwrap();
    assert_eq!(card.boot_file("kernel8.img").unwrap(), u_boot);
    assert!(card.boot_file("armstub8.bin").unwrap_err().is_missing_file());
    let config = card.boot_file("config.txt").unwrap();
    assert!(String::from_utf8(config).unwrap().contains("\nkernel=kernel8.img\n"));
    let pcr_0: Vec<&str> = image
        .manifest
        .events()
        .iter()
        .filter(|event| event.pcr.get() == 0)
        .map(|event| event.component.as_str())
        .collect();
    assert_eq!(pcr_0, ["U-Boot version", "U-Boot", "separator"]);
    let report = verify(&image.path, None, None, Some(Path::new("/bin/true"))).unwrap();
    assert!(report.good, "{}", report.text());

    let out = bench.dir.path().join("variant.img");
    let bad = |out: &Path| -> Vec<String> {
        let report = verify(out, None, None, Some(Path::new("/bin/true"))).unwrap();
        let bad = report.checks.into_iter().filter(|check| check.outcome == Outcome::Bad);
        bad.map(|check| check.what).collect()
    };
    let tamper = Tamper::Firmware { component: "U-Boot".to_owned(), text: "end".to_owned() };
    tamper::variant(&image.path, &tamper, &bench.signing(), &out).unwrap();
    assert_eq!(bad(&out), ["U-Boot", "kernel8.img"]);
    // Which of the two the VideoCore would start is nobody's guess.
    card.with_boot_files(&[("armstub8.bin", &stub)], &out).unwrap();
    assert_eq!(bad(&out), ["firmware"]);
}

#[test]
fn an_unsigned_fit_has_no_signature() {
    let bench = Bench::new();
    let image = bench.image("one");
    let signature = |path: &Path| {
        let fit = card::Card::open(path).unwrap().good().unwrap().fit;
        let tree = image_builder::image::fdt::Fdt::new(&fit).unwrap();
        tree.property("/configurations/conf-1/signature-1", "value").is_some()
    };
    assert!(signature(&image.path));
    let out = bench.dir.path().join("variant.img");
    tamper::variant(&image.path, &Tamper::Unsigned, &bench.signing(), &out).unwrap();
    assert!(!signature(&out));
    // The card's own check would refuse it, and that is said.
    let report = verify(&out, None, None, Some(Path::new("/bin/false"))).unwrap();
    let bad: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.outcome == Outcome::Bad)
        .map(|check| check.what.as_str())
        .collect();
    assert_eq!(bad, ["signature", "FIT"], "{}", report.text());
}

#[test]
fn a_failed_build_leaves_nothing() {
    let mut bench = Bench::new();
    let out = bench.dir.path().join("out");
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    bench.artifacts.fit_check_sign = PathBuf::from("/bin/false");
    let progress = Progress::hidden();
    let result = assemble(&recipe, &bench.artifacts, &bench.origin, &out, &progress);
    assert!(matches!(result, Err(ImageError::Fit(_))), "{result:?}");

    bench.artifacts.fit_check_sign = PathBuf::from("/bin/true");
    fs::write(&bench.artifacts.unseal, vec![0; 40 << 20]).unwrap();
    let small = RECIPE.replace("root_mib = 52", "root_mib = 32");
    let small = Recipe::parse(&small, "test").unwrap();
    let error = assemble(&small, &bench.artifacts, &bench.origin, &out, &progress).unwrap_err();
    assert!(error.to_string().contains("raise root_mib"), "{error}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    let bench = Bench::new();
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    let out = bench.dir.path().join("disk");
    fs::create_dir(&out).unwrap();
    let build = || assemble(&recipe, &bench.artifacts, &bench.origin, &out, &Progress::hidden());
    // From a disk that has no room for anything to one that lacks the last megabyte.
    for mib in [1, 2, 4, 8, 16] {
        let _disk = Mounted::tmpfs(&out, mib);
        let error = build().expect_err(&format!("{mib} MiB").to_string());
        let told = format!("{:#}", anyhow::Error::from(error));
        assert!(told.contains("No space left") || told.contains("no space"), "{mib} MiB: {told}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{mib} MiB");
    }
    let _disk = Mounted::tmpfs(&out, 256);
    build().expect("with room for it");
}

/// A file system in memory, until it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: &Path, mib: u32) -> Self {
        let size = format!("size={mib}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", at.to_str().unwrap()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Where the build goes that is killed, and the artifacts that it takes.
const KILLED: &str = "MSEC_TEST_KILLED_BUILD";

#[test]
fn a_build_that_is_killed_leaves_no_half_image_and_the_next_one_cleans_up() {
    let dir = tempfile::tempdir().unwrap();
    let begin = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "inside_of_a_build_that_is_killed"])
            .env(KILLED, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let image = dir.path().join("out/one.img");
    let begun = std::time::Instant::now();
    assert!(begin().wait().unwrap().success());
    let takes = begun.elapsed();
    let whole = fs::read(&image).unwrap();
    let mut left = 0;
    for part in 1..16 {
        fs::remove_file(&image).unwrap();
        let mut build = begin();
        std::thread::sleep(takes * part / 16);
        // Harder than Ctrl-C: nobody tidies up.
        build.kill().unwrap();
        build.wait().unwrap();
        assert!(!image.exists() || fs::read(&image).unwrap() == whole, "after {part}/16");
        left += half_made(&dir.path().join("out"));
        assert!(begin().wait().unwrap().success());
        assert!(fs::read(&image).unwrap() == whole, "after {part}/16");
        assert_eq!(half_made(&dir.path().join("out")), 0, "after {part}/16");
    }
    assert!(left > 0, "no kill came while something was half made");
}

/// How many things without a final name are in a directory.
fn half_made(dir: &Path) -> usize {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_str().unwrap().starts_with('.')).count()
}

#[test]
#[ignore = "runs inside of a_build_that_is_killed_leaves_no_half_image_and_the_next_one_cleans_up"]
fn inside_of_a_build_that_is_killed() {
    let Some(dir) = std::env::var_os(KILLED) else { return };
    let out = Path::new(&dir).join("out");
    let bench = Bench::with_keys(Some(&Path::new(&dir).join("keys")));
    let recipe = RECIPE.replace("name = \"msec-rpi3-tiny\"", "name = \"one\"");
    let recipe = Recipe::parse(&recipe, "test").unwrap();
    assemble(&recipe, &bench.artifacts, &bench.origin, &out, &Progress::hidden()).unwrap();
}

#[test]
fn what_is_no_image_is_left_alone() {
    let bench = Bench::new();
    let path = bench.dir.path().join("letter.txt");
    fs::write(&path, "Dear Sir or Madam").unwrap();
    let error = verify(&path, None, None, None).unwrap_err();
    assert!(error.is_verdict());
    assert!(error.to_string().contains("is no SD card image of msec-boot"), "{error}");
    let result = tamper::variant(&path, &Tamper::Unsigned, &bench.signing(), &path);
    assert!(matches!(result, Err(TamperError::Card(_))), "{result:?}");
    assert_eq!(fs::read(&path).unwrap(), b"Dear Sir or Madam");
}
