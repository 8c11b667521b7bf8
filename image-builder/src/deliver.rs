//! What is handed out beside an image: a block map, a compressed image, a bill of
//! materials, the list for Raspberry Pi Imager, the sums of all that and their signature.
//!
//! Every file gets its name when it is complete; the sums come last, and go first when an
//! image is made anew, so that no sums speak of files that are being replaced.

mod bmap;
mod compress;
pub mod imager;
mod sbom;
mod sums;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use pcr_measure::key::{KeyError, SigningKey};
use serde::Serialize;

use crate::image::Image;
use crate::image::card::{Card, CardError, Draft, write_whole};
use crate::progress::Progress;
use crate::recipe::Recipe;
use imager::{BaseUrl, Date, ImagerError};

pub use compress::Compression;
pub use sbom::{Materials, SbomError};
pub use sums::check as check_sums;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A compressed image too.
    pub compression: Option<Compression>,
    /// A list for Raspberry Pi Imager, that downloads from here.
    pub base_url: Option<BaseUrl>,
    /// The date in that list.
    pub date: Date,
}

/// Why something cannot be handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliverError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image, or a file beside it.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The bill of materials.
    #[error("the bill of materials: {0}")]
    Sbom(#[from] SbomError),
    /// The list for Imager.
    #[error(transparent)]
    Imager(#[from] ImagerError),
    /// The signature.
    #[error("cannot sign the sums: {0}")]
    Sign(#[from] KeyError),
    /// A list cannot be expressed.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// A file that is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Output {
    /// Its path.
    pub path: PathBuf,
    /// What it is.
    pub about: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Its hash, in hexadecimal.
    pub sha256: String,
}

impl Output {
    fn of(
        path: PathBuf,
        about: &'static str,
        moved: impl FnMut(u64),
    ) -> Result<Self, DeliverError> {
        let sha256 = sums::digest(&path, moved).map_err(failed(&path))?;
        let size = fs::metadata(&path).map_err(failed(&path))?.len();
        Ok(Self { path, about, size, sha256 })
    }

    fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    fn listed(&self) -> imager::File<'_> {
        imager::File { name: self.name(), size: self.size, sha256: &self.sha256 }
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> DeliverError + use<> {
    let path = path.to_owned();
    move |source| DeliverError::File { path: path.clone(), source }
}

/// `OUT/NAME.ending` for the image of a recipe.
fn path(out: &Path, recipe: &Recipe, ending: &str) -> PathBuf {
    out.join(format!("{}.{ending}", recipe.name))
}

const BMAP: &str = "bmap";
const SBOM: &str = "cdx.json";
const IMAGER: &str = "imager.json";

/// Takes back what an earlier build of this recipe handed out beside its image, the sums
/// first. What is asked for now is checked before.
///
/// # Errors
/// If the image cannot be offered as asked, or a file not be removed.
pub fn withdraw(out: &Path, recipe: &Recipe, options: &Options) -> Result<(), DeliverError> {
    if options.base_url.is_some() {
        imager::devices(recipe.board)?;
    }
    let image = |compression: Compression| format!("img.{}", compression.ending());
    let (xz, zst) = (image(Compression::Xz), image(Compression::Zst));
    for ending in [sums::SUMS, sums::SIGNATURE, BMAP, SBOM, IMAGER, &xz, &zst] {
        let path = path(out, recipe, ending);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes everything that is handed out beside an image. `key` signs the sums. Returns the
/// files, the image first, the sums and their signature last.
///
/// # Errors
/// If a file cannot be read or written, or the key does not sign.
pub fn deliver(
    recipe: &Recipe,
    image: &Image,
    materials: &Materials<'_>,
    key: Option<&SigningKey>,
    options: &Options,
    progress: &Progress,
) -> Result<Vec<Output>, DeliverError> {
    let out = image.path.parent().unwrap_or(Path::new("."));
    let at = |ending: &str| path(out, recipe, ending);
    let card = Card::open(&image.path)?;
    let task = progress.download("sums", card.size);
    let mut outputs =
        vec![Output::of(image.path.clone(), "SD card image", |done| task.position(done))?];
    task.finish();
    // Set a few lines above, and at no other place.
    let whole =
        outputs.first().cloned().ok_or_else(|| failed(&image.path)(io::Error::other("lost")))?;
    let mut add = |path: PathBuf, about| {
        outputs.push(Output::of(path, about, |_| ())?);
        Ok::<(), DeliverError>(())
    };
    add(image.manifest_path.clone(), "boot manifest: what the image will measure")?;
    add(at("inventory.json"), "what of the card no boot manifest lists")?;
    if let Some(path) = &image.reference_path {
        add(path.clone(), "reference: what a healthy system may run")?;
    }
    add(at("unseal.json"), "configuration of initramfs-unseal")?;

    let map = at(BMAP);
    let task = progress.download("block map", card.size);
    let text = bmap::of(&card, |done| task.position(done)).map_err(failed(&image.path))?;
    write_whole(&map, text.as_bytes())?;
    task.finish();
    add(map, "block map for bmaptool")?;

    let bill = at(SBOM);
    let task = progress.task("materials");
    let text = sbom::of(&card, recipe.name.as_str(), &whole.sha256, materials)?;
    write_whole(&bill, &text)?;
    task.finish();
    add(bill, "bill of materials (CycloneDX)")?;

    let mut download = whole.clone();
    if let Some(compression) = options.compression {
        let path = at(&format!("img.{}", compression.ending()));
        let task = progress.download(compression.ending(), card.size);
        let draft = Draft::new(&path, 0)?;
        let image = fs::File::open(card.path()).map_err(failed(card.path()))?;
        compression
            .compress(&image, card.size, draft.file(), |done| task.position(done))
            .map_err(failed(&path))?;
        draft.finish()?;
        task.finish();
        add(path, "the image, compressed")?;
        if let Some(compressed) = outputs.last() {
            download = compressed.clone();
        }
    }
    if let Some(base) = &options.base_url {
        let (name, board) = (recipe.name.as_str(), recipe.board);
        let list =
            imager::list(name, board, base, &options.date, whole.listed(), download.listed())?;
        let path = at(IMAGER);
        write_whole(&path, format!("{list:#}\n").as_bytes())?;
        outputs.push(Output::of(path, "list for Raspberry Pi Imager", |_| ())?);
    }

    let text = sums::text(outputs.iter().map(|output| (output.name(), output.sha256.as_str())));
    // Before the sums have their name: a token may refuse.
    let signature = key.map(|key| key.sign(sums::HASH, text.as_bytes())).transpose()?;
    let path = at(sums::SUMS);
    write_whole(&path, text.as_bytes())?;
    outputs.push(Output::of(path, "sums of all this", |_| ())?);
    if let Some(signature) = signature {
        let path = at(sums::SIGNATURE);
        write_whole(&path, &signature)?;
        outputs.push(Output::of(path, "their signature", |_| ())?);
    }
    Ok(outputs)
}
