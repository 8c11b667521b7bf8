//! `docs`: manual pages and completions, from the same definition that reads the
//! command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Answer;

/// Where manual pages go, or for which shell completions are.

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DocsArgs {
    /// Write the manual pages into this directory
    #[arg(long, value_name = "DIR")]
    man: Option<PathBuf>,
    /// Print the completions for this shell
    #[arg(long, value_enum, value_name = "SHELL")]
    completions: Option<Shell>,
}

/// Pages of a command into a directory, or completions as the answer.
///
/// # Errors
/// The system's.
pub fn run<C: CommandFactory>(args: &DocsArgs) -> Result<Answer> {
    let mut command = C::command();
    if let Some(dir) = &args.man {
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
        return Ok(Answer::yes(String::new()));
    }
    let shell = args.completions.context("give --man or --completions")?;
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    Ok(Answer::yes(String::from_utf8(text).context("the completions are no UTF-8")?))
}
