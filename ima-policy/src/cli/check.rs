//! `check`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ima_policy::policy::{self, MAX_POLICY, PolicyError};
use pcr_measure::command::{Answer, Format, Partly, json, read};
use serde::Serialize;

use super::kernel::{KernelArgs, running};

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The policy, a rule on each line
    policy: PathBuf,
    /// Without it: the kernel that runs here
    #[command(flatten)]
    kernel: KernelArgs,
}

#[derive(Serialize)]
struct CheckJson {
    kernel: String,
    rules: usize,
    refused: Vec<RefusedJson>,
}

#[derive(Serialize)]
struct RefusedJson {
    line: usize,
    text: String,
    why: String,
}

/// Every line that the kernel would refuse; such a policy cannot be used.
pub(super) fn run(args: &CheckArgs, format: Format) -> Result<Answer> {
    let kernel = args.kernel.kernel(running)?;
    let text = String::from_utf8(read(&args.policy, MAX_POLICY)?)
        .with_context(|| format!("{} is no text", args.policy.display()))?;
    let (rules, refused) = match policy::parse(&text) {
        Ok(rules) => {
            let refused = rules.iter().filter_map(|(line, rule)| {
                let cause = kernel.takes(rule).err()?;
                Some(PolicyError::new(*line, &rule.to_string(), cause))
            });
            (rules.len(), refused.collect())
        }
        Err(errors) => (0, errors),
    };
    let version = kernel.version();
    let count = refused.len();
    let text = if format == Format::Json {
        let refused = refused.into_iter().map(|PolicyError { line, text, cause }| RefusedJson {
            line,
            text,
            why: cause.to_string(),
        });
        let answer = CheckJson { kernel: version.to_string(), rules, refused: refused.collect() };
        json(&answer)?
    } else if refused.is_empty() {
        format!("Linux {version} takes all {rules} rules\n")
    } else {
        refused.iter().map(|error| format!("{error}\n")).collect()
    };
    let answer = Answer::yes(text);
    if count == 0 {
        return Ok(answer);
    }
    let why = format!("Linux {version} would not take {count} of these lines");
    Err(Partly { answer, why }.into())
}
