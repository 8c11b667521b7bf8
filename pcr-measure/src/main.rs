//! The command `pcr-measure`: arguments, files and exit codes around the library.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 as asked, 1 a
//! negative answer (something differs, a log is broken), 2 could not be done,
//! 64 usage.

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use clap::error::ErrorKind;
use cli::{Answer, Cli};

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// Where tpm2-tss reads how much it writes to standard error (its doc/logging.md).
#[cfg(feature = "tpm")]
const TSS2_LOG: &str = "TSS2_LOG";

/// Errors of the TPM are told once, in our words; who wants the library's too sets
/// the variable.
#[cfg(feature = "tpm")]
#[allow(unsafe_code)]
fn quieten_tss() {
    if std::env::var_os(TSS2_LOG).is_none() {
        // SAFETY: the process has one thread, and nothing has read the environment
        // so that it would keep a pointer into it.
        unsafe { std::env::set_var(TSS2_LOG, "all+none") };
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "tpm")]
    quieten_tss();
    let cli = match Cli::try_parse() {
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
    let result = cli::run(&cli).and_then(|answer| {
        for note in &answer.notes {
            say(note);
        }
        print(&answer)?;
        Ok(answer.yes)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            say(&told(&error));
            ExitCode::from(2)
        }
    }
}

/// A line on standard error, whatever is in the names of files. Where that is gone
/// (a full disk, a closed pipe) the exit code alone tells.
fn say(line: &str) {
    let line = line.replace(char::is_control, "?");
    writeln!(io::stderr(), "pcr-measure: {line}").ok();
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

fn print(answer: &Answer) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(answer.text.as_bytes()).and_then(|()| out.flush()) {
        // `pcr-measure ... | head` has all it wants.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}
