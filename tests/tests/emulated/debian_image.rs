//! The Debian that `rpi3.toml` makes: from power-on to a login, an SSH session and a systemd
//! that has nothing to complain about.

use std::{net::SocketAddrV4, path::Path, time::Instant};

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

/// The shipped recipe with somebody who may log in.
fn image(operator: &SshOperator, dir: &Path) -> Card {
    let change = |recipe: &mut toml::Table| {
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
        // QEMU's model of the board resets it where its watchdog is only started.
        let root = recipe["root"].as_table_mut().unwrap();
        let features = root["features"].as_array_mut().unwrap();
        features.retain(|feature| feature.as_str() != Some("watchdog"));
    };
    built().image_of("rpi3.toml", change, Vec::new(), dir)
}

/// A boot of it that the operator may log in to.
struct Session<'a> {
    boot: Boot,
    address: SocketAddrV4,
    operator: &'a SshOperator,
}

impl Session<'_> {
    /// What a command prints, which must succeed.
    fn ask(&self, command: &str) -> String {
        let output = self.operator.run(self.address, "ada", command);
        let said = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}`: {}: {said}{errors}", output.status);
        said
    }

    /// Waits until systemd has done what a boot is to do, and looks whether something failed.
    fn is_running(&self) {
        let command = "systemctl is-system-running --wait || systemctl --no-legend --failed";
        assert_eq!(self.ask(command), "running");
    }

    fn power_off(mut self) {
        // The connection may end before the answer comes.
        let _ = self.operator.run(self.address, "ada", "sudo systemctl poweroff");
        self.boot.expect_off(&Ended::PoweredOff).unwrap();
    }
}

/// Follows a boot to the login prompt and the SSH server.
fn reached<'a>(mut boot: Boot, operator: &'a SshOperator) -> Session<'a> {
    let begun = Instant::now();
    boot.expect("a login on the serial console", r"Debian GNU/Linux 13 \S+ ttyAMA0").unwrap();
    boot.expect("its prompt", r"login: $").unwrap();
    eprintln!("switch root to login: {:.0?} (at most {PATIENCE:?})", begun.elapsed());
    let address = boot.board.forwarded().unwrap();
    // systemd tells no more on the console once the prompt is there.
    assert!(operator_ssh::answers(address, PATIENCE), "the SSH server does not answer");
    Session { boot, address, operator }
}

#[test]
#[ignore = "encrypts a root of 224 MiB and boots a Debian twice; make test-long"]
fn debian_provisions_unlocks_and_answers() {
    let dir = scratch("debian-image");
    let operator = SshOperator::new(&dir);
    let image = image(&operator, &dir);
    let device = Device::new(&dir.join("device"), &image).unwrap();
    let device = device.with_network(Network::Forward(22));
    let _slot = slots::slot();

    let mut boot = device.boot("debian-provision", &dir.join("provision")).unwrap();
    let begun = Instant::now();
    provision(&mut boot, |_| ()).unwrap();
    eprintln!("provisioned in {:.0?}", begun.elapsed());
    let first = reached(boot, &operator);
    first.is_running();
    let machine_id = first.ask("cat /etc/machine-id");
    assert_eq!(machine_id.len(), 32, "{machine_id}");
    let name = first.ask("hostname");
    let digits = name.strip_prefix("msec-").unwrap_or_else(|| panic!("{name}"));
    assert!(digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    first.power_off();

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
    second.power_off();
}
