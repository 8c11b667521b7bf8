//! One build in progress: its directories, its commands, its log.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::plan::{Context, Plan};
use super::{BuildError, Component, environment};
use crate::cache::IoContext;
use crate::progress::Task;

/// How many of a command's last lines an error shows.
const TAIL: usize = 15;

/// A line is shown up to here; the log has all of it.
const LINE: u64 = 4096;

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
        self.task.step(step);
        let mut log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .on("cannot open the log", &self.log)?;
        let (reader, writer) = std::io::pipe().on("cannot make a pipe for", &self.log)?;
        let errors = writer.try_clone().on("cannot make a pipe for", &self.log)?;
        writeln!(log, "== {step}: {command:?}").on("cannot write", &self.log)?;
        command.stdin(Stdio::null()).stdout(writer).stderr(errors);
        let spawned = command.spawn();
        // The command holds the writing ends; the loop below ends when all are closed.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = spawned.map_err(|error| {
            let program = command.get_program().display();
            self.step_failed(step, format!("{program}: {error}"), &VecDeque::new())
        })?;
        let mut tail = VecDeque::new();
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).on("cannot read the output for", &self.log)? > 0 {
            log.write_all(&line).on("cannot write", &self.log)?;
            line.truncate(LINE as usize);
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if !text.is_empty() {
                self.task.detail(step, &text);
                if tail.len() == TAIL {
                    tail.pop_front();
                }
                tail.push_back(text);
            }
        }
        let status = child.wait().on("cannot wait for a command of", &self.log)?;
        if status.success() {
            return Ok(());
        }
        Err(self.step_failed(step, status.to_string(), &tail))
    }

    fn step_failed(&self, step: &str, status: String, tail: &VecDeque<String>) -> BuildError {
        BuildError::Step {
            component: self.component,
            step: step.to_owned(),
            status,
            log: self.log.clone(),
            tail: tail.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"),
        }
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
