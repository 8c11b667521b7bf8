//! The live TPM of commands that need one.

use std::env;

use crate::tpm::Tpm;
use anyhow::Result;
use clap::Args;

/// Variables that say which TPM, as tpm2-tools reads them.
const VARIABLES: [&str; 2] = ["TPM2TOOLS_TCTI", "TCTI"];

/// Which TPM.
#[derive(Debug, Clone, Args)]
pub struct TpmArgs {
    /// The TPM, as tpm2-tools name it: device:/dev/tpmrm0, swtpm:host=127.0.0.1,port=2321
    /// [default: $TPM2TOOLS_TCTI, $TCTI, or this machine's]
    #[arg(long, value_name = "TCTI")]
    tcti: Option<String>,
}

impl TpmArgs {
    /// Opens it.
    ///
    /// # Errors
    /// As [`Tpm::from_tcti`] and [`Tpm::of_this_machine`].
    pub fn open(&self) -> Result<Tpm> {
        let named = self.tcti.clone().or_else(|| {
            let set = |name: &&str| env::var(name).ok().filter(|tcti| !tcti.is_empty());
            VARIABLES.iter().find_map(set)
        });
        Ok(match named {
            Some(tcti) => Tpm::from_tcti(&tcti)?,
            None => Tpm::of_this_machine()?,
        })
    }
}

/// Where the attestation key is when nobody says (in the endorsement range of the
/// TCG Registry of Reserved TPM 2.0 Handles and Localities 1.1, table 2).
pub const AK: &str = "0x81010002";

/// Reads a persistent handle: `0x81010002`.
///
/// # Errors
/// How one is written.
pub fn handle(text: &str) -> Result<u32, String> {
    text.strip_prefix("0x")
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        // TPM 2.0 Library 1.59, Part 2, 7.2: the first byte is the kind.
        .filter(|handle| handle >> 24 == 0x81)
        .ok_or_else(|| "a persistent handle is written as 0x81010002".to_owned())
}
