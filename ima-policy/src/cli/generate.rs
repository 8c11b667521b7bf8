//! `generate`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use ima_policy::policy::profile::{self, Explained, Profile};
use ima_policy::root::Root;
use ima_policy::survey::{Code, Found, Survey, survey};
use pcr_measure::command::{Answer, Format, json, replace};
use pcr_measure::text::printable;
use serde::Serialize;

use super::kernel::{KernelArgs, of_root};

/// Files that are named on standard error; JSON has all.
const SHOWN: usize = 10;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The root file system, a directory
    root: PathBuf,
    /// How much is demanded
    #[arg(long, value_enum, default_value_t = Level::Measure)]
    profile: Level,
    /// Without it: the one kernel whose modules the root has
    #[command(flatten)]
    kernel: KernelArgs,
    /// Write the policy to this file, whole or not at all
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// All code is measured; nothing is refused
    Measure,
    /// All code from files has to be signed, too
    Appraise,
    /// No code from memory either; and what root reads of its own is measured
    Lockdown,
}

impl From<Level> for Profile {
    fn from(level: Level) -> Self {
        match level {
            Level::Measure => Self::Measure,
            Level::Appraise => Self::Appraise,
            Level::Lockdown => Self::Lockdown,
        }
    }
}

#[derive(Serialize)]
struct GenerateJson<'a> {
    profile: Level,
    kernel: String,
    rules: Vec<RuleJson<'a>>,
    code: CodeJson,
    unsigned: Vec<UnsignedJson<'a>>,
    /// On which another file system is mounted; nothing there was looked at.
    mounts: Vec<std::borrow::Cow<'a, str>>,
}

#[derive(Serialize)]
struct RuleJson<'a> {
    rule: String,
    why: &'a str,
}

/// How many files of a root are code, by kind.
#[derive(Serialize)]
struct CodeJson {
    programs: usize,
    libraries: usize,
    modules: usize,
    firmware: usize,
}

#[derive(Serialize)]
struct UnsignedJson<'a> {
    path: std::borrow::Cow<'a, str>,
    kind: Code,
}

impl CodeJson {
    fn of(found: &[Found]) -> Self {
        let of = |code| found.iter().filter(|file| file.code == code).count();
        Self {
            programs: of(Code::Program),
            libraries: of(Code::Library),
            modules: of(Code::Module),
            firmware: of(Code::Firmware),
        }
    }
}

/// The policy; where it demands signatures, code of the root without one makes the answer
/// negative.
pub(super) fn run(args: &GenerateArgs, format: Format) -> Result<Answer> {
    let root = Root::open(&args.root)
        .with_context(|| format!("cannot open the root {}", args.root.display()))?;
    let kernel = args.kernel.kernel(|| of_root(&root))?;
    let rules = profile::rules(args.profile.into(), &kernel)
        .context("this kernel does not take the profile")?;
    let Survey { code: found, mounts } = survey(&root).map_err(|(path, cause)| {
        anyhow::Error::new(cause).context(format!("{} in the root cannot be read", path.display()))
    })?;
    let code = CodeJson::of(&found);
    let demands = args.profile != Level::Measure;
    let unsigned: Vec<&Found> = found.iter().filter(|file| demands && !file.is_signed).collect();
    let policy = profile::text(&head(args.profile, kernel.version(), &code), &rules);
    let mut text = match format {
        Format::Text => policy.clone(),
        Format::Json => {
            let rules = rules.iter();
            json(&GenerateJson {
                profile: args.profile,
                kernel: kernel.version().to_string(),
                rules: rules
                    .map(|Explained { rule, why }| RuleJson { rule: rule.to_string(), why })
                    .collect(),
                code,
                unsigned: unsigned
                    .iter()
                    .map(|file| UnsignedJson { path: file.path.to_string_lossy(), kind: file.code })
                    .collect(),
                mounts: mounts.iter().map(|path| path.to_string_lossy()).collect(),
            })?
        }
    };
    if let Some(output) = &args.output {
        replace::file(output, policy.as_bytes())?;
        if format == Format::Text {
            text.clear();
        }
    }
    let mut notes = told(&unsigned);
    notes.extend(mounts.iter().map(|path| {
        let path = printable(&path.to_string_lossy());
        format!("{path} is another file system: what lies there was not looked at")
    }));
    Ok(Answer { text, notes, yes: unsigned.is_empty() })
}

fn head(level: Level, kernel: impl std::fmt::Display, code: &CodeJson) -> String {
    let name = level.to_possible_value().map(|value| value.get_name().to_owned());
    let CodeJson { programs, libraries, modules, firmware } = code;
    format!(
        "IMA policy, profile {}, for Linux {kernel}.\nFor a root with {programs} programs and scripts, \
         {libraries} libraries, {modules} kernel modules and {firmware} files of firmware:\nso many \
         entries its list can have of them, each once until it changes.",
        name.unwrap_or_default()
    )
}

fn told(unsigned: &[&Found]) -> Vec<String> {
    let mut notes: Vec<String> = unsigned
        .iter()
        .take(SHOWN)
        .map(|file| {
            let path = printable(&file.path.to_string_lossy());
            format!("{path} has no signature: it will be refused")
        })
        .collect();
    if unsigned.len() > SHOWN {
        notes.push(format!("and so will {} other files", unsigned.len() - SHOWN));
    }
    if !unsigned.is_empty() {
        notes
            .push("sign the root before it is booted with this policy: ima-policy sign".to_owned());
    }
    notes
}
