//! `image-builder docs`: manual pages and completions, from the same definition
//! that reads the command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, setting};

#[derive(Debug, clap::Args)]
pub(super) struct DocsArgs {
    /// Write the manual pages into this directory
    #[arg(
        long,
        value_name = "DIR",
        conflicts_with = "completions",
        required_unless_present = "completions"
    )]
    man: Option<PathBuf>,
    /// Print the completions for this shell
    #[arg(long, value_enum, value_name = "SHELL")]
    completions: Option<Shell>,
}

pub(super) fn run(args: &DocsArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    if let Some(shell) = args.completions {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command, "image-builder", &mut text);
        setting::print(&String::from_utf8_lossy(&text))?;
    }
    if let Some(dir) = &args.man {
        clap_mangen::generate_to(command, dir)
            .with_context(|| format!("cannot write manual pages into {}", dir.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
