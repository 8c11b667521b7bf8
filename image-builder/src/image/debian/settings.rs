//! What an image adds to an installed Debian: its name, its mounts, its services' settings,
//! our program.

use super::ima_policy;
use crate::image::logging;
use crate::image::root::Programs;
use crate::image::tool::SOURCE_DATE_EPOCH;
use crate::image::tree::{Node, Tree};
use crate::recipe::{Feature, Features, HostnamePattern, Recipe};

/// Gives the device its name at its first boot: the serial number is the board's, and a board
/// that tells none (an emulated one) is called after `/etc/machine-id`.
const NAME_DEVICE: &str = r#"#!/bin/sh
# Names this device at its first boot. Run by msec-name-device.service.
set -eu
serial=$(tr -d '\0' 2>/dev/null </proc/device-tree/serial-number || true)
case $serial in *[!0-9A-Fa-f]*) serial= ;; esac
case $serial in *[!0]*) ;; *) serial=$(cat /etc/machine-id) ;; esac
serial=$(printf %s "$serial" | tail -c 8 | tr A-F a-f)
printf '%s%s%s\n' 'BEFORE' "$serial" 'BEHIND' >/etc/.hostname.new
sync /etc/.hostname.new
mv /etc/.hostname.new /etc/hostname
cat /etc/hostname >/proc/sys/kernel/hostname
"#;

const NAME_DEVICE_UNIT: &str = "\
[Unit]
Description=Name this device after its serial number
DefaultDependencies=no
ConditionPathExists=!/etc/hostname
After=systemd-remount-fs.service
Before=sysinit.target systemd-networkd.service
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/lib/msec-boot/name-device
";

/// Debian makes host keys when systemd calls a boot the first one, which it does not where
/// `/etc/machine-id` is there and empty. `ssh-keygen -A` makes those that are missing, thus
/// any that a power cut took as well.
const HOST_KEYS: &str = "\
[Unit]
ConditionFirstBoot=

[Service]
ExecStartPost=/usr/bin/sync
";

const SSH: &str = "\
# Keys alone: nobody has a password here.
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
";

const ETHERNET: &str = "\
[Match]
Type=ether
Kind=!*

[Link]
# A device without a network is no failure.
RequiredForOnline=no

[Network]
DHCP=yes
";

/// The BCM2835's watchdog counts to 16 seconds; for a longer time the kernel resets it every
/// eight on systemd's behalf, as long as systemd has been heard of (Linux,
/// drivers/watchdog/bcm2835_wdt.c: `max_hw_heartbeat_ms`). The driver has it count the
/// remainder by 16, which is 12 of both numbers: with 10 minutes, systemd's own choice for a
/// shutdown, it is 8, and the board restarts before the kernel gets there.
const WATCHDOG: &str = "\
[Manager]
RuntimeWatchdogSec=60
RebootWatchdogSec=124
";

/// Ordered as systemd's own `systemd-bless-boot.service`, which does this for systemd-boot:
/// it comes after everything that a boot starts, so nothing waits for it.
const CONFIRM_UNIT: &str = "\
[Unit]
Description=Confirm an update that has come up
Documentation=man:msec-update(1)
DefaultDependencies=no
Requires=boot-complete.target
After=local-fs.target boot-complete.target
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
RemainAfterExit=yes
# 1: the TPM did not unlock this boot, which confirms nothing then.
SuccessExitStatus=1
ExecStart=/usr/sbin/msec-update confirm
";

/// `cancel --if-running` refuses unless what runs is on trial; a condition that does not hold
/// is no failure (systemd.service(5), `ExecCondition=`).
const GIVE_UP_UNIT: &str = "\
[Unit]
Description=Give up an update that has not come up, and go back to the boot before it
Documentation=man:msec-update(1)
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecCondition=/usr/sbin/msec-update cancel --if-running
ExecStart=/usr/bin/systemctl --no-block reboot
";

/// For a boot that never ends.
const GIVE_UP_TIMER: &str = "\
[Unit]
Description=Give up an update that has not come up in time
Documentation=man:msec-update(1)

[Timer]
OnBootSec=15min
";

/// For a boot that ends with units that failed.
const CHECK: &str = "\
[Unit]
OnFailure=msec-update-give-up.service
";

/// The journal is a tenth of the file system otherwise.
const JOURNAL: &str = "\
[Journal]
SystemMaxUse=16M
";

const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
ff02::1 ip6-allnodes
ff02::2 ip6-allrouters
";

/// What systemd-update-done writes when `/etc` and `/var` fit `/usr`. The packages' own scripts
/// have made the linker's cache, users and databases; without this word the first boot makes
/// all of them again, which takes a minute.
fn updated() -> String {
    format!("# Made with the image.\nTIMESTAMP_NSEC={SOURCE_DATE_EPOCH}000000000\n")
}

/// The boot partition, mounted while somebody looks into it, and not for writing: it holds
/// what the board starts from. The root is mounted by the initramfs.
fn fstab(disk_id: u32) -> String {
    format!(
        "# The root is there already: initramfs-unseal has opened and mounted it.\n\
         PARTUUID={disk_id:08x}-01 /boot/firmware vfat \
         ro,nodev,nosuid,noexec,umask=0077,nofail,x-systemd.automount,x-systemd.idle-timeout=60 0 0\n"
    )
}

/// What lies on top of the base, users left out.
#[must_use]
pub fn of(recipe: &Recipe, features: &Features, disk_id: u32, programs: Programs) -> Tree {
    let mut tree = Tree::default();
    let mut file = |path: &str, text: &str| {
        tree.put(path, Node::File(0o644, text.as_bytes().to_vec()));
    };
    file("etc/fstab", &fstab(disk_id));
    file("etc/hosts", HOSTS);
    file("etc/.updated", &updated());
    file("var/.updated", &updated());
    // systemd fills it in, on each device with another one.
    file("etc/machine-id", "");
    file("etc/systemd/journald.conf.d/10-msec.conf", JOURNAL);
    file("etc/systemd/system/sshd-keygen.service.d/10-msec.conf", HOST_KEYS);
    if features.has(Feature::Ssh) {
        file("etc/ssh/sshd_config.d/10-msec.conf", SSH);
    }
    if features.has(Feature::Watchdog) {
        file("etc/systemd/system.conf.d/10-watchdog.conf", WATCHDOG);
    }
    if features.has(Feature::Network) {
        file("etc/systemd/network/20-ethernet.network", ETHERNET);
    }
    if features.has(Feature::Update) {
        file("usr/lib/systemd/system/msec-update-confirm.service", CONFIRM_UNIT);
        file("usr/lib/systemd/system/msec-update-give-up.service", GIVE_UP_UNIT);
        file("usr/lib/systemd/system/msec-update-give-up.timer", GIVE_UP_TIMER);
        file("etc/systemd/system/systemd-boot-check-no-failures.service.d/10-msec.conf", CHECK);
    }
    for (unit, text, _) in ima_policy::units(features) {
        file(&format!("usr/lib/systemd/system/{unit}"), text);
    }
    if let Some(logging) = &recipe.logging {
        for (path, text) in logging::files(logging) {
            file(path, &text);
        }
    }
    if let Some(keylime) = &recipe.keylime {
        file(ima_policy::KEYLIME_ARGUMENTS, &ima_policy::arguments(keylime));
        file(ima_policy::KEYLIME_CA.trim_start_matches('/'), &keylime.ca_text);
    }
    let name = recipe.root.hostname.as_ref().map_or(recipe.name.as_str(), HostnamePattern::as_str);
    match name.split_once(HostnamePattern::SERIAL) {
        None => file("etc/hostname", &format!("{name}\n")),
        Some((before, behind)) => {
            let script = NAME_DEVICE.replace("BEFORE", before).replace("BEHIND", behind);
            file("usr/lib/systemd/system/msec-name-device.service", NAME_DEVICE_UNIT);
            let path = "usr/lib/msec-boot/name-device";
            tree.put(path, Node::File(0o755, script.into_bytes()));
            wants(&mut tree, "sysinit.target", "msec-name-device.service");
        }
    }
    if features.has(Feature::Network) {
        wants(&mut tree, "multi-user.target", "systemd-networkd.service");
        wants(&mut tree, "sockets.target", "systemd-networkd.socket");
        let alias = "etc/systemd/system/dbus-org.freedesktop.network1.service";
        let unit = "/usr/lib/systemd/system/systemd-networkd.service";
        tree.put(alias, Node::Symlink(unit.to_owned()));
        let stub = "../run/systemd/resolve/stub-resolv.conf";
        tree.put("etc/resolv.conf", Node::Symlink(stub.to_owned()));
    }
    if features.has(Feature::Update) {
        wants(&mut tree, "multi-user.target", "msec-update-confirm.service");
        wants(&mut tree, "timers.target", "msec-update-give-up.timer");
        let check = "systemd-boot-check-no-failures.service";
        let link = format!("etc/systemd/system/boot-complete.target.requires/{check}");
        tree.put(&link, Node::Symlink(format!("/usr/lib/systemd/system/{check}")));
    }
    for (unit, _, target) in ima_policy::units(features) {
        if let Some(target) = target {
            wants(&mut tree, target, unit);
        }
    }
    tree.put("boot/firmware", Node::Directory(0o755));
    tree.put("usr/sbin/initramfs-unseal", Node::File(0o755, programs.unseal));
    tree.put("usr/sbin/msec-update", Node::File(0o755, programs.update));
    if let Some(program) = programs.ima_policy {
        tree.put("usr/bin/ima-policy", Node::File(0o755, program));
    }
    tree
}

/// As `systemctl enable` has it.
fn wants(tree: &mut Tree, target: &str, unit: &str) {
    let link = format!("etc/systemd/system/{target}.wants/{unit}");
    tree.put(&link, Node::Symlink(format!("/usr/lib/systemd/system/{unit}")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(root: &str) -> Tree {
        let text = format!(
            "name = \"card\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\n\
             system = \"debian\"\n{root}\n"
        );
        let recipe = Recipe::parse(&text, "test").unwrap();
        let crate::recipe::System::Debian(features) = &recipe.root.system else { panic!() };
        let programs = Programs {
            unseal: b"unseal".to_vec(),
            update: b"update".to_vec(),
            ima_policy: Some(b"ima-policy".to_vec()),
        };
        of(&recipe, features, 0xdead_0001, programs)
    }

    fn text(tree: &Tree, path: &str) -> String {
        match tree.get(path) {
            Some(Node::File(_, bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn an_image_has_no_identity_of_a_device() {
        let tree = tree("hostname = \"pi-{serial}-x\"");
        assert_eq!(text(&tree, "etc/machine-id"), "");
        assert_eq!(tree.get("etc/hostname"), None);
        let script = text(&tree, "usr/lib/msec-boot/name-device");
        assert!(script.contains("printf '%s%s%s\\n' 'pi-' \"$serial\" '-x'"), "{script}");
        assert!(tree.iter().all(|(path, _)| !path.contains("ssh_host")));
    }

    #[test]
    fn a_name_without_a_serial_number_stands_there() {
        assert_eq!(text(&tree("hostname = \"door\""), "etc/hostname"), "door\n");
        let tree = tree("");
        assert_eq!(text(&tree, "etc/hostname"), "card\n");
        assert_eq!(tree.get("usr/lib/msec-boot/name-device"), None);
    }

    #[test]
    fn settings_follow_the_features() {
        let places = [
            ("watchdog", "etc/systemd/system.conf.d/10-watchdog.conf"),
            ("network", "etc/systemd/network/20-ethernet.network"),
            ("network", "etc/systemd/system/multi-user.target.wants/systemd-networkd.service"),
            ("ssh", "etc/ssh/sshd_config.d/10-msec.conf"),
            ("update", "etc/systemd/system/multi-user.target.wants/msec-update-confirm.service"),
            ("update", "etc/systemd/system/timers.target.wants/msec-update-give-up.timer"),
            ("watch", "usr/lib/systemd/system/ima-policy-watch.service"),
            ("watch", "etc/systemd/system/sysinit.target.wants/ima-policy-watch.service"),
            ("attest", "usr/lib/systemd/system/ima-policy-keylime.service"),
            ("attest", "etc/systemd/system/sysinit.target.wants/ima-policy-quarantine.service"),
        ];
        for (feature, path) in places {
            assert!(tree("").get(path).is_some(), "{path}");
            assert!(tree(&format!("features = [\"{feature}\"]")).get(path).is_some(), "{path}");
            assert_eq!(tree("features = []").get(path), None, "{path}");
        }
    }

    #[test]
    fn the_boot_partition_is_named_by_the_partition_table() {
        let fstab = text(&tree(""), "etc/fstab");
        assert!(fstab.contains("\nPARTUUID=dead0001-01 /boot/firmware vfat ro,"), "{fstab}");
        assert_eq!(text(&tree(""), "usr/sbin/initramfs-unseal"), "unseal");
        assert_eq!(text(&tree(""), "usr/sbin/msec-update"), "update");
        assert_eq!(text(&tree(""), "usr/bin/ima-policy"), "ima-policy");
    }
}
