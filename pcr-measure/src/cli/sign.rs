//! `sign`: the policies of boot manifests, for PolicyAuthorize.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use pcr_measure::PcrSelection;
use pcr_measure::signed_policy::SignatureFile;

use super::rollback::RollbackArgs;
use super::{Answer, input, wanted};
use pcr_measure::command::replace;

/// Arguments of `sign`.
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// Boot manifests of the images to approve
    #[arg(required = true, value_name = "MANIFEST")]
    manifests: Vec<PathBuf>,
    /// The private key: PEM, RSA or ECC on P-256, not encrypted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The PCRs, as 0-9,15 [default: those of each manifest's seal]
    #[arg(long, value_name = "LIST")]
    pcrs: Option<PcrSelection>,
    #[command(flatten)]
    rollback: RollbackArgs,
    /// A file of signed policies whose entries stay
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
    /// Where the signed policies go [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Signs, and writes the file or answers it.
pub(super) fn run(args: &SignArgs) -> Result<Answer> {
    if let Some(output) = &args.output {
        let manifests = args.manifests.iter().map(PathBuf::as_path);
        replace::apart(output, manifests.chain([args.key.as_path()]))?;
    }
    let key = input::signing_key(&args.key)?;
    let mut notes = Vec::new();
    let mut file = match &args.append {
        None => SignatureFile::new(),
        Some(path) => {
            let file = input::signatures(path)?;
            for bank in file.skipped() {
                notes.push(format!(
                    "{}: the bank {bank:?} is not known, and left out",
                    path.display()
                ));
            }
            file
        }
    };
    for path in &args.manifests {
        let (pcrs, values) = wanted::of_manifest(path, args.pcrs)?;
        let policy = file
            .sign_with(&key, &pcrs, &values, args.rollback.rollback().as_ref())
            .with_context(|| format!("cannot sign the policy of {}", path.display()))?;
        notes.push(format!("{}: {pcrs}: signed policy {policy}", path.display()));
    }
    let json = file.to_json()?;
    let text = match &args.output {
        None => json,
        Some(path) => {
            replace::file(path, json.as_bytes())?;
            String::new()
        }
    };
    Ok(Answer { text, notes, yes: true })
}
