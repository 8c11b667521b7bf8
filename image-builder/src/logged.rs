//! Commands whose words go to a log, and pass by on a terminal.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::cache::{CacheError, IoContext};
use crate::progress::Task;

/// How many of a command's last lines an error shows.
const TAIL: usize = 15;

/// A line is shown up to here; the log has all of it.
const LINE: u64 = 4096;

/// How a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How it ended, or that it could not be started.
    pub(crate) status: String,
    /// Its last lines, indented.
    pub(crate) tail: String,
}

/// Runs a command as one step of a task; its words are appended to the log.
///
/// # Errors
/// The outer one of the log, the inner one of the command.
pub(crate) fn run(
    command: &mut Command,
    step: &str,
    task: &Task,
    path: &Path,
) -> Result<Result<(), Failure>, CacheError> {
    task.step(step);
    let log = File::options().create(true).append(true).open(path);
    let mut log = log.on("cannot open the log", path)?;
    let (reader, writer) = std::io::pipe().on("cannot make a pipe for", path)?;
    let errors = writer.try_clone().on("cannot make a pipe for", path)?;
    writeln!(log, "== {step}: {command:?}").on("cannot write", path)?;
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let spawned = command.spawn();
    // The command holds the writing ends; the loop below ends when all are closed.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let status = format!("{}: {error}", command.get_program().display());
            return Ok(Err(Failure { status, tail: String::new() }));
        }
    };
    let mut tail = VecDeque::new();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).on("cannot read the output for", path)? > 0 {
        log.write_all(&line).on("cannot write", path)?;
        line.truncate(LINE as usize);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        if !text.is_empty() {
            task.detail(step, &text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text);
        }
    }
    let status = child.wait().on("cannot wait for a command of", path)?;
    if status.success() {
        return Ok(Ok(()));
    }
    let lines: Vec<String> = tail.iter().map(|line| format!("  {line}")).collect();
    Ok(Err(Failure { status: status.to_string(), tail: lines.join("\n") }))
}
