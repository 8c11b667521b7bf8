//! `image-builder verify`, `image-builder tamper` and `image-builder recipe`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::bundle;
use super::inspect;
use super::packages;
use super::tamper::{self, Signing, Tamper};
use super::verify::{self, Report};
use crate::artifacts::KeyDir;
use crate::deliver;
use crate::keys::{self, Role};
use crate::recipe::Recipe;

/// Hold an image against its manifest and show what it will measure
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The SD card image, or the card itself
    image: PathBuf,
    /// A manifest to hold it against, instead of the one on its boot partition
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// An inventory to hold it against, instead of the one on its boot partition
    #[arg(long, value_name = "FILE")]
    inventory: Option<PathBuf>,
    /// The public key of the SHA256SUMS beside the image (image-builder keys public sums)
    #[arg(long, value_name = "FILE")]
    sums_key: Option<PathBuf>,
}

/// Say what is in an image and what it will measure
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The SD card image, or the card itself
    image: PathBuf,
}

/// Say what differs between two images, and what that means for a sealed root
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The image that devices have, or a card
    from: PathBuf,
    /// The image that they are to get
    to: PathBuf,
}

/// Make a signed update bundle of an image, for devices that run one of the same name
#[derive(Debug, Args)]
pub struct BundleArgs {
    /// The SD card image
    image: PathBuf,
    /// Where the bundle goes [default: beside the image, NAME.update]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Let the firmware go along (TF-A, OP-TEE, U-Boot). A device whose firmware is this one
    /// already leaves it; any other one takes it, or refuses a bundle without it
    #[arg(long)]
    firmware: bool,
}

/// Make a variant of an image for tests: signed again, or broken
#[derive(Debug, Args)]
pub struct TamperArgs {
    /// The SD card image; it is replaced unless --output is given
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// Where the variant goes
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Change {
    /// Append words to the command line, and sign again
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    append_cmdline: Option<String>,
    /// Add a file to the initramfs under /etc, and sign again
    #[arg(long, value_name = "FILE")]
    add_file: Option<PathBuf>,
    /// Pack the same kernel with another date, and sign again
    #[arg(long)]
    kernel: bool,
    /// Pad the device tree, and sign again
    #[arg(long)]
    device_tree: bool,
    /// Take the signature away
    #[arg(long)]
    unsigned: bool,
    /// Flip one bit of the kernel in the FIT
    #[arg(long)]
    flip_bit: bool,
    /// Change one digit of the manifest
    #[arg(long)]
    manifest_digit: bool,
    /// Cut the manifest in half
    #[arg(long)]
    manifest_cut: bool,
    /// Put another image's manifest there
    #[arg(long, value_name = "IMAGE")]
    manifest_of: Option<PathBuf>,
}

/// Pin the packages of a recipe
#[derive(Debug, Subcommand)]
pub enum RecipeCommand {
    /// Pin the packages that the mirror has now in the recipe's lock file
    Lock(RecipeArgs),
}

/// A recipe.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// The recipe
    recipe: PathBuf,
}

/// Prints the verdict on an image: 0 if it is good, 1 if not.
///
/// # Errors
/// If the image cannot be read.
pub fn verify(
    args: &VerifyArgs,
    json: bool,
    fit_check_sign: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let (manifest, inventory) = (args.manifest.as_deref(), args.inventory.as_deref());
    let mut report = match verify::verify(&args.image, manifest, inventory, fit_check_sign) {
        Ok(report) => report,
        Err(error) if error.is_verdict() => {
            eprintln!("image-builder: {error}");
            return Ok(ExitCode::from(1));
        }
        Err(error) => return Err(error.into()),
    };
    let sums = deliver::check_sums(&args.image, args.sums_key.as_deref());
    if let Some(check) = sums.context("cannot check the sums")? {
        report.add(check);
    }
    print!("{}", printed(&report, json)?);
    Ok(ExitCode::from(u8::from(!report.good)))
}

/// Prints what is in an image.
///
/// # Errors
/// If it cannot be read, or lacks what every image has.
pub fn inspect(args: &InspectArgs, json: bool) -> anyhow::Result<ExitCode> {
    let inspection = inspect::inspect(&args.image)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&inspection)?);
    } else {
        print!("{}", inspection.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what differs between two images: 0 if nothing does, 1 if something.
///
/// # Errors
/// As [`inspect`].
pub fn diff(args: &DiffArgs, json: bool) -> anyhow::Result<ExitCode> {
    let difference = inspect::difference(&args.from, &args.to)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&difference)?);
    } else {
        print!("{}", difference.text());
    }
    Ok(ExitCode::from(u8::from(!difference.is_none())))
}

/// Makes a bundle and says what is in it.
///
/// # Errors
/// If it cannot be made.
pub fn bundle(args: &BundleArgs, json: bool, keys: &KeyDir) -> anyhow::Result<ExitCode> {
    let out = args.output.clone().unwrap_or_else(|| args.image.with_extension("update"));
    let list = bundle::make(&args.image, args.firmware, &keys::signing(keys, Role::Update)?, &out)?;
    if json {
        let report = serde_json::json!({
            "schema": "msec-boot/bundle/1", "bundle": out, "list": list,
        });
        println!("{report:#}");
    } else {
        let version = list.version.map(|v| format!(", version {v}")).unwrap_or_default();
        let firmware = if args.firmware { ", with its firmware" } else { "" };
        println!("{}: {} for {}{version}{firmware}", out.display(), list.image, list.board);
        println!("install it on a device: msec-update install {}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn printed(report: &Report, json: bool) -> anyhow::Result<String> {
    if json {
        Ok(format!("{}\n", serde_json::to_string_pretty(report)?))
    } else {
        Ok(report.text())
    }
}

impl Change {
    fn tamper(&self) -> anyhow::Result<Tamper> {
        if let Some(words) = &self.append_cmdline {
            return Ok(Tamper::CommandLine(words.clone()));
        }
        if let Some(path) = &self.add_file {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .with_context(|| format!("{} has no file name", path.display()))?;
            return Ok(Tamper::Initramfs {
                path: format!("etc/{name}"),
                content: std::fs::read(path)
                    .with_context(|| format!("cannot read {}", path.display()))?,
            });
        }
        if let Some(image) = &self.manifest_of {
            return Ok(Tamper::ManifestOf(image.clone()));
        }
        let switches = [
            (self.kernel, Tamper::Kernel),
            (self.device_tree, Tamper::DeviceTree),
            (self.unsigned, Tamper::Unsigned),
            (self.flip_bit, Tamper::FlippedBit),
            (self.manifest_digit, Tamper::ManifestDigit),
            (self.manifest_cut, Tamper::ManifestCut),
        ];
        switches
            .into_iter()
            .find_map(|(given, tamper)| given.then_some(tamper))
            .context("nothing to change was named")
    }
}

/// Makes a variant of an image and says where it is.
///
/// # Errors
/// If it cannot be made.
pub fn tamper(args: &TamperArgs, json: bool, signing: &Signing) -> anyhow::Result<ExitCode> {
    let out = args.output.as_ref().unwrap_or(&args.image);
    let manifest = tamper::variant(&args.image, &args.change.tamper()?, signing, out)?;
    if json {
        let pcrs = manifest.map(|manifest| manifest.predict());
        let report = serde_json::json!({
            "schema": "msec-boot/variant/1", "image": out, "pcrs": pcrs,
        });
        println!("{report:#}");
    } else {
        println!("{}", out.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Pins a recipe's packages.
///
/// # Errors
/// If the recipe is not valid, or the mirror cannot be read.
pub fn recipe(command: &RecipeCommand) -> anyhow::Result<ExitCode> {
    let RecipeCommand::Lock(args) = command;
    let recipe = Recipe::load(&args.recipe)?;
    let (path, count) = packages::relock(&recipe, &args.recipe)?;
    println!("{}: {count} packages", path.display());
    Ok(ExitCode::SUCCESS)
}
