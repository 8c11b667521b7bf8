//! `closure`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ima_policy::closure::{Closure, Kind, closure, modules, modules_to_load};
use ima_policy::root::Root;
use pcr_measure::command::{Answer, Format, json};
use pcr_measure::text::printable;
use serde::Serialize;

use super::kernel::of_root;

#[derive(Debug, Args)]
pub(super) struct ClosureArgs {
    /// The root file system, a directory
    root: PathBuf,
    /// Programs and scripts, by path in the root or by name, and libraries that programs open
    /// while they run
    #[arg(required_unless_present_any = ["module", "modules_load"], value_name = "PROGRAM")]
    programs: Vec<String>,
    /// A kernel module, by its name or an alias, with those that it needs; may be given several
    /// times
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// The modules that the root loads when it starts (modules-load.d(5), /etc/modules)
    #[arg(long)]
    modules_load: bool,
    /// The kernel whose modules are meant [default: the only one that has some]
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
}

#[derive(Serialize)]
struct ClosureJson<'a> {
    files: Vec<FileJson<'a>>,
    missing: Vec<MissingJson<'a>>,
}

#[derive(Serialize)]
struct FileJson<'a> {
    path: String,
    kind: Kind,
    needed_by: Vec<std::borrow::Cow<'a, str>>,
}

#[derive(Serialize)]
struct MissingJson<'a> {
    name: &'a str,
    needed_by: Option<std::borrow::Cow<'a, str>>,
}

/// Files one a line, so that the list can be given to another program; what is missing makes
/// the answer negative.
pub(super) fn run(args: &ClosureArgs, format: Format) -> Result<Answer> {
    let root = Root::open(&args.root)
        .with_context(|| format!("cannot open the root {}", args.root.display()))?;
    let programs: Vec<&str> = args.programs.iter().map(String::as_str).collect();
    let mut found = closure(&root, &programs)?;
    let mut names = args.module.clone();
    if args.modules_load {
        names.extend(modules_to_load(&root)?);
    }
    if !names.is_empty() {
        let release = match &args.kernel {
            Some(release) => release.clone(),
            None => of_root(&root)?,
        };
        modules(&root, &release, &names, &mut found)?;
    }
    let text = match format {
        Format::Text => found.files.keys().map(|path| format!("{}\n", path.display())).collect(),
        Format::Json => json(&ClosureJson::of(&found))?,
    };
    let notes = found.missing.iter().map(|missing| {
        let name = printable(&missing.name);
        match &missing.needed_by {
            Some(by) => format!("{name}, which {} needs, is not there", by.display()),
            None => format!("{name} is not there"),
        }
    });
    Ok(Answer { text, notes: notes.collect(), yes: found.missing.is_empty() })
}

impl<'a> ClosureJson<'a> {
    fn of(found: &'a Closure) -> Self {
        let files = found.files.iter().map(|(path, member)| FileJson {
            path: path.to_string_lossy().into_owned(),
            kind: member.kind,
            needed_by: member.needed_by.iter().map(|by| by.to_string_lossy()).collect(),
        });
        let missing = found.missing.iter().map(|missing| MissingJson {
            name: &missing.name,
            needed_by: missing.needed_by.as_deref().map(|by| by.to_string_lossy()),
        });
        Self { files: files.collect(), missing: missing.collect() }
    }
}
