//! `image-builder sources`.

use std::process::ExitCode;

use clap::Subcommand;
use indicatif::HumanBytes;

use super::{Format, Global, setting};
use crate::cache::Cache;
use crate::progress::Progress;
use crate::sources::lock::{Lock, Source};
use crate::sources::{fetch, newer, store::Store};

#[derive(Debug, Subcommand)]
pub(super) enum SourcesCommand {
    /// Fetch what is missing, and compare it with the lock file
    Fetch {
        /// Which sources; all when none is named
        names: Vec<String>,
    },
    /// Take the versions that the suites have now into the lock file
    Lock {
        /// Which sources; all when none is named
        names: Vec<String>,
    },
    /// List the sources: versions, sizes, what is cached
    Show,
}

pub(super) fn run(global: &Global, command: &SourcesCommand) -> anyhow::Result<ExitCode> {
    let path = setting::lock_file(&setting::tree(global)?);
    let store = Store::new(&Cache::from_env()?);
    match command {
        SourcesCommand::Lock { names } => {
            // It may name packages alone: then it is not complete, but readable.
            let updates = fetch::relock(&path, names)?;
            for update in &updates {
                setting::print(&format!("{}: {} -> {}\n", update.name, update.from, update.to))?;
            }
            if updates.is_empty() {
                setting::print("the lock file has the newest versions already\n")?;
            }
        }
        SourcesCommand::Fetch { names } => {
            let progress = Progress::new();
            let lock = newer::settle(&path, &store, setting::when_gone(global), &progress)?;
            let all: Vec<&str> = lock.sources().iter().map(|source| source.name.as_str()).collect();
            let wanted =
                if names.is_empty() { all } else { names.iter().map(String::as_str).collect() };
            fetch::fetch(&lock, &wanted, &store, &progress)?;
            for name in &wanted {
                for file in &lock.source(name)?.files {
                    store.verified(file)?;
                }
            }
            setting::print(&format!(
                "{} sources are here and are what the lock file says\n",
                wanted.len()
            ))?;
        }
        SourcesCommand::Show => {
            show(global, &newer::in_force(&path, &store, setting::when_gone(global))?, &store)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(global: &Global, lock: &Lock, store: &Store) -> anyhow::Result<()> {
    let cached = |source: &Source| source.files.iter().all(|file| store.has(file));
    if global.format == Format::Json {
        let rows: Vec<_> = lock
            .sources()
            .iter()
            .map(|source| serde_json::json!({ "source": source, "cached": cached(source) }))
            .collect();
        let value = serde_json::json!({ "schema": "msec-boot/sources/1", "sources": rows });
        return setting::print_json(&value);
    }
    for source in lock.sources() {
        let size: u64 = source.files.iter().map(|file| file.size).sum();
        let state = if cached(source) { "cached" } else { "to be fetched" };
        let size = HumanBytes(size).to_string();
        setting::print(&format!(
            "{:<21} {:<16} {:<7} {size:>11}  {state}\n",
            source.name, source.version, source.suite
        ))?;
    }
    Ok(())
}
