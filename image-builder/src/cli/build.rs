//! `image-builder build`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use indicatif::HumanBytes;
use pcr_measure::key::SigningKey;

use super::{Format, Global, setting};
use crate::artifacts::Artifacts;
use crate::component::plan::Context;
use crate::component::{self, Component, Linked, engine, provenance};
use crate::deliver::imager::{BaseUrl, Date};
use crate::deliver::{self, Compression, Materials, Options, Output};
use crate::image::root::Origin;
use crate::image::{self, Image, packages};
use crate::keys::{self, Role};
use crate::progress::Progress;
use crate::recipe::{Binding, Recipe, Signed, Target};
use crate::sources::store::Store;

/// The recipe of a device, in the checkout.
pub(super) const DEVICE: &str = "image-builder/recipes/rpi3.toml";

/// The demonstration's.
pub(super) const DEMONSTRATION: &str = "image-builder/recipes/rpi3-tiny.toml";

/// The demonstration's device that watches itself.
pub(super) const WATCHED: &str = "image-builder/recipes/rpi3-watched.toml";

/// Where results go, in the checkout.
pub(super) const OUT: &str = "build";

/// Which image, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct ImageArgs {
    /// The recipe [default: the checkout's image-builder/recipes/rpi3.toml; for the
    /// demonstration rpi3-tiny.toml]
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
    #[command(flatten)]
    deliver: DeliverArgs,
    /// Build this component and what it needs, and no image; may be repeated
    #[arg(long, value_name = "COMPONENT", value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    only: Vec<String>,
}

/// What is handed out beside the image.
#[derive(Debug, clap::Args)]
struct DeliverArgs {
    /// Compress the image, too
    #[arg(long, value_enum, value_name = "FORM")]
    compress: Option<Compression>,
    /// Write the list for Raspberry Pi Imager (--repo), for files that lie below this address
    #[arg(long, value_name = "URL")]
    base_url: Option<BaseUrl>,
    /// The date in that list
    #[arg(long, value_name = "YYYY-MM-DD", requires = "base_url")]
    release_date: Option<Date>,
}

impl DeliverArgs {
    fn options(&self) -> Options {
        Options {
            compression: self.compress,
            base_url: self.base_url.clone(),
            date: self.release_date.clone().unwrap_or_default(),
        }
    }
}

/// An image, and what it was made with.
pub(super) struct Built {
    pub(super) image: Image,
    pub(super) artifacts: Artifacts,
    /// Everything that is handed out.
    outputs: Vec<Output>,
}

pub(super) fn run(global: &Global, args: &BuildArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let context = setting::context_to_build(global, &progress)?;
    if args.only.is_empty() {
        let options = args.deliver.options();
        report(global, &build(global, &context, &args.image, &options, &progress)?)?;
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

/// Builds the image of a recipe with everything in it and beside it.
pub(super) fn build(
    global: &Global,
    context: &Context,
    args: &ImageArgs,
    options: &Options,
    progress: &Progress,
) -> anyhow::Result<Built> {
    let path = recipe_path(context, args);
    // A recipe that is wrong is reported now, not after the builds.
    let recipe = Recipe::load(&path)?;
    let context = &for_recipe(context, &recipe);
    if recipe.nobody_gets_in() {
        progress.say("no user of this recipe has a key: nobody will be able to log in");
    }
    if let Binding::Signed(Signed { policy_key: None, .. }) = &recipe.tpm.binding {
        component::ensure_policy_key(&context.signing_key, global.signing_key.is_some())?;
    }
    // Somebody's own directory may do without: such an image takes no bundles.
    if global.signing_key.is_none() {
        keys::ensure(&context.signing_key, Role::Update, false)?;
    }
    if context.target.has_kernel_key() {
        keys::ensure(&context.signing_key, Role::Ima, global.signing_key.is_some())?;
    }
    let store = Store::new(&context.cache);
    let packages = packages::obtain(&recipe, &path, &store, setting::when_gone(global), progress)?;
    let origin = Origin::of(&recipe, context, packages.clone(), progress)?;
    let plan = engine::build(context, &Component::of_image(&context.target), progress)?;
    let artifacts = component::artifacts(&plan, &context.target, context.signing_key.clone())?;
    let out = output(context, args);
    deliver::withdraw(&out, &recipe, options)?;
    let image = image::assemble(&recipe, &artifacts, &origin, &out, progress)?;

    let mut linked = vec![("initramfs-unseal", Linked::beside(&artifacts.unseal)?)];
    if let Some(program) = &artifacts.ima_policy {
        linked.push(("ima-policy", Linked::beside(program)?));
    }
    let materials = Materials {
        packages: &packages,
        built: &provenance::of_image(context)?,
        linked: &linked,
        cache: &context.cache.root().join("facts"),
    };
    let key = sums_key(global, context, progress)?;
    let outputs = deliver::deliver(&recipe, &image, &materials, key.as_ref(), options, progress)?;
    Ok(Built { image, artifacts, outputs })
}

/// The key that signs the sums. Who has keys of their own may have none for this.
fn sums_key(
    global: &Global,
    context: &Context,
    progress: &Progress,
) -> anyhow::Result<Option<SigningKey>> {
    let keys = &context.signing_key;
    if global.signing_key.is_some() && !keys.private(Role::Sums).exists() {
        progress.say(&setting::for_host(&format!(
            "the sums are not signed: {} has no sums.key (image-builder keys new sums)",
            keys.dir().display()
        )));
        return Ok(None);
    }
    keys::ensure(keys, Role::Sums, false)?;
    Ok(Some(keys::signing(keys, Role::Sums)?))
}

impl ImageArgs {
    /// The same with `recipe`, a file of the checkout, where none is named.
    pub(super) fn or(&self, context: &Context, recipe: &str) -> Self {
        let recipe = self.recipe.clone().unwrap_or_else(|| context.tree.join(recipe));
        Self { recipe: Some(recipe), output: self.output.clone() }
    }
}

/// The recipe's file.
pub(super) fn recipe_path(context: &Context, args: &ImageArgs) -> PathBuf {
    args.recipe.clone().unwrap_or_else(|| context.tree.join(DEVICE))
}

/// What the components of this recipe are built from.
pub(super) fn for_recipe(context: &Context, recipe: &Recipe) -> Context {
    Context { target: Target::of(recipe), ..context.clone() }
}

/// The directory that results go to.
pub(super) fn output(context: &Context, args: &ImageArgs) -> PathBuf {
    args.output.clone().unwrap_or_else(|| context.tree.join(OUT))
}

fn report(global: &Global, built: &Built) -> anyhow::Result<()> {
    let Built { image, outputs, .. } = built;
    if global.format == Format::Json {
        return setting::print_json(&serde_json::json!({
            "schema": "msec-boot/build/1",
            "image": image.path,
            "manifest": image.manifest_path,
            "size": outputs.first().map(|output| output.size),
            "fit": image.sizes.fit,
            "kernel": image.sizes.kernel,
            "initramfs": image.sizes.initramfs,
            "pcrs": image.manifest.predict(),
            "files": outputs,
        }));
    }
    let mut text = format!(
        "kernel {}, initramfs {}\n",
        HumanBytes(image.sizes.kernel),
        HumanBytes(image.sizes.initramfs),
    );
    for Output { path, about, size, .. } in outputs {
        text += &format!("{}  {} ({about})\n", path.display(), HumanBytes(*size));
    }
    setting::print(&setting::for_host(&text))
}
