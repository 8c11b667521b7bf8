//! Recipes that are taken, recipes that are refused, and what is said about them.

use super::*;

const MINIMAL: &str = "name = \"a\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n";

fn error(text: &str) -> String {
    Recipe::parse(text, "r.toml").unwrap_err().to_string()
}

#[test]
fn the_shipped_recipe_for_the_demonstration_is_valid() {
    let text = include_str!("../../recipes/rpi3-tiny.toml");
    let recipe = Recipe::parse(text, "rpi3-tiny.toml").unwrap();
    assert_eq!(recipe.name.as_str(), "msec-rpi3-tiny");
    assert_eq!(recipe.tpm, Tpm { bus: Some(TpmBus::I2c), ..Tpm::default() });
    assert_eq!(recipe.root.busybox().console, Console::Shell);
    // Table, boot partition and reserve come first.
    assert_eq!(recipe.disk.root_start(), (1 + 47 + 4) * MIB);
    assert_eq!(Disk::default().root_start(), (1 + 47 + 16) * MIB);
}

#[test]
fn the_shipped_recipe_for_spi_differs_in_the_tpm_alone() {
    let i2c = include_str!("../../recipes/rpi3-tiny.toml");
    let spi = include_str!("../../recipes/rpi3-spi.toml");
    let mut recipe = Recipe::parse(spi, "rpi3-spi.toml").unwrap();
    assert_eq!(recipe.name.as_str(), "msec-rpi3-spi");
    assert_eq!(recipe.bus(), TpmBus::Spi(SpiTpm::Slb9670));
    let i2c = Recipe::parse(i2c, "rpi3-tiny.toml").unwrap();
    recipe.name = i2c.name.clone();
    recipe.tpm.bus = Some(TpmBus::I2c);
    assert_eq!(recipe, i2c);
}

#[test]
fn the_shipped_recipe_for_op_tee_adds_a_token_and_its_tools() {
    let text = include_str!("../../recipes/rpi3-op-tee.toml");
    let recipe = Recipe::parse(text, "rpi3-op-tee.toml").unwrap();
    let apps: Vec<_> = recipe.components.trusted_applications.iter().collect();
    assert_eq!(apps, [TrustedApp::Pkcs11]);
    assert!(!recipe.components.op_tee_development);
    for recipe in ["rpi3-tiny", "rpi3-spi"] {
        let text = match recipe {
            "rpi3-tiny" => include_str!("../../recipes/rpi3-tiny.toml"),
            _ => include_str!("../../recipes/rpi3-spi.toml"),
        };
        let recipe = Recipe::parse(text, recipe).unwrap();
        assert!(recipe.components.trusted_applications.is_empty());
    }
    assert_eq!(recipe.bus(), TpmBus::I2c);
}

#[test]
fn the_shipped_recipe_of_a_watched_device_takes_a_collector() {
    let text = include_str!("../../recipes/rpi3-watched.toml");
    let recipe = Recipe::parse(text, "rpi3-watched.toml").unwrap();
    assert!(recipe.integrity.profile().appraises() && recipe.kernel.modules);
    assert!(Features::OF_BUSYBOX.iter().all(|feature| recipe.root.has(*feature)));
    let logging = "[logging]\nserver = \"a\"\nca = \"ca.pem\"\n";
    assert!(Recipe::parse(&format!("{text}{logging}"), "r.toml").is_ok());
    // Premise: a busybox without the feature does not.
    let without = text.replace("\"rsyslog\", ", "");
    assert!(Recipe::parse(&format!("{without}{logging}"), "r.toml").is_err());
}

#[test]
fn the_shipped_recipe_for_virt_has_its_tpm_in_memory() {
    let recipe = Recipe::parse(include_str!("../../recipes/virt.toml"), "virt.toml").unwrap();
    assert_eq!((recipe.name.as_str(), recipe.board), ("msec-virt", Board::Virt));
    assert_eq!((recipe.tpm.bus, recipe.bus()), (None, TpmBus::Mmio));
}

#[test]
fn virt_has_one_chain() {
    let virt = MINIMAL.replace("rpi3", "virt");
    for (rest, message) in [
        ("[components]\nfirmware = \"u-boot\"\n", "has one chain"),
        ("[components]\nsecure_world = \"none\"\n", "has one chain"),
        ("[u_boot]\ndevelopment = true\n", "a Raspberry Pi's U-Boot"),
    ] {
        let error = Recipe::parse(&format!("{virt}{rest}"), "r.toml").unwrap_err().to_string();
        assert!(error.contains(message), "{rest}: {error}");
        Recipe::parse(&format!("{MINIMAL}{rest}"), "r.toml").unwrap();
    }
}

#[test]
fn a_board_has_its_tpm_where_it_can() {
    let virt = MINIMAL.replace("rpi3", "virt");
    let bus = |head: &str, bus: &str| {
        Recipe::parse(&format!("{head}[tpm]\n{bus}\n"), "r.toml").map(|recipe| recipe.bus())
    };
    assert_eq!(bus(MINIMAL, "").unwrap(), TpmBus::I2c);
    assert_eq!(bus(&virt, "").unwrap(), TpmBus::Mmio);
    assert_eq!(bus(&virt, "bus = \"mmio\"").unwrap(), TpmBus::Mmio);
    let spi = "bus = \"spi\"\ndevice = \"slb9670\"";
    for (head, wrong, instead) in [
        (MINIMAL, "bus = \"mmio\"", "bus = \"i2c\" or bus = \"spi\""),
        (&virt, "bus = \"i2c\"", "bus = \"mmio\""),
        (&virt, spi, "bus = \"mmio\""),
    ] {
        let message = bus(head, wrong).unwrap_err().to_string();
        assert!(message.contains(instead), "{wrong}: {message}");
    }
}

#[test]
fn boards_are_known_by_their_names() {
    for board in Board::ALL {
        let text = MINIMAL.replace("rpi3", board.name());
        assert_eq!(Recipe::parse(&text, "r.toml").unwrap().board, board);
        assert_eq!(Board::from_name(board.name()), Some(board));
    }
    assert_eq!(Board::from_name("rpi4"), None);
}

#[test]
fn a_minimal_recipe_offers_no_shell() {
    let recipe = Recipe::parse(MINIMAL, "r.toml").unwrap();
    assert_eq!(recipe.root.busybox().console, Console::None);
    assert_eq!(recipe.tpm.pcrs.as_slice(), [0, 1, 8, 9, 15]);
    assert_eq!(recipe.tpm.nv_index.handle(), 0x0180_6d73);
    assert_eq!(recipe.tpm.srk.handle(), 0x8100_0001);
}

#[test]
fn the_default_package_names_are_valid() {
    for name in Root::default().packages.iter().chain(&Root::default().busybox().assume) {
        assert_eq!(&PackageName::try_from(name.to_string()).unwrap(), name);
    }
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQSLuM+uMnsTIiLRUBaXQ4ayoZvZ0BvNfZRLQ1hVeAs a@b";

const DEBIAN: &str = "name = \"a\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\n\
                      system = \"debian\"\n";

#[test]
fn the_shipped_recipe_is_a_debian_that_nobody_gets_into_unasked() {
    let recipe = Recipe::parse(include_str!("../../recipes/rpi3.toml"), "rpi3.toml").unwrap();
    assert_eq!((recipe.name.as_str(), recipe.schema), ("msec-rpi3", 1));
    assert_eq!(recipe.root.system, System::Debian(Features::default()));
    assert_eq!(recipe.users, []);
    assert!(recipe.root.hostname.as_ref().is_some_and(HostnamePattern::has_serial));
    assert_eq!(recipe.bus(), TpmBus::I2c);
}

#[test]
fn packages_follow_system_features_and_users() {
    let wanted = |text: &str| -> Vec<String> {
        let recipe = Recipe::parse(text, "r.toml").unwrap();
        recipe.wanted_packages().iter().map(ToString::to_string).collect()
    };
    assert_eq!(wanted(MINIMAL), ["base-files", "busybox-static", "tpm2-tools"]);
    let base = ["dbus", "e2fsprogs", "kmod", "systemd", "systemd-sysv", "udev"];
    assert_eq!(wanted(&format!("{DEBIAN}features = []\n")), base);
    let user =
        "features = [\"ssh\"]\npackages = [\"udev\"]\n[[users]]\nname = \"u\"\nsudo = true\n";
    assert_eq!(
        wanted(&format!("{DEBIAN}{user}")),
        ["dbus", "e2fsprogs", "kmod", "openssh-server", "sudo", "systemd", "systemd-sysv", "udev"]
    );
    assert!(wanted(DEBIAN).contains(&"systemd-resolved".to_owned()));
}

#[test]
fn a_debian_with_users_survives_being_written_and_read() {
    let text = format!(
        "{DEBIAN}features = [\"ssh\", \"time\"]\nhostname = \"x-{{serial}}\"\n[[users]]\nname = \
         \"ada\"\ngroups = [\"adm\"]\nsudo = true\nssh_keys = [\"{KEY}\"]\n[[users]]\nname = \"bob\"\n"
    );
    let recipe = Recipe::parse(&text, "r.toml").unwrap();
    assert_eq!(recipe.users.len(), 2);
    let again = toml::to_string(&recipe).unwrap();
    assert_eq!(Recipe::parse(&again, "again").unwrap(), recipe, "{again}");
}

#[test]
fn key_files_lie_beside_the_recipe_and_errors_name_their_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    let keys = dir.path().join("keys.pub");
    let user = format!("[[users]]\nname = \"ada\"\nssh_keys = [\"{KEY}\"]\n");
    let text = format!("{DEBIAN}{user}ssh_key_files = [\"keys.pub\"]\n");
    std::fs::write(&path, text).unwrap();
    let load = || Recipe::load(&path).map(|recipe| recipe.users[0].ssh_keys.clone());
    for (content, expected) in [
        (None, "No such file"),
        (Some("# nothing\n"), "it holds no key"),
        (Some("\n-----BEGIN OPENSSH PRIVATE KEY-----\n"), "line 2: this is a private key"),
        (Some("ssh-dss AAAA\n"), "line 1: no public key of OpenSSH: it begins with `ssh-dss`"),
    ] {
        if let Some(content) = content {
            std::fs::write(&keys, content).unwrap();
        }
        let message = load().unwrap_err().to_string();
        let begins = "line 10, key `ssh_key_files` of the user ada: ";
        assert!(message.contains(begins) && message.contains(expected), "{message}");
        assert!(message.contains(&keys.display().to_string()), "{message}");
    }
    std::fs::write(&keys, format!("# two\n{KEY}\n\n  {KEY}-2\n")).unwrap();
    let keys: Vec<String> = load().unwrap().into_iter().map(String::from).collect();
    assert_eq!(keys, [KEY.to_owned(), KEY.to_owned(), format!("{KEY}-2")]);
}

#[test]
fn a_recipe_of_a_newer_form_is_refused_before_its_keys_are_looked_at() {
    let newer = format!("schema = 2\nnews = true\n{MINIMAL}");
    let message = error(&newer);
    for part in ["line 1, column 10", "schema is 2", "reads schema 1"] {
        assert!(message.contains(part), "{message}");
    }
    let same = format!("schema = 1\n{MINIMAL}");
    assert_eq!(Recipe::parse(&same, "r.toml").unwrap(), Recipe::parse(MINIMAL, "r.toml").unwrap());
}

#[test]
fn a_recipe_survives_being_written_and_read() {
    let mut recipe = Recipe::parse(MINIMAL, "r.toml").unwrap();
    let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned();
    recipe.provisioning.recipient = Some(Recipient::try_from(recipient).unwrap());
    for bus in [
        None,
        Some(TpmBus::I2c),
        Some(TpmBus::Spi(SpiTpm::Stpm4raspi)),
        Some(TpmBus::Spi(SpiTpm::Slb9670)),
    ] {
        recipe.tpm.bus = bus;
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(Recipe::parse(&text, "again").unwrap(), recipe);
    }
}

#[test]
fn the_secure_world_follows_the_firmware() {
    let op_tee = Firmware::TfA(SecureWorld::OpTee);
    let cases = [
        ("", op_tee),
        ("[components]\nfirmware = \"tf-a\"\n", op_tee),
        ("[components]\nsecure_world = \"op-tee\"\n", op_tee),
        ("[components]\nsecure_world = \"none\"\n", Firmware::TfA(SecureWorld::None)),
        ("[components]\nfirmware = \"u-boot\"\n", Firmware::UBoot),
        ("[components]\nfirmware = \"u-boot\"\nsecure_world = \"none\"\n", Firmware::UBoot),
    ];
    for (tail, firmware) in cases {
        let recipe = Recipe::parse(&format!("{MINIMAL}{tail}"), "r.toml").unwrap();
        assert_eq!(recipe.components.firmware, firmware, "{tail:?}");
        let text = toml::to_string(&recipe).unwrap();
        assert_eq!(Recipe::parse(&text, "again").unwrap(), recipe, "{text}");
    }
}

#[test]
fn another_initramfs_lies_beside_the_recipe() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("recipe.toml");
    std::fs::write(&path, format!("{MINIMAL}[initramfs]\nfile = \"initrd.img\"\n")).unwrap();
    let recipe = Recipe::load(&path).unwrap();
    assert_eq!(recipe.initramfs.file, Some(dir.path().join("initrd.img")));
}

#[test]
fn a_policy_is_loaded_by_our_initramfs_alone() {
    let profile = |rest: &str| {
        let recipe = Recipe::parse(&format!("{MINIMAL}{rest}"), "r.toml");
        recipe.map(|recipe| recipe.integrity.profile()).map_err(|error| error.to_string())
    };
    let other = "[initramfs]\nfile = \"initrd.img\"\n";
    let says = |profile: &str| format!("[integrity]\nprofile = \"{profile}\"\n");
    assert_eq!(profile(""), Ok(Profile::Measure));
    assert_eq!(profile(other), Ok(Profile::None));
    assert_eq!(profile(&format!("{other}{}", says("none"))), Ok(Profile::None));
    assert_eq!(profile(&says("appraise")), Ok(Profile::Appraise));
    let error = profile(&format!("{other}{}", says("measure"))).unwrap_err();
    assert!(error.contains("loaded by our initramfs"), "{error}");
    assert!(profile(&says("some")).unwrap_err().contains("unknown variant"));
    let target =
        |rest: &str| Target::of(&Recipe::parse(&format!("{MINIMAL}{rest}"), "r.toml").unwrap());
    assert!(!target("").has_kernel_key());
    assert!(target(&says("lockdown")).has_kernel_key());
}

#[test]
fn the_counter_of_a_signed_binding_follows_the_secret() {
    let text = format!("{MINIMAL}[tpm]\nbinding = \"signed\"\nrollback = 3\n");
    let recipe = Recipe::parse(&text, "r.toml").unwrap();
    let Binding::Signed(signed) = &recipe.tpm.binding else { panic!("{recipe:?}") };
    assert_eq!((signed.counter.handle(), signed.rollback), (0x0180_6d74, 3));
    let again = toml::to_string(&recipe).unwrap();
    assert_eq!(Recipe::parse(&again, "again").unwrap(), recipe);
}

#[test]
fn errors_name_line_key_and_reason() {
    let cases = [
        ("", "", "missing field `name`"),
        (MINIMAL, "[tpm]\nbuss = 1\n", "unknown field `buss`"),
        (MINIMAL, "[tpm]\nbus = \"lpc\"\n", "line 6, column 7"),
        (MINIMAL, "[tpm]\nbus = \"lpc\"\n", "expected one of `i2c`, `spi`, `mmio`"),
        (MINIMAL, "[tpm]\nbus = \"spi\"\n", "line 5, column 1"),
        (MINIMAL, "[tpm]\nbus = \"spi\"\n", "needs device"),
        (MINIMAL, "[tpm]\nbus = \"spi\"\ndevice = \"st33\"\n", "line 7, column 10"),
        (MINIMAL, "[tpm]\nbus = \"spi\"\ndevice = \"st33\"\n", "`stpm4raspi` or `slb9670`"),
        (MINIMAL, "[tpm]\ndevice = \"slb9670\"\n", "device belongs to bus = \"spi\""),
        (MINIMAL, "[tpm]\npcrs = [8, 9, 15]\n", "none of PCR 0-7"),
        (MINIMAL, "[tpm]\npcrs = [0, 1]\n", "PCR 15 is missing"),
        (MINIMAL, "[tpm]\npcrs = [0, 0, 15]\n", "named twice"),
        (MINIMAL, "[tpm]\npcrs = [0, 10, 15]\n", "IMA's"),
        (MINIMAL, "[tpm]\npcrs = [0, 11, 15]\n", "boot phases"),
        (MINIMAL, "[tpm]\npcrs = [0, 1, 2, 3, 4, 5, 6, 7, 15]\n", "9 PCRs: at most 8"),
        (MINIMAL, "[tpm]\npcrs = [0, 15, 16]\n", "can be reset"),
        (MINIMAL, "[tpm]\npcrs = [0, 15, 24]\n", "no PCR 24"),
        (MINIMAL, "[tpm]\nnv_index = \"0x01c00000\"\n", "NV index"),
        (MINIMAL, "[tpm]\nnv_index = 25194867\n", "line 6, column 12"),
        (MINIMAL, "[tpm]\nsrk = \"0x81800000\"\n", "persistent handle"),
        (MINIMAL, "[tpm]\nbinding = \"none\"\n", "unknown variant `none`"),
        (MINIMAL, "[tpm]\nbinding = \"signed\"\n", "needs rollback"),
        (MINIMAL, "[tpm]\nbinding = \"signed\"\nrollback = 0\n", "begin with 1"),
        (MINIMAL, "[tpm]\nrollback = 1\n", "belong to binding"),
        (MINIMAL, "[tpm]\npolicy_key = \"a.pem\"\n", "belong to binding"),
        (
            MINIMAL,
            "[tpm]\nbinding = \"signed\"\nrollback = 1\ncounter = \"0x01806d73\"\n",
            "counter is the same",
        ),
        (
            MINIMAL,
            "[tpm]\nbinding = \"signed\"\nrollback = 1\nnv_index = \"0x01bfffff\"\n",
            "name one as counter",
        ),
        (MINIMAL, "[tpm]\nnv_index = \"0x01bfffff\"\n", "name one as spare_index"),
        (MINIMAL, "[tpm]\nspare_index = \"0x01806d73\"\n", "spare_index and nv_index"),
        (MINIMAL, "[tpm]\npin = \"1234\"\n", "line 6, column 7"),
        (MINIMAL, "[disk]\nsize_mib = 100\n", "for example 128"),
        (MINIMAL, "[disk]\nsize_mib = 0\n", "power of two"),
        (MINIMAL, "[disk]\nboot_mib = 20\n", "FAT32 takes 34"),
        (MINIMAL, "[disk]\nslot_mib = 0\n", "takes 1 to 64 MiB"),
        (MINIMAL, "[disk]\nslot_mib = 65\n", "takes 1 to 64 MiB"),
        (MINIMAL, "[disk]\nslot_mib = 24\n", "leave no room for the firmware"),
        (MINIMAL, "[disk]\nreserve_mib = 3\n", "takes 4 to 64 MiB"),
        (MINIMAL, "[disk]\nroot_mib = 65\n", "make 129"),
        (MINIMAL, "[disk]\nroot_mib = 4294967295\n", "root_mib is 4294967295"),
        (MINIMAL, "[root]\npackages = [\"x; rm\"]\n", "no Debian package name"),
        (MINIMAL, "[root]\npackages = [\"systemd-\"]\n", "no Debian package name"),
        (MINIMAL, "[root]\nconsole = \"ssh\"\n", "unknown variant `ssh`"),
        (MINIMAL, "[root]\nhostname = \"-a\"\n", "no host name"),
        (MINIMAL, "[root]\nsystem = \"ubuntu\"\n", "expected `busybox` or `debian`"),
        (MINIMAL, "[root]\nhostname = \"a-{serial}\"\n", "belongs to system = \"debian\""),
        (MINIMAL, "[root]\nfeatures = [\"ssh\"]\n", "`ssh` belongs to system = \"debian\""),
        (MINIMAL, "[[users]]\nname = \"a\"\n", "need system = \"debian\""),
        (DEBIAN, "console = \"shell\"\n", "belongs to system = \"busybox\""),
        (DEBIAN, "assume = [\"awk\"]\n", "belongs to system = \"busybox\""),
        (DEBIAN, "features = [\"telnet\"]\n", "line 7, column 13"),
        (DEBIAN, "features = [\"telnet\"]\n", "unknown variant `telnet`"),
        (DEBIAN, "features = [\"ssh\", \"ssh\"]\n", "`ssh` is named twice"),
        (DEBIAN, "hostname = \"{serial}{serial}\"\n", "line 7, column 12"),
        (DEBIAN, "hostname = \"{serial}-\"\n", "no `-` at either end"),
        (DEBIAN, "[[users]]\nname = \"Ada\"\n", "line 8, column 8"),
        (DEBIAN, "[[users]]\nname = \"root\"\n", "root is locked"),
        (DEBIAN, "[[users]]\nname = \"a\"\n[[users]]\nname = \"a\"\n", "is there twice"),
        (DEBIAN, "[[users]]\nname = \"a\"\ngroups = [\"g\", \"g\"]\n", "`g` is named twice"),
        (DEBIAN, "[[users]]\nname = \"a\"\npassword = \"x\"\n", "unknown field `password`"),
        (DEBIAN, "[[users]]\nname = \"a\"\nssh_keys = [\"ssh-ed25519 AAAA\"]\n", "cut or damaged"),
        (DEBIAN, "[[users]]\nname = \"a\"\nssh_keys = [\"x\"]\n", "line 9, column 12"),
        (MINIMAL, "[components]\ntrusted_applications = [\"ftpm\"]\n", "unknown variant `ftpm`"),
        (MINIMAL, "[components]\ntrusted_applications = [\"pkcs11\", \"pkcs11\"]\n", "named twice"),
        (
            MINIMAL,
            "[components]\nsecure_world = \"none\"\ntrusted_applications = [\"pkcs11\"]\n",
            "need secure_world = \"op-tee\"",
        ),
        (
            MINIMAL,
            "[components]\nfirmware = \"u-boot\"\nop_tee_development = true\n",
            "need secure_world = \"op-tee\"",
        ),
        (MINIMAL, "[provisioning]\nrecovery_tries = 0\n", "1 to 10"),
        (MINIMAL, "[provisioning]\nwait_seconds = 301\n", "line 6, column 16"),
        (MINIMAL, "[provisioning]\nprompt_seconds = 0\n", "prompt_seconds is 0"),
        (MINIMAL, "[provisioning]\ncipher = \"none\"\n", "unknown variant `none`"),
        (MINIMAL, "[provisioning]\nqr = \"utf16\"\n", "unknown variant `utf16`"),
        (MINIMAL, "[provisioning]\nrecipient = \"age1x\"\n", "line 6, column 13"),
        (MINIMAL, "[provisioning]\nrecipient = \"age1x\"\n", "no age recipient"),
        (MINIMAL, "[components]\nfirmware = \"uefi\"\n", "line 6, column 12"),
        (MINIMAL, "[components]\nfirmware = \"uefi\"\n", "expected `tf-a` or `u-boot`"),
        (MINIMAL, "[components]\nsecure_world = \"tz\"\n", "expected `op-tee` or `none`"),
        (MINIMAL, "[components]\nfirmwear = 1\n", "unknown field `firmwear`"),
        (
            MINIMAL,
            "[components]\nfirmware = \"u-boot\"\nsecure_world = \"op-tee\"\n",
            "secure_world = \"none\"",
        ),
        (MINIMAL, "[logging]\nserver = \"a\"\nca = \"ca.pem\"\n", "feature \"rsyslog\""),
        (DEBIAN, "[logging]\nca = \"ca.pem\"\n", "missing field `server`"),
        (DEBIAN, "[logging]\nserver = \"a\"\n", "missing field `ca`"),
        (DEBIAN, "[logging]\nserver = \"a:\"\nca = \"c\"\n", "has no port"),
        (DEBIAN, "[logging]\nserver = \"a:65536\"\nca = \"c\"\n", "has no port"),
        (DEBIAN, "[logging]\nserver = \"::1\"\nca = \"c\"\n", "stands in brackets"),
        (DEBIAN, "[logging]\nserver = \"[a]\"\nca = \"c\"\n", "is an IPv6 address"),
        (DEBIAN, "[logging]\nserver = \"a\\\" b\"\nca = \"c\"\n", "is no name of a host"),
        (DEBIAN, "[logging]\nserver = \"a\"\nca = \"c\"\nname = \"*\"\n", "is no name of a host"),
        (MINIMAL, "[keylime]\nverifier = \"a\"\nregistrar = \"a\"\nca = \"c\"\n", "\"attest\""),
        (DEBIAN, "[keylime]\nverifier = \"a\"\nca = \"c\"\n", "missing field `registrar`"),
        (
            DEBIAN,
            "[keylime]\nverifier = \"192.0.2.1\"\nregistrar = \"a\"\nca = \"c\"\nquarantine = \
             [\"192.0.2.2\"]\n",
            "quarantine has to name 192.0.2.1",
        ),
        (
            DEBIAN,
            "[keylime]\nverifier = \"a\"\nregistrar = \"a\"\nca = \"c\"\nquarantine = [\"::/0\"]\n",
            "is every address",
        ),
        ("name = \"../x\"\n", "", "line 1, column 8"),
    ];
    for (head, tail, expected) in cases {
        let message = error(&format!("{head}{tail}"));
        assert!(message.contains(expected), "{tail:?}: {message}");
        assert!(message.starts_with("the recipe r.toml is not valid"), "{message}");
    }
}

#[test]
fn command_lines_are_checked() {
    let cases = [
        ("console=ttyAMA0,115200 panic=10", true),
        ("rootwait initcall_debug", true),
        ("root=/dev/sda", false),
        ("quiet rdinit=/bin/sh", false),
        ("quiet init=/bin/sh", false),
        ("a\0b", false),
        ("a\nb", false),
        ("grün", false),
        ("", false),
        (" quiet", false),
    ];
    for (text, valid) in cases {
        assert_eq!(CommandLine::try_from(text.to_owned()).is_ok(), valid, "{text:?}");
    }
    let longest = "x".repeat(CommandLine::MAX);
    assert!(CommandLine::try_from(longest.clone()).is_ok());
    assert!(CommandLine::try_from(longest + "x").is_err());
}

#[test]
fn a_collector_has_a_port_and_a_name() {
    for (server, name, host, port, peer) in [
        ("log.example.org", None, "log.example.org", 6514, "log.example.org"),
        ("log:514", Some("collector"), "log", 514, "collector"),
        ("192.0.2.1", None, "192.0.2.1", 6514, "192.0.2.1"),
        ("[2001:db8::1]:99", Some("x.y"), "2001:db8::1", 99, "x.y"),
    ] {
        let name = name.map_or(String::new(), |name| format!("name = \"{name}\"\n"));
        let text = format!("{DEBIAN}[logging]\nserver = \"{server}\"\nca = \"ca.pem\"\n{name}");
        let recipe = Recipe::parse(&text, "r.toml").unwrap();
        let logging = recipe.logging.clone().unwrap();
        assert_eq!((logging.server.host(), logging.server.port()), (host, port));
        assert_eq!(logging.peer(), peer);
        let packages: Vec<_> = recipe.wanted_packages().iter().map(ToString::to_string).collect();
        assert!(packages.contains(&"rsyslog-openssl".to_owned()), "{packages:?}");
        let again = Recipe::parse(&toml::to_string(&recipe).unwrap(), "again").unwrap();
        assert_eq!(again, recipe);
    }
}

#[test]
fn the_certificate_of_a_collector_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.toml");
    std::fs::write(&path, format!("{DEBIAN}[logging]\nserver = \"a\"\nca = \"ca.pem\"\n")).unwrap();
    for (content, says) in [
        (None, "cannot read"),
        (Some("x"), "no certificate"),
        (Some("-----BEGIN PRIVATE KEY-----"), "a private key"),
    ] {
        if let Some(content) = content {
            std::fs::write(dir.path().join("ca.pem"), content).unwrap();
        }
        let error = Recipe::load(&path).unwrap_err().to_string();
        assert!(error.contains("ca of [logging]") && error.contains(says), "{error}");
    }
}
