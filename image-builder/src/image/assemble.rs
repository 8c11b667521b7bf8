//! From recipe and artifacts to an image.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use pcr_measure::Sha256Digest;
use pcr_measure::fip::FipError;
use pcr_measure::manifest::Manifest;
use sha2::{Digest as _, Sha256};

use super::arm_image::VIDEO_CORE;
use super::card::{self, Draft, file_error};
use super::ext4::{self, Usage};
use super::fit::{self, Contents};
use super::inventory::{self, Boot, Inventory, Item};
use super::mbr::Table;
use super::policy::SignedBinding;
use super::root::{self, Origin, Programs};
use super::slots::Content;
use super::{ImageError, boot_manifest, bundle, config_txt, fat, initramfs, integrity};
use crate::artifacts::{Artifacts, VideoCore};
use crate::keys::{self, Role};
use crate::progress::Progress;
use crate::recipe::Recipe;

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The SD card image.
    pub path: PathBuf,
    /// The boot manifest beside it; the same lies on its boot partition.
    pub manifest_path: PathBuf,
    /// What a healthy system may measure while it runs, if it measures.
    pub reference_path: Option<PathBuf>,
    /// What the image will measure.
    pub manifest: Manifest,
    /// How large its parts are.
    pub sizes: Sizes,
}

/// Sizes of an image's parts in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// The FIT with everything in it.
    pub fit: u64,
    /// The kernel, compressed.
    pub kernel: u64,
    /// The initramfs, compressed.
    pub initramfs: u64,
    /// The root file system.
    pub root: Usage,
}

/// Makes `OUT/NAME.img`, `OUT/NAME.manifest.json`, `OUT/NAME.inventory.json`,
/// `OUT/NAME.unseal.json` (NAME is the recipe's; this one is the initramfs' configuration) and,
/// where the running system measures, `OUT/NAME.reference.json`. They appear when they are
/// complete; the same inputs give the same bytes.
///
/// # Errors
/// If an artifact is missing, something does not fit, or a tool fails.
pub fn assemble(
    recipe: &Recipe,
    artifacts: &Artifacts,
    origin: &Origin,
    out: &Path,
    progress: &Progress,
) -> Result<Image, ImageError> {
    let task = progress.task("image");
    let _turn = workplace(out).map_err(file_error(out))?;

    task.step("files of the root");
    let unseal = read(&artifacts.unseal)?;
    let scratch = tempfile::Builder::new().prefix(ROOT).tempdir_in(out).map_err(file_error(out))?;
    let root_dir = scratch.path().join("files");
    root::begin(&root_dir).map_err(file_error(&root_dir))?;
    let disk_id = identity("disk", recipe);
    let programs = Programs {
        unseal: unseal.clone(),
        update: read(&artifacts.update)?,
        ima_policy: artifacts.ima_policy.as_deref().map(read).transpose()?,
    };
    origin.lay_out(recipe, disk_id, programs, &root_dir)?;
    let mut integrity = integrity::complete(recipe, artifacts, &root_dir, &task)?;

    task.step("initramfs");
    let signed = SignedBinding::of(recipe, &artifacts.signing_key)?;
    let mut config = initramfs::config(recipe);
    if let (Some(signed), Some(config)) = (&signed, config.as_object_mut()) {
        config.insert("signed".to_owned(), signed.config());
    }
    if let Some(config) = config.as_object_mut().filter(|_| !integrity.config.is_null()) {
        config.insert("integrity".to_owned(), integrity.config);
    }
    let keys = &artifacts.signing_key;
    if keys.private(Role::Update).is_file()
        && let Some(config) = config.as_object_mut()
    {
        let public = keys::public(keys, Role::Update).map_err(bundle::BundleError::from)?;
        let public = public.to_tpm_public().map_err(bundle::BundleError::from)?;
        config.insert("update_key".to_owned(), hex::encode(public).into());
    }
    let mut config = serde_json::to_vec_pretty(&config)
        .map_err(|error| ImageError::Config(error.to_string()))?;
    config.push(b'\n');
    let ramdisk = match &recipe.initramfs.file {
        None => {
            let archive =
                initramfs::archive(initramfs::entries(unseal, config.clone(), integrity.entries)?)?;
            initramfs::compress(&archive, recipe.initramfs.compression)?
        }
        Some(file) => read(file)?,
    };

    task.step("kernel");
    let contents = Contents {
        kernel: initramfs::gzip(&read(&artifacts.kernel)?)
            .map_err(|error| ImageError::Config(error.to_string()))?,
        fdt: read(&artifacts.dtb)?,
        ramdisk,
        command_line: recipe.kernel.command_line.to_string(),
        description: format!("{} for {}", recipe.name, recipe.board),
        places: artifacts.arm_image.places(),
    };

    task.step("FIT");
    let fit = fit::pack(&contents, &artifacts.mkimage, Some(&artifacts.signing_key))?;
    fit::check_signature(&fit, &artifacts.fit_check_sign, &artifacts.uboot_dtb)?;

    task.step("boot manifest");
    let path = &artifacts.arm_image_file;
    let firmware = artifacts
        .arm_image
        .measured(&read(path)?)
        .map_err(|source| ImageError::ArmImage { path: path.clone(), source })?;
    let manifest = boot_manifest::of_image(
        recipe,
        &contents,
        &artifacts.uboot_version,
        &firmware,
        &artifacts.kernel_version,
    )?;
    let json = manifest.to_json()?;
    if let Some(reference) = &mut integrity.reference {
        integrity::add_boot(reference, &manifest);
    }
    let signatures = signed.map_or(Ok(None), |signed| signed.sign(&manifest))?;

    task.step("root file system");
    let root_path = scratch.path().join("root.ext4");
    let usage = ext4::make(&root_dir, recipe.disk.root_size(), recipe.name.as_str(), &root_path)?;

    task.step("SD card image");
    let image = out.join(format!("{}.img", recipe.name));
    let table = Table::from(&recipe.disk);
    let draft = Draft::new(&image, recipe.disk.size())?;
    let first_sector = table.encode(disk_id)?;
    draft.sector(&first_sector)?;
    let boot_error = |source| card::CardError::Boot { path: image.clone(), source };
    fat::format(draft.file(), table.boot, identity("boot", recipe)).map_err(boot_error)?;
    let content = Content {
        fit,
        manifest: json.clone().into_bytes(),
        signatures: signatures.map(String::into_bytes).unwrap_or_default(),
    };
    let mut files = boot_files(artifacts)?;
    let mut root = File::open(&root_path).map_err(file_error(&root_path))?;
    let (sha256, size) = Sha256Digest::of_reader(&mut root).map_err(file_error(&root_path))?;
    let root_item = Item { size, sha256 };
    let (kind, path) = (artifacts.arm_image, &artifacts.arm_image_file);
    let too_long = || ImageError::ArmImage { path: path.clone(), source: FipError::Endless };
    let firmware = kind.padded(read(path)?).ok_or_else(too_long)?;
    let boot = Boot::of(&content, &firmware);
    let provisioned =
        table.provisioned(u64::from(recipe.disk.reserve_mib()) << 20).encode(disk_id)?;
    let tables = [first_sector.as_slice(), &provisioned];
    let inventory = Inventory::new(recipe.name.as_str(), tables, &files, boot, root_item);
    let inventory = inventory.to_json().map_err(|error| ImageError::Config(error.to_string()))?;
    files.push((inventory::FILE, inventory.clone().into_bytes()));
    files.push((kind.file_name(), firmware));
    files.extend(kind.second_place());
    files.extend(content.new_card(recipe.disk.slot_size())?);
    fat::check_room(table.boot, files.iter().map(|(_, content)| content.len() as u64))
        .map_err(boot_error)?;
    draft.boot_files(table, files.iter().map(|(name, content)| (*name, content.as_slice())))?;
    draft.copy(&root, table.root.start, table.root.size)?;

    let manifest_path = out.join(format!("{}.manifest.json", recipe.name));
    draft.finish()?;
    card::write_whole(&manifest_path, json.as_bytes())?;
    let inventory_path = out.join(format!("{}.{}", recipe.name, inventory::FILE));
    card::write_whole(&inventory_path, inventory.as_bytes())?;
    let reference_path = out.join(format!("{}.reference.json", recipe.name));
    match &integrity.reference {
        Some(reference) => {
            let json = reference.to_json().map_err(integrity::IntegrityError::from)?;
            card::write_whole(&reference_path, json.as_bytes())?;
        }
        // One of an earlier build would be about another root.
        None => match fs::remove_file(&reference_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error(&reference_path)(error).into());
            }
            _ => {}
        },
    }
    // What an initramfs that somebody else makes has to carry.
    card::write_whole(&out.join(format!("{}.unseal.json", recipe.name)), &config)?;
    task.finish();
    Ok(Image {
        sizes: Sizes {
            fit: content.fit.len() as u64,
            kernel: contents.kernel.len() as u64,
            initramfs: contents.ramdisk.len() as u64,
            root: usage,
        },
        path: image,
        manifest_path,
        reference_path: integrity.reference.map(|_| reference_path),
        manifest,
    })
}

/// How the directory begins in which a root is made.
const ROOT: &str = ".root-";

/// Makes the directory, waits for another build that is at work in it, and removes what one
/// left there that was killed. Held until the returned file is dropped.
fn workplace(out: &Path) -> io::Result<File> {
    fs::create_dir_all(out)?;
    let turn = File::open(out)?;
    turn.lock()?;
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        match entry.file_name().to_str() {
            Some(name) if name.starts_with(ROOT) => fs::remove_dir_all(entry.path())?,
            Some(name) if name.starts_with(Draft::PREFIX) => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    Ok(turn)
}

/// The files of the boot partition that no update changes, in the order in which they are
/// written.
fn boot_files(artifacts: &Artifacts) -> Result<Vec<(&'static str, Vec<u8>)>, ImageError> {
    let mut files = Vec::new();
    if let Some(VideoCore { dir, board_dtb }) = &artifacts.video_core {
        for name in VIDEO_CORE {
            files.push((name, read(&dir.join(name))?));
        }
        let text = config_txt::text(artifacts.arm_image);
        files.extend(text.map(|text| ("config.txt", text.into_bytes())));
        files.push((config_txt::BOARD_DTB, read(board_dtb)?));
    }
    Ok(files)
}

/// A 32-bit identity that depends on the recipe's name alone.
fn identity(purpose: &str, recipe: &Recipe) -> u32 {
    let hash = Sha256::new()
        .chain_update(purpose)
        .chain_update([0])
        .chain_update(recipe.name.as_str())
        .finalize();
    hash.iter().take(4).fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    fs::read(path).map_err(|source| ImageError::Artifact { path: path.to_owned(), source })
}
