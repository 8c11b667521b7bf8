//! `reference`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use ima_policy::list::Record;
use ima_policy::reference::keylime::{self, Policy};
use ima_policy::reference::keylime_boot;
use ima_policy::reference::tree::{self, Progress, Selection};
use ima_policy::reference::{MAX_JSON, Reference};
use indicatif::{ProgressBar, ProgressStyle};
use pcr_measure::command::{Answer, Format, json, read, replace};
use pcr_measure::digest::Algorithm;
use serde::Serialize;

use super::list::{ListArgs, algorithm, records};
use super::manifest::manifests;

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("input").required(true).multiple(true).args(["roots", "from_list", "merge", "manifest"])))]
pub(super) struct ReferenceArgs {
    /// Root file systems: directories, images of cards before they were provisioned, or
    /// partitions with an ext4
    #[arg(value_name = "ROOT")]
    roots: Vec<PathBuf>,
    /// Take what this measurement list has, of a boot that is known to be good
    #[arg(long, value_name = "LIST")]
    from_list: Vec<PathBuf>,
    #[command(flatten)]
    list: ListArgs,
    /// Take what this reference has
    #[arg(long, value_name = "REFERENCE")]
    merge: Vec<PathBuf>,
    /// The boot manifest of an image that devices may run, for `--as keylime-boot`; may be given
    /// several times, as across an update
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["roots", "from_list", "list_hash", "merge", "hash", "skip", "exclude", "ignore_keyring"])]
    manifest: Vec<PathBuf>,
    /// The hash of files, as `ima_hash=` has it; may be given several times. Without it the one
    /// that the first list's boot_aggregate has, or else sha256
    #[arg(long, value_name = "HASH", value_parser = algorithm)]
    hash: Vec<Algorithm>,
    /// Leave this directory of the roots out
    #[arg(long, value_name = "DIRECTORY")]
    skip: Vec<PathBuf>,
    /// Never complain about names that this regular expression matches from their beginning
    #[arg(long, value_name = "REGEX")]
    exclude: Vec<String>,
    /// Never complain about keys of this keyring
    #[arg(long, value_name = "KEYRING")]
    ignore_keyring: Vec<String>,
    /// What is written
    #[arg(long = "as", value_name = "FORM", value_enum, default_value_t = Form::Reference)]
    form: Form,
    /// Write to this file, whole or not at all
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Our own JSON (docs/reference.md)
    Reference,
    /// Keylime's runtime policy, equal to that of `keylime-policy create runtime --keyrings
    /// --ima-buf`: of a root only files of root's, and nothing below /var, /tmp, /run, /mnt,
    /// /media, /snap, /dev, /proc and /sys
    Keylime,
    /// Keylime's measured boot policy, of boot manifests (`--manifest`), for a verifier that has
    /// msec_measured_boot.py
    KeylimeBoot,
}

#[derive(Serialize)]
struct BootSummary {
    boots: usize,
}

#[derive(Serialize)]
struct Summary {
    files: usize,
    keyrings: usize,
    buffers: usize,
}

pub(super) fn run(args: &ReferenceArgs, format: Format) -> Result<Answer> {
    if let Some(output) = &args.output {
        let inputs = args.from_list.iter().chain(&args.merge).chain(&args.roots);
        replace::apart(output, inputs.chain(&args.manifest).map(PathBuf::as_path))?;
    }
    match (args.form, args.manifest.is_empty()) {
        (Form::KeylimeBoot, false) => return boot_policy(args, format),
        (Form::KeylimeBoot, true) => {
            bail!("--as keylime-boot is made of boot manifests: give them with --manifest")
        }
        (_, false) => bail!("--manifest is for --as keylime-boot alone"),
        (_, true) => {}
    }
    let mut made = Made::new(args)?;
    let mut measured_by = None;
    for path in &args.from_list {
        let cannot = || format!("cannot read {}", path.display());
        for (at, record) in records(path, args.list.list_hash).with_context(cannot)?.enumerate() {
            let record = record.with_context(|| path.display().to_string())?;
            if at == 0 && record.name() == Some(b"boot_aggregate") && measured_by.is_none() {
                let digest = record.file_digest().and_then(|digest| digest.known());
                measured_by = digest.map(|digest| digest.algorithm());
            }
            made.learn(&record)?;
        }
    }
    for path in &args.merge {
        let reference = Reference::from_json(&read(path, MAX_JSON)?);
        made.merge(reference.with_context(|| path.display().to_string())?)?;
    }
    let algorithms: BTreeSet<_> = args.hash.iter().copied().collect();
    let mut selection = Selection {
        skip: args.skip.iter().map(|path| path.strip_prefix("/").unwrap_or(path).into()).collect(),
        only_roots: args.form == Form::Keylime,
        algorithms: algorithms.into_iter().collect(),
    };
    if selection.algorithms.is_empty() {
        selection.algorithms.push(measured_by.unwrap_or(Algorithm::Sha256));
    }
    if args.form == Form::Keylime {
        selection.skip.extend(keylime::skipped());
    }
    for root in &args.roots {
        let bar = Bar::new();
        let hashed = tree::hash(root, &selection, &bar);
        bar.0.finish_and_clear();
        let hashed = hashed.with_context(|| format!("root {}", root.display()))?;
        for (name, digests) in hashed {
            for digest in digests {
                made.add_file(&name, digest)?;
            }
        }
    }
    made.answer(args.output.as_deref(), format)
}

/// Keylime's measured boot policy.
fn boot_policy(args: &ReferenceArgs, format: Format) -> Result<Answer> {
    let (text, boots) = keylime_boot::policy(&manifests(&args.manifest)?)?;
    let told = match format {
        Format::Text => format!("{boots} boots\n"),
        Format::Json => json(&BootSummary { boots })?,
    };
    written(text, args.output.as_deref(), told)
}

/// The text itself, or where it goes to a file, what it has.
fn written(text: String, output: Option<&Path>, told: String) -> Result<Answer> {
    let Some(output) = output else { return Ok(Answer::yes(text)) };
    replace::file(output, text.as_bytes())?;
    Ok(Answer::yes(told))
}

/// What comes of it.
enum Made {
    Reference(Reference),
    Keylime(Policy),
}

impl Made {
    fn new(args: &ReferenceArgs) -> Result<Self> {
        // Here too for Keylime: what is no pattern is told.
        let mut reference = Reference::new();
        reference.exclude(args.exclude.iter().cloned())?;
        args.ignore_keyring.iter().for_each(|name| reference.ignore_keyring(name.clone()));
        if args.form == Form::Reference {
            return Ok(Self::Reference(reference));
        }
        let mut policy = Policy::new();
        policy.add_reference(&reference)?;
        Ok(Self::Keylime(policy))
    }

    fn learn(&mut self, record: &Record) -> Result<()> {
        match self {
            Self::Reference(reference) => {
                reference.learn(record);
            }
            Self::Keylime(policy) => policy.learn(record)?,
        }
        Ok(())
    }

    fn merge(&mut self, other: Reference) -> Result<()> {
        match self {
            Self::Reference(reference) => reference.merge(other)?,
            Self::Keylime(policy) => policy.add_reference(&other)?,
        }
        Ok(())
    }

    fn add_file(&mut self, name: &[u8], digest: ima_policy::list::FileDigest) -> Result<()> {
        match self {
            Self::Reference(reference) => reference.add_file(name, digest),
            Self::Keylime(policy) => policy.add_file(name, &digest)?,
        }
        Ok(())
    }

    fn answer(&self, output: Option<&Path>, format: Format) -> Result<Answer> {
        let (text, [files, keyrings, buffers]) = match self {
            Self::Reference(reference) => (reference.to_json()?, reference.counts()),
            Self::Keylime(policy) => (policy.to_json(), policy.counts()),
        };
        let told = match format {
            Format::Text => format!("{files} files, {keyrings} keyrings, {buffers} buffers\n"),
            Format::Json => json(&Summary { files, keyrings, buffers })?,
        };
        written(text, output, told)
    }
}

/// A bar on standard error, where that is a terminal.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let bar = ProgressBar::no_length();
        // The template is a constant: it cannot be wrong.
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} files {eta}") {
            bar.set_style(style);
        }
        Self(bar)
    }
}

impl Progress for Bar {
    fn found(&self, files: usize) {
        self.0.set_length(files as u64);
    }

    fn hashed(&self) {
        self.0.inc(1);
    }
}
