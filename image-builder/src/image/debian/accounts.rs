//! Users: lines for `/etc/passwd` and its like, home directories, keys, rights.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{DebianError, Skeleton};
use crate::image::tool::SOURCE_DATE_EPOCH;
use crate::image::tree::{Node, Owner, Tree};
use crate::recipe::User;

/// The first user's number, and group (Debian, adduser.conf: `FIRST_UID`).
const FIRST: u32 = 1000;

/// Why a user cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The name is taken.
    #[error("[[users]] {0}: Debian has a user or group of this name already: choose another one")]
    Taken(String),
    /// A number is taken.
    #[error("[[users]] {0}: the number {1} is taken by a package's user or group")]
    Number(String, u32),
    /// No such group.
    #[error(
        "[[users]] {user}: there is no group `{group}`; there are {have}; a package that brings it \
         belongs into `packages` in [root]"
    )]
    NoGroup {
        /// The user.
        user: String,
        /// The group.
        group: String,
        /// Those that there are.
        have: String,
    },
}

/// The files that say who there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    passwd: String,
    group: String,
    shadow: String,
    gshadow: String,
}

/// The value of a field of a line, as `NAME:...` has them.
fn field(line: &str, index: usize) -> &str {
    line.split(':').nth(index).unwrap_or_default()
}

fn find<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| field(line, 0) == name)
}

/// Adds a member to a group's list, its last field.
fn join(text: &str, group: &str, member: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        all.push_str(line);
        if field(line, 0) == group {
            if !line.ends_with(':') {
                all.push(',');
            }
            all.push_str(member);
        }
        all.push('\n');
    }
    all
}

impl Accounts {
    /// Reads them from a root.
    ///
    /// # Errors
    /// If one is not there.
    pub fn read(root: &Path) -> Result<Self, DebianError> {
        let read = |name: &str| {
            let path = root.join("etc").join(name);
            fs::read_to_string(&path).map_err(|source| DebianError::File { path, source })
        };
        Ok(Self {
            passwd: read("passwd")?,
            group: read("group")?,
            shadow: read("shadow")?,
            gshadow: read("gshadow")?,
        })
    }

    /// The group of files with hashes of passwords, which are none here.
    fn shadow_group(&self) -> u32 {
        find(&self.group, "shadow").and_then(|line| field(line, 2).parse().ok()).unwrap_or(0)
    }

    /// Nobody is root by a password, whatever the packages have set up.
    fn lock_root(&mut self) {
        let locked = |line: &str| {
            let rest = line.splitn(3, ':').nth(2).unwrap_or_default();
            if field(line, 0) == "root" { format!("root:!*:{rest}\n") } else { format!("{line}\n") }
        };
        self.shadow = self.shadow.lines().map(locked).collect();
    }

    fn add(&mut self, user: &User, number: u32) -> Result<(), AccountError> {
        let name = user.name.as_str();
        if [&self.passwd, &self.group].into_iter().any(|text| find(text, name).is_some()) {
            return Err(AccountError::Taken(name.to_owned()));
        }
        let digits = number.to_string();
        let taken = |text: &str| text.lines().any(|line| field(line, 2) == digits);
        if taken(&self.passwd) || taken(&self.group) {
            return Err(AccountError::Number(name.to_owned(), number));
        }
        let sudo = user.sudo.then_some("sudo");
        let named = user.groups.iter().map(|group| group.as_str());
        for group in named.chain(sudo.filter(|_| !user.groups.iter().any(|g| g.as_str() == "sudo")))
        {
            if find(&self.group, group).is_none() {
                return Err(AccountError::NoGroup {
                    user: name.to_owned(),
                    group: group.to_owned(),
                    have: self.group.lines().map(|l| field(l, 0)).collect::<Vec<_>>().join(", "),
                });
            }
            self.group = join(&self.group, group, name);
            self.gshadow = join(&self.gshadow, group, name);
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.passwd, "{name}:x:{number}:{number}::/home/{name}:/bin/bash");
        let _ = writeln!(self.group, "{name}:x:{number}:");
        let day = SOURCE_DATE_EPOCH / 86400;
        // No password fits `*`. `!` would be a locked account to some.
        let _ = writeln!(self.shadow, "{name}:*:{day}:0:99999:7:::");
        let _ = writeln!(self.gshadow, "{name}:!::");
        Ok(())
    }
}

/// Adds users to what lies on top of the base, in which these accounts are.
///
/// # Errors
/// If one does not fit in.
pub fn add(
    tree: &mut Tree,
    mut accounts: Accounts,
    skeleton: &[Skeleton],
    users: &[User],
) -> Result<(), AccountError> {
    accounts.lock_root();
    for (number, user) in (FIRST..).zip(users) {
        accounts.add(user, number)?;
        let owner = Owner { user: number, group: number };
        let home = format!("home/{}", user.name);
        let mut put = |path: &str, node: Node| {
            tree.put(path, node);
            tree.give(path, owner);
        };
        put(&home, Node::Directory(0o700));
        for Skeleton { name, content } in skeleton {
            put(&format!("{home}/{name}"), Node::File(0o644, content.clone()));
        }
        if !user.ssh_keys.is_empty() {
            let keys: String =
                user.ssh_keys.iter().map(|key| format!("{}\n", key.as_str())).collect();
            put(&format!("{home}/.ssh"), Node::Directory(0o700));
            put(&format!("{home}/.ssh/authorized_keys"), Node::File(0o600, keys.into_bytes()));
        }
        if user.sudo {
            let rule = format!("{} ALL=(ALL:ALL) NOPASSWD: ALL\n", user.name);
            let path = format!("etc/sudoers.d/{}", user.name);
            tree.put(&path, Node::File(0o440, rule.into_bytes()));
        }
    }
    let secret = Owner { user: 0, group: accounts.shadow_group() };
    for (name, mode, owner, text) in [
        ("etc/passwd", 0o644, Owner::ROOT, accounts.passwd),
        ("etc/group", 0o644, Owner::ROOT, accounts.group),
        ("etc/shadow", 0o640, secret, accounts.shadow),
        ("etc/gshadow", 0o640, secret, accounts.gshadow),
    ] {
        tree.put(name, Node::File(mode, text.into_bytes()));
        tree.give(name, owner);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBQSLuM+uMnsTIiLRUBaXQ4ayoZvZ0BvNfZRLQ1hVeAs a@b";

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/bash\ntss:x:100:102::/:/bin/false\n".to_owned(),
            group: "root:x:0:\nadm:x:4:syslog\nsudo:x:27:\nshadow:x:42:\n".to_owned(),
            shadow: "root::20454:0:99999:7:::\ntss:!:20454::::::\n".to_owned(),
            gshadow: "root:*::\nadm:*::syslog\nsudo:*::\nshadow:*::\n".to_owned(),
        }
    }

    fn user(name: &str, groups: &[&str], sudo: bool) -> User {
        let word = |name: &str| crate::recipe::UserName::try_from(name.to_owned()).unwrap();
        User {
            name: word(name),
            groups: groups.iter().map(|group| word(group)).collect(),
            sudo,
            ssh_keys: vec![KEY.to_owned().try_into().unwrap()],
            ssh_key_files: vec![],
        }
    }

    fn text(tree: &Tree, path: &str) -> String {
        match tree.get(path) {
            Some(Node::File(_, bytes)) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn users_are_added_and_nobody_has_a_password() {
        let mut tree = Tree::default();
        let skeleton = [Skeleton { name: ".profile".to_owned(), content: b"p".to_vec() }];
        let users = [user("ada", &["adm"], true), user("bob", &[], false)];
        add(&mut tree, accounts(), &skeleton, &users).unwrap();
        let passwd = text(&tree, "etc/passwd");
        assert!(passwd.ends_with(
            "ada:x:1000:1000::/home/ada:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/bash\n"
        ));
        assert_eq!(
            text(&tree, "etc/group"),
            "root:x:0:\nadm:x:4:syslog,ada\nsudo:x:27:ada\nshadow:x:42:\nada:x:1000:\nbob:x:1001:\n"
        );
        assert_eq!(
            text(&tree, "etc/shadow"),
            "root:!*:20454:0:99999:7:::\ntss:!:20454::::::\nada:*:20454:0:99999:7:::\n\
             bob:*:20454:0:99999:7:::\n"
        );
        assert!(text(&tree, "etc/gshadow").contains("adm:*::syslog,ada\nsudo:*::ada\n"));
        assert_eq!(tree.owner("etc/shadow"), Owner { user: 0, group: 42 });
        let keys = "home/ada/.ssh/authorized_keys";
        assert_eq!(text(&tree, keys), format!("{KEY}\n"));
        assert_eq!(tree.owner(keys), Owner { user: 1000, group: 1000 });
        assert_eq!(tree.owner("home/bob/.profile"), Owner { user: 1001, group: 1001 });
        assert_eq!(text(&tree, "etc/sudoers.d/ada"), "ada ALL=(ALL:ALL) NOPASSWD: ALL\n");
        assert_eq!(tree.get("etc/sudoers.d/bob"), None);
        let Some(Node::File(0o440, _)) = tree.get("etc/sudoers.d/ada") else { panic!("its mode") };
    }

    #[test]
    fn root_is_locked_where_nobody_is_added() {
        let mut tree = Tree::default();
        add(&mut tree, accounts(), &[], &[]).unwrap();
        assert!(text(&tree, "etc/shadow").starts_with("root:!*:20454:0:99999:7:::\n"));
    }

    #[test]
    fn who_does_not_fit_in_is_refused() {
        for (user, message) in [
            (user("tss", &[], false), "has a user or group of this name"),
            (user("sudo", &[], false), "has a user or group of this name"),
            (user("ada", &["gpio"], false), "no group `gpio`; there are root, adm, sudo, shadow"),
        ] {
            let error = add(&mut Tree::default(), accounts(), &[], &[user]).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
        let mut crowded = accounts();
        crowded.group.push_str("big:x:1000:\n");
        let error = add(&mut Tree::default(), crowded, &[], &[user("ada", &[], false)]);
        assert_eq!(error, Err(AccountError::Number("ada".to_owned(), 1000)));
    }
}
