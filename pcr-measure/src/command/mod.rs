//! What the commands of this project have in common: how results, notes and errors are told.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 as asked, 1 a negative answer
//! (something differs, a log is broken), 2 could not be done, 64 usage.

pub mod docs;
#[cfg(feature = "tpm")]
pub mod live;
pub mod replace;
mod table;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use serde::Serialize;
use zeroize::Zeroizing;

pub use table::table;

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Text,
    /// For programs, as the crate's README has it
    Json,
}

/// What a command has to say.
#[derive(Debug)]
pub struct Answer {
    /// For stdout.
    pub text: String,
    /// For stderr, line by line.
    pub notes: Vec<String>,
    /// Whether the answer is positive.
    pub yes: bool,
}

impl Answer {
    /// A positive one.
    #[must_use]
    pub const fn yes(text: String) -> Self {
        Self { text, notes: Vec::new(), yes: true }
    }
}

/// What was done in part: the answer is told, then why it is not all; exit code 2.
#[derive(Debug)]
pub struct Partly {
    /// What was done.
    pub answer: Answer,
    /// What was not.
    pub why: String,
}

impl fmt::Display for Partly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Partly {}

/// A command's `main`: reads the arguments, does what they ask for, and tells what came of it.
pub fn main<C: Parser>(name: &str, run: impl FnOnce(&C) -> Result<Answer>) -> ExitCode {
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version were asked for, and are no errors.
            let code = match error.kind() {
                _ if !error.use_stderr() => 0,
                // The command is well formed, a value in it cannot be: PCR 24.
                ErrorKind::ValueValidation => 2,
                _ => USAGE,
            };
            let written = error.print().is_ok();
            return ExitCode::from(if written { code } else { 2 });
        }
    };
    let result = match run(&cli) {
        Ok(answer) => tell(name, &answer).map(|()| answer.yes),
        Err(error) => match error.downcast_ref::<Partly>() {
            Some(partly) => tell(name, &partly.answer).and(Err(error)),
            None => Err(error),
        },
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(name, &told(&error));
            ExitCode::from(2)
        }
    }
}

fn tell(name: &str, answer: &Answer) -> Result<()> {
    for note in &answer.notes {
        say(name, note);
    }
    print(&answer.text)
}

/// A line on standard error, whatever is in the names of files. Where that is gone
/// (a full disk, a closed pipe) the exit code alone tells.
fn say(name: &str, line: &str) {
    let line = line.replace(char::is_control, "?");
    writeln!(io::stderr(), "{name}: {line}").ok();
}

/// What failed, and why, from the outside in. Errors that name their cause
/// themselves do not name it twice.
fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !told.ends_with(&cause) {
            told.push_str(if told.is_empty() { "" } else { ": " });
            told.push_str(&cause);
        }
    }
    told
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `pcr-measure ... | head` has all it wants.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// A result for programs.
///
/// # Errors
/// Those of the value itself.
pub fn json(value: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Reads a file of at most `limit` bytes. Its size is not asked for: files in
/// sysfs say 0 or 4096 whatever they hold.
///
/// # Errors
/// The system's; that it is longer.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() > limit {
        bail!("{} is longer than {limit} bytes, the most that is read here", path.display());
    }
    Ok(bytes)
}

/// Reads a file of at most `limit` bytes that holds a secret: what was read is wiped, and no
/// copy of it stays behind where a buffer grew.
///
/// # Errors
/// As [`read`].
pub fn read_secret(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    // Room for all that is read.
    let mut bytes = Zeroizing::new(vec![0; limit + 1]);
    let length = File::open(path)
        .and_then(|file| fill(file, &mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if length > limit {
        bail!("{} is longer than {limit} bytes, the most that is read here", path.display());
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Reads until the file ends or the buffer is full; how many bytes.
fn fill(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    loop {
        match file.read(buffer.get_mut(length..).unwrap_or_default()) {
            Ok(0) => return Ok(length),
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
