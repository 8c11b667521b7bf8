//! Keys of components: what changes them, and what does not.

use std::collections::BTreeSet;

use super::*;
use crate::component::Component as C;
use crate::recipe::{
    Board, Firmware, Purpose, SecureWorld, SpiTpm, TpmBus, TrustedApp, TrustedApps,
};

const HASH: &str = "58a5f218191fe32900102760250741bed4e4f058ca915eb91f5f9a48a16562d7";

/// A checkout and a cache with one file of every kind of input.
fn context() -> (tempfile::TempDir, Context) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    let files = [
        "Cargo.toml",
        "Cargo.lock",
        "initramfs-unseal/Cargo.toml",
        "initramfs-unseal/src/main.rs",
        "initramfs-unseal/src/deep/er.rs",
        "ima-policy/Cargo.toml",
        "ima-policy/src/lib.rs",
        "pcr-measure/Cargo.toml",
        "pcr-measure/src/lib.rs",
        "kernel-config/tpm.config",
        "kernel-config/rpi3/board.config",
        "kernel-config/virt/emulation.config",
        "kernel-config/must-be-absent",
        "kernel-config/development/debug.config",
        "kernel-config/modules/modules.config",
        "kernel-config/rpi3/modules/more.config",
        "kernel-config/patches/f.patch",
        "kernel-config/overlays/rpi3.dtso",
        "kernel-config/overlays/rpi3-tf-a.dtso",
        "kernel-config/overlays/rpi3-op-tee.dtso",
        "kernel-config/overlays/rpi3-tpm-i2c.dtso",
        "kernel-config/overlays/rpi3-tpm-slb9670.dtso",
        "kernel-config/overlays/rpi3-tpm-stpm4raspi.dtso",
        "kernel-config/overlays/virt.dtso",
        "uboot-patches/u-boot/common.config",
        "uboot-patches/u-boot/rpi3.config",
        "uboot-patches/u-boot/rpi3-tf-a.config",
        "uboot-patches/u-boot/rpi3-u-boot.config",
        "uboot-patches/u-boot/virt.config",
        "uboot-patches/u-boot/must-be-absent",
        "uboot-patches/u-boot/development/shell.config",
        "uboot-patches/u-boot/development/spi-gpio.dtso",
        "uboot-patches/u-boot/a.patch",
        "uboot-patches/u-boot/b.patch",
        "uboot-patches/tf-a/c.patch",
        "uboot-patches/optee/g.patch",
        "image-builder/patches/cryptsetup/d.patch",
        "image-builder/patches/tpm2-tss/e.patch",
        "tests/qemu/f.patch",
        "tests/qemu/board.mak",
        "keys/fit.crt",
        "keys/ima.crt",
    ];
    for file in files {
        write(&tree, file, file);
    }
    write(&tree, "uboot-patches/u-boot/series", "# ours\na.patch\nb.patch # last\n");
    write(&tree, "uboot-patches/tf-a/series", "c.patch\n");
    write(&tree, "uboot-patches/optee/series", "g.patch\n");
    write(&tree, "image-builder/patches/cryptsetup/series", "d.patch\n");
    write(&tree, "image-builder/patches/tpm2-tss/series", "e.patch\n");
    write(&tree, "kernel-config/patches/series", "f.patch\n");
    write(&tree, "tests/qemu/series", "f.patch\n");
    let mut lock = "schema = \"msec-boot/sources-lock/1\"\n".to_owned();
    let sources = |board| {
        let target = Target { board, ..Target::default() };
        C::ALL.into_iter().flat_map(move |c| c.sources(&target))
    };
    let names: BTreeSet<_> = Board::ALL.into_iter().flat_map(sources).collect();
    for name in names {
        lock.push_str(&format!(
            "[[source]]\nname = \"{name}\"\nkind = \"deb-src\"\nsuite = \"trixie\"\nversion = \"1-1\"\n\
             [[source.file]]\nname = \"{name}_1-1.dsc\"\nsize = 1\nsha256 = \"{HASH}\"\n"
        ));
    }
    let context = Context {
        cache: Cache::at(dir.path().join("cache")),
        lock: Lock::parse(&lock, Path::new("lock")).unwrap(),
        tools: "00".into(),
        signing_key: KeyDir::new(tree.join("keys")),
        target: Target::default(),
        tree,
    };
    (dir, context)
}

fn write(tree: &Path, file: &str, contents: &str) {
    let path = tree.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

fn keys(context: &Context) -> BTreeMap<C, Key> {
    let plan = Plan::new(context, &C::ALL).unwrap();
    plan.components().map(|(component, planned)| (component, planned.key)).collect()
}

/// The components whose keys a change of the checkout changes.
fn changed_by(change: impl FnOnce(&mut Context)) -> Vec<C> {
    let (_dir, mut context) = context();
    let before = keys(&context);
    change(&mut context);
    let after = keys(&context);
    C::ALL.into_iter().filter(|component| before[component] != after[component]).collect()
}

#[test]
fn a_change_reaches_exactly_what_is_built_from_it() {
    let signed = [C::UBootKey, C::TfA];
    let trees = [C::UBootKey, C::TfA, C::DeviceTree];
    let cases: [(&str, &[C]); 34] = [
        ("Cargo.lock", &[C::Unseal, C::ImaPolicy]),
        ("initramfs-unseal/src/deep/er.rs", &[C::Unseal]),
        ("ima-policy/src/lib.rs", &[C::ImaPolicy]),
        ("pcr-measure/src/lib.rs", &[C::Unseal, C::ImaPolicy]),
        ("pcr-measure/src/new.rs", &[C::Unseal, C::ImaPolicy]),
        ("kernel-config/tpm.config", &[C::Kernel, C::KernelKey, C::DeviceTree]),
        ("kernel-config/rpi3/board.config", &[C::Kernel, C::KernelKey, C::DeviceTree]),
        ("kernel-config/virt/emulation.config", &[]),
        ("kernel-config/new.config", &[C::Kernel, C::KernelKey, C::DeviceTree]),
        ("kernel-config/must-be-absent", &[C::Kernel, C::KernelKey, C::DeviceTree]),
        ("kernel-config/patches/f.patch", &[C::Kernel, C::KernelKey, C::DeviceTree]),
        ("kernel-config/overlays/rpi3.dtso", &trees),
        ("kernel-config/overlays/rpi3-tf-a.dtso", &trees),
        ("kernel-config/overlays/rpi3-op-tee.dtso", &trees),
        ("kernel-config/overlays/rpi3-tpm-i2c.dtso", &trees),
        ("kernel-config/overlays/rpi3-tpm-slb9670.dtso", &[]),
        ("uboot-patches/u-boot/a.patch", &[C::UBoot, C::UBootKey, C::TfA]),
        ("kernel-config/overlays/virt.dtso", &[]),
        ("uboot-patches/u-boot/common.config", &[C::UBoot, C::UBootKey, C::TfA]),
        ("uboot-patches/u-boot/rpi3.config", &[C::UBoot, C::UBootKey, C::TfA]),
        ("uboot-patches/u-boot/rpi3-tf-a.config", &[C::UBoot, C::UBootKey, C::TfA]),
        ("uboot-patches/u-boot/rpi3-u-boot.config", &[]),
        ("uboot-patches/u-boot/virt.config", &[]),
        ("uboot-patches/tf-a/c.patch", &[C::TfA]),
        ("uboot-patches/optee/g.patch", &[C::Optee, C::TfA]),
        ("image-builder/patches/cryptsetup/d.patch", &[C::Cryptsetup, C::Unseal]),
        ("image-builder/patches/tpm2-tss/e.patch", &[C::Tss, C::Unseal, C::ImaPolicy]),
        ("tests/qemu/f.patch", &[C::Qemu]),
        ("tests/qemu/board.mak", &[C::Qemu]),
        ("kernel-config/virt/new.config", &[]),
        ("keys/fit.crt", &signed),
        ("keys/fit.key", &[]),
        ("keys/ima.crt", &[C::KernelKey]),
        ("keys/ima.key", &[]),
    ];
    for (file, expected) in cases {
        assert_eq!(changed_by(|context| write(&context.tree, file, "changed")), expected, "{file}");
    }
}

#[test]
fn another_tpm_is_another_device_tree_and_another_u_boot() {
    let trees = [C::UBootKey, C::TfA, C::DeviceTree];
    for tpm in [SpiTpm::Stpm4raspi, SpiTpm::Slb9670].map(TpmBus::Spi) {
        assert_eq!(changed_by(|context| context.target.tpm = tpm), trees, "{tpm:?}");
    }
    // Its own overlay is an input then, and that for I2C is none.
    let (_dir, mut context) = context();
    context.target.tpm = TpmBus::Spi(SpiTpm::Slb9670);
    let before = keys(&context);
    write(&context.tree, "kernel-config/overlays/rpi3-tpm-i2c.dtso", "changed");
    assert_eq!(keys(&context), before);
    write(&context.tree, "kernel-config/overlays/rpi3-tpm-slb9670.dtso", "changed");
    let after = keys(&context);
    assert_eq!(C::ALL.into_iter().filter(|c| before[c] != after[c]).collect::<Vec<_>>(), trees);
}

#[test]
fn another_chain_is_made_of_other_things() {
    let without_op_tee = Firmware::TfA(SecureWorld::None);
    assert_eq!(
        changed_by(|context| context.target.firmware = without_op_tee),
        [C::UBootKey, C::TfA, C::DeviceTree],
        "U-Boot's code is that of TF-A with OP-TEE"
    );
    assert_eq!(
        changed_by(|context| context.target.firmware = Firmware::UBoot),
        [C::UBoot, C::UBootKey, C::TfA, C::DeviceTree]
    );
    let (_dir, mut context) = context();
    for (firmware, tf_a, op_tee) in [
        (Firmware::default(), true, true),
        (without_op_tee, true, false),
        (Firmware::UBoot, false, false),
    ] {
        context.target.firmware = firmware;
        let plan = Plan::new(&context, &C::of_image(&context.target)).unwrap();
        let planned = |component| plan.get(component).is_some();
        assert_eq!((planned(C::TfA), planned(C::Optee)), (tf_a, op_tee), "{firmware:?}");
    }
}

#[test]
fn what_is_no_input_changes_nothing() {
    for file in [
        "README.md",
        "target/release/x.rs",
        "initramfs-unseal/src/.main.rs.swp",
        "initramfs-unseal/src/notes.txt",
        "initramfs-unseal/tests/t.rs",
        "kernel-config/.tpm.config",
        "kernel-config/development/debug.config",
        "kernel-config/modules/modules.config",
        "kernel-config/self-protection",
        "uboot-patches/u-boot/development/shell.config",
        "kernel-config/tpm.config~",
        "uboot-patches/u-boot/not-in-the-series.patch",
    ] {
        assert_eq!(changed_by(|context| write(&context.tree, file, "x")), [], "{file}");
    }
}

#[test]
fn the_order_of_a_series_is_an_input() {
    let series = "uboot-patches/u-boot/series";
    assert_eq!(
        changed_by(|c| write(&c.tree, series, "b.patch\na.patch\n")),
        [C::UBoot, C::UBootKey, C::TfA]
    );
    assert_eq!(changed_by(|c| write(&c.tree, series, "a.patch\n\n# a comment\nb.patch\n")), []);
}

#[test]
fn what_is_for_the_lab_has_keys_of_its_own() {
    assert_eq!(
        changed_by(|context| context.target.kernel = Purpose::Development),
        [C::Kernel, C::KernelKey, C::DeviceTree]
    );
    let (_dir, mut context) = context();
    context.target.kernel = Purpose::Development;
    let before = keys(&context);
    write(&context.tree, "kernel-config/development/debug.config", "changed");
    assert_ne!(before[&C::Kernel], keys(&context)[&C::Kernel]);

    assert_eq!(
        changed_by(|context| context.target.u_boot = Purpose::Development),
        [C::UBoot, C::UBootKey, C::TfA]
    );
    let (_dir, mut context) = self::context();
    context.target.u_boot = Purpose::Development;
    let before = keys(&context);
    write(&context.tree, "uboot-patches/u-boot/development/shell.config", "changed");
    assert_ne!(before[&C::UBoot], keys(&context)[&C::UBoot]);
}

#[test]
fn a_kernel_with_modules_is_another_one_and_has_the_certificate() {
    assert_eq!(
        changed_by(|context| context.target.modules = true),
        [C::Kernel, C::KernelKey, C::DeviceTree]
    );
    // One that appraises differs in the certificate alone.
    assert_eq!(changed_by(|context| context.target.appraises = true), []);
    let (_dir, mut context) = context();
    context.target.modules = true;
    let before = keys(&context);
    write(&context.tree, "kernel-config/rpi3/modules/more.config", "changed");
    assert_ne!(before[&C::Kernel], keys(&context)[&C::Kernel]);
    for (modules, appraises) in [(false, false), (true, false), (false, true)] {
        let target = Target { modules, appraises, ..Target::default() };
        let has = C::of_image(&target).contains(&C::KernelKey);
        assert_eq!(has, modules || appraises);
    }
}

#[test]
fn trusted_applications_are_another_op_tee_and_another_tf_a() {
    let apps = TrustedApps::try_from(vec![TrustedApp::Pkcs11]).unwrap();
    let of = |op_tee, trusted_apps| {
        let (_dir, mut context) = context();
        context.target.op_tee = op_tee;
        context.target.trusted_apps = trusted_apps;
        keys(&context)
    };
    let mut all = Vec::new();
    for op_tee in [Purpose::Release, Purpose::Development] {
        all.extend([TrustedApps::default(), apps].map(|apps| of(op_tee, apps)));
    }
    for (n, one) in all.iter().enumerate() {
        for other in &all[..n] {
            let differ: Vec<C> = C::ALL.into_iter().filter(|c| one[c] != other[c]).collect();
            assert_eq!(differ, [C::Optee, C::TfA]);
        }
    }
}

#[test]
fn other_tools_change_everything() {
    assert_eq!(changed_by(|context| context.tools = "01".into()), C::ALL);
}

#[test]
fn another_source_changes_its_component_and_what_is_built_with_it() {
    let changed = changed_by(|context| {
        let text = context.lock.to_text().unwrap();
        let (before, after) = text.split_once("name = \"lvm2\"").unwrap();
        let text = format!("{before}name = \"lvm2\"{}", after.replacen("58a5", "58a6", 1));
        context.lock = Lock::parse(&text, Path::new("lock")).unwrap();
    });
    assert_eq!(changed, [C::Devmapper, C::Cryptsetup, C::Unseal]);
}

#[test]
fn keys_hold_nothing_of_the_machine() {
    let ((_a, one), (_b, other)) = (context(), context());
    assert_ne!(one.tree, other.tree);
    assert_eq!(keys(&one), keys(&other));
}

#[test]
fn a_patch_that_is_missing_is_named() {
    let (_dir, context) = context();
    fs::remove_file(context.tree.join("uboot-patches/u-boot/b.patch")).unwrap();
    let error = Plan::new(&context, &[C::UBoot]).unwrap_err().to_string();
    assert!(
        error.starts_with("u-boot: cannot read its input") && error.contains("b.patch"),
        "{error}"
    );
}

#[test]
fn a_series_is_for_the_only_source_that_a_component_always_has() {
    for spec in C::ALL.map(C::spec) {
        assert!(spec.series.is_none() || spec.sources.len() == 1, "{}", spec.name);
    }
}

#[test]
fn an_image_is_made_of_what_its_board_needs() {
    for (board, without) in [
        (Board::Rpi3, &[C::KernelKey, C::ImaPolicy, C::Qemu][..]),
        (Board::Virt, &[C::KernelKey, C::ImaPolicy, C::Firmware, C::Qemu]),
    ] {
        let (_dir, mut context) = context();
        context.target = on(board);
        let image = C::of_image(&context.target);
        let plan = Plan::new(&context, &image).unwrap();
        let rest: Vec<C> = C::ALL.into_iter().filter(|c| plan.get(*c).is_none()).collect();
        assert_eq!(rest, without, "{board}");
        context.target.ima_policy = true;
        assert!(C::of_image(&context.target).contains(&C::ImaPolicy));
    }
}

/// A target that differs in the board, and in what follows from that.
fn on(board: Board) -> Target {
    Target { board, tpm: board.usual_bus(), ..Target::default() }
}

#[test]
fn another_board_has_a_chain_of_its_own() {
    let chain = [C::Kernel, C::KernelKey, C::UBoot, C::UBootKey, C::Optee, C::TfA, C::DeviceTree];
    assert_eq!(changed_by(|context| context.target = on(Board::Virt)), chain);
    // Its inputs are its own, too; the device tree is QEMU's and needs no kernel.
    let cases: [(&str, &[C]); 5] = [
        ("kernel-config/virt/emulation.config", &[C::Kernel, C::KernelKey]),
        ("kernel-config/rpi3/board.config", &[]),
        ("kernel-config/overlays/virt.dtso", &[C::UBootKey, C::TfA, C::DeviceTree]),
        ("uboot-patches/u-boot/virt.config", &[C::UBoot, C::UBootKey, C::TfA]),
        ("uboot-patches/u-boot/rpi3.config", &[]),
    ];
    for (file, expected) in cases {
        let (_dir, mut context) = context();
        context.target = on(Board::Virt);
        let before = keys(&context);
        write(&context.tree, file, "changed");
        let after = keys(&context);
        let changed: Vec<C> = C::ALL.into_iter().filter(|c| before[c] != after[c]).collect();
        assert_eq!(changed, expected, "{file}");
    }
}

#[test]
fn a_source_of_one_board_changes_nothing_of_the_others() {
    let other = |context: &mut Context| {
        let text = context.lock.to_text().unwrap();
        let (before, after) = text.split_once("name = \"mbedtls\"").unwrap();
        let text = format!("{before}name = \"mbedtls\"{}", after.replacen("58a5", "58a6", 1));
        context.lock = Lock::parse(&text, Path::new("lock")).unwrap();
    };
    assert_eq!(changed_by(other), []);
    let (_dir, mut context) = context();
    context.target = on(Board::Virt);
    let before = keys(&context);
    other(&mut context);
    let after = keys(&context);
    let changed: Vec<C> = C::ALL.into_iter().filter(|c| before[c] != after[c]).collect();
    assert_eq!(changed, [C::TfA]);
}

#[test]
fn only_what_was_asked_for_and_its_needs_are_planned() {
    let (_dir, context) = context();
    let plan = Plan::new(&context, &[C::Cryptsetup]).unwrap();
    let planned: Vec<C> = plan.components().map(|(component, _)| component).collect();
    assert_eq!(planned, [C::Devmapper, C::Cryptsetup]);
}

#[test]
fn comments_and_tests_are_no_code() {
    let one = "//! About.\nuse a;\n// why\nfn f() {\n    // more\n    g()\n}\n#[cfg(test)]\nmod tests {}\n";
    let two = "//! Another.\nfn h() {}\n";
    let code = [one, two].concat();
    assert_eq!(significant(&code), "use a;\nfn f() {\n    g()\n}\nfn h() {}");
    for component in C::ALL {
        assert!(significant(component.spec().code).contains("fn build("), "{component}");
    }
}
