//! `image-builder build`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use indicatif::HumanBytes;

use super::{Format, Global, setting};
use crate::artifacts::Artifacts;
use crate::component::plan::Context;
use crate::component::{self, Component, engine};
use crate::image::{self, Image, packages};
use crate::progress::Progress;
use crate::recipe::{Binding, Recipe, Signed, Target};
use crate::sources::store::Store;

/// The demonstration's recipe, in the checkout.
const RECIPE: &str = "image-builder/recipes/rpi3.toml";

/// Where results go, in the checkout.
pub(super) const OUT: &str = "build";

/// Which image, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// The recipe [default: the checkout's image-builder/recipes/rpi3.toml]
    #[arg(long, value_name = "FILE")]
    pub(super) recipe: Option<PathBuf>,
    /// The directory that results go to [default: build in the checkout]
    #[arg(long, value_name = "DIR")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Build this component and what it needs, and no image; may be repeated
    #[arg(long, value_name = "COMPONENT", value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    only: Vec<String>,
}

pub(super) fn run(global: &Global, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let context = setting::context_to_build(global, &progress)?;
    if args.only.is_empty() {
        let (image, _) = build(global, &context, &args.image, &progress)?;
        report(global, &image)?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted: Vec<Component> =
        args.only.iter().filter_map(|name| Component::from_name(name)).collect();
    let recipe = Recipe::load(&recipe_path(&context, &args.image))?;
    let plan = engine::build(&for_recipe(&context, &recipe), &wanted, &progress)?;
    for component in wanted {
        setting::print(&format!("{}\n", plan.dir(component).display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the image of a recipe with everything in it.
pub(super) fn build(
    global: &Global,
    context: &Context,
    args: &ImageArgs,
    progress: &Progress,
) -> anyhow::Result<(Image, Artifacts)> {
    let path = recipe_path(context, args);
    // A recipe that is wrong is reported now, not after the builds.
    let recipe = Recipe::load(&path)?;
    let context = &for_recipe(context, &recipe);
    if let Binding::Signed(Signed { policy_key: None, .. }) = &recipe.tpm.binding {
        component::ensure_policy_key(&context.signing_key, global.signing_key.is_some())?;
    }
    let store = Store::new(&context.cache);
    let packages = packages::obtain(&recipe, &path, &store, setting::when_gone(global), progress)?;
    let plan = engine::build(context, &Component::image(&context.target), progress)?;
    let artifacts = component::artifacts(&plan, &context.target, context.signing_key.clone())?;
    let image = image::assemble(&recipe, &artifacts, &packages, &output(context, args), progress)?;
    Ok((image, artifacts))
}

/// The recipe's file.
fn recipe_path(context: &Context, args: &ImageArgs) -> PathBuf {
    args.recipe.clone().unwrap_or_else(|| context.tree.join(RECIPE))
}

/// What the components of this recipe are built from.
fn for_recipe(context: &Context, recipe: &Recipe) -> Context {
    Context { target: Target::of(recipe), ..context.clone() }
}

/// The directory that results go to.
pub(super) fn output(context: &Context, args: &ImageArgs) -> PathBuf {
    args.output.clone().unwrap_or_else(|| context.tree.join(OUT))
}

fn report(global: &Global, image: &Image) -> anyhow::Result<()> {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    if global.format == Format::Json {
        return setting::print_json(&serde_json::json!({
            "schema": "msec-boot/build/1",
            "image": image.path,
            "manifest": image.manifest_path,
            "size": size(&image.path),
            "fit": image.sizes.fit,
            "kernel": image.sizes.kernel,
            "initramfs": image.sizes.initramfs,
            "pcrs": image.manifest.predict(),
        }));
    }
    setting::print(&setting::for_host(&format!(
        "image      {} ({})\nmanifest   {}\nkernel     {}, initramfs {}\n",
        image.path.display(),
        HumanBytes(size(&image.path)),
        image.manifest_path.display(),
        HumanBytes(image.sizes.kernel),
        HumanBytes(image.sizes.initramfs),
    )))
}
