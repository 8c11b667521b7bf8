//! `predict`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use pcr_measure::manifest::{Manifest, Measurement};
use pcr_measure::text::printable;
use pcr_measure::{PcrBank, PcrSelection, Sha256Digest, policy};
use serde::Serialize;

use super::change::{self, Artifact, Change, Labelled};
use super::{Answer, Format, bank_text, input, json};

/// Label of the manifest with the artifacts of all variants, beside others.
const NOW: &str = "now";

#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The boot manifest (manifest.json); several are predicted side by side
    #[arg(required = true, value_name = "MANIFEST")]
    manifests: Vec<PathBuf>,
    /// Measure this file in the place of the component NAME
    #[arg(long, value_name = "NAME=PATH", value_parser = change::file())]
    artifact: Vec<Change>,
    /// Measure this text, and a NUL, in the place of the component NAME
    #[arg(long, value_name = "NAME=STRING", value_parser = change::text())]
    text: Vec<Change>,
    /// The same for a further variant, on top of the above
    #[arg(long, value_name = "LABEL:NAME=PATH", value_parser = change::labelled_file())]
    variant: Vec<Labelled>,
    /// The same with a text
    #[arg(long, value_name = "LABEL:NAME=STRING", value_parser = change::labelled_text())]
    variant_text: Vec<Labelled>,
}

#[derive(Serialize)]
struct VariantsJson {
    variants: Vec<VariantJson>,
}

#[derive(Serialize)]
struct VariantJson {
    label: String,
    #[serde(flatten)]
    predicted: PredictJson,
}

#[derive(Serialize)]
struct PredictJson {
    image: String,
    board: String,
    bank: &'static str,
    pcrs: PcrBank,
    seal: PcrSelection,
    policy: Sha256Digest,
}

impl PredictJson {
    fn new(manifest: &Manifest) -> Result<Self> {
        Ok(Self {
            image: manifest.image().to_owned(),
            board: manifest.board().to_owned(),
            bank: "sha256",
            pcrs: manifest.predict(),
            seal: *manifest.seal(),
            policy: policy::pcr_digest(manifest.seal(), &manifest.sealed_values())?,
        })
    }
}

/// The values that manifests and artifacts lead to, and the policy that seals to
/// them.
pub(super) fn predict(args: &PredictArgs, format: Format) -> Result<Answer> {
    let variants = variants(args)?;
    let text = match (variants.as_slice(), format) {
        ([(_, manifest)], Format::Text) => bank_text(&manifest.predict()),
        ([(_, manifest)], Format::Json) => json(&PredictJson::new(manifest)?)?,
        (several, Format::Text) => several
            .iter()
            .map(|(label, manifest)| format!("# {label}\n{}", bank_text(&manifest.predict())))
            .collect(),
        (several, Format::Json) => {
            let variant = |(label, manifest): &(String, Manifest)| {
                let predicted = PredictJson::new(manifest)?;
                Ok(VariantJson { label: label.clone(), predicted })
            };
            let variants = several.iter().map(variant).collect::<Result<_>>()?;
            json(&VariantsJson { variants })?
        }
    };
    Ok(Answer::yes(text))
}

/// Every variant that was asked for, with its label; never none.
fn variants(args: &PredictArgs) -> Result<Vec<(String, Manifest)>> {
    let mut hashed = Hashed::default();
    let changes = || args.artifact.iter().chain(&args.text);
    let (mut originals, mut bases) = (Vec::new(), Vec::new());
    for path in &args.manifests {
        let original = input::manifest(path)?;
        let manifest = changed(&original, changes(), &mut hashed)
            .with_context(|| format!("cannot predict from {}", path.display()))?;
        originals.push(original);
        bases.push((path.as_path(), manifest));
    }
    let labelled: Vec<&Labelled> = args.variant.iter().chain(&args.variant_text).collect();
    let ([original], [(_, base)]) = (originals.as_slice(), bases.as_slice()) else {
        if let Some(Labelled { label, .. }) = labelled.first() {
            bail!("the variant {label:?} needs one manifest to stand on: several are given");
        }
        return label(bases);
    };
    let mut out = vec![(NOW.to_owned(), base.clone())];
    for Labelled { label, .. } in &labelled {
        if label == NOW {
            bail!("{NOW:?} is the label of what is predicted without --variant: take another one");
        }
        if out.iter().any(|(done, _)| done == label) {
            continue;
        }
        let own: Vec<_> =
            labelled.iter().filter(|l| l.label == *label).map(|l| &l.change).collect();
        let is_own = |change: &Change| own.iter().any(|o| o.component == change.component);
        // What was measured first tells a text from a file: each component is
        // replaced once, in the manifest as it came.
        let others = changes().filter(|change| !is_own(change));
        let variant = changed(original, others.chain(own.iter().copied()), &mut hashed)
            .with_context(|| format!("cannot predict the variant {label:?}"))?;
        out.push((label.clone(), variant));
    }
    Ok(out)
}

/// Labels for several manifests: their images, or their files if those do not
/// tell them apart.
fn label(bases: Vec<(&Path, Manifest)>) -> Result<Vec<(String, Manifest)>> {
    let images: Vec<String> = bases.iter().map(|(_, m)| m.image().to_owned()).collect();
    let stems: Vec<String> = bases.iter().map(|(path, _)| stem(path)).collect();
    let labels = match (twice(&images), twice(&stems)) {
        (None, _) => images,
        (_, None) => stems,
        (Some(image), Some(stem)) => {
            bail!("two manifests are of the image {image:?} and called {stem:?}: rename one");
        }
    };
    Ok(labels.into_iter().zip(bases).map(|(label, (_, manifest))| (label, manifest)).collect())
}

fn stem(path: &Path) -> String {
    printable(&path.file_stem().unwrap_or_default().to_string_lossy())
}

/// The first of `names` that stands there twice.
fn twice(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find_map(|(n, name)| names.get(..n)?.contains(name).then_some(name))
}

/// `manifest` with all of `changes`, of which no two may be of one component.
fn changed<'a>(
    manifest: &Manifest,
    changes: impl Iterator<Item = &'a Change>,
    hashed: &mut Hashed,
) -> Result<Manifest> {
    let mut seen: Vec<&str> = Vec::new();
    let mut manifest = manifest.clone();
    for Change { component, artifact } in changes {
        if seen.contains(&component.as_str()) {
            bail!("two artifacts are given for the component {:?}", printable(component));
        }
        seen.push(component);
        manifest = match artifact {
            Artifact::Text(text) => manifest
                .replace_text(component, text)
                .with_context(|| format!("cannot take the text for {:?}", printable(component)))?,
            Artifact::File(path) => {
                // Ask before a large file is read for nothing.
                manifest
                    .replace(component, Measurement::of(b""))
                    .with_context(|| format!("cannot take the artifact {}", path.display()))?;
                manifest.replace(component, hashed.measure(path)?)?
            }
        };
    }
    Ok(manifest)
}

/// What was measured already: each file is read once.
#[derive(Default)]
struct Hashed(BTreeMap<PathBuf, Measurement>);

impl Hashed {
    fn measure(&mut self, path: &Path) -> Result<Measurement> {
        if let Some(measured) = self.0.get(path) {
            return Ok(*measured);
        }
        let measured = File::open(path)
            .and_then(|mut file| Measurement::of_reader(&mut file))
            .with_context(|| format!("cannot read the artifact {}", path.display()))?;
        self.0.insert(path.to_owned(), measured);
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("kernel");
        std::fs::write(&file, "kernel").unwrap();
        let mut hashed = Hashed::default();
        assert_eq!(hashed.measure(&file).unwrap(), Measurement::of(b"kernel"));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(hashed.measure(&file).unwrap(), Measurement::of(b"kernel"));
        assert!(Hashed::default().measure(&file).is_err());
    }
}
