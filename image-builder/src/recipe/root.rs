//! The root file system: the recipe's table `[root]`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::values::{HostnamePattern, PackageName, ValueError};

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Root {
    /// What runs there.
    pub system: System,
    /// Debian packages that the recipe names, beside those of `system`. What they depend on
    /// comes along.
    pub packages: Vec<PackageName>,
    /// The host name; the recipe's name unless given.
    pub hostname: Option<HostnamePattern>,
}

/// What runs in the root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum System {
    /// busybox, and packages of Debian's that were opened and not installed: no maintainer
    /// script has run.
    Busybox(Busybox),
    /// Debian, as mmdebstrap installs it, with systemd.
    Debian(Features),
}

/// What is said of a busybox userland alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Busybox {
    /// Dependencies that are taken as given: what only maintainer scripts or
    /// services need, and neither run in this userland.
    pub assume: Vec<PackageName>,
    /// What the serial console offers once the userland runs.
    pub console: Console,
    /// What runs, of [`Features::OF_BUSYBOX`].
    pub features: Features,
}

impl Default for Busybox {
    fn default() -> Self {
        Self { assume: Vec::new(), console: Console::None, features: Features::none() }
    }
}

/// What the serial console of a busybox userland offers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Console {
    /// Messages only.
    #[default]
    None,
    /// A root shell without a password: for emulation and the lab only.
    Shell,
}

/// A service of a root, with its packages and its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// Addresses by DHCP and router advertisements on every Ethernet adapter
    /// (systemd-networkd), names by systemd-resolved. With busybox: an address by DHCP on the
    /// first of them.
    Network,
    /// An SSH server that takes keys alone.
    Ssh,
    /// Logs in `/var/log`, beside the journal; with busybox in place of its own.
    Rsyslog,
    /// The time by NTP (systemd-timesyncd).
    Time,
    /// systemd resets the board's watchdog; a system that hangs restarts.
    Watchdog,
    /// An update that comes up is confirmed, one that does not is given up.
    Update,
    /// What IMA measures and nobody knows is reported (`ima-policy watch`).
    Watch,
    /// A verifier elsewhere can be answered, and a device that it refuses keeps to itself
    /// (`ima-policy attest` and `quarantine`).
    Attest,
}

impl Feature {
    /// All of them, which is what a Debian gets whose recipe does not say.
    pub const ALL: [Self; 8] = [
        Self::Network,
        Self::Ssh,
        Self::Rsyslog,
        Self::Time,
        Self::Watchdog,
        Self::Update,
        Self::Watch,
        Self::Attest,
    ];

    /// Its name in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Ssh => "ssh",
            Self::Rsyslog => "rsyslog",
            Self::Time => "time",
            Self::Watchdog => "watchdog",
            Self::Update => "update",
            Self::Watch => "watch",
            Self::Attest => "attest",
        }
    }

    fn packages(self, debian: bool) -> &'static [&'static str] {
        match self {
            // busybox brings what it needs.
            Self::Network if !debian => &[],
            Self::Network => &["systemd-resolved"],
            Self::Ssh => &["openssh-server"],
            // With TLS, which a recipe may come to need: its lock file has the package then.
            Self::Rsyslog => &["rsyslog", "rsyslog-openssl"],
            Self::Time => &["systemd-timesyncd"],
            // The packet filter's program, and the group that the TPM belongs to.
            Self::Attest => &["nftables", "tpm-udev"],
            Self::Watchdog | Self::Update | Self::Watch => &[],
        }
    }
}

/// A set of features; in a recipe a list of their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Feature>", into = "Vec<Feature>")]
pub struct Features(BTreeSet<Feature>);

impl Features {
    /// What busybox's init can start.
    pub const OF_BUSYBOX: [Feature; 3] = [Feature::Network, Feature::Rsyslog, Feature::Watch];

    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether a feature is one of them.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }

    /// Its members, in the order of [`Feature`].
    pub fn iter(&self) -> impl Iterator<Item = Feature> {
        self.0.iter().copied()
    }
}

impl Default for Features {
    fn default() -> Self {
        Self(Feature::ALL.into())
    }
}

impl TryFrom<Vec<Feature>> for Features {
    type Error = ValueError;

    fn try_from(list: Vec<Feature>) -> Result<Self, ValueError> {
        let mut set = BTreeSet::new();
        for feature in list {
            if !set.insert(feature) {
                return Err(ValueError(format!("`{}` is named twice", feature.name())));
            }
        }
        Ok(Self(set))
    }
}

impl From<Features> for Vec<Feature> {
    fn from(features: Features) -> Self {
        features.iter().collect()
    }
}

/// What every Debian root has: init, devices, the bus that its services speak on, what repairs
/// its file system, and what loads a kernel's modules, if it has any.
const DEBIAN: [&str; 6] = ["dbus", "e2fsprogs", "kmod", "systemd", "systemd-sysv", "udev"];

/// What a user needs who may become root.
const SUDO: &str = "sudo";

impl Root {
    /// Whether it is a Debian.
    #[must_use]
    pub fn is_debian(&self) -> bool {
        matches!(self.system, System::Debian(_))
    }

    /// What runs.
    #[must_use]
    pub const fn features(&self) -> &Features {
        match &self.system {
            System::Debian(features) => features,
            System::Busybox(busybox) => &busybox.features,
        }
    }

    /// Whether it has this feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        self.features().has(feature)
    }

    /// Whether `/usr/bin/ima-policy` is in it: a Debian has our programs, a busybox what runs.
    #[must_use]
    pub fn has_ima_policy(&self) -> bool {
        self.is_debian() || self.has(Feature::Watch)
    }

    /// What is said of a busybox userland; for another one, what goes without saying.
    #[must_use]
    pub fn busybox(&self) -> Busybox {
        match &self.system {
            System::Busybox(busybox) => busybox.clone(),
            System::Debian(_) => Busybox::default(),
        }
    }

    /// The packages that are asked for, by the recipe, the system and its features; `sudo`
    /// where some user needs it. In order, each once.
    #[must_use]
    pub fn wanted(&self, sudo: bool) -> Vec<PackageName> {
        let debian = self.is_debian();
        let mut wanted: BTreeSet<PackageName> = self.packages.iter().cloned().collect();
        let more = self.features().iter().flat_map(|feature| feature.packages(debian));
        wanted.extend(more.copied().map(PackageName::constant));
        if debian {
            let sudo = sudo.then_some(&SUDO);
            wanted.extend(DEBIAN.iter().chain(sudo).copied().map(PackageName::constant));
        }
        wanted.into_iter().collect()
    }
}

impl Default for Root {
    fn default() -> Self {
        let assume = ["awk", "tpm-udev"].map(PackageName::constant).to_vec();
        Self {
            system: System::Busybox(Busybox {
                assume,
                console: Console::None,
                features: Features::none(),
            }),
            packages: ["base-files", "busybox-static", "tpm2-tools"]
                .map(PackageName::constant)
                .to_vec(),
            hostname: None,
        }
    }
}

/// `system` as the recipe spells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SystemName {
    #[default]
    Busybox,
    Debian,
}

/// The table as it is written: what goes without saying depends on the system.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    system: SystemName,
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<Vec<PackageName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assume: Option<Vec<PackageName>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    console: Option<Console>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<HostnamePattern>,
}

impl From<Root> for Table {
    fn from(root: Root) -> Self {
        let (system, busybox, features) = match root.system {
            System::Busybox(mut busybox) => {
                let features = std::mem::replace(&mut busybox.features, Features::none());
                (SystemName::Busybox, Some(busybox), features)
            }
            System::Debian(features) => (SystemName::Debian, None, features),
        };
        Self {
            system,
            packages: Some(root.packages),
            console: busybox.as_ref().map(|busybox| busybox.console),
            assume: busybox.map(|busybox| busybox.assume),
            features: Some(features),
            hostname: root.hostname,
        }
    }
}

impl TryFrom<Table> for Root {
    type Error = ValueError;

    fn try_from(table: Table) -> Result<Self, ValueError> {
        let Table { system, packages, assume, console, features, hostname } = table;
        let fail = |why: &str| Err(ValueError(why.to_owned()));
        let usual = Self::default();
        match system {
            SystemName::Busybox => {
                let features = features.unwrap_or_else(Features::none);
                let foreign = features.iter().find(|own| !Features::OF_BUSYBOX.contains(own));
                if let Some(foreign) = foreign {
                    return Err(ValueError(format!(
                        "the feature `{}` belongs to system = \"debian\"; busybox has `network`, \
                         `rsyslog` and `watch`",
                        foreign.name()
                    )));
                }
                if hostname.as_ref().is_some_and(HostnamePattern::has_serial) {
                    return fail(
                        "hostname: {serial} belongs to system = \"debian\", which fills it in at its \
                         first boot",
                    );
                }
                let assume = assume.unwrap_or_else(|| usual.busybox().assume);
                let console = console.unwrap_or_default();
                Ok(Self {
                    system: System::Busybox(Busybox { assume, console, features }),
                    packages: packages.unwrap_or(usual.packages),
                    hostname,
                })
            }
            SystemName::Debian => {
                if assume.is_some() {
                    return fail(
                        "assume belongs to system = \"busybox\": a Debian has what its packages \
                         depend on",
                    );
                }
                if console.is_some() {
                    return fail(
                        "console belongs to system = \"busybox\": a Debian has a login on the serial \
                         console; who may log in, [[users]] says",
                    );
                }
                Ok(Self {
                    system: System::Debian(features.unwrap_or_default()),
                    packages: packages.unwrap_or_default(),
                    hostname,
                })
            }
        }
    }
}
