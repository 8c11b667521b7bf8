//! The Debian that `rpi3.toml` makes: from power-on to a login, an SSH session and a systemd
//! that has nothing to complain about, and on to its updates.

use std::{fs, net::SocketAddrV4, path::Path, time::Instant};

use emulated_board::{Ended, Network};
use image_builder::{
    demo::journey::provision,
    emu::{
        boot::{Boot, PATIENCE},
        card::Card,
        device::Device,
        shell::Status,
    },
};
use msec_tests::{
    built::{built, scratch},
    operator_ssh::{self, SshOperator},
    slots,
};

/// The shipped recipe with somebody who may log in, in this version. Each has a command line
/// of its own, so that no two measure alike.
pub(crate) fn image(
    operator: &SshOperator,
    dir: &Path,
    name: &str,
    version: i64,
    more: impl FnOnce(&mut toml::Table),
) -> Card {
    let change = |recipe: &mut toml::Table| {
        let tpm = recipe["tpm"].as_table_mut().unwrap();
        tpm.insert("binding".to_owned(), "signed".into());
        tpm.insert("rollback".to_owned(), version.into());
        let line = recipe["kernel"]["command_line"].as_str().unwrap().to_owned();
        recipe["kernel"]["command_line"] = format!("{line} release={name}").into();
        let user = toml::toml! {
            name = "ada"
            groups = ["adm"]
            sudo = true
        };
        let mut user = user;
        user.insert("ssh_keys".to_owned(), vec![operator.public_key()].into());
        recipe.insert("users".to_owned(), vec![toml::Value::from(user)].into());
        // Every MiB of it is encrypted by the first boot.
        let disk = recipe["disk"].as_table_mut().unwrap();
        disk.insert("root_mib".to_owned(), 224.into());
        more(recipe);
    };
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    built().image_of("rpi3.toml", change, Vec::new(), &dir)
}

/// A boot of it that the operator may log in to.
pub(crate) struct Session<'a> {
    pub(crate) boot: Boot,
    pub(crate) address: SocketAddrV4,
    operator: &'a SshOperator,
}

impl Session<'_> {
    /// What a command prints, which must succeed.
    pub(crate) fn ask(&self, command: &str) -> String {
        let output = self.operator.run(self.address, "ada", command);
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}`: {}: {said}{errors}", output.status);
        said
    }

    /// Waits until systemd has done what a boot is to do, and looks whether something failed.
    pub(crate) fn is_running(&self) {
        let command = "systemctl is-system-running --wait || systemctl --no-legend --failed";
        assert_eq!(self.ask(command), "running");
    }

    /// What is in the slots.
    fn slots(&self) -> serde_json::Value {
        serde_json::from_str(&self.ask("sudo msec-update status --format json")).unwrap()
    }

    /// Installs an update, and restarts into it.
    fn update(mut self, image: &Card, dir: &Path) {
        let bundle = built().bundle(image, &dir.join("bundle.update"));
        self.operator.send(self.address, "ada", &bundle);
        let said = self.ask("sudo msec-update install bundle.update 2>&1");
        assert!(said.contains("which boots next and is tried 3 times"), "{said}");
        let _ = self.operator.run(self.address, "ada", "sudo systemctl reboot");
        self.boot.expect_off(&Ended::Reset).unwrap();
    }

    pub(crate) fn power_off(mut self) {
        // The connection may end before the answer comes.
        let _ = self.operator.run(self.address, "ada", "sudo systemctl poweroff");
        self.boot.expect_off(&Ended::PoweredOff).unwrap();
    }
}

/// Follows a boot to the login prompt and the SSH server.
pub(crate) fn reached<'a>(mut boot: Boot, operator: &'a SshOperator) -> Session<'a> {
    let begun = Instant::now();
    boot.expect("a login on the serial console", r"Debian GNU/Linux 13 \S+ ttyAMA0").unwrap();
    boot.expect("its prompt", r"login: $").unwrap();
    eprintln!("switch root to login: {:.0?} (at most {PATIENCE:?})", begun.elapsed());
    let address = boot.board.forwarded().unwrap();
    // systemd tells no more on the console once the prompt is there.
    assert!(operator_ssh::answers(address, PATIENCE), "the SSH server does not answer");
    Session { boot, address, operator }
}

/// A new device with this card, on our QEMU: Debian's resets the board where its watchdog is
/// started. Its Ethernet leads to the SSH server.
pub(crate) fn device(card: &Card, dir: &Path) -> Device {
    let device = Device::new(&dir.join("device"), card).unwrap();
    device.with_emulator(Some(built().emulator())).with_network(Network::Forward(22))
}

/// Its first boot, to the end.
pub(crate) fn first_boot<'a>(
    device: &Device,
    dir: &Path,
    operator: &'a SshOperator,
) -> Session<'a> {
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    let begun = Instant::now();
    provision(&mut boot, |_| ()).unwrap();
    eprintln!("provisioned in {:.0?}", begun.elapsed());
    let session = reached(boot, operator);
    session.is_running();
    session
}

#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian five times; make test-long"]
fn debian_provisions_unlocks_answers_and_is_updated() {
    let dir = scratch("debian-image");
    let operator = SshOperator::new(&dir);
    let first = image(&operator, &dir, "first", 1, |_| ());
    let device = device(&first, &dir);
    let _slot = slots::slot();

    let running = first_boot(&device, &dir, &operator);
    let machine_id = running.ask("cat /etc/machine-id");
    assert_eq!(machine_id.len(), 32, "{machine_id}");
    let name = running.ask("hostname");
    let digits = name.strip_prefix("msec-").unwrap_or_else(|| panic!("{name}"));
    assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    running.power_off();

    let mut boot = device.boot("debian-unlock", &dir.join("unlock")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let second = reached(boot, &operator);
    second.is_running();
    // What the first boot made is there, and is not made again.
    assert_eq!(second.ask("cat /etc/machine-id"), machine_id);
    assert_eq!(second.ask("hostname"), name);
    assert_eq!(operator.host_key().lines().count(), 1);
    let status: Status =
        serde_json::from_str(&second.ask("sudo initramfs-unseal status --format json")).unwrap();
    assert_eq!((status.report.method.as_str(), status.sealed.as_str()), ("tpm", "unreachable"));
    assert_eq!(status.root.source, "/dev/mapper/root");
    // The boot partition is there for whoever looks, and for reading alone.
    let mount = "sudo sh -c 'ls /boot/firmware/manifest-a.json; findmnt -n -o OPTIONS -t vfat'";
    let said = second.ask(mount);
    assert!(said.starts_with("/boot/firmware/manifest-a.json\nro,"), "{said}");
    // Debian's tools find the TPM, through the kernel's resource manager.
    assert!(second.ask("sudo tpm2_pcrread sha256:0").contains("0 : 0x"));
    // The watchdog is served by systemd.
    let said = second.ask("systemctl show --value -p RuntimeWatchdogUSec");
    assert!(!["0", "infinity"].contains(&said.as_str()), "{said}");
    let said = second.ask("systemctl show --value -p WatchdogLastPingTimestamp");
    assert!(!["", "n/a"].contains(&said.as_str()), "{said}");
    // Both clocks, logs and names are what the recipe asks for.
    let units = "systemctl is-active rsyslog systemd-timesyncd systemd-networkd systemd-resolved";
    assert_eq!(second.ask(units), ["active"; 4].join("\n"));
    assert!(second.ask("sudo tail -n1 /var/log/syslog").contains(&name));

    // Nobody else gets in: no other key, not root, no password.
    let stranger = operator.stranger();
    for (who, user) in [(&stranger, "ada"), (&operator, "root")] {
        let output = who.run(second.address, user, "true");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("(publickey)"), "{user}: {said}");
    }
    let passwords = "sudo awk -F: '$2 !~ /^[!*]/' /etc/shadow";
    assert_eq!(second.ask(passwords), "");

    // An update comes up, and nobody has to say so.
    second.update(&image(&operator, &dir, "second", 2, |_| ()), &dir);
    let mut boot = device.boot("debian-update", &dir.join("update")).unwrap();
    boot.expect("U-Boot tries it", "Slot 1 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let third = reached(boot, &operator);
    third.is_running();
    assert!(third.ask("cat /proc/cmdline").contains("release=second"));
    let slots = third.slots();
    assert_eq!((&slots["running"], &slots["good"]), (&"b".into(), &"b".into()), "{slots}");
    assert_eq!(slots["trial"], serde_json::Value::Null);
    let said = third.ask("journalctl -b -o cat -u msec-update-confirm");
    assert!(said.contains("slot B is good; nothing older than version 2"), "{said}");

    // One in which a service fails goes, by itself, and nothing is left of it.
    let unit = "[Unit]\nConditionKernelCommandLine=release=third\n[Service]\nType=oneshot\n\
                ExecStart=/bin/false\n[Install]\nWantedBy=multi-user.target\n";
    third.ask(&format!("printf '{unit}' | sudo tee /etc/systemd/system/shaky.service"));
    third.ask("sudo systemctl enable --quiet shaky");
    third.update(&image(&operator, &dir, "third", 3, |_| ()), &dir);
    let mut boot = device.boot("debian-broken", &dir.join("broken")).unwrap();
    boot.expect("U-Boot tries it", "Slot 0 on trial, attempts left: 2\n").unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    boot.expect("it restarts by itself", r"Reached target \S*shutdown\.target").unwrap();
    boot.expect_off(&Ended::Reset).unwrap();
    let mut boot = device.boot("debian-back", &dir.join("back")).unwrap();
    boot.expect("U-Boot takes the one from before", "Slot 1\n").unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let last = reached(boot, &operator);
    last.is_running();
    let slots = last.slots();
    assert_eq!((&slots["running"], &slots["trial"]), (&"b".into(), &serde_json::Value::Null));
    last.power_off();
}
