//! `image-builder demo`: the image, its two tampered variants, the journey, and a device that
//! watches itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use super::build::{self, Built, ImageArgs};
use super::{Format, Global, setting};
use ima_policy::reference::Reference;

use crate::artifacts::Artifacts;
use crate::component::plan::Context;
use crate::component::{self, Component, engine};
use crate::deliver::Options;
use crate::demo::collector::Place;
use crate::demo::{self, Images, Journey, Watched, record};
use crate::emu::card::Card;
use crate::emu::place::TpmPlace;
use crate::image::tamper::{Signing, Tamper, variant};
use crate::progress::Progress;

pub(super) fn run(global: &Global, args: &ImageArgs) -> anyhow::Result<ExitCode> {
    let progress = Progress::new();
    let context = setting::context_to_build(global, &progress)?;
    let all = args.recipe.is_none();
    let args = &args.or(&context, build::DEMONSTRATION);
    let built = build::build(global, &context, args, &Options::default(), &progress)?;
    let Built { image, artifacts, .. } = built;
    let dir = build::output(&context, args).join("demo");
    if dir.exists() {
        std::fs::remove_dir_all(&dir)
            .with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let watching = all.then(|| watching(global, &context, &dir, &progress)).transpose()?;
    let original = Card::open(&image.path)?;
    let emulator = match original.tpm_place()? {
        TpmPlace::I2c | TpmPlace::Mmio => None,
        TpmPlace::Spi(_) => Some(emulator(&context, &progress)?),
    };
    let reference = image.reference_path.as_deref().map(reference).transpose()?;
    let images = images(original, reference, &artifacts, emulator, &dir)?;

    let mut seen = Journey {
        image: Some(record::Sizes {
            path: image.path.clone(),
            unseal: std::fs::metadata(&artifacts.unseal).ok().map(|meta| meta.len()),
            initramfs: image.sizes.initramfs,
            fit: image.sizes.fit,
        }),
        boots: Vec::new(),
        watched: None,
    };
    let mut result = demo::journey(&images, &dir, &progress, &mut seen).map(|_| ());
    if let (Ok(()), Some((device, place))) = (&result, &watching) {
        result = demo::watched(device, place, &dir, &progress)
            .map(|watching| seen.watched = Some(watching));
    }
    // What was seen is shown even when a later boot went another way.
    match global.format {
        Format::Text => setting::print(&format!("{}\n", setting::for_host(&seen.to_string())))?,
        Format::Json => setting::print_json(&seen)?,
    }
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let text = format!("the journey did not go as told: {error}\nlogs: {}", dir.display());
            eprintln!("image-builder: {}", setting::for_host(&text));
            Ok(ExitCode::from(1))
        }
    }
}

fn reference(path: &Path) -> anyhow::Result<Reference> {
    let json = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Reference::from_json(&json)?)
}

/// Builds the device that watches itself, for a collector in `dir`.
fn watching(
    global: &Global,
    context: &Context,
    dir: &Path,
    progress: &Progress,
) -> anyhow::Result<(Watched, Place)> {
    let dir = dir.join("collector");
    let written = |path: &Path| format!("cannot write {}", path.display());
    std::fs::create_dir_all(&dir).with_context(|| written(&dir))?;
    let place = Place::new(&dir)?;
    let shipped = context.tree.join(build::WATCHED);
    let text = std::fs::read_to_string(&shipped)
        .with_context(|| format!("cannot read {}", shipped.display()))?;
    // Beside it lie the packages that it is locked to.
    let recipe = dir.join("recipe.toml");
    std::fs::write(&recipe, demo::watched::recipe(&text, &place))
        .with_context(|| written(&recipe))?;
    let lock = recipe.with_extension("lock");
    std::fs::copy(shipped.with_extension("lock"), &lock).with_context(|| written(&lock))?;
    let args = ImageArgs { recipe: Some(recipe), output: Some(dir) };
    let image = build::build(global, context, &args, &Options::default(), progress)?.image;
    let path = image.reference_path.as_deref().context("a recipe that measures nothing")?;
    let device = Watched { image: Card::open(&image.path)?, reference: reference(path)? };
    Ok((device, place))
}

/// The QEMU for boards with their TPM on SPI; built if need be.
fn emulator(context: &Context, progress: &Progress) -> anyhow::Result<PathBuf> {
    let plan = engine::build(context, &[Component::Qemu], progress)?;
    Ok(plan.dir(Component::Qemu).join(component::QEMU))
}

/// The image and its variants, signed with the same key, so that U-Boot takes them.
fn images(
    original: Card,
    reference: Option<Reference>,
    artifacts: &Artifacts,
    emulator: Option<PathBuf>,
    dir: &Path,
) -> anyhow::Result<Images> {
    let signing = Signing::from(artifacts);
    let make = |name: &str, tamper: Tamper| -> anyhow::Result<Card> {
        let path = dir.join(name);
        variant(original.path(), &tamper, &signing, &path)?;
        Ok(Card::open(&path)?)
    };
    Ok(Images {
        command_line: make(
            "changed-command-line.img",
            Tamper::CommandLine("ima_appraise=off".into()),
        )?,
        initramfs: make(
            "changed-initramfs.img",
            Tamper::Initramfs {
                path: "etc/backdoor".into(),
                content: b"left by an evil maid\n".to_vec(),
            },
        )?,
        original,
        reference,
        emulator,
    })
}
