//! `image-builder reproduce`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use indicatif::HumanBytes;
use nix::sys::stat::{Mode, umask};
use serde::Serialize;

use super::build::{self, ImageArgs};
use super::{Format, Global, setting};
use crate::component::Component;
use crate::component::plan::{Context, Plan};
use crate::deliver::{Compression, Options};
use crate::image::debian::base;
use crate::image::packages;
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::reproduce::{Comparison, compare};
use crate::sources::store::Store;

/// Builds everything a second time, from nothing but the sources, and compares.
#[derive(Debug, clap::Args)]
pub(super) struct ReproduceArgs {
    /// The recipe [default: the checkout's image-builder/recipes/rpi3.toml]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Keep what the second build made, and say where
    #[arg(long)]
    keep: bool,
}

/// One thing that was built twice.
#[derive(Debug, Serialize)]
struct Row {
    what: String,
    #[serde(flatten)]
    comparison: Comparison,
}

pub(super) fn run(global: &Global, args: &ReproduceArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let context = setting::context_to_build(global, &progress)?;
    // On the cache's disk, which has room for a kernel's tree; never the same path twice.
    let mut scratch = tempfile::Builder::new()
        .prefix("reproduce-")
        .tempdir_in(context.cache.root())
        .context("cannot make a directory in the cache")?;
    scratch.disable_cleanup(args.keep);
    let out = |name: &str| Some(scratch.path().join(name));

    let image = |output| ImageArgs { recipe: args.recipe.clone(), output };
    let first = image(out("first-image"));
    let options = Options { compression: Some(Compression::Xz), ..Options::default() };
    build::build(global, &context, &first, &options, &progress)?;

    progress.say("and now everything a second time, elsewhere");
    let tree = scratch.path().join("another/checkout");
    copy_tree(&context.tree, &tree)?;
    let again = Context { tree, cache: context.cache.again(scratch.path()), ..context.clone() };
    // What a person's account decides. Nobody else makes files in this process now.
    let before = umask(Mode::from_bits_truncate(0o077));
    let second = image(out("second-image"));
    let built = build::build(global, &again, &second, &options, &progress);
    umask(before);
    built?;

    let rows = compare_all(global, &context, &again, [&first, &second], &progress)?;
    let same = rows.iter().all(|row| row.comparison.is_same());
    match global.format {
        Format::Json => setting::print_json(&serde_json::json!({
            "schema": "msec-boot/reproduce/1",
            "same": same,
            "built": rows,
        }))?,
        Format::Text => setting::print(&text(&rows))?,
    }
    if args.keep {
        progress.say(&setting::for_host(&format!("kept in {}", scratch.path().display())));
    }
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Every component that the image is made of, and the image with all that lies beside it.
fn compare_all(
    global: &Global,
    context: &Context,
    again: &Context,
    images: [&ImageArgs; 2],
    progress: &Progress,
) -> anyhow::Result<Vec<Row>> {
    let recipe = Recipe::load(&build::recipe_path(context, images[0]))?;
    let plan = |context| {
        let context = build::for_recipe(context, &recipe);
        Plan::new(&context, &Component::of_image(&context.target))
    };
    let (one, other) = (plan(context)?, plan(again)?);
    let mut rows = Vec::new();
    for (component, _) in one.components() {
        let comparison = compare(&one.dir(component), &other.dir(component))?;
        rows.push(Row { what: component.to_string(), comparison });
    }
    if recipe.root.is_debian() {
        let path = build::recipe_path(context, images[0]);
        let store = Store::new(&context.cache);
        let packages =
            packages::obtain(&recipe, &path, &store, setting::when_gone(global), progress)?;
        let base = |context| base::entry(context, &packages);
        let comparison = compare(base(context)?.dir(), base(again)?.dir())?;
        rows.push(Row { what: "debian".to_owned(), comparison });
    }
    let [first, second] = images.map(|image| build::output(context, image));
    rows.push(Row { what: "image".to_owned(), comparison: compare(&first, &second)? });
    Ok(rows)
}

fn text(rows: &[Row]) -> String {
    let mut text = String::new();
    for Row { what, comparison } in rows {
        let Comparison { files, bytes, differences } = comparison;
        let verdict = if comparison.is_same() { "same" } else { "DIFFERS" };
        // Writing to a string does not fail.
        let _ = writeln!(text, "{what:<12} {verdict}: {files} files, {}", HumanBytes(*bytes));
        for (path, difference) in differences {
            let _ = writeln!(text, "             {}: {difference}", path.display());
        }
    }
    text
}

/// Copies a checkout without what is hidden and what was made in it.
fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let cannot = || format!("cannot copy {}", from.display());
    for entry in fs::read_dir(from).with_context(cannot)? {
        let entry = entry.with_context(cannot)?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') || name == build::OUT || name == "target" {
            continue;
        }
        let (path, to) = (entry.path(), to.join(&name));
        if entry.file_type().with_context(cannot)?.is_dir() {
            copy_tree(&path, &to)?;
        } else {
            fs::copy(&path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}
