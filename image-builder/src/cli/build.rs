//! `image-builder build`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;

use super::{Global, setting};
use crate::component::{Component, engine};
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    /// The recipe
    #[arg(default_value = "image-builder/recipes/rpi3.toml")]
    recipe: PathBuf,
    /// Build this component and what it needs, and no image; may be repeated
    #[arg(long, value_name = "COMPONENT", value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    only: Vec<String>,
}

pub(super) fn run(global: &Global, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let context = setting::context(global)?;
    let progress = Progress::new();
    let only: Vec<Component> = args.only.iter().filter_map(|name| Component::from_name(name)).collect();
    let wanted = if only.is_empty() { Component::ALL.to_vec() } else { only };
    let plan = engine::build(&context, &wanted, &progress)?;
    if !args.only.is_empty() {
        for component in wanted {
            println!("{}", plan.dir(component).display());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let _ = &args.recipe;
    Ok(ExitCode::SUCCESS)
}
