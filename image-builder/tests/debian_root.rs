//! From the archive of an installed Debian to a file system: what mmdebstrap made of owners,
//! modes and attributes arrives, and what the recipe adds lies on top. A small stand-in for
//! the archive; judged by e2fsprogs. Runs in the build root, as root.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail like tests"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use image_builder::image::root::Programs;
use image_builder::image::{debian, ext4, root};
use image_builder::recipe::{Recipe, System};

const RECIPE: &str = r#"
name = "card"
board = "rpi3"
[kernel]
command_line = "quiet"
[root]
system = "debian"
features = ["ssh", "watchdog"]
hostname = "pi-{serial}"
[[users]]
name = "ada"
groups = ["adm"]
sudo = true
ssh_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQSLuM+uMnsTIiLRUBaXQ4ayoZvZ0BvNfZRLQ1hVeAs a@b"]
"#;

/// cap_net_raw=ep (Linux, include/uapi/linux/capability.h: `struct vfs_cap_data`, revision 2).
const CAPABILITY: &str = "0100000200200000000000000000000000000000";

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}{errors}");
    said
}

/// A stand-in for what mmdebstrap makes.
fn archive(dir: &Path) -> PathBuf {
    let base = dir.join("base");
    let file = |path: &str, mode: u32, owner: (u32, u32), text: &str| {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        chown(&path, Some(owner.0), Some(owner.1)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("etc/passwd", 0o644, (0, 0), "root:x:0:0:root:/root:/bin/bash\n");
    file("etc/group", 0o644, (0, 0), "root:x:0:\nadm:x:4:\nsudo:x:27:\nshadow:x:42:\n");
    file("etc/shadow", 0o640, (0, 42), "root:*:20454:0:99999:7:::\n");
    file("etc/gshadow", 0o640, (0, 42), "root:*::\nadm:*::\nsudo:*::\nshadow:*::\n");
    file("etc/skel/.profile", 0o644, (0, 0), "# profile\n");
    file("etc/machine-id", 0o444, (0, 0), "uninitialized\n");
    file("usr/bin/sudo", 0o4755, (0, 0), "sudo");
    file("usr/bin/chage", 0o2755, (0, 42), "chage");
    file("usr/bin/ping", 0o755, (0, 0), "ping");
    file("var/lib/tpm/state", 0o600, (100, 102), "state");
    let ping = base.join("usr/bin/ping");
    let code =
        "import os,sys; os.setxattr(sys.argv[1],'security.capability',bytes.fromhex(sys.argv[2]))";
    run("python3", &["-c", code, ping.to_str().unwrap(), CAPABILITY]);
    fs::hard_link(&ping, base.join("usr/bin/ping6")).unwrap();
    symlink("usr/bin", base.join("bin")).unwrap();
    fs::set_permissions(base.join("var/lib/tpm"), fs::Permissions::from_mode(0o1770)).unwrap();
    let archive = dir.join("root.tar");
    run(
        "tar",
        &[
            "--create",
            "--format=pax",
            "--xattrs",
            "--numeric-owner",
            "--sort=name",
            "--file",
            archive.to_str().unwrap(),
            "--directory",
            base.to_str().unwrap(),
            ".",
        ],
    );
    archive
}

fn image(archive: &Path, dir: &Path, name: &str) -> PathBuf {
    let recipe = Recipe::parse(RECIPE, "test").unwrap();
    let System::Debian(features) = &recipe.root.system else { panic!("a Debian") };
    let files = dir.join(format!("{name}-files"));
    root::begin(&files).unwrap();
    let programs =
        Programs { unseal: b"unseal".to_vec(), update: b"update".to_vec(), ima_policy: None };
    debian::lay_out(archive, &recipe, features, 0x0102_0304, programs, &files).unwrap();
    let image = dir.join(name);
    ext4::make(&files, 32 << 20, "card", &image).unwrap();
    image
}

#[test]
fn owners_modes_and_attributes_arrive_and_the_recipe_lies_on_top() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let image = image(&archive, dir.path(), "first");
    let path = image.to_str().unwrap();
    run("e2fsck", &["-fn", path]);
    let ask = |command: &str| run("debugfs", &["-R", command, path]);
    for (file, mode, user, group) in [
        ("/usr/bin/sudo", "04755", 0, 0),
        ("/usr/bin/chage", "02755", 0, 42),
        ("/var/lib/tpm", "01770", 0, 0),
        ("/var/lib/tpm/state", "0600", 100, 102),
        ("/etc/shadow", "0640", 0, 42),
        ("/etc/sudoers.d/ada", "0440", 0, 0),
        ("/home/ada", "0700", 1000, 1000),
        ("/home/ada/.ssh/authorized_keys", "0600", 1000, 1000),
        ("/home/ada/.profile", "0644", 1000, 1000),
        ("/usr/sbin/initramfs-unseal", "0755", 0, 0),
    ] {
        let said = ask(&format!("stat {file}"));
        let words: Vec<&str> = said.split_whitespace().collect();
        let value = |key: &str| {
            let at = words.iter().position(|word| *word == key).unwrap_or_else(|| panic!("{said}"));
            words[at + 1]
        };
        assert_eq!(value("Mode:"), mode, "{file}: {said}");
        assert_eq!((value("User:"), value("Group:")), (&*user.to_string(), &*group.to_string()));
    }
    let capability = ask("ea_get -x /usr/bin/ping security.capability").replace(' ', "");
    assert!(capability.contains(CAPABILITY), "{capability}");
    assert!(ask("stat /usr/bin/ping6").contains("Links: 2"));
    assert!(ask("stat /bin").contains("Fast link dest: \"usr/bin\""));
    // No identity and no password; root is locked.
    assert_eq!(ask("cat /etc/machine-id"), "");
    assert!(ask("cat /etc/shadow").starts_with("root:!*:"));
    assert!(ask("cat /etc/fstab").contains("PARTUUID=01020304-01 /boot/firmware vfat ro,"));
}

#[test]
fn the_same_archive_and_recipe_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let one = fs::read(image(&archive, dir.path(), "first")).unwrap();
    let other = fs::read(image(&archive, dir.path(), "second")).unwrap();
    assert!(one == other, "they differ");
}
