//! What the image adds to the packages of a root file system: busybox as init,
//! its table, the scripts that start and stop the system, and a name.

use super::integrity::KNOWN;
use super::logging;
use super::root::Programs;
use super::tree::{Node, Tree};
use crate::recipe::{Busybox, Console, Feature, Recipe};

/// Where busybox lies.
const BUSYBOX: &str = "usr/bin/busybox";

/// What is linked to busybox below `/usr/bin`.
const COMMANDS: [&str; 76] = [
    "[",
    "ash",
    "awk",
    "basename",
    "cat",
    "chmod",
    "chown",
    "clear",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "hexdump",
    "hostname",
    "id",
    "kill",
    "killall",
    "less",
    "ln",
    "logger",
    "ls",
    "md5sum",
    "mkdir",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nproc",
    "od",
    "pidof",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "strings",
    "stty",
    "sync",
    "tail",
    "tar",
    "tee",
    "test",
    "top",
    "touch",
    "true",
    "umount",
    "uname",
    "uptime",
    "vi",
    "wc",
    "xargs",
];

/// What is linked to busybox below `/usr/sbin`.
const SYSTEM_COMMANDS: [&str; 10] = [
    "blockdev", "halt", "init", "ip", "klogd", "losetup", "poweroff", "reboot", "sysctl", "syslogd",
];

/// Gives OP-TEE's trusted applications what of the running system they need: files to
/// keep their objects in.
const SUPPLICANT: &str = "usr/sbin/tee-supplicant";

/// Watches what runs.
const IMA_POLICY: &str = "usr/bin/ima-policy";

/// The applet that asks for an address.
const DHCP: &str = "udhcpc";

/// Why there is no userland.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UserlandError {
    /// No busybox.
    #[error("the packages bring no /usr/bin/busybox: add busybox-static to `packages` in [root]")]
    NoBusybox,
    /// This busybox lacks an applet.
    #[error("the busybox of the packages has no `{0}`, which this userland needs")]
    Applet(String),
    /// Trusted applications, and no tee-supplicant.
    #[error(
        "the packages bring no /usr/sbin/tee-supplicant, without which trusted applications keep \
         nothing: add tee-supplicant to `packages` in [root]"
    )]
    NoSupplicant,
}

/// Runs once, before everything else.
///
/// initramfs-unseal hands over /proc, /sys, /dev and /run; the rest is mounted
/// here, and what is there already stays.
const START: &str = r#"#!/bin/sh
# Starts the system: mounts, host name, loopback. Run once by init.
PATH=/usr/sbin:/usr/bin
export PATH
missing() { ! grep -q " $1 " /proc/mounts; }
[ -e /proc/mounts ] || mount -t proc -o nosuid,nodev,noexec proc /proc
missing /sys && mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
missing /dev && mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
missing /run && mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
missing /tmp && mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs /tmp
mkdir -p /dev/pts
missing /dev/pts && mount -t devpts -o nosuid,noexec,gid=5,mode=620 devpts /dev/pts
mount -o remount,rw /
hostname -F /etc/hostname
ip link set lo up 2>/dev/null
root=$(awk '$2 == "/" { source = $1 } END { print source }' /proc/mounts)
echo "msec-boot: userland on $root reached"
"#;

/// Runs once, before init ends what is left, so that the root is clean.
const STOP: &str = r#"#!/bin/sh
# Stops the system: ends every process, then lets go of the file systems.
PATH=/usr/sbin:/usr/bin
export PATH
echo "msec-boot: stopping"
kill -TERM -1
sleep 1
kill -KILL -1
sync
mount -o remount,ro /
umount -a -r 2>/dev/null
"#;

/// Asks for an address, on the first adapter that is a device's; init calls it again.
const NETWORK: (&str, &str) = (
    "usr/lib/msec-boot/network",
    r#"#!/bin/sh
# Gets an address by DHCP for the first Ethernet adapter. Kept running by init.
PATH=/usr/sbin:/usr/bin
export PATH
for adapter in /sys/class/net/*; do
    [ -e "$adapter/device" ] && [ "$(cat "$adapter/type")" = 1 ] || continue
    exec busybox udhcpc -f -S -i "${adapter##*/}" -s /usr/lib/msec-boot/address
done
# None yet: USB takes its time.
sleep 1
"#,
);

/// What udhcpc calls with what it got.
const ADDRESS: (&str, &str) = (
    "usr/lib/msec-boot/address",
    r#"#!/bin/sh
# Does with the adapter what DHCP said. Called by udhcpc, which checks what it hands over.
case $1 in
deconfig)
    ip address flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip address replace "$ip/$mask" dev "$interface"
    for gateway in $router; do
        ip route replace default via "$gateway" dev "$interface" && break
    done
    for server in $dns; do echo "nameserver $server"; done >/etc/.resolv.conf.new
    mv /etc/.resolv.conf.new /etc/resolv.conf
    ;;
esac
"#,
);

/// What init keeps running.
#[derive(Debug)]
struct Services<'a> {
    settings: &'a Busybox,
    /// Whether the kernel has a policy whose list can be watched.
    measures: bool,
    supplicant: bool,
}

impl Services<'_> {
    fn lines(&self) -> String {
        let has = |feature| self.settings.features.has(feature);
        let mut lines = String::new();
        let mut keep = |command: &str| lines += &format!("::respawn:{command}\n");
        if has(Feature::Rsyslog) {
            keep("/usr/sbin/rsyslogd -n -i NONE");
        } else {
            keep("/usr/sbin/syslogd -n -s 256 -b 1");
            keep("/usr/sbin/klogd -n");
        }
        if has(Feature::Network) {
            keep(&format!("/{}", NETWORK.0));
        }
        if has(Feature::Watch) && self.measures {
            keep(&format!("/{IMA_POLICY} watch --known {KNOWN}"));
        }
        if self.supplicant {
            keep(&format!("/{SUPPLICANT}"));
        }
        lines
    }
}

/// `/etc/inittab` of busybox's init.
fn inittab(services: &Services<'_>, terminal: &str) -> String {
    let shell = match services.settings.console {
        Console::None => String::new(),
        Console::Shell => format!("{terminal}::askfirst:-/bin/sh\n"),
    };
    format!(
        "::sysinit:/etc/init.d/start\n\
         {}\
         {shell}\
         ::ctrlaltdel:/usr/sbin/reboot\n\
         ::shutdown:/etc/init.d/stop\n",
        services.lines()
    )
}

/// The terminal of the command line's last `console=`, as the kernel picks it.
fn terminal(command_line: &str) -> &str {
    command_line
        .split(' ')
        .filter_map(|word| word.strip_prefix("console="))
        .next_back()
        .and_then(|console| console.split(',').next())
        .unwrap_or_default()
}

/// Completes the packages' files with what makes a system of them.
///
/// # Errors
/// If the packages bring no busybox, or one that lacks something.
pub fn complete(
    tree: &mut Tree,
    recipe: &Recipe,
    settings: &Busybox,
    programs: Programs,
) -> Result<(), UserlandError> {
    let Some(Node::File(_, busybox)) = tree.get(BUSYBOX) else {
        return Err(UserlandError::NoBusybox);
    };
    let has = |feature| settings.features.has(feature);
    check_applets(busybox, has(Feature::Network).then_some(DHCP))?;
    let supplicant = tree.get(SUPPLICANT).is_some();
    if !supplicant && !recipe.components.trusted_applications.is_empty() {
        return Err(UserlandError::NoSupplicant);
    }

    for name in COMMANDS {
        link(tree, &format!("usr/bin/{name}"), "busybox");
    }
    for name in SYSTEM_COMMANDS {
        link(tree, &format!("usr/sbin/{name}"), "../bin/busybox");
    }
    for name in ["bin", "lib", "sbin"] {
        tree.put(name, Node::Symlink(format!("usr/{name}")));
    }
    for (name, mode) in [
        ("boot", 0o755),
        ("dev", 0o755),
        ("home", 0o755),
        ("mnt", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("var/lib", 0o755),
        ("var/log", 0o755),
        ("var/tmp", 0o1777),
    ] {
        tree.put(name, Node::Directory(mode));
    }

    let measures = recipe.integrity.profile().policy().is_some();
    let services = Services { settings, measures, supplicant };
    let hostname = recipe.root.hostname.as_ref().map_or(recipe.name.as_str(), |name| name.as_str());
    let terminal = terminal(recipe.kernel.command_line.as_str());
    for (path, mode, text) in [
        ("etc/hostname", 0o644, format!("{hostname}\n")),
        ("etc/hosts", 0o644, format!("127.0.0.1 localhost\n127.0.1.1 {hostname}\n::1 localhost\n")),
        ("etc/inittab", 0o644, inittab(&services, terminal)),
        ("etc/init.d/start", 0o755, START.to_owned()),
        ("etc/init.d/stop", 0o755, STOP.to_owned()),
        // No password fits `*`: nobody logs in.
        ("etc/passwd", 0o644, "root:*:0:0:root:/root:/bin/sh\n".to_owned()),
        ("etc/group", 0o644, "root:x:0:\nadm:x:4:\ntty:x:5:\ndisk:x:6:\n".to_owned()),
        ("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files\n".to_owned()),
        // The kernel's resource manager: tools of the userland share the TPM.
        ("etc/profile.d/tpm.sh", 0o644, "export TPM2TOOLS_TCTI=device:/dev/tpmrm0\n".to_owned()),
        (
            "etc/profile",
            0o644,
            "export PATH=/usr/sbin:/usr/bin\n\
             for part in /etc/profile.d/*.sh; do [ -r \"$part\" ] && . \"$part\"; done\n\
             unset part\n"
                .to_owned(),
        ),
    ] {
        tree.put(path, Node::File(mode, text.into_bytes()));
    }
    if has(Feature::Network) {
        for (path, text) in [NETWORK, ADDRESS] {
            tree.put(path, Node::File(0o755, text.as_bytes().to_vec()));
        }
    }
    if has(Feature::Rsyslog) {
        for ((path, text), mode) in [(logging::OF_BUSYBOX, 0o644), (logging::ROTATE, 0o755)] {
            tree.put(path, Node::File(mode, text.as_bytes().to_vec()));
        }
        tree.put(logging::SPOOL.trim_start_matches('/'), Node::Directory(0o700));
    }
    for (path, text) in recipe.logging.iter().flat_map(logging::files) {
        tree.put(path, Node::File(0o644, text.into_bytes()));
    }
    tree.put("usr/sbin/initramfs-unseal", Node::File(0o755, programs.unseal));
    tree.put("usr/sbin/msec-update", Node::File(0o755, programs.update));
    if let Some(program) = programs.ima_policy {
        tree.put(IMA_POLICY, Node::File(0o755, program));
    }
    Ok(())
}

/// Links a command to busybox unless a package brings the real one.
fn link(tree: &mut Tree, path: &str, target: &str) {
    if tree.get(path).is_none() {
        tree.put(path, Node::Symlink(target.to_owned()));
    }
}

/// Looks every applet up in busybox's table of names (NUL between them), since
/// a busybox for another machine cannot be asked.
fn check_applets(busybox: &[u8], more: Option<&str>) -> Result<(), UserlandError> {
    // The table begins with its two odd names (busybox, include/applets.src.h)
    // and is some 3 KiB long.
    const START: &[u8] = b"[\0[[\0";
    let mut table = vec![0];
    if let Some(at) = busybox.windows(START.len()).position(|w| w == START) {
        table.extend(busybox.iter().skip(at).take(8192));
    }
    let has = |name: &str| {
        let entry = [&b"\0"[..], name.as_bytes(), b"\0"].concat();
        table.windows(entry.len()).any(|window| window == entry)
    };
    match COMMANDS.iter().chain(&SYSTEM_COMMANDS).copied().chain(more).find(|name| !has(name)) {
        Some(name) => Err(UserlandError::Applet(name.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(console: &str) -> Recipe {
        let text = format!(
            "name = \"card\"\nboard = \"rpi3\"\n[kernel]\n\
             command_line = \"console=tty1 console=ttyAMA0,115200\"\n[root]\nconsole = \"{console}\"\n"
        );
        Recipe::parse(&text, "test").unwrap()
    }

    fn busybox(without: &str) -> Tree {
        let mut table = b"\x7fELF [\0[[\0".to_vec();
        for name in COMMANDS.iter().chain(&SYSTEM_COMMANDS).chain(&[DHCP]) {
            if *name != without {
                table.extend_from_slice(name.as_bytes());
                table.push(0);
            }
        }
        let mut tree = Tree::default();
        tree.put(BUSYBOX, Node::File(0o755, table));
        tree
    }

    fn complete_for(
        tree: &mut Tree,
        recipe: &Recipe,
        unseal: Vec<u8>,
    ) -> Result<(), UserlandError> {
        let ima_policy = recipe.root.has_ima_policy().then(|| b"ima-policy".to_vec());
        let programs = Programs { unseal, update: b"update".to_vec(), ima_policy };
        complete(tree, recipe, &recipe.root.busybox(), programs)
    }

    fn completed(console: &str) -> Tree {
        let mut tree = busybox("");
        complete_for(&mut tree, &recipe(console), b"unseal".to_vec()).unwrap();
        tree
    }

    fn text_of(tree: &Tree, path: &str) -> String {
        match tree.get(path) {
            Some(Node::File(_, bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn only_a_recipe_that_asks_for_it_gets_a_shell() {
        let shell = "ttyAMA0::askfirst:-/bin/sh\n";
        assert!(text_of(&completed("shell"), "etc/inittab").contains(shell));
        let without = text_of(&completed("none"), "etc/inittab");
        assert!(!without.contains("sh\n"), "{without}");
        assert!(text_of(&completed("none"), "etc/passwd").starts_with("root:*:"));
    }

    #[test]
    fn init_and_unseal_are_there() {
        let tree = completed("none");
        let init = Node::Symlink("../bin/busybox".to_owned());
        assert_eq!(tree.get("usr/sbin/init"), Some(&init));
        assert_eq!(tree.get("sbin"), Some(&Node::Symlink("usr/sbin".to_owned())));
        assert_eq!(text_of(&tree, "usr/sbin/initramfs-unseal"), "unseal");
        assert_eq!(text_of(&tree, "usr/sbin/msec-update"), "update");
        assert_eq!(text_of(&tree, "etc/hostname"), "card\n");
        assert_eq!(tree.get("tmp"), Some(&Node::Directory(0o1777)));
    }

    #[test]
    fn a_real_command_is_not_replaced() {
        let mut tree = busybox("");
        tree.put("usr/bin/ls", Node::File(0o755, b"real".to_vec()));
        complete_for(&mut tree, &recipe("none"), vec![]).unwrap();
        assert_eq!(text_of(&tree, "usr/bin/ls"), "real");
    }

    #[test]
    fn trusted_applications_need_their_supplicant_and_it_is_kept_running() {
        let mut recipe = recipe("none");
        let apps = vec![crate::recipe::TrustedApp::Pkcs11];
        recipe.components.trusted_applications = apps.try_into().unwrap();
        let error = complete_for(&mut busybox(""), &recipe, vec![]).unwrap_err();
        assert_eq!(error, UserlandError::NoSupplicant);
        let mut tree = busybox("");
        tree.put(SUPPLICANT, Node::File(0o755, vec![]));
        complete_for(&mut tree, &recipe, vec![]).unwrap();
        let line = "::respawn:/usr/sbin/tee-supplicant\n";
        assert!(text_of(&tree, "etc/inittab").contains(line));
        assert!(!text_of(&completed("none"), "etc/inittab").contains("tee-supplicant"));
    }

    #[test]
    fn a_busybox_that_lacks_something_is_refused() {
        let mut tree = busybox("init");
        let error = complete_for(&mut tree, &recipe("none"), vec![]).unwrap_err();
        assert_eq!(error, UserlandError::Applet("init".to_owned()));
        let error = complete_for(&mut Tree::default(), &recipe("none"), vec![]).unwrap_err();
        assert_eq!(error, UserlandError::NoBusybox);
    }

    #[test]
    fn services_follow_the_features() {
        let with = |features: &[&str], profile: &str| {
            let text = format!(
                "name = \"card\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\n\
                 features = {features:?}\n[integrity]\nprofile = \"{profile}\"\n"
            );
            let mut tree = busybox("");
            complete_for(&mut tree, &Recipe::parse(&text, "test").unwrap(), vec![]).unwrap();
            let lines = text_of(&tree, "etc/inittab");
            let kept = lines.lines().filter_map(|line| line.strip_prefix("::respawn:"));
            let kept: Vec<_> = kept.map(str::to_owned).collect();
            assert!(kept.iter().all(|command| {
                let path = command.split(' ').next().unwrap().trim_start_matches('/');
                path == "usr/sbin/rsyslogd" || tree.get(path).is_some()
            }));
            kept
        };
        let watch = "/usr/bin/ima-policy watch --known /usr/lib/msec";
        let log = ["/usr/sbin/syslogd -n -s 256 -b 1", "/usr/sbin/klogd -n"];
        assert_eq!(with(&[], "measure"), log);
        assert_eq!(with(&["watch"], "measure"), [log[0], log[1], watch]);
        assert_eq!(with(&["watch"], "none"), log);
        let all = ["/usr/sbin/rsyslogd -n -i NONE", "/usr/lib/msec-boot/network", watch];
        assert_eq!(with(&["network", "rsyslog", "watch"], "appraise"), all);
        let text = "name = \"card\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\n\
                    features = [\"network\"]\n";
        let recipe = Recipe::parse(text, "test").unwrap();
        let error = complete_for(&mut busybox(DHCP), &recipe, vec![]).unwrap_err();
        assert_eq!(error, UserlandError::Applet(DHCP.to_owned()));
    }

    #[test]
    fn the_terminal_is_the_last_console() {
        for (line, expected) in [
            ("console=ttyAMA0,115200 panic=10", "ttyAMA0"),
            ("console=ttyAMA0 console=tty1", "tty1"),
            ("quiet", ""),
        ] {
            assert_eq!(terminal(line), expected);
        }
    }
}
