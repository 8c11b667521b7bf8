//! `image-builder deb`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::HumanBytes;

use super::build::OUT;
use super::{Format, Global, setting};
use crate::component::{Component, Linked, engine};
use crate::deb;
use crate::progress::Progress;

#[derive(Debug, clap::Args)]
pub(super) struct DebArgs {
    /// The directory that the package goes to [default: build in the checkout]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: &DebArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let context = setting::context_to_build(global, &progress)?;
    let plan = engine::build(&context, &[Component::Unseal], &progress)?;
    let program = plan.dir(Component::Unseal).join(deb::NAME);
    let bytes = std::fs::read(&program)
        .with_context(|| format!("cannot read the component {}", program.display()))?;
    let out = args.output.clone().unwrap_or_else(|| context.tree.join(OUT));
    let path = deb::make(&bytes, &deb::linked(&Linked::beside(&program)?), &out)?;
    let size = std::fs::metadata(&path).map_or(0, |meta| meta.len());
    if global.format == Format::Json {
        setting::print_json(&serde_json::json!({
            "schema": "msec-boot/deb/1", "package": path, "size": size,
        }))?;
    } else {
        let text = format!("package    {} ({})\n", path.display(), HumanBytes(size));
        setting::print(&setting::for_host(&text))?;
    }
    Ok(ExitCode::SUCCESS)
}
