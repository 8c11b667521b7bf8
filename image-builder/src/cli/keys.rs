//! `image-builder keys`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::{Format, Global, setting};
use crate::cache::Cache;
use crate::keys::{self, Place, Role};

/// Make, list and use the keys that sign
#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// List the keys: what they sign, where they are, their fingerprints
    List,
    /// Make a key in a file; an existing one is never replaced
    New {
        /// What it is to sign
        #[arg(value_enum, required_unless_present = "all")]
        role: Vec<Role>,
        /// Every key that is not there yet
        #[arg(long, conflicts_with = "role")]
        all: bool,
    },
    /// Print the public half of a key (PEM)
    Public {
        /// What it signs
        #[arg(value_enum)]
        role: Role,
    },
    /// Sign with a key in a PKCS#11 token from now on; it has to be there
    UseToken {
        /// What it is to sign
        #[arg(value_enum)]
        role: Role,
        /// pkcs11:token=LABEL;object=LABEL;type=private, and ?pin-source=file:PATH for its PIN
        uri: String,
        /// The token's module (a shared library)
        #[arg(long, value_name = "FILE")]
        module: PathBuf,
    },
}

pub(super) fn run(global: &Global, command: &KeysCommand) -> anyhow::Result<ExitCode> {
    let keys = keys::dir(&Cache::from_env()?, global.signing_key.as_deref());
    match command {
        KeysCommand::List => {
            let entries = keys::list(&keys)?;
            if global.format == Format::Json {
                setting::print_json(&serde_json::json!({
                    "schema": "msec-boot/keys/1",
                    "directory": keys.dir(),
                    "keys": entries,
                }))?;
                return Ok(ExitCode::SUCCESS);
            }
            let mut text = format!("{}\n", keys.dir().display());
            for role in Role::ALL {
                let place = match entries.iter().find(|entry| entry.role == role) {
                    None => "none".to_owned(),
                    Some(entry) => {
                        let place = match &entry.place {
                            Place::File => "file",
                            Place::Token(uri) => uri,
                        };
                        let short = entry.fingerprint.get(..16).unwrap_or_default();
                        format!("{short}…  {place}")
                    }
                };
                text += &format!(
                    "  {:<7} {place}\n          signs {}; public half: {}\n",
                    role.name(),
                    role.signs(),
                    role.held_by()
                );
            }
            setting::print(&setting::for_host(&text))?;
        }
        KeysCommand::New { role, all } => {
            let missing = |role: &Role| !keys.private(*role).exists();
            let wanted =
                if *all { Role::ALL.into_iter().filter(missing).collect() } else { role.clone() };
            if wanted.is_empty() {
                bail!("every key is there already: image-builder keys list");
            }
            for role in wanted {
                keys::new(&keys, role)?;
                let text = format!("{}\n", keys.private(role).display());
                setting::print(&setting::for_host(&text))?;
            }
        }
        KeysCommand::Public { role } => {
            let pem = keys::public(&keys, *role)?.to_pem()?;
            setting::print(&String::from_utf8_lossy(&pem))?;
        }
        KeysCommand::UseToken { role, uri, module } => {
            keys::use_token(&keys, *role, uri, module)?;
            let text = format!("{}\n", keys.private(*role).display());
            setting::print(&setting::for_host(&text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
