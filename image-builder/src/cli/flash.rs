//! `image-builder flash`.

use std::fs::File;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use indicatif::HumanBytes;

use super::{Format, Global, setting};
use crate::flash::disk::{Disk, Kernel, Refusal};
use crate::flash::{FlashError, write};
use crate::image::card::Card;
use crate::progress::Progress;

/// Write an image to a card and read it back
#[derive(Debug, clap::Args)]
pub(super) struct FlashArgs {
    /// The SD card image
    image: PathBuf,
    /// The card: a whole disk such as /dev/sdX or /dev/mmcblkX
    device: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Take a disk that is built in
    #[arg(long)]
    fixed_disk: bool,
}

pub(super) fn run(global: &Global, args: &FlashArgs) -> anyhow::Result<ExitCode> {
    // No card of ours is no image to write.
    let card = Card::open(&args.image)?;
    let size = card.size;
    let kernel = Kernel::running().context("cannot read what is mounted")?;
    let disk = Disk::of(&args.device, &kernel)
        .with_context(|| format!("cannot look at {}", args.device.display()))?;
    let refused = |why| FlashError::Refused { device: args.device.clone(), why };
    let disk = disk.ok_or_else(|| refused(Refusal::NoDisk))?;
    disk.may_take(size, args.fixed_disk).map_err(refused)?;
    if !args.yes && !confirmed(&disk)? {
        return Ok(ExitCode::from(1));
    }

    let progress = Progress::new();
    let mut target = write::open(&args.device)?;
    let image = File::open(card.path())
        .with_context(|| format!("cannot read {}", card.path().display()))?;
    let task = progress.download("write", size);
    target.write(&image, card.path(), size, |at| task.position(at))?;
    task.finish();
    let task = progress.download("read back", size);
    target.compare(&image, card.path(), size, |at| task.position(at))?;
    task.finish();
    match global.format {
        Format::Json => setting::print_json(&serde_json::json!({
            "schema": "msec-boot/flash/1",
            "image": args.image,
            "device": args.device,
            "size": size,
            "verified": true,
        }))?,
        Format::Text => setting::print(&format!(
            "{}: {} written and read back\n",
            args.device.display(),
            HumanBytes(size)
        ))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the user type the disk's name: `y` is typed too easily.
fn confirmed(disk: &Disk) -> anyhow::Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        bail!("nobody can be asked here; say --yes to overwrite {}", disk.name);
    }
    let model = if disk.model.is_empty() { "no model" } else { &disk.model };
    eprint!(
        "{} ({model}, {}) will be overwritten. Type its name to go on: ",
        disk.name,
        HumanBytes(disk.size)
    );
    std::io::stderr().flush().context("cannot ask")?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("cannot read the answer")?;
    let yes = line.trim().trim_start_matches("/dev/") == disk.name;
    if !yes {
        eprintln!("image-builder: nothing was written");
    }
    Ok(yes)
}
