//! `sign`.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use ima_policy::root::Root;
use ima_policy::sign::{Failure, Options, Outcome, Plan, sign};
use ima_policy::signature::{MAX_KEY_FILE, SigningKey, Version};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pcr_measure::command::{Answer, Format, Partly, json, read, read_secret};
use pcr_measure::digest::Algorithm;
use serde::Serialize;

/// Failing files that are told one by one; JSON has them all.
const MOST_TOLD: usize = 20;
/// Longest list of files, in bytes.
const MAX_LIST: u64 = 256 << 20;

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// The root file system, a directory
    root: PathBuf,
    /// The private key: PEM, RSA or ECC, not encrypted
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its certificate, PEM or DER, whose SubjectKeyIdentifier names the key in signatures
    /// [default: what `hash` as SubjectKeyIdentifier gives]
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// The hash that is signed
    #[arg(long, value_enum, default_value_t = Hash::Sha256)]
    hash: Hash,
    /// 2 signs the digest of a file, 3 its fs-verity digest (Linux 5.19)
    #[arg(
        id = "signature-version",
        long = "version",
        value_name = "2|3",
        value_parser = version,
        default_value = "2"
    )]
    version: Version,
    /// Sign owner, mode and security attributes as well, portably (security.evm)
    #[arg(long)]
    evm: bool,
    /// Threads [default: one for each processor]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Sign these files alone, and those in these directories, by path in the root
    #[arg(long, value_name = "PATH", num_args = 1..)]
    only: Vec<PathBuf>,
    /// The same, one a line, as `closure` prints them; `-` is standard input
    #[arg(long, value_name = "FILE")]
    files_from: Option<PathBuf>,
    /// Tell what would be done, and set nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "2" => Ok(Version::V2),
        "3" => Ok(Version::V3),
        _ => Err("signatures have version 2 or 3".to_owned()),
    }
}

#[derive(Serialize)]
struct SignJson<'a> {
    key: String,
    dry_run: bool,
    signed: u64,
    kept: u64,
    links: u64,
    bytes: u64,
    mounts: Vec<std::borrow::Cow<'a, str>>,
    failed: Vec<FailureJson<'a>>,
}

#[derive(Serialize)]
struct FailureJson<'a> {
    path: std::borrow::Cow<'a, str>,
    error: String,
}

/// How many files were signed; each that was not makes it an error.
pub(super) fn run(args: &SignArgs, format: Format) -> Result<Answer> {
    let key = key(args)?;
    let root = Root::open(&args.root)
        .with_context(|| format!("cannot open the root {}", args.root.display()))?;
    let mut paths = args.only.clone();
    if let Some(list) = &args.files_from {
        paths.extend(lines(list)?);
    }
    let is_whole = args.only.is_empty() && args.files_from.is_none();
    if paths.is_empty() && !is_whole {
        bail!("the list of files to sign is empty");
    }
    let plan = if is_whole { Plan::whole(&root) } else { Plan::of(&root, &paths) };
    let (links, mounts) = (plan.links, plan.mounts.clone());
    let options = Options {
        hash: match args.hash {
            Hash::Sha256 => Algorithm::Sha256,
            Hash::Sha384 => Algorithm::Sha384,
            Hash::Sha512 => Algorithm::Sha512,
        },
        version: args.version,
        evm: args.evm,
        jobs: args.jobs,
        dry_run: args.dry_run,
    };
    let bar = bar(plan.bytes());
    let outcome = sign(&root, plan, &key, options, &|bytes| bar.inc(bytes));
    bar.finish_and_clear();
    let outcome = outcome.context("nothing was signed")?;

    let text = match format {
        Format::Text => {
            let Outcome { signed, kept, bytes, .. } = outcome;
            let verb = if args.dry_run { "would be signed" } else { "signed" };
            let id = key.id();
            let bytes = HumanBytes(bytes);
            format!("{signed} {verb} with the key {id}, {kept} signed already ({bytes})\n")
        }
        Format::Json => json(&SignJson {
            key: key.id().to_string(),
            dry_run: args.dry_run,
            signed: outcome.signed,
            kept: outcome.kept,
            links,
            bytes: outcome.bytes,
            mounts: mounts.iter().map(|path| path.to_string_lossy()).collect(),
            failed: outcome.failed.iter().map(FailureJson::of).collect(),
        })?,
    };
    let passed_over = mounts.iter().map(|path| {
        format!("{}: another file system is mounted there, nothing on it is signed", path.display())
    });
    let failed = outcome.failed.iter().take(MOST_TOLD);
    let failed = failed.map(|Failure { path, cause }| format!("{}: {cause}", path.display()));
    let notes = passed_over.chain(failed).collect();
    let answer = Answer { text, notes, yes: true };
    match outcome.failed.len() {
        0 => Ok(answer),
        number => {
            let more = number.saturating_sub(MOST_TOLD);
            let more =
                if more > 0 { format!(" ({more} of them not told here)") } else { String::new() };
            let why = format!(
                "files that are not signed: {number}{more}; run it again when the causes are gone, what is signed stays"
            );
            Err(Partly { answer, why }.into())
        }
    }
}

impl<'a> FailureJson<'a> {
    fn of(failure: &'a Failure) -> Self {
        Self { path: failure.path.to_string_lossy(), error: failure.cause.to_string() }
    }
}

fn key(args: &SignArgs) -> Result<SigningKey> {
    let path = &args.key;
    let pem = read_secret(path, MAX_KEY_FILE)?;
    let key = SigningKey::from_pem(&path.display().to_string(), &pem)
        .with_context(|| path.display().to_string())?;
    let Some(path) = &args.certificate else { return Ok(key) };
    let certificate = read(path, MAX_KEY_FILE)?;
    Ok(key.with_certificate(&path.display().to_string(), &certificate)?)
}

/// Paths, one a line. They are bytes, and may have anything in them but a line's end.
fn lines(path: &Path) -> Result<Vec<PathBuf>> {
    let mut bytes = Vec::new();
    let is_stdin = path == Path::new("-");
    let read = |reader: &mut dyn std::io::Read, bytes: &mut Vec<u8>| {
        reader.take(MAX_LIST + 1).read_to_end(bytes)
    };
    if is_stdin {
        read(&mut std::io::stdin().lock(), &mut bytes)
    } else {
        std::fs::File::open(path).and_then(|mut file| read(&mut file, &mut bytes))
    }
    .with_context(|| format!("cannot read the list {}", path.display()))?;
    if bytes.len() as u64 > MAX_LIST {
        bail!("the list {} is longer than {MAX_LIST} bytes", path.display());
    }
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(|line| PathBuf::from(OsString::from_vec(line.to_vec()))).collect())
}

/// A bar over bytes, on a terminal alone.
fn bar(bytes: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    let template = "{elapsed:>4} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
