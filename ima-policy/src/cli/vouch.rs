//! What vouches for files.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use ima_policy::reference::{MAX_JSON, Reference};
use ima_policy::signature::Keyring;
use pcr_measure::command::read;
use pcr_measure::key::MAX_KEY_FILE;

/// What vouches for files.
#[derive(Debug, Args)]
pub(super) struct VouchArgs {
    /// What is known to be good (ima-policy reference); may be given several times
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Who may sign files: certificates or public keys, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
}

impl VouchArgs {
    /// Takes over what an image has of it in this directory: `reference.json` and `ima.der`, as
    /// far as they are there.
    pub(super) fn with_known(&self, known: Option<&Path>) -> Self {
        let mut all = Self { reference: self.reference.clone(), keyring: self.keyring.clone() };
        if let Some(known) = known {
            let there = |name: &str| Some(known.join(name)).filter(|path| path.exists());
            all.reference.extend(there("reference.json"));
            all.keyring.extend(there("ima.der"));
        }
        all
    }

    /// All references as one; `None` if none was named.
    pub(super) fn reference(&self) -> Result<Option<Reference>> {
        let mut all: Option<Reference> = None;
        for path in &self.reference {
            let read = Reference::from_json(&read(path, MAX_JSON)?);
            let next = read.with_context(|| path.display().to_string())?;
            match &mut all {
                None => all = Some(next),
                Some(all) => all.merge(next)?,
            }
        }
        Ok(all)
    }

    /// All keys; `None` if none was named.
    pub(super) fn keyring(&self) -> Result<Option<Keyring>> {
        let mut keyring = (!self.keyring.is_empty()).then(Keyring::new);
        for path in &self.keyring {
            let keys = read(path, MAX_KEY_FILE)?;
            if let Some(keyring) = &mut keyring {
                keyring.add(&path.display().to_string(), &keys)?;
            }
        }
        Ok(keyring)
    }
}
