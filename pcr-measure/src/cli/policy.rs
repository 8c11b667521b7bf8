//! `policy`: one command of a policy session each, chained by `--start`.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use pcr_measure::policy::{NvOperation, OrTree, Policy};
use pcr_measure::{Algorithm, Digest, PcrSelection};
use serde::Serialize;

use super::{Answer, Format, input, json, wanted};

/// What a session starts from.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Hash of the policy session
    #[arg(long, default_value = "sha256", value_name = "ALGORITHM")]
    hash: Algorithm,
    /// Digest of the commands before this one [default: a fresh session]
    #[arg(long, value_name = "HEX")]
    start: Option<String>,
}

/// The policy commands.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// PolicyPCR: PCRs hold these values
    Pcr {
        #[command(flatten)]
        start: Start,
        /// The PCRs, as 0-9,15 or sha384:0-9; with --manifest, its seal
        #[arg(long, required_unless_present = "manifest", value_name = "LIST")]
        pcrs: Option<PcrSelection>,
        /// The values, as tpm2_pcrread prints them or as {"0":"<hex>"}
        #[arg(long, required_unless_present = "manifest", value_name = "FILE")]
        values: Option<PathBuf>,
        /// The values that this boot manifest leads to
        #[arg(long, conflicts_with = "values", value_name = "FILE")]
        manifest: Option<PathBuf>,
    },
    /// PolicyOR: one of these policies; more than eight make a tree
    Or {
        /// Hash of the policy session
        #[arg(long, default_value = "sha256", value_name = "ALGORITHM")]
        hash: Algorithm,
        /// The policy digests, two or more
        #[arg(required = true, num_args = 2.., value_name = "HEX")]
        branches: Vec<String>,
    },
    /// PolicyAuthorize: any policy that a key signed
    Authorize {
        #[command(flatten)]
        start: Start,
        /// Name of the signing key in the TPM
        #[arg(long, required_unless_present = "key", value_name = "HEX")]
        key_name: Option<String>,
        /// The signing key itself: PEM as systemd loads it, or a TPM's public area as it is
        #[arg(long, conflicts_with = "key_name", value_name = "FILE")]
        key: Option<PathBuf>,
        /// What the signature is for
        #[arg(long, default_value = "", value_name = "HEX")]
        policy_ref: String,
    },
    /// PolicyNV: the contents of an NV index compare
    Nv {
        #[command(flatten)]
        start: Start,
        /// Name of the index
        #[arg(long, value_name = "HEX")]
        name: String,
        /// What its contents are compared with
        #[arg(long, value_name = "HEX")]
        operand: String,
        /// From which byte on
        #[arg(long, default_value_t = 0, value_name = "BYTES")]
        offset: u16,
        /// eq, neq, sgt, ugt, slt, ult, sge, uge, sle, ule, bs or bc
        #[arg(long, default_value = "eq", value_parser = operation)]
        operation: NvOperation,
    },
    /// PolicyAuthValue: the object's authorization value
    AuthValue {
        #[command(flatten)]
        start: Start,
    },
    /// PolicyCommandCode: one command alone
    CommandCode {
        #[command(flatten)]
        start: Start,
        /// The TPM_CC, decimal or as 0x14e
        #[arg(long, value_parser = code)]
        code: u32,
    },
}

#[derive(Serialize)]
struct PolicyJson {
    hash: String,
    policy: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    paths: Option<Vec<Vec<Vec<Digest>>>>,
}

/// The digest after one command.
pub(super) fn run(command: &PolicyCommand, format: Format) -> Result<Answer> {
    let mut paths = None;
    let digest = match command {
        PolicyCommand::Pcr { start, pcrs, values, manifest } => {
            let (selection, bank) = match (manifest, pcrs, values) {
                (Some(path), pcrs, _) => wanted::of_manifest(path, *pcrs)?,
                (None, Some(pcrs), Some(values)) => wanted::of_values(values, *pcrs)?,
                _ => return Err(anyhow!("give --pcrs and --values, or --manifest")),
            };
            start.policy()?.pcr(&[(selection, &bank)])?.digest()
        }
        PolicyCommand::Or { hash, branches } => {
            let branches: Result<Vec<_>, _> =
                branches.iter().map(|branch| Digest::from_hex(*hash, branch)).collect();
            let branches = branches?;
            let tree = OrTree::new(&branches)?;
            let path = |n| tree.path(n).into_iter().map(<[_]>::to_vec).collect();
            paths = Some((0..branches.len()).map(path).collect());
            tree.digest()
        }
        PolicyCommand::Authorize { start, key_name, key, policy_ref } => {
            let name = match (key_name, key) {
                (Some(name), _) => input::hex("--key-name", name)?,
                (None, Some(path)) => input::key_name(path)?,
                (None, None) => return Err(anyhow!("give --key-name or --key")),
            };
            start.policy()?.authorize(&name, &input::hex("--policy-ref", policy_ref)?)?.digest()
        }
        PolicyCommand::Nv { start, name, operand, offset, operation } => start
            .policy()?
            .nv(
                &input::hex("--name", name)?,
                &input::hex("--operand", operand)?,
                *offset,
                *operation,
            )?
            .digest(),
        PolicyCommand::AuthValue { start } => start.policy()?.auth_value()?.digest(),
        PolicyCommand::CommandCode { start, code } => start.policy()?.command_code(*code)?.digest(),
    };
    let hash = digest.algorithm().to_string();
    Ok(Answer::yes(match format {
        Format::Text => format!("{digest}\n"),
        Format::Json => json(&PolicyJson { hash, policy: digest, paths })?,
    }))
}

impl Start {
    fn policy(&self) -> Result<Policy> {
        match &self.start {
            None => Ok(Policy::new(self.hash)),
            Some(hex) => {
                Ok(Policy::from_digest(Digest::from_hex(self.hash, hex).context("--start")?))
            }
        }
    }
}

fn operation(name: &str) -> Result<NvOperation, String> {
    let found = NvOperation::ALL.iter().find(|(_, known)| *known == name);
    found.map(|(operation, _)| *operation).ok_or_else(|| {
        let names: Vec<_> = NvOperation::ALL.iter().map(|(_, name)| *name).collect();
        format!("one of {}", names.join(", "))
    })
}

fn code(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a TPM_CC is a number like 0x14e".to_owned())
}
