//! What lets the running system be held to something: signatures of the root's code, the policy
//! that the initramfs loads, and the reference by which others judge what was measured.
//!
//! It comes last, when all other files of the root are in their places.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ima_policy::judge::BOOT_AGGREGATE;
use ima_policy::list::FileDigest;
use ima_policy::policy::profile::{self, Profile};
use ima_policy::policy::{Kernel, KernelError, RuleError};
use ima_policy::reference::tree::{self, Selection, TreeError};
use ima_policy::reference::{Reference, ReferenceError};
use ima_policy::root::Root;
use ima_policy::sign::{self, Options, Plan, SignError};
use ima_policy::signature::{KeyError, SigningKey, Version};
use ima_policy::survey::survey;
use pcr_measure::manifest::Manifest;
use pcr_measure::{Algorithm, PcrIndex, Sha256Digest};

use super::initramfs::{Entry, InitramfsError};
use super::modules;
use super::tool::{SOURCE_DATE_EPOCH, ToolError};
use crate::artifacts::Artifacts;
use crate::keys::{self, KeysError};
use crate::progress::Task;
use crate::recipe::Recipe;

/// Where the policy lies in the initramfs.
const POLICY: &str = "etc/ima/ima-policy";
/// Where the certificate lies there.
const CERTIFICATE: &str = "etc/keys/ima.der";
/// What IMA calls a module that came as memory.
const INIT_MODULE: &[u8] = b"init_module";
/// The keyrings that it comes into, as IMA measures it.
const KEYRINGS: [&str; 3] = [".builtin_trusted_keys", ".ima", ".evm"];

/// Files that an error names.
const NAMED: usize = 5;

/// Why the root cannot be held to what the recipe says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntegrityError {
    /// A file of the root.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A tool.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The key is not there.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The key is none that IMA takes.
    #[error("the key ima: {0}")]
    Key(#[from] KeyError),
    /// Nothing can be signed.
    #[error("cannot sign the root: {0}")]
    Sign(#[from] SignError),
    /// Something was not signed.
    #[error("{count} files of the root were not signed: {names}")]
    Unsigned {
        /// How many.
        count: usize,
        /// Some of them, and why.
        names: String,
    },
    /// The kernel has no IMA.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel does not take the profile.
    #[error("the kernel does not take the policy of this recipe: {0}")]
    Rule(#[from] RuleError),
    /// The files cannot be hashed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
}

/// Where `ima-policy watch` finds what it judges by: `reference.json` and `ima.der`.
pub const KNOWN: &str = "/usr/lib/msec";

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> IntegrityError + '_ {
    move |source| IntegrityError::File { path: path.to_owned(), source }
}

/// What comes of it, beside what lies in the root.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Files for the initramfs.
    pub entries: Vec<Entry>,
    /// What initramfs-unseal is told (`integrity`); null where there is no policy.
    pub config: serde_json::Value,
    /// What a healthy system may have measured; none where nothing is.
    pub reference: Option<Reference>,
}

/// Completes a root.
///
/// # Errors
/// [`IntegrityError`]
pub fn complete(
    recipe: &Recipe,
    artifacts: &Artifacts,
    root: &Path,
    task: &Task,
) -> Result<Outcome, IntegrityError> {
    let profile = recipe.integrity.profile();
    if let Some(modules) = &artifacts.modules {
        task.step("kernel modules");
        modules::install(modules, artifacts, root)?;
    }
    let mut outcome = Outcome::default();
    if profile.appraises() {
        task.step("signatures of the root's code");
        sign_code(root, &keys::ima(&artifacts.signing_key)?)?;
    }
    let Some(profile) = profile.policy() else { return Ok(outcome) };
    let policy = policy(profile, artifacts)?;
    outcome.entries.push(Entry::file(POLICY, 0o644, policy.into_bytes())?);
    let trusted = artifacts.trusted.as_deref().map(|path| fs::read(path).map_err(failed(path)));
    let trusted = trusted.transpose()?;
    // Measured files need nobody who signs them.
    let verified = trusted.clone().filter(|_| profile > Profile::Measure);
    outcome.config = serde_json::json!({
        "policy": format!("/{POLICY}"),
        "certificate": verified.is_some().then(|| format!("/{CERTIFICATE}")),
    });
    if let Some(certificate) = verified {
        outcome.entries.push(Entry::file(CERTIFICATE, 0o644, certificate)?);
    }
    task.step("reference");
    let reference = reference(root, trusted.as_deref())?;
    if recipe.root.has_ima_policy() {
        // For whoever watches on the device.
        let dir = root.join(KNOWN.trim_start_matches('/'));
        fs::create_dir_all(&dir).map_err(failed(&dir))?;
        put(&dir.join("reference.json"), reference.to_json()?.as_bytes())?;
        if let Some(certificate) = &trusted {
            put(&dir.join("ima.der"), certificate)?;
        }
        age(&dir)?;
    }
    outcome.reference = Some(reference);
    Ok(outcome)
}

/// The policy, checked against the kernel that will load it.
fn policy(profile: Profile, artifacts: &Artifacts) -> Result<String, IntegrityError> {
    let path = &artifacts.kernel_config;
    let config = fs::read_to_string(path).map_err(failed(path))?;
    let kernel = Kernel::new(&artifacts.kernel_version)?.with_config(&config)?;
    let rules = profile::rules(profile, &kernel)?;
    let head = format!("IMA policy, profile {profile}, for Linux {}.", kernel.version());
    Ok(profile::text(&head, &rules))
}

/// Signs all that can become code, contents and metadata alike.
fn sign_code(dir: &Path, key: &SigningKey) -> Result<(), IntegrityError> {
    let root = Root::open(dir).map_err(failed(dir))?;
    let code = survey(&root).map_err(|(path, source)| IntegrityError::File { path, source })?;
    let paths: Vec<PathBuf> = code.code.into_iter().map(|found| found.path).collect();
    let options = Options {
        hash: Algorithm::Sha256,
        version: Version::V2,
        evm: true,
        jobs: None,
        dry_run: false,
    };
    let outcome = sign::sign(&root, Plan::of(&root, &paths), key, options, &|_| ())?;
    if outcome.failed.is_empty() {
        return Ok(());
    }
    let some = outcome.failed.iter().take(NAMED);
    let names: Vec<String> =
        some.map(|failure| format!("{} {}", failure.path.display(), failure.cause)).collect();
    Err(IntegrityError::Unsigned { count: outcome.failed.len(), names: names.join("; ") })
}

/// What a healthy system of this root may have measured.
fn reference(root: &Path, certificate: Option<&[u8]>) -> Result<Reference, IntegrityError> {
    let selection = Selection {
        skip: std::collections::BTreeSet::new(),
        only_roots: false,
        algorithms: vec![Algorithm::Sha256],
    };
    let mut reference = Reference::new();
    for (name, digests) in tree::hash(root, &selection, &())? {
        for digest in digests {
            // Of a module that is handed over as memory, the kernel measures the digest (Linux,
            // ima_main.c, `ima_post_load_data`).
            if name.ends_with(b".ko") {
                let of_digest = Sha256Digest::of_parts(&[&digest.bytes]);
                reference.add_buffer(INIT_MODULE, sha256(of_digest));
            }
            reference.add_file(&name, digest);
        }
    }
    if let Some(certificate) = certificate {
        let digest = sha256(Sha256Digest::of_parts(&[certificate]));
        for keyring in KEYRINGS {
            reference.add_key(keyring.as_bytes(), digest.clone());
        }
    }
    Ok(reference)
}

/// IMA's first entry: the digest over the firmware's PCRs (Linux,
/// security/integrity/ima/ima_crypto.c, `ima_calc_boot_aggregate_tfm`).
pub fn add_boot(reference: &mut Reference, manifest: &Manifest) {
    let pcrs = manifest.predict();
    // What nothing was measured into holds zeros.
    let value =
        |number| Some(pcrs.sha256(PcrIndex::new(number).ok()?).unwrap_or(Sha256Digest::ZERO));
    let values: Vec<_> = (0..10).filter_map(value).collect();
    let parts: Vec<&[u8]> = values.iter().map(|value| value.as_bytes().as_slice()).collect();
    reference.add_file(BOOT_AGGREGATE, sha256(Sha256Digest::of_parts(&parts)));
}

/// A digest as references have it.
fn sha256(digest: Sha256Digest) -> FileDigest {
    let bytes = digest.as_bytes().to_vec();
    FileDigest { prefix: None, algorithm: "sha256".to_owned(), bytes }
}

pub(super) fn put(path: &Path, bytes: &[u8]) -> Result<(), IntegrityError> {
    fs::write(path, bytes).map_err(failed(path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed(path))
}

/// Everything below is as old as the image, and readable whatever the umask.
pub(super) fn age(dir: &Path) -> Result<(), IntegrityError> {
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(SOURCE_DATE_EPOCH);
    let times = FileTimes::new().set_accessed(date).set_modified(date);
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed(path))
    };
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let path = entry.map_err(failed(dir))?.path();
        if path.is_dir() {
            age(&path)?;
        } else {
            mode(&path, 0o644)?;
            let file = File::options().write(true).open(&path).map_err(failed(&path))?;
            file.set_times(times).map_err(failed(&path))?;
        }
    }
    mode(dir, 0o755)?;
    File::open(dir).and_then(|file| file.set_times(times)).map_err(failed(dir))
}
