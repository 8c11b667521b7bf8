//! Runs a tool of the build root and says what went wrong with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// 2026-01-01: the date of every file, file system and signature in an image.
/// A fixed date makes the same inputs give the same bytes
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
pub const SOURCE_DATE_EPOCH: u64 = 1_767_225_600;

/// Lines of a failed tool's output that an error shows.
const SHOWN_LINES: usize = 12;

/// Why a tool's work is missing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// The tool could not be started.
    #[error("cannot start {tool}: {source}. Run image-builder inside the build root, which has it")]
    Start {
        /// The tool.
        tool: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The tool ran and failed.
    #[error("{tool} failed to {what} ({status}){output}")]
    Failed {
        /// The tool.
        tool: PathBuf,
        /// What it was asked for.
        what: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines, each on a line of its own.
        output: String,
    },
}

/// One call of a tool. Its output is caught and shown only if it fails.
#[derive(Debug)]
pub struct Tool {
    command: Command,
    path: PathBuf,
    what: String,
}

impl Tool {
    /// Prepares a call of `tool`, which is asked to do `what` ("sign x.itb").
    ///
    /// The environment is the caller's, apart from what would leak the present
    /// time or language into the result.
    pub fn new(tool: impl AsRef<Path>, what: impl Into<String>) -> Self {
        let path = tool.as_ref().to_owned();
        let mut command = Command::new(&path);
        command
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH.to_string())
            .stdin(Stdio::null());
        Self { command, path, what: what.into() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs the tool in this directory.
    #[must_use]
    pub fn in_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs the tool and returns what it wrote to standard output.
    ///
    /// # Errors
    /// If it cannot be started or ends with another code than 0.
    pub fn run(mut self) -> Result<Vec<u8>, ToolError> {
        let output = self
            .command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .map_err(|source| ToolError::Start { tool: self.path.clone(), source })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let mut text = output.stderr;
        text.extend_from_slice(&output.stdout);
        Err(ToolError::Failed {
            tool: self.path,
            what: self.what,
            status: output.status,
            output: last_lines(&String::from_utf8_lossy(&text)),
        })
    }
}

/// The last lines of a tool's output, each indented on a line of its own.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(SHOWN_LINES);
    lines
        .get(first..)
        .unwrap_or_default()
        .iter()
        .map(|line| format!("\n  {}", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named() {
        let error = Tool::new("/nonexistent/mkimage", "sign").run().unwrap_err();
        assert!(error.to_string().contains("/nonexistent/mkimage"));
        assert!(error.to_string().contains("build root"));
    }

    #[test]
    fn a_failure_shows_what_was_asked_and_what_was_said() {
        let error = Tool::new("/bin/sh", "count the beans")
            .args(["-c", "echo no beans >&2; exit 3"])
            .run()
            .unwrap_err()
            .to_string();
        for part in ["/bin/sh failed to count the beans", "3", "\n  no beans"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_date_is_fixed() {
        let said = Tool::new("/bin/sh", "tell the date")
            .args(["-c", "echo $SOURCE_DATE_EPOCH $LC_ALL $TZ"])
            .run()
            .unwrap();
        assert_eq!(said, b"1767225600 C UTC\n");
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        let text: String = (0..40).map(|n| format!("line {n}\n\n")).collect();
        let shown = last_lines(&text);
        assert_eq!(shown.lines().filter(|l| !l.is_empty()).count(), SHOWN_LINES);
        assert!(shown.ends_with("line 39"));
    }
}
