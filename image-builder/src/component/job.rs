//! One build in progress: its directories, its commands, its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::plan::{Context, Plan};
use super::{BuildError, Component, environment};
use crate::cache::IoContext;
use crate::logged;
use crate::progress::Task;

/// Variables that say where crates come from; nothing else of the environment
/// reaches a build.
fn is_network_setting(name: &str) -> bool {
    name == "CARGO_HOME"
        || ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"].iter().any(|p| name.starts_with(p))
        || name.to_ascii_lowercase().ends_with("_proxy")
}

/// A component that is being built.
#[derive(Debug)]
pub struct Job<'a> {
    pub(crate) component: Component,
    pub(crate) context: &'a Context,
    pub(crate) plan: &'a Plan,
    pub(crate) task: &'a Task,
    pub(crate) out: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) log: PathBuf,
}

impl Job<'_> {
    /// A directory or file of the checkout.
    pub(crate) fn tree(&self, path: &str) -> PathBuf {
        self.context.tree.join(path)
    }

    /// A component that this one needs.
    pub(crate) fn need(&self, component: Component) -> PathBuf {
        self.plan.dir(component)
    }

    /// `-j` for make and cargo.
    pub(crate) fn jobs(&self) -> String {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        format!("-j{cpus}")
    }

    /// A command with an environment of its own.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        environment::command(program, dir, &self.work)
    }

    /// Lets cargo reach the crates as the caller's cargo does.
    pub(crate) fn with_network(command: &mut Command) -> &mut Command {
        command.envs(
            std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_network_setting)),
        )
    }

    /// Runs a command; its words go to the log.
    pub(crate) fn run(&self, step: &str, command: &mut Command) -> Result<(), BuildError> {
        logged::run(command, step, self.task, &self.log)?.map_err(|failure| BuildError::Step {
            component: self.component,
            step: step.to_owned(),
            status: failure.status,
            log: self.log.clone(),
            tail: failure.tail,
        })
    }

    /// Something is wrong with what came out.
    pub(crate) fn wrong(&self, reason: impl Into<String>) -> BuildError {
        BuildError::Result { component: self.component, reason: reason.into() }
    }

    /// Delivers a file.
    pub(crate) fn keep(&self, from: &Path, name: &str) -> Result<(), BuildError> {
        let to = self.out.join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).on("cannot create", parent)?;
        }
        fs::copy(from, &to).on("the build did not make", from)?;
        Ok(())
    }

    /// Delivers bytes as a file.
    pub(crate) fn keep_bytes(&self, bytes: &[u8], name: &str) -> Result<(), BuildError> {
        let to = self.out.join(name);
        Ok(fs::write(&to, bytes).on("cannot write", &to)?)
    }

    /// Reads what a build made.
    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>, BuildError> {
        Ok(fs::read(path).on("the build did not make", path)?)
    }
}
