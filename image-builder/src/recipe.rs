//! Recipes: what an image consists of.
//!
//! A recipe is a TOML file. Reading one is a pure function of its text
//! ([`Recipe::parse`]); every value is checked while it is read, so that an
//! error names line, column and key. A recipe holds no secret, and no path but that
//! of a public key beside it.

mod board;
mod components;
mod disk;
mod integrity;
mod keylime;
mod logging;
mod recipient;
mod root;
mod server;
mod target;
mod tpm;
mod trusted_apps;
mod users;
mod values;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use board::Board;
pub use components::{Components, Firmware, SecureWorld};
pub use disk::{Disk, MIB};
pub use integrity::{Integrity, Profile};
pub use keylime::Keylime;
pub use logging::Logging;
pub use recipient::Recipient;
pub use root::{Busybox, Console, Feature, Features, Root, System};
pub use target::{Purpose, Target};
pub use tpm::{Binding, Signed, SpiTpm, Tpm, TpmBus};
pub use trusted_apps::{TrustedApp, TrustedApps};
pub use users::{SshKey, User, UserName};
pub use values::{
    CommandLine, HostnamePattern, Name, NvIndex, PackageName, PcrList, PersistentHandle, ValueError,
};

/// Why a recipe could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeError {
    /// The file could not be read.
    #[error("cannot read the recipe {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not a recipe. The message shows line, column and key.
    #[error("the recipe {origin} is not valid: {source}")]
    Parse {
        /// File name, or whatever the text came from.
        origin: String,
        /// Line, column, key and reason.
        source: Box<toml::de::Error>,
    },
    /// A file that the recipe names.
    #[error("the recipe is not valid: {key}: cannot read {}: {source}", path.display())]
    File {
        /// The key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file with public keys of a user's.
    #[error(
        "the recipe {origin} is not valid: line {line}, key `ssh_key_files` of the user {user}: \
         {file}: {why}", origin = origin.display(), file = file.display()
    )]
    KeyFile {
        /// The recipe.
        origin: PathBuf,
        /// Where the file is named.
        line: usize,
        /// Whose keys they are.
        user: String,
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Refuses a recipe of a newer form before anything else of it: what it says otherwise may
/// be unknown here.
fn check_schema(text: &str) -> Result<(), toml::de::Error> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default = "schema", deserialize_with = "values::schema")]
        #[expect(dead_code, reason = "checked while it is read")]
        schema: u32,
    }
    toml::from_str::<Head>(text).map(|_| ())
}

/// What one image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version of this form, [`Recipe::SCHEMA`] unless given.
    #[serde(default = "schema", deserialize_with = "values::schema")]
    pub schema: u32,
    /// Names the image, its files and everything derived from the name.
    pub name: Name,
    /// The board that the image is for.
    pub board: Board,
    /// The TPM and what the root's key is sealed against.
    #[serde(default)]
    pub tpm: Tpm,
    /// The kernel's command line.
    pub kernel: Kernel,
    /// The boot loader.
    #[serde(default)]
    pub u_boot: UBoot,
    /// The initramfs.
    #[serde(default)]
    pub initramfs: Initramfs,
    /// What the running system's code is held to.
    #[serde(default)]
    pub integrity: Integrity,
    /// Sizes of the partitions.
    #[serde(default)]
    pub disk: Disk,
    /// The root file system.
    #[serde(default)]
    pub root: Root,
    /// Who may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
    /// Where the log goes, beside the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Whom the device reports its integrity to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keylime: Option<Keylime>,
    /// What the first boot does, and how a boot by hand goes.
    #[serde(default)]
    pub provisioning: Provisioning,
    /// Which optional components take part.
    #[serde(default)]
    pub components: Components,
}

fn schema() -> u32 {
    Recipe::SCHEMA
}

impl Recipe {
    /// The version of the form of recipes that this program reads.
    pub const SCHEMA: u32 = 1;

    /// Reads a recipe from its text. `origin` names the text in errors.
    ///
    /// # Errors
    /// [`RecipeError::Parse`] with line, column and key.
    pub fn parse(text: &str, origin: &str) -> Result<Self, RecipeError> {
        let parse = || {
            check_schema(text)?;
            let mut recipe: Self = toml::from_str(text)?;
            recipe.integrity = recipe
                .integrity
                .with_initramfs(recipe.initramfs.file.is_some())
                .map_err(serde::de::Error::custom)?;
            let board = recipe.board;
            board.check_bus(recipe.bus()).map_err(serde::de::Error::custom)?;
            let u_boot = Purpose::of(recipe.u_boot.development);
            let firmware = recipe.components.firmware;
            board.check_firmware(firmware, u_boot).map_err(serde::de::Error::custom)?;
            users::check(&recipe.users, recipe.root.is_debian())
                .map_err(serde::de::Error::custom)?;
            if recipe.logging.is_some() && !recipe.root.has(Feature::Rsyslog) {
                return Err(serde::de::Error::custom(
                    "[logging] is done by rsyslog: it takes the feature \"rsyslog\" in [root]",
                ));
            }
            if let Some(keylime) = &recipe.keylime {
                keylime.check().map_err(serde::de::Error::custom)?;
                if !recipe.root.has(Feature::Attest) {
                    return Err(serde::de::Error::custom(
                        "[keylime] takes system = \"debian\" with the feature \"attest\"",
                    ));
                }
            }
            Ok(recipe)
        };
        parse().map_err(|source| RecipeError::Parse {
            origin: origin.to_owned(),
            source: Box::new(source),
        })
    }

    /// How the TPM is attached to the board.
    pub fn bus(&self) -> TpmBus {
        self.tpm.bus.unwrap_or(self.board.usual_bus())
    }

    /// Reads a recipe file.
    ///
    /// # Errors
    /// As [`Recipe::parse`], and [`RecipeError::Read`].
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RecipeError::Read { path: path.to_owned(), source })?;
        let mut recipe = Self::parse(&text, &path.display().to_string())?;
        // Beside the recipe, wherever the builder was started.
        let beside = |file: &mut PathBuf| *file = users::beside(path, file);
        if let Binding::Signed(Signed { policy_key: Some(key), .. }) = &mut recipe.tpm.binding {
            beside(key);
        }
        if let Some(file) = &mut recipe.initramfs.file {
            beside(file);
        }
        let certificates = |key: &'static str, ca: &mut PathBuf| {
            beside(ca);
            let wrong = |source| RecipeError::File { key, path: ca.clone(), source };
            let text = std::fs::read_to_string(&ca).map_err(wrong)?;
            let invalid = |why: ValueError| std::io::Error::other(why.to_string());
            logging::certificates(&text).map_err(invalid).map_err(wrong)
        };
        if let Some(logging) = &mut recipe.logging {
            logging.ca_text = certificates("ca of [logging]", &mut logging.ca)?;
        }
        if let Some(keylime) = &mut recipe.keylime {
            keylime.ca_text = certificates("ca of [keylime]", &mut keylime.ca)?;
        }
        for user in &mut recipe.users {
            for file in std::mem::take(&mut user.ssh_key_files) {
                let line = users::line_of(&text, file.span().start);
                let file = users::beside(path, file.get_ref());
                let keys = std::fs::read_to_string(&file)
                    .map_err(|error| error.to_string())
                    .and_then(|text| users::keys_of(&text).map_err(|why| why.to_string()));
                user.ssh_keys.extend(keys.map_err(|why| RecipeError::KeyFile {
                    origin: path.to_owned(),
                    line,
                    user: user.name.to_string(),
                    file,
                    why,
                })?);
            }
        }
        Ok(recipe)
    }

    /// Whether it is a Debian that nobody can log in to: there are no passwords, and no user
    /// has a key.
    #[must_use]
    pub fn nobody_gets_in(&self) -> bool {
        self.root.is_debian() && self.users.iter().all(|user| user.ssh_keys.is_empty())
    }

    /// The packages that are asked for: the recipe's, and those that its choices bring.
    #[must_use]
    pub fn wanted_packages(&self) -> Vec<PackageName> {
        let sudo = self.users.iter().any(|user| user.sudo);
        self.root.wanted(sudo)
    }
}

/// The kernel's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// The signed and measured command line.
    pub command_line: CommandLine,
    /// A kernel for the lab: with what shows and debugs it, and what a shipped one must
    /// not have.
    #[serde(default)]
    pub development: bool,
    /// A kernel that loads modules, signed with the recipe's key, and a root with the modules
    /// that it has. Without it there is no way to load one.
    #[serde(default)]
    pub modules: bool,
}

/// U-Boot's part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UBoot {
    /// A U-Boot for the lab: with a shell on the console, and what a shipped one must not
    /// have.
    pub development: bool,
}

/// The initramfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Initramfs {
    /// How it is compressed.
    pub compression: Compression,
    /// Another initramfs in its place, as it is to be stored: one that initramfs-tools
    /// or dracut made with our package. A file beside the recipe.
    pub file: Option<PathBuf>,
}

/// Compression of the initramfs. The kernel must have the matching `RD_…`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// zstd (`CONFIG_RD_ZSTD`).
    #[default]
    Zstd,
    /// gzip (`CONFIG_RD_GZIP`).
    Gzip,
}

/// What the first boot does, and how a boot by hand goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Provisioning {
    /// Whether a plain root is encrypted.
    pub mode: ProvisioningMode,
    /// How often a wrong recovery key may be typed before the board powers
    /// off. 1 to 10.
    #[serde(deserialize_with = "values::recovery_tries")]
    pub recovery_tries: u8,
    /// How long TPM and root device may take to appear, in seconds. 1 to 300.
    #[serde(deserialize_with = "values::wait_seconds")]
    pub wait_seconds: u16,
    /// How long the question for the recovery key stands before the board
    /// powers off, in seconds. 1 to 65535.
    #[serde(deserialize_with = "values::prompt_seconds")]
    pub prompt_seconds: u16,
    /// Cipher of the encrypted root.
    pub cipher: Cipher,
    /// How the recovery key's QR code is drawn on the consoles.
    pub qr: Qr,
    /// Whom the recovery key in the device record is encrypted to. Without it the
    /// record holds none, and the console shows it once and for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Recipient>,
}

/// How the recovery key's QR code is drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Qr {
    /// Half blocks in UTF-8, white on black: 41 columns, 21 lines.
    #[default]
    Utf8,
    /// `##` in plain ASCII, for dark terminals without UTF-8: 78 columns, 39 lines.
    Ascii,
    /// Not at all.
    None,
}

/// Cipher of a root that is encrypted on the board.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cipher {
    /// AES-XTS where the processor has AES instructions, Adiantum elsewhere.
    #[default]
    Auto,
    /// Adiantum: fast without AES instructions, as on a Raspberry Pi 3.
    Adiantum,
    /// AES-256-XTS.
    AesXts,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self {
            mode: ProvisioningMode::InPlace,
            recovery_tries: 3,
            wait_seconds: 20,
            prompt_seconds: 900,
            cipher: Cipher::Auto,
            qr: Qr::default(),
            recipient: None,
        }
    }
}

/// Whether a plain root is encrypted at first boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProvisioningMode {
    /// Encrypt the plain root where it stands, seal the key, show the recovery
    /// key once.
    InPlace,
    /// Refuse a root that is not encrypted.
    Never,
}

#[cfg(test)]
mod tests;
